"""Asks Prefect's API what a work pool has to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from ..core.http import PrefectApi
from ..core.prefect import OPEN_STATES
from .scale import Load

# Workers take a run so many seconds before its time.
_AHEAD = 10
# What is due for longer is late: workers that are there, or start, take a run sooner.
LATE_SECONDS = 60


def read_load(api: PrefectApi, pool: str) -> Load:
    """Return the load of a work pool. Raises ApiError."""
    found = api.call("GET", f"/work_pools/{pool}")
    queues = api.filter(f"/work_pools/{pool}/queues/filter")
    plain = [queue["name"] for queue in queues if not queue["is_paused"] and queue["concurrency_limit"] is None]
    loads = [_count(api, pool, plain)] if plain else []
    loads += [_held(_count(api, pool, [queue["name"]]), queue) for queue in queues if queue["name"] not in plain]
    together = Load(
        due=sum(load.due for load in loads),
        busy=sum(load.busy for load in loads),
        late=sum(load.late for load in loads),
        held=sum(load.held for load in loads),
    )
    return _held(together, found)


def _count(api: PrefectApi, pool: str, queues: Sequence[str]) -> Load:
    def count(**runs: Any) -> int:
        among = {"work_pools": {"name": {"any_": [pool]}}, "work_pool_queues": {"name": {"any_": list(queues)}}}
        return int(api.call("POST", "/flow_runs/count", {**among, "flow_runs": runs}))

    def due(seconds: float) -> int:
        before = (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()
        return count(state={"type": {"any_": ["SCHEDULED"]}}, next_scheduled_start_time={"before_": before})

    # First those that are taken: a run that is taken meanwhile is not counted twice, and starts no worker too many.
    busy = count(state={"type": {"any_": list(OPEN_STATES)}})
    return Load(due=due(_AHEAD), busy=busy, late=due(-LATE_SECONDS))


def _held(load: Load, place: dict[str, Any]) -> Load:
    """Return the load without what a pause or the limit of the pool or queue holds back."""
    limit = place["concurrency_limit"]
    due = 0 if place["is_paused"] else load.due if limit is None else max(0, min(load.due, limit - load.busy))
    return Load(due=due, busy=load.busy, late=min(load.late, due), held=load.held + load.due - due)
