"""What a worker had taken before it ended is scheduled again by its next start, on a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pgprefect.core.http import PrefectApi
from pgprefect.core.prefect import WORKER_RESOURCE, WORKER_STARTED
from pgprefect.objects.taken_runs import take_up

from tests.api.conftest import AUTH_STRING
from tests.support.project import VIRTUALENV
from tests.support.waiting import wait_for

WORKER = "host-tenant-taken-1"


@pytest.fixture
def pool(api: Callable[..., Any]) -> Iterator[str]:
    api("POST", "/work_pools/", {"name": "taken", "type": "process", "base_job_template": {}})
    yield "taken"
    api("DELETE", "/work_pools/taken")


def add_run(api: Callable[..., Any], worker: str | None, state: str = "PENDING", name: str = "Submitting") -> str:
    flow = api("POST", "/flows/", {"name": "taken"})["id"]
    deployment = api("POST", "/deployments/", {"name": "taken", "flow_id": flow, "work_pool_name": "taken"})["id"]
    run = api("POST", f"/deployments/{deployment}/create_flow_run", {})["id"]
    api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING", "name": "Pending"}})
    if worker:
        api("PATCH", f"/flow_runs/{run}/labels", {"prefect.worker.name": worker})
    if name != "Pending":
        api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": state, "name": name}})
    return str(run)


def state(api: Callable[..., Any], run: str) -> tuple[str, str]:
    found = api("GET", f"/flow_runs/{run}")["state"]
    return found["type"], found["message"]


def test_what_a_worker_had_taken_and_not_begun(
    api: Callable[..., Any], api_arguments: dict[str, str], pool: str
) -> None:
    submitting, pending = add_run(api, WORKER), add_run(api, WORKER, name="Pending")
    unnamed = add_run(api, None, name="Pending")
    running = add_run(api, WORKER, "RUNNING", "Running")
    others = add_run(api, "host-tenant-taken-2")
    api(
        "POST",
        f"/work_pools/{pool}/workers/heartbeat",
        {"name": "host-tenant-taken-2", "heartbeat_interval_seconds": 30},
    )

    client = PrefectApi(api_arguments["api_url"], AUTH_STRING)
    assert len(take_up(client, WORKER, pool)) == 2
    for run in (submitting, pending):
        assert state(api, run)[0] == "SCHEDULED" and WORKER in state(api, run)[1]
    assert [state(api, run)[0] for run in (unnamed, others, running)] == ["PENDING", "PENDING", "RUNNING"]
    # A worker gets them again.
    due = api("POST", f"/work_pools/{pool}/get_scheduled_flow_runs", {})
    assert {item["flow_run"]["id"] for item in due} == {submitting, pending}
    # Health learns of the start.
    events = {"filter": {"event": {"name": [WORKER_STARTED]}}}
    wait_for(lambda: api("POST", "/events/filter", events)["events"])
    (event,) = api("POST", "/events/filter", events)["events"]
    assert event["resource"]["prefect.resource.id"] == WORKER_RESOURCE + WORKER


def test_the_only_worker_of_a_pool_takes_up_what_bears_no_name(
    api: Callable[..., Any], pool: str, prefect_environment: dict[str, str]
) -> None:
    """By the command that the unit calls."""
    unnamed = add_run(api, None, name="Pending")
    command = [str(VIRTUALENV / "bin/python"), "-m", "pgprefect", "take-up", WORKER]
    done = subprocess.run(
        command, env={**prefect_environment, "WORK_POOL": pool}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Scheduled again: ") and state(api, unnamed)[0] == "SCHEDULED"
