"""Runs that a worker had taken before it ended. Prefect resolves none of them; the worker's unit does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timezone

from ..core.cluster import run_jobs
from ..core.containers import RunContainers, run_containers
from ..core.errors import ProblemError
from ..core.http import PrefectApi
from ..core.prefect import OPEN_STATES, WORKER_RESOURCE, WORKER_STARTED
from ..core.problems import Problem
from .resolve import Resolved, resolve

# What goes on of a pool's runs without its worker, and who knows it.
_APART: dict[str, tuple[str, Callable[[], RunContainers | None]]] = {
    "docker": ("container", run_containers),
    "kubernetes": ("Job", run_jobs),
}


def resolve_taken_runs(
    api: PrefectApi,
    worker: str,
    pool: str,
    reason: str,
    ask: Callable[[], RunContainers | None] | None = None,
) -> list[Resolved]:
    """Resolve all that a worker had taken. Nothing of the worker may run meanwhile. Raises ApiError, ProblemError.

    A pending run that bears no worker's name yet is its own where no other worker polls the pool. Runs in containers,
    and in a cluster, go on without it: of these only the ones are resolved whose container or Job has ended, or was
    never started, as ``ask`` says, or the engine or the cluster. Of runs that are elsewhere only pending ones are.
    """
    kind = api.call("GET", f"/work_pools/{pool}")["type"]
    containers: RunContainers | None = {}
    if kind in _APART:
        containers = (ask or _APART[kind][1])()
        if containers is None:
            raise ProblemError(_no_engine(worker))
    states = OPEN_STATES if kind in ("process", *_APART) else ("PENDING",)
    taken = api.filter(
        "/flow_runs/filter",
        flow_runs={"state": {"type": {"any_": list(states)}}},
        work_pools={"name": {"any_": [pool]}},
    )
    others = [
        other
        for other in api.filter(f"/work_pools/{pool}/workers/filter")
        if other["name"] != worker and other["status"] == "ONLINE"
    ]
    resolved = []
    for run in taken:
        taken_by = (run.get("labels") or {}).get("prefect.worker.name")
        unnamed = taken_by is None and run["state_type"] == "PENDING" and not others
        container = (containers or {}).get(run["id"])
        if (taken_by == worker or unnamed) and not (container and container.alive):
            why = f"its {_APART[kind][0]} has ended ({container.status})" if container else reason
            resolved += resolve(api, run["id"], why, run["state_id"])
    return resolved


def _no_engine(worker: str) -> Problem:
    message = f"The Docker engine of this host does not answer, so nobody knows which runs of {worker} go on."
    remedy = "See systemctl status docker; the worker starts by itself when the engine answers again."
    return Problem("docker_engine_down", object="unit docker.service", message=message, remedy=remedy)


def report_start(api: PrefectApi, worker: str) -> None:
    """Emit the event that a worker starts, by which health knows that the runs which began before are dead."""
    now = datetime.now(timezone.utc).isoformat()
    resource = {"prefect.resource.id": WORKER_RESOURCE + worker, "prefect.resource.name": worker}
    event = {"id": str(uuid.uuid4()), "occurred": now, "event": WORKER_STARTED, "resource": resource}
    api.call("POST", "/events", [event])


def reason_of_end(worker: str, result: str | None) -> str:
    """Say how a worker ended, by systemd's result of the unit, or None where it starts."""
    if result == "timeout":
        return f"its worker {worker} was stopped, and it had not ended within prefect_worker_drain_seconds"
    if result in (None, "success"):
        return f"its worker {worker} ended before it"
    return f"its worker {worker} ended before it, with systemd's result {result}"
