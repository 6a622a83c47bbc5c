"""Runs that a worker had taken before it ended. Prefect gives them to no worker again, this one's next start does."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

from ..core.http import PrefectApi
from ..core.prefect import WORKER_RESOURCE, WORKER_STARTED

_MESSAGE = "Scheduled again: the worker {} ended before it had started this run."


def take_up(api: PrefectApi, worker: str, pool: str) -> list[str]:
    """Schedule again what a worker had taken and not begun, say that it starts, and return the names of the runs.

    Nothing of the worker may run meanwhile. A pending run that bears no worker's name yet is its own where no other
    worker polls the pool. Raises ApiError.
    """
    pending = api.filter(
        "/flow_runs/filter",
        flow_runs={"state": {"type": {"any_": ["PENDING"]}}},
        work_pools={"name": {"any_": [pool]}},
    )
    others = [
        other
        for other in api.filter(f"/work_pools/{pool}/workers/filter")
        if other["name"] != worker and other["status"] == "ONLINE"
    ]
    names = []
    for run in pending:
        taken_by = (run.get("labels") or {}).get("prefect.worker.name")
        if taken_by == worker or (taken_by is None and not others):
            _schedule(api, run, worker)
            names.append(str(run["name"]))
    _say_that_it_starts(api, worker)
    return names


def _schedule(api: PrefectApi, run: dict[str, Any], worker: str) -> None:
    details = {"scheduled_time": _now()}
    state = {"type": "SCHEDULED", "name": "Scheduled", "message": _MESSAGE.format(worker), "state_details": details}
    api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state})


def _say_that_it_starts(api: PrefectApi, worker: str) -> None:
    """Emit an event, by which health knows that the runs which began before are dead."""
    resource = {"prefect.resource.id": WORKER_RESOURCE + worker, "prefect.resource.name": worker}
    event = {"id": str(uuid.uuid4()), "occurred": _now(), "event": WORKER_STARTED, "resource": resource}
    api.call("POST", "/events", [event])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
