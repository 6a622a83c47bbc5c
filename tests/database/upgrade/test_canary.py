"""The trial run on a work pool, with a real server and a real worker."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from pgprefect.cli.main import main
from pgprefect.core.errors import ProblemError
from pgprefect.core.http import PrefectApi
from pgprefect.upgrade.canary import run_canary

from bench.support import prefect_server
from tests.support.project import VIRTUALENV
from tests.support.site import Site


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
            content["tenants"][0].update(api_url=url, pool_workers={"pool": 1, "idle": 0})
            site_file.write_text(json.dumps(content))
            (site_file.parent / f"{content['tenants'][0]['name']}.env").write_text(f'PREFECT_API_URL="{url}"\n')
            command = ["--config", str(site_file), "upgrade", "canary"]
            assert main([*command, "--dry-run"]) == 0
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
