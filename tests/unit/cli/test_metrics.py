"""The command pgprefect metrics on a host whose database nobody reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pgprefect.cli.main import main
from pgprefect.core.jobs import Job, record


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A job of the site that has run, as the site's file has it."""
    found = {"name": "cleanup", "schedule": "/etc/cron.d/x", "tenant": "prefect", "folder": str(tmp_path / "jobs")}
    with record(Job(**found)):
        pass
    return found


def run(tmp_path: Path, *arguments: str, **values: Any) -> int:
    site = tmp_path / "pgprefect.json"
    login = {"host": "127.0.0.1", "port": 1, "user": "x", "password": "a secret"}
    tenants = [{"name": "prefect", "schema": "prefect"}]
    site.write_text(json.dumps({"login": login, "database": "app", "tenants": tenants, **values}))
    return main(["--config", str(site), "metrics", *arguments])


def test_the_rest_is_printed(tmp_path: Path, job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, jobs=[job]) == 0
    printed = capsys.readouterr()
    assert 'pgprefect_job_failed{tenant="prefect",name="cleanup"} 0\n' in printed.out
    assert 'pgprefect_collect_success{group="runs",tenant="prefect"} 0\n' in printed.out
    assert 'pgprefect_collect_success{group="jobs"} 1\n' in printed.out
    first, second = printed.err.splitlines()
    assert first.startswith("Not collected: runs of tenant prefect: No connection to PostgreSQL at 127.0.0.1:1 as x")
    assert second.startswith("Not collected: database: ")
    assert "a secret" not in printed.out + printed.err


def test_nothing_could_be_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 3
    assert 'pgprefect_collect_success{group="database"} 0\n' in capsys.readouterr().out


def test_one_record_is_broken(tmp_path: Path, job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    broken = {**job, "name": "backup", "tenant": ""}
    Path(Job(**broken).path).write_text("{")
    assert run(tmp_path, jobs=[broken, job]) == 0
    printed = capsys.readouterr()
    assert 'pgprefect_collect_success{group="jobs"} 0\n' in printed.out
    assert 'pgprefect_job_failed{tenant="prefect",name="cleanup"} 0\n' in printed.out
    assert "Not collected: jobs, backup: " in printed.err


def test_the_textfile(tmp_path: Path, job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pgprefect.prom"
    assert run(tmp_path, "--textfile", str(path), jobs=[job]) == 0
    assert capsys.readouterr().out == ""
    assert 'pgprefect_job_running{tenant="prefect",name="cleanup"} 0\n' in path.read_text()
    # What is dead says so there, too.
    assert run(tmp_path, "--textfile", str(path)) == 3
    assert 'pgprefect_collect_success{group="database"} 0\n' in path.read_text()
    assert run(tmp_path, "--textfile", str(tmp_path / "missing/x.prom"), jobs=[job]) == 2
    assert "textfile_not_written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "words"), [("x.prom", "'x.prom' is not an absolute path"), ("/x/y.txt", "does not end with .prom")]
)
def test_a_path_that_nobody_reads(tmp_path: Path, path: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "--textfile", path)
    assert ended.value.code == 3 and words in capsys.readouterr().err


def test_the_alerts_have_the_sites_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--alerts", health={"late_s": {"warning": 77}}) == 0
    rules = json.loads(capsys.readouterr().out)["groups"][0]["rules"]
    (late,) = [r for r in rules if (r["alert"], r["labels"]["severity"]) == ("PrefectRunsLate", "warning")]
    assert late["expr"].endswith(">= 77")
