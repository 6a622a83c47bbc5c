"""What a worker had taken is resolved when its unit has stopped, or starts, on a real server."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pgprefect.core.http import PrefectApi
from pgprefect.core.prefect import RESCHEDULE_TAG, WORKER_RESOURCE, WORKER_STARTED
from pgprefect.runs.taken_runs import reason_of_end, report_start, resolve_taken_runs

from tests.api.conftest import AUTH_STRING
from tests.support.project import VIRTUALENV
from tests.support.waiting import wait_for

WORKER = "host-tenant-taken-1"


@pytest.fixture
def pool(api: Callable[..., Any]) -> Iterator[str]:
    api("POST", "/work_pools/", {"name": "taken", "type": "process", "base_job_template": {}})
    yield "taken"
    api("DELETE", "/work_pools/taken")


@pytest.fixture
def client(api_arguments: dict[str, str]) -> PrefectApi:
    return PrefectApi(api_arguments["api_url"], AUTH_STRING)


def add_run(api: Callable[..., Any], worker: str | None, state: str, tags: tuple[str, ...] = ()) -> str:
    """Make a run of a deployment that may have one run at a time, and take it as a worker does."""
    flow = api("POST", "/flows/", {"name": "taken"})["id"]
    body = {"name": str(uuid.uuid4()), "flow_id": flow, "work_pool_name": "taken", "tags": tags, "concurrency_limit": 1}
    deployment = api("POST", "/deployments/", body)["id"]
    run = api("POST", f"/deployments/{deployment}/create_flow_run", {})["id"]
    begin(api, run, worker, state)
    return str(run)


def begin(api: Callable[..., Any], run: str, worker: str | None, state: str) -> None:
    for each in ("PENDING", "RUNNING", "CANCELLING"):
        set_state(api, run, each)
        if each == "PENDING" and worker:
            api("PATCH", f"/flow_runs/{run}/labels", {"prefect.worker.name": worker})
        if each == state:
            return


def set_state(api: Callable[..., Any], run: str, kind: str) -> None:
    answer = api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": kind, "name": kind.capitalize()}})
    assert answer["status"] == "ACCEPT", answer


def add_subflow(api: Callable[..., Any], parent: str) -> str:
    """Make a running subflow, which has no deployment: it runs in its parent's process."""
    flow = api("POST", "/flows/", {"name": "taken-sub"})["id"]
    task = api("POST", "/task_runs/", {"flow_run_id": parent, "task_key": "sub", "dynamic_key": "0"})["id"]
    body = {"flow_id": flow, "parent_task_run_id": task, "state": {"type": "RUNNING", "name": "Running"}}
    return str(api("POST", "/flow_runs/", body)["id"])


def state(api: Callable[..., Any], run: str) -> tuple[str, str]:
    found = api("GET", f"/flow_runs/{run}")["state"]
    return found["name"], found["message"]


def slots(api: Callable[..., Any], run: str) -> int:
    """The slots in use of the limit of a run's deployment."""
    deployment = api("GET", f"/deployments/{api('GET', f'/flow_runs/{run}')['deployment_id']}")
    return int(deployment["global_concurrency_limit"]["active_slots"])


def test_what_a_worker_had_taken_is_resolved(api: Callable[..., Any], client: PrefectApi, pool: str) -> None:
    pending, running, cancelling = (add_run(api, WORKER, kind) for kind in ("PENDING", "RUNNING", "CANCELLING"))
    again = add_run(api, WORKER, "RUNNING", (RESCHEDULE_TAG,))
    child = add_subflow(api, running)
    grandchild = add_subflow(api, child)
    unnamed, others = add_run(api, None, "PENDING"), add_run(api, "host-tenant-taken-2", "RUNNING")
    beat = {"name": "host-tenant-taken-2", "heartbeat_interval_seconds": 30}
    api("POST", f"/work_pools/{pool}/workers/heartbeat", beat)
    held = (pending, running, cancelling, again, others)
    assert [slots(api, run) for run in held] == [1, 1, 1, 1, 1]

    resolved = resolve_taken_runs(client, WORKER, pool, reason_of_end(WORKER, "timeout"))
    assert {run.id for run in resolved} == {pending, running, cancelling, again, child, grandchild}
    found = {run.id: run.state for run in resolved}
    assert found[pending] == "Scheduled" and found[cancelling] == "Cancelled" and found[again] == "AwaitingRetry"
    assert {found[run] for run in (running, child, grandchild)} == {"Crashed"}
    assert "prefect_worker_drain_seconds" in state(api, running)[1]
    assert [slots(api, run) for run in held] == [0, 0, 0, 0, 1]
    assert [state(api, run)[0] for run in (unnamed, others)] == ["Pending", "Running"]
    # A worker gets again what is scheduled.
    due = api("POST", f"/work_pools/{pool}/get_scheduled_flow_runs", {})
    assert {item["flow_run"]["id"] for item in due} == {pending, again}
    assert resolve_taken_runs(client, WORKER, pool, "nothing more") == []


def test_a_run_that_is_lost_each_time_ends(api: Callable[..., Any], client: PrefectApi, pool: str) -> None:
    run = add_run(api, WORKER, "RUNNING", (RESCHEDULE_TAG,))
    for _ in range(2):
        (resolved,) = resolve_taken_runs(client, WORKER, pool, "its worker ended")
        assert resolved.state == "AwaitingRetry"
        begin(api, run, WORKER, "RUNNING")
    resolve_taken_runs(client, WORKER, pool, "its worker ended")
    assert state(api, run)[0] == "Crashed" and "lost in each of its 3 attempts" in state(api, run)[1]


def test_the_only_worker_of_a_pool_takes_up_what_bears_no_name(
    api: Callable[..., Any], client: PrefectApi, pool: str, prefect_environment: dict[str, str]
) -> None:
    """By the command that the unit calls."""
    unnamed, running = add_run(api, None, "PENDING"), add_run(api, WORKER, "RUNNING")
    command = [str(VIRTUALENV / "bin/python"), "-m", "pgprefect", "take-up", "--stopped", WORKER]
    environment = {**prefect_environment, "WORK_POOL": pool, "SERVICE_RESULT": "oom-kill"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert state(api, unnamed)[0] == "Scheduled"
    assert state(api, running)[0] == "Crashed" and "oom-kill" in state(api, running)[1]

    # Health learns of a start.
    report_start(client, WORKER)
    events = {"filter": {"event": {"name": [WORKER_STARTED]}}}
    wait_for(lambda: api("POST", "/events/filter", events)["events"])
    (event,) = api("POST", "/events/filter", events)["events"]
    assert event["resource"]["prefect.resource.id"] == WORKER_RESOURCE + WORKER
