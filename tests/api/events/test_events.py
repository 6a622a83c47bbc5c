"""Events of real flow runs: the hook, and the log that has what the database refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Query = Callable[..., list[tuple[Any, ...]]]

PROGRAM = """
import os, threading
from pgprefect.events import EventBuffer, log_flow_run, log_workflow_event
from prefect import flow
from prefect.runtime import flow_run

@flow(on_completion=[log_flow_run], on_failure=[log_flow_run])
def watched(fails: bool):
    log_workflow_event("inside", status="success")
    with EventBuffer() as buffer:
        buffer.log("buffered")
    # Prefect's context does not reach a thread; where a worker starts the run, this variable is there.
    os.environ["PREFECT__FLOW_RUN_ID"] = str(flow_run.id)
    thread = threading.Thread(target=log_workflow_event, args=["in a thread"])
    thread.start()
    thread.join()
    if fails:
        os.environ["PGPORT"] = "1"
        log_workflow_event("nowhere", metadata={"what": "kept"})
        with EventBuffer() as buffer:
            buffer.log("nowhere_either")
        os.environ["PGPORT"] = port
        raise ValueError("on purpose")

port = os.environ["PGPORT"]
watched(False)
watched(True, return_state=True)
"""


def test_a_run_logs_its_events_and_its_end(
    prefect_environment: dict[str, str],
    trading_database: dict[str, str],
    virtualenv: Path,
    database: Query,
    api: Callable[..., Any],
) -> None:
    environment = {**prefect_environment, **trading_database}
    subprocess.run([virtualenv / "bin/python", "-c", PROGRAM], env=environment, check=True)
    rows = database("SELECT event_type, workflow_name, status, level, flow_run_id::text FROM system_logs ORDER BY id")
    assert [row[:4] for row in rows] == [
        ("inside", "watched", "success", "INFO"),
        ("buffered", "watched", None, "INFO"),
        ("in a thread", "watched", None, "INFO"),
        ("flow_run", "watched", "completed", "INFO"),
        ("inside", "watched", "success", "INFO"),
        ("buffered", "watched", None, "INFO"),
        ("in a thread", "watched", None, "INFO"),
        ("flow_run", "watched", "failed", "ERROR"),
    ]
    assert len({row[4] for row in rows}) == 2 and None not in {row[4] for row in rows}
    assert "on purpose" in str(database("SELECT message FROM system_logs WHERE level = 'ERROR'"))
    logs = api("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [rows[-1][4]]}}, "limit": 200})
    lost = [log["message"].partition("The event: ")[2] for log in logs if "could not be written" in log["message"]]
    assert sorted(json.loads(event)["event_type"] for event in lost) == ["nowhere", "nowhere_either"]
    assert any("kept" in event for event in lost)
