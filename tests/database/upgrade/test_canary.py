"""The trial run on a work pool, with a real server and a real worker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.cli.main import main
from pgprefect.core.errors import ProblemError
from pgprefect.core.http import PrefectApi
from pgprefect.upgrade.canary import run_canary
from pgprefect.upgrade.clients import Worker, other_releases, read_workers

from bench.support import prefect_server
from tests.support.project import DEFAULT, VIRTUALENV
from tests.support.site import Site
from tests.support.waiting import wait_for


def online(site: Site) -> list[Worker]:
    with contextlib.closing(site.server.connect(site.database)) as connection, connection.cursor() as cursor:
        return read_workers(cursor, site.tenant.schema)


def test_a_trial_run_completes_and_leaves_nothing(
    prefect: Site, site_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with prefect_server(prefect) as url:
        api = PrefectApi(url)
        api.call("POST", "/work_pools/", {"name": "pool", "type": "process"})
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PREFECT_API_URL": url}
        worker = subprocess.Popen(
            [VIRTUALENV / "bin/prefect", "worker", "start", "--pool", "pool", "--type", "process"],
            env={**environment, "PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_HOME": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            content = json.loads(site_file.read_text())
            content["tenants"][0].update(api_url=url, pool_workers={"pool": 0, "idle": 0}, scaled_pools=["pool"])
            site_file.write_text(json.dumps(content))
            (site_file.parent / f"{content['tenants'][0]['name']}.env").write_text(f'PREFECT_API_URL="{url}"\n')
            command = ["--config", str(site_file), "upgrade", "canary"]
            assert main([*command, "--dry-run"]) == 0
            wait_for(lambda: all(one.release for one in online(prefect)) and online(prefect), seconds=60)
            (one,) = online(prefect)
            assert (one.pool, one.release) == ("pool", DEFAULT)
            assert list(other_releases([one], DEFAULT)) == []
            assert [problem.code for problem in other_releases([one], "3.10.0")] == ["upgrade_older_workers"]
            assert [problem.code for problem in other_releases([one], "3.8.8")] == ["upgrade_newer_workers"]
            (unknown,) = other_releases([replace(one, release=None)], DEFAULT)
            assert f"{one.name} of pool (its release is not known)" in unknown.message
            assert main(command) == 0
            said = capsys.readouterr()
            assert "It would run a small flow on pool." in said.out and "pool: completed in" in said.out, said
            assert prefect.sql(
                "SELECT (SELECT count(*) FROM prefect.flow), (SELECT count(*) FROM prefect.flow_run)"
            ) == [(0, 0)]
        finally:
            worker.kill()
            worker.wait()
        api.call("PATCH", "/work_pools/pool", {"is_paused": True})
        with pytest.raises(ProblemError) as failed:
            run_canary(api, "pool", 1)
        assert failed.value.problem.code == "canary_failed" and "is Scheduled after 1 s" in failed.value.problem.message
        assert api.filter("/flows/filter") == []
