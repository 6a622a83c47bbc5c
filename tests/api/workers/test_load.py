"""What a work pool has to do, counted on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pgprefect.core.http import ApiError, PrefectApi
from pgprefect.workers.load import LATE_SECONDS, read_load
from pgprefect.workers.scale import Load

from tests.api.conftest import AUTH_STRING

Run = Callable[..., None]


@pytest.fixture
def begin(api: Callable[..., Any]) -> Iterator[Run]:
    """Make runs of a state in a queue of a pool of its own."""
    api("POST", "/work_pools/", {"name": "scaled", "type": "process"})
    api("POST", "/work_pools/scaled/queues", {"name": "urgent", "priority": 1})
    flow = api("POST", "/flows/", {"name": "scaled"})["id"]
    made = {
        queue: api(
            "POST",
            "/deployments/",
            {"name": queue, "flow_id": flow, "work_pool_name": "scaled", "work_queue_name": queue},
        )["id"]
        for queue in ("default", "urgent")
    }

    def make(state: str, many: int = 1, queue: str = "default", seconds: float = 0) -> None:
        for _ in range(many):
            when = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
            body = {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": when}}}
            run = api("POST", f"/deployments/{made[queue]}/create_flow_run", body)["id"]
            if state != "SCHEDULED":
                api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})

    yield make
    api("DELETE", "/work_pools/scaled")
    api("DELETE", f"/flows/{flow}")


def test_the_load_of_a_pool(api: Callable[..., Any], api_arguments: dict[str, str], begin: Run) -> None:
    client = PrefectApi(api_arguments["api_url"], AUTH_STRING)

    def load() -> Load:
        return read_load(client, "scaled")

    assert load() == Load()
    begin("SCHEDULED", 3)
    begin("SCHEDULED", 2, seconds=-LATE_SECONDS - 5)
    begin("SCHEDULED", seconds=5)  # a worker takes it at once
    begin("SCHEDULED", seconds=600)
    for state in ("PENDING", "RUNNING", "RUNNING", "COMPLETED", "CRASHED"):
        begin(state)
    assert load() == Load(due=6, busy=3, late=2)

    begin("SCHEDULED", 4, queue="urgent")
    begin("RUNNING", queue="urgent")
    assert load() == Load(due=10, busy=4, late=2)
    api("PATCH", "/work_pools/scaled/queues/urgent", {"concurrency_limit": 3})
    assert load() == Load(due=8, busy=4, late=2, held=2)
    api("PATCH", "/work_pools/scaled/queues/urgent", {"is_paused": True})
    assert load() == Load(due=6, busy=4, late=2, held=4)
    api("PATCH", "/work_pools/scaled", {"concurrency_limit": 5})
    assert load() == Load(due=1, busy=4, late=1, held=9)
    api("PATCH", "/work_pools/scaled", {"is_paused": True})
    assert load() == Load(due=0, busy=4, late=0, held=10)
    with pytest.raises(ApiError, match=r"/work_pools/lost .*HTTP 404"):
        read_load(client, "lost")
