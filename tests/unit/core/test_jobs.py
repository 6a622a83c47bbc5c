"""What is recorded of a job, and what health makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.jobs import Job, Record, RecordBroken, last, record
from pgprefect.core.problems import Problem
from pgprefect.health.probes import scheduled_job
from pgprefect.health.thresholds import Limit, Thresholds

from tests.support.project import ROOT

BEGIN = """
import sys, time
from pgprefect.core.jobs import Job, record
with record(Job("cleanup", "", "prefect", sys.argv[1])):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job that was scheduled a moment ago."""
    schedule = tmp_path / "prefect-retention"
    schedule.touch()
    return Job("cleanup", str(schedule), "prefect", str(tmp_path / "state/jobs"))


def run(job: Job, error: BaseException | None = None, **figures: Any) -> Record:
    """Run it, and return what is recorded."""
    try:
        with record(job) as found:
            found.update(figures)
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    result = last(job)
    assert result
    return result


def health(job: Job, **limits: Limit) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    problems, details = scheduled_job(Thresholds(**limits), job)
    assert json.loads(json.dumps(details)) == details
    for problem in problems:
        assert problem.object == "cleanup of tenant prefect"
    return [(problem.severity, problem.code) for problem in problems], details


def age(job: Job, **ago: float) -> None:
    """Let the schedule be older."""
    then = time.time() - timedelta(**ago).total_seconds()
    os.utime(job.schedule, (then, then))


def begin(job: Job) -> subprocess.Popen[str]:
    """Begin a run that lasts, in a process of its own."""
    command = [sys.executable, "-c", BEGIN, job.folder]
    process = subprocess.Popen(
        command, env={"PYTHONPATH": str(ROOT / "module_utils")}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


def test_a_good_run(job: Job) -> None:
    before = datetime.now(UTC)
    found = run(job, flow_runs_deleted=7)
    assert (found.ok, found.message, found.figures, found.running) == (True, "", {"flow_runs_deleted": 7}, False)
    assert found.ended and before <= found.started <= found.ended == found.succeeded
    assert "running" not in json.loads(Path(job.path).read_text())
    assert stat.S_IMODE(os.stat(job.path).st_mode) == 0o644 and os.listdir(job.folder) == ["cleanup-prefect.json"]
    problems, details = health(job)
    assert problems == [] and details["figures"] == {"flow_runs_deleted": 7} and details["age_s"] < 10


def test_nothing_is_recorded_without_a_job(job: Job) -> None:
    with record(None) as figures:
        figures["rows"] = 1
    assert last(job) is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("days_to_keep: -1 is wrong"), "days_to_keep: -1 is wrong"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "3"),
    ],
)
def test_a_failed_run(job: Job, error: BaseException, message: str) -> None:
    succeeded = run(job).succeeded
    found = run(job, error)
    assert (found.ok, found.message, found.succeeded) == (False, message, succeeded)
    assert health(job)[0] == [("warning", "job_failed")]
    (problem,), _ = scheduled_job(Thresholds(), job)
    assert problem.message.startswith("The last cleanup of tenant prefect failed at 20")
    assert problem.message.endswith(f": {message}")
    assert (
        "journalctl -t prefect-retention" in problem.remedy and "pgprefect --tenant prefect cleanup" in problem.remedy
    )
    run(job)
    assert health(job)[0] == []


def test_an_error_with_a_remedy_is_recorded_with_it(job: Job) -> None:
    class Refused(Exception):
        problem = Problem("login_refused", "role x", "The login was refused.", "Correct the password.")

    assert run(job, Refused()).message == "The login was refused. What to do: Correct the password."


def test_a_run_that_is_killed_and_one_that_lives(job: Job) -> None:
    succeeded = run(job).succeeded
    with begin(job) as process:
        living = last(job)
        assert living and living.running and living.ended is None and living.succeeded == succeeded
        assert health(job)[0] == []
        process.send_signal(signal.SIGKILL)
    dead = last(job)
    assert dead == replace(living, running=False)
    assert health(job)[0] == [("warning", "job_never_ended")]
    (problem,), _ = scheduled_job(Thresholds(), job)
    assert re.match("The cleanup of tenant prefect began at 20.* UTC and never ended: ", problem.message)
    run(job)
    assert health(job)[0] == []


def test_the_time_since_it_succeeded(job: Job) -> None:
    assert health(job)[0] == [("notice", "job_not_run_yet")]
    age(job, hours=49)
    assert health(job)[0] == [("notice", "job_not_run_yet"), ("warning", "job_overdue")]
    (_, problem), _ = scheduled_job(Thresholds(), job)
    assert problem.message == "The cleanup of tenant prefect has not succeeded for 49 hours."
    assert "systemctl status cron" in problem.remedy
    assert health(job, cleanup_age_s=Limit())[0] == [("notice", "job_not_run_yet")]
    assert health(job, cleanup_age_s=Limit(60, 3600))[0][-1] == ("error", "job_overdue")
    run(job)
    assert health(job)[0] == []
    run(job, ValueError("refused"))
    assert health(job)[0] == [("warning", "job_failed")]
    content = json.loads(Path(job.path).read_text())
    content["succeeded"] = (datetime.now(UTC) - timedelta(hours=50)).isoformat()
    Path(job.path).write_text(json.dumps(content))
    assert health(job)[0] == [("warning", "job_failed"), ("warning", "job_overdue")]
    # Somebody who schedules it anew gives it time to show that it works.
    age(job, hours=1)
    assert health(job)[0] == [("warning", "job_failed")]


def test_a_job_that_is_not_scheduled(job: Job) -> None:
    run(job)
    os.unlink(job.schedule)
    assert health(job)[0] == [("warning", "job_not_scheduled")]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"started": "yesterday", "ended": null, "succeeded": null}'])
def test_a_broken_record(job: Job, text: str) -> None:
    run(job)
    Path(job.path).write_text(text)
    with pytest.raises(RecordBroken, match=r"cleanup-prefect\.json cannot be read"):
        last(job)
    assert health(job)[0] == [("warning", "job_record_broken")]
    run(job)
    assert health(job)[0] == []


def test_a_record_that_can_not_be_written_stops_nobody(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    Path(job.folder).parent.touch()
    with record(job):
        pass
    assert "The result of cleanup of tenant prefect is not recorded: " in capsys.readouterr().err


def test_readers_see_whole_records_only(job: Job) -> None:
    run(job)
    done = threading.Event()
    seen: set[bool | None] = set()

    def read() -> None:
        while not done.is_set():
            found = last(job)
            assert found and (found.ended is not None or found.running)
            seen.add(found.ok)

    readers = [threading.Thread(target=read) for _ in range(3)]
    errors: list[BaseException] = []
    threading.excepthook = lambda arguments: errors.append(arguments.exc_value or RuntimeError())
    try:
        for reader in readers:
            reader.start()
        for _ in range(100):
            with record(job):
                time.sleep(0.001)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        threading.excepthook = threading.__excepthook__
    assert errors == [] and seen == {None, True}
