"""Resolving a run that nothing runs any more, over Prefect's API: it ends, or it is scheduled again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..core.http import PrefectApi
from ..core.prefect import OPEN_STATES, RESCHEDULE_TAG

# A run that has begun so often and was lost each time may be what ends its workers.
MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Resolved:
    """A run that was lost, and the state that it has got."""

    id: str
    name: str
    state: str


def resolve(api: PrefectApi, run_id: str, reason: str, state_id: str | None = None) -> list[Resolved]:
    """Resolve a run and its subflows, which ran in its process, the deepest first; return what has changed.

    With ``state_id`` only while the run is still in that state. Killed midway it can be repeated: the run itself comes
    last. The server frees the slots and leases of a deployment's limit as the state changes. Raises ApiError.
    """
    run = api.call("GET", f"/flow_runs/{run_id}")
    if run["state_type"] not in OPEN_STATES or state_id not in (None, run["state_id"]):
        return []
    resolved = []
    for child in _subflows(api, run_id):
        resolved += resolve(api, child["id"], f"its parent run {run['name']} was lost: {reason}")
    answer = api.call("POST", f"/flow_runs/{run_id}/set_state", {"state": outcome(run, reason)})
    if answer["status"] == "ACCEPT":
        resolved.append(Resolved(run_id, str(run["name"]), str(answer["state"]["name"])))
    return resolved


def outcome(run: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return the state that a lost run gets.

    What was not begun is scheduled again, what was to be cancelled is. What had begun is crashed, and scheduled again
    instead where its deployment says so.
    """
    if run["state_type"] == "CANCELLING":
        return {"type": "CANCELLED", "name": "Cancelled", "message": f"Cancelled: {reason}."}
    if run["deployment_id"]:
        if run["state_type"] == "PENDING":
            return _scheduled("Scheduled", f"Scheduled again, for it had not begun: {reason}.")
        if RESCHEDULE_TAG in run["tags"]:
            if run["run_count"] < MOST_ATTEMPTS:
                return _scheduled("AwaitingRetry", f"Scheduled again, as its deployment says: {reason}.")
            reason = f"{reason}. Not scheduled again: it was lost in each of its {run['run_count']} attempts"
    return {"type": "CRASHED", "name": "Crashed", "message": f"Lost: {reason}."}


def _scheduled(name: str, message: str) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat()
    return {"type": "SCHEDULED", "name": name, "message": message, "state_details": {"scheduled_time": now}}


def _subflows(api: PrefectApi, run_id: str) -> list[dict[str, Any]]:
    """Return the open runs that a run called as functions. A run of a deployment has a process of its own."""
    runs = {"parent_flow_run_id": {"any_": [run_id]}, "state": {"type": {"any_": list(OPEN_STATES)}}}
    return [run for run in api.filter("/flow_runs/filter", flow_runs=runs) if not run["deployment_id"]]
