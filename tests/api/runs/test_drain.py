"""A worker that is stopped while its pool is busy takes nothing new and loses nothing.

``DRAINED_RUNS`` sets how many runs there are (6).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.project import ROOT, VIRTUALENV
from tests.support.waiting import wait_for

RETIRED = 100  # the unit does not start it again after this status
WORKER = ROOT / "roles/prefect_worker/files/draining_worker.py"
FLOW = """
import time
from pathlib import Path
from prefect import flow

@flow
def short():
    while not Path("may_end").exists():
        time.sleep(0.1)
"""


@pytest.fixture
def deployment(api: Callable[..., Any], tmp_path: Path) -> Iterator[str]:
    """A deployment on a pool of its own; its ID."""
    (tmp_path / "short.py").write_text(FLOW)
    api("POST", "/work_pools/", {"name": "drained", "type": "process"})
    flow = api("POST", "/flows/", {"name": "short"})["id"]
    body = {
        "name": "short",
        "flow_id": flow,
        "work_pool_name": "drained",
        "entrypoint": "short.py:short",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}],
    }
    yield api("POST", "/deployments/", body)["id"]
    api("DELETE", "/work_pools/drained")


@pytest.fixture
def start(prefect_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start_worker(limit: int) -> subprocess.Popen[bytes]:
        settings = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_WEBSERVER_PORT": str(free_port())}
        settings["RUNTIME_DIRECTORY"] = str(tmp_path)
        command = [str(VIRTUALENV / "bin/python"), "-I", str(WORKER), "drained", "w", str(limit)]
        with (tmp_path / "worker.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    command, env={**prefect_environment, **settings}, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT
                )
            )
        return started[-1]

    yield start_worker
    for worker in started:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def test_a_stopped_worker_drains(
    api: Callable[..., Any], deployment: str, start: Callable[[int], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    many = int(os.environ.get("DRAINED_RUNS", "6"))
    runs = [api("POST", f"/deployments/{deployment}/create_flow_run", {})["id"] for _ in range(many)]

    def states() -> Counter[str]:
        found = api("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": runs}}})
        return Counter(run["state_type"] for run in found)

    log = tmp_path / "worker.log"
    first = start(3)
    wait_for(lambda: states()["RUNNING"] == 3, log.read_text, seconds=120)
    first.send_signal(signal.SIGTERM)
    first.send_signal(signal.SIGTERM)
    wait_for(lambda: "drains" in log.read_text(), log.read_text, seconds=30)
    (tmp_path / "may_end").touch()
    since = time.monotonic()
    assert first.wait(90) == 0, log.read_text()
    print(f"drained after {time.monotonic() - since:.0f} s: {states()}")
    assert states() == {"COMPLETED": 3, "SCHEDULED": many - 3}

    second = start(3)
    wait_for(lambda: states()["COMPLETED"] == many, log.read_text, seconds=20 * many)
    second.send_signal(signal.SIGUSR1)  # it is one too many, and has no runs
    assert second.wait(30) == RETIRED and (tmp_path / "draining").exists()
    for run in runs:
        kinds = [state["type"] for state in api("GET", f"/flow_run_states/?flow_run_id={run}")]
        assert kinds.count("RUNNING") == 1
