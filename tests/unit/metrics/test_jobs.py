"""What a host does by itself, as metrics."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pgprefect.backup import sets
from pgprefect.core.connection import Login
from pgprefect.core.jobs import Job, RecordBroken, last, record
from pgprefect.metrics import jobs
from pgprefect.metrics.exposition import Sample
from pgprefect.site.configuration import Backups, Certificate, CopyTarget, Keep, Site

from tests.support.certificates import Authority

NIGHT = datetime(2026, 11, 25, 2, tzinfo=UTC)


def values(samples: list[Sample]) -> dict[str, float]:
    return {sample.metric.name.removeprefix("pgprefect_"): sample.value for sample in samples}


def test_a_job_that_succeeded_then_failed(tmp_path: Path) -> None:
    job = Job("cleanup", "/etc/cron.d/x", "prefect", str(tmp_path))
    assert list(jobs.result(job)) == []
    with record(job):
        running = values(list(jobs.result(job)))
        assert (running["job_running"], running["job_failed"]) == (1, 0)
    first = last(job)
    assert first and first.ended
    assert values(list(jobs.result(job))) == {
        "job_last_start_timestamp_seconds": first.started.timestamp(),
        "job_last_success_timestamp_seconds": first.ended.timestamp(),
        "job_failed": 0,
        "job_running": 0,
    }
    with pytest.raises(ZeroDivisionError), record(job):
        raise ZeroDivisionError("a secret of the log")
    samples = list(jobs.result(job))
    found = values(samples)
    assert (found["job_failed"], found["job_last_success_timestamp_seconds"]) == (1, first.ended.timestamp())
    assert found["job_last_start_timestamp_seconds"] > first.started.timestamp()
    assert all(sample.labels == {"tenant": "prefect", "name": "cleanup"} for sample in samples)


def test_a_job_that_was_killed(tmp_path: Path) -> None:
    job = Job("backup", "/etc/cron.d/x", folder=str(tmp_path))
    content = {"name": "backup", "tenant": "", "started": NIGHT.isoformat(), "ended": None, "ok": None}
    Path(job.path).write_text(json.dumps({**content, "message": "", "figures": {}, "succeeded": None}))
    assert values(list(jobs.result(job))) == {
        "job_last_start_timestamp_seconds": NIGHT.timestamp(),
        "job_failed": 1,
        "job_running": 0,
    }
    Path(job.path).write_text("{")
    with pytest.raises(RecordBroken):
        list(jobs.result(job))


def backups(directory: Path) -> Backups:
    return Backups(str(directory), ("app",), Keep(), CopyTarget("rsync", "vault:/sets", "/etc/x"))


def make_set(directory: Path, time: datetime, *, safety: bool = False) -> Path:
    path = directory / sets.name_of(time, safety)
    path.mkdir(parents=True)
    (path / sets.MANIFEST).touch()
    return path


def test_the_newest_sets(tmp_path: Path) -> None:
    directory = tmp_path / "sets"
    assert list(jobs.backup_sets(backups(directory))) == []
    verified, copied, elsewhere, newest = (make_set(directory, NIGHT + timedelta(days=day)) for day in range(4))
    make_set(directory, NIGHT + timedelta(days=5), safety=True)
    (directory / sets.name_of(NIGHT + timedelta(days=6))).mkdir()  # one that has no manifest yet
    sets.mark_verified(verified, {})
    sets.mark_copied(copied, "rsync vault:/sets")
    sets.mark_copied(elsewhere, "rsync somewhere:/else")
    assert values(list(jobs.backup_sets(backups(directory)))) == {
        "backup_set_timestamp_seconds": sets.time_of(newest.name).timestamp(),
        "backup_verified_timestamp_seconds": NIGHT.timestamp(),
        "backup_copied_timestamp_seconds": (NIGHT + timedelta(days=1)).timestamp(),
    }


def test_the_first_certificate_that_ends(tmp_path: Path) -> None:
    authority, path = Authority(days=30), tmp_path / "db.pem"
    path.write_text(authority.issue("db", days=90)[0] + authority.certificate)
    (sample,) = jobs.certificate(Certificate(str(path)))
    in_a_month = datetime.now(UTC) + timedelta(days=30)
    assert sample.labels == {"file": str(path)} and abs(sample.value - in_a_month.timestamp()) < 60
    path.write_text(authority.certificate * 11)
    assert list(jobs.certificate(Certificate(str(path)))) == []


def test_a_host_is_asked_for_what_it_has(tmp_path: Path) -> None:
    login = Login()
    site = Site(login, {}, ())
    assert jobs.questions(site) == {}
    cleanup = Job("cleanup", "/etc/cron.d/x", "prefect", str(tmp_path))
    certificate = Certificate("/etc/x.pem")
    site = Site(login, {}, (), jobs=(cleanup,), backups=backups(tmp_path), certificates=(certificate,))
    assert list(jobs.questions(site)) == ["cleanup of tenant prefect", "backup sets", "/etc/x.pem"]
