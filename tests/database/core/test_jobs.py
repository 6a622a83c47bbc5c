"""What cleanups leave for health: a good one, a refused one, one without a login, and a killed one."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pgprefect.cli.main import main

from bench.data import fill
from tests.support.ansible import Result
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import PASSWORD, Site
from tests.support.waiting import wait_for


@pytest.fixture
def scheduled(site_file: Path, tmp_path: Path) -> dict[str, str]:
    """The cleanup as cron is to start it on this host."""
    schedule = tmp_path / "prefect-retention"
    schedule.touch()
    content = json.loads(site_file.read_text())
    job = {"name": "cleanup", "tenant": "tenant0", "schedule": str(schedule), "folder": str(tmp_path / "jobs")}
    site_file.write_text(json.dumps({**content, "jobs": [job]}))
    return job


@pytest.fixture
def health(
    site_file: Path, scheduled: dict[str, str], prefect: Site, run_module: Callable[..., Result], capsys: Any
) -> Callable[[], tuple[str, list[tuple[str, str]], dict[str, Any]]]:
    """Ask the command and the module, which must agree; the status, the problems and the details of the cleanup."""

    def ask() -> tuple[str, list[tuple[str, str]], dict[str, Any]]:
        capsys.readouterr()
        main(["--config", str(site_file), "health", "--json"])
        found = json.loads(capsys.readouterr().out)
        module = run_module(
            "prefect_health_check",
            login_host="127.0.0.1",
            login_port=prefect.server.port,
            login_user=prefect.declaration.monitor,
            login_password=PASSWORD,
            database=prefect.database,
            tenants=[{"name": "tenant0", "schema": "prefect", "api_url": "http://127.0.0.1:1/api"}],
            jobs=[scheduled],
        )
        problems = [
            [(problem["code"], problem["message"]) for problem in result["problems"] if problem["code"][:4] == "job_"]
            for result in (found, module)
        ]
        assert problems[0] == problems[1] and found["checks"]["cleanup"] == module["checks"]["cleanup"]
        assert found["details"]["cleanup"]["record"] == module["details"]["cleanup"]["record"]
        return found["checks"]["cleanup"], problems[0], found["details"]["cleanup"]

    return ask


def filled(site: Site, runs: int) -> None:
    with contextlib.closing(site.server.connect(site.database)) as connection:
        fill(connection, "prefect", runs, days=60)


def test_a_cleanup_is_recorded(
    prefect: Site, site_file: Path, scheduled: dict[str, str], health: Callable[[], Any]
) -> None:
    status, problems, _ = health()
    assert (status, [code for code, _ in problems]) == ("healthy", ["job_not_run_yet"])
    filled(prefect, 100)
    assert main(["--config", str(site_file), "cleanup", "--dry-run"]) == 0
    assert not Path(scheduled["folder"]).exists()
    assert main(["--config", str(site_file), "cleanup", "--yes"]) == 0
    status, problems, details = health()
    assert (status, problems, details["ok"]) == ("healthy", [], True)
    assert details["figures"]["flow_runs_deleted"] == 100 - prefect.sql("SELECT count(*) FROM prefect.flow_run")[0][0]
    assert details["figures"]["flow_runs_deleted"] > 20 and details["started"] < details["ended"]


def test_a_refused_cleanup_is_recorded(prefect: Site, site_file: Path, health: Callable[[], Any]) -> None:
    lock = "BEGIN; LOCK TABLE prefect.alembic_version IN SHARE UPDATE EXCLUSIVE MODE"
    with contextlib.closing(prefect.server.connect(prefect.database)) as other:
        other.cursor().execute(lock)
        assert main(["--config", str(site_file), "cleanup", "--yes"]) == 2
    status, ((code, message),), _ = health()
    assert (status, code) == ("degraded", "job_failed")
    assert "Another cleanup of the schema prefect is running (process " in message
    assert main(["--config", str(site_file), "cleanup", "--yes"]) == 0
    assert main(["--config", str(site_file), "cleanup", "--days", "0", "--yes"]) == 3  # a slip of the hand
    assert health()[:2] == ("healthy", [])


def test_a_wrong_login_and_a_wrong_policy_are_recorded(
    prefect: Site, site_file: Path, health: Callable[[], Any]
) -> None:
    passfile = site_file.parent / "pgpass"
    right = passfile.read_text()
    passfile.write_text("".join(line for line in right.splitlines(True) if f":{prefect.tenant.server}:" not in line))
    assert main(["--config", str(site_file), "cleanup", "--yes"]) == 3
    status, ((code, message),), _ = health()
    assert (status, code) == ("degraded", "job_failed")
    assert f"refused the login as {prefect.tenant.server}" in message or "no password" in message
    passfile.write_text(right)
    content = json.loads(site_file.read_text())
    site_file.write_text(json.dumps({**content, "retention": {"days_to_keep": -3}}))
    assert main(["--config", str(site_file), "cleanup", "--yes"]) == 3
    assert "days_to_keep: -3 must be from 0" in health()[1][0][1]


def test_a_killed_cleanup_shows(prefect: Site, site_file: Path, health: Callable[[], Any]) -> None:
    filled(prefect, 50)
    command = [str(VIRTUALENV / "bin/python"), "-m", "pgprefect", "--config", str(site_file), "cleanup", "--yes"]
    with contextlib.closing(prefect.server.connect(prefect.database)) as other:
        other.autocommit = False
        # The counting waits for this for ten seconds.
        other.cursor().execute("LOCK TABLE prefect.task_run IN ACCESS EXCLUSIVE MODE")
        with subprocess.Popen(command, env={"PYTHONPATH": str(ROOT / "module_utils")}) as process:
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'prefect.task_run'::regclass"
            wait_for(lambda: prefect.sql(waits))
            status, problems, details = health()
            assert (status, problems, details["running"]) == ("healthy", [], True)
            process.send_signal(signal.SIGKILL)
    status, ((code, message),), details = health()
    assert (status, code, details["ended"]) == ("degraded", "job_never_ended", None)
    assert "never ended: it was killed" in message
    assert main(["--config", str(site_file), "cleanup", "--yes"]) == 0
    assert health()[:2] == ("healthy", [])


def test_jobs_that_are_no_jobs(run_module: Callable[..., Result]) -> None:
    result = run_module("prefect_health_check", database="x", tenants=[], jobs=[{"name": "cleanup"}])
    assert result["failed"] and "schedule" in result["msg"]
