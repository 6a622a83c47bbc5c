"""Lost runs are resolved, and living ones are not, on a real server and its PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pgprefect.cli.main import main
from pgprefect.core.connection import Login, connect
from pgprefect.core.http import PrefectApi, is_ready
from pgprefect.core.prefect import RESCHEDULE_TAG, WORKER_STARTED
from pgprefect.runs.recovery import confirm, find_lost, recover
from pgprefect.runs.taken_runs import report_start

from tests.support.ports import free_port
from tests.support.project import VIRTUALENV
from tests.support.site import PASSWORD, Site
from tests.support.waiting import wait_for

WORKER = "elsewhere-tenant0-default-1"


@pytest.fixture
def api(prefect: Site, tmp_path: Path) -> Iterator[PrefectApi]:
    port = free_port()
    log = tmp_path / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [VIRTUALENV / "bin/prefect", "server", "start", "--port", str(port)],
            env=prefect.environment(role=prefect.tenant.server, home=str(tmp_path)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_for(lambda: server.poll() is not None or is_ready(f"{url}/ready"), log.read_text, seconds=120)
        assert server.poll() is None, log.read_text()
        yield PrefectApi(url)
    finally:
        server.terminate()
        server.wait(30)


def beat(api: PrefectApi, run: str) -> None:
    """Send the heartbeat of a run."""
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.name": "x"}
    now = datetime.now(UTC).isoformat()
    event = {"id": str(uuid.uuid4()), "occurred": now, "event": "prefect.flow-run.heartbeat", "resource": resource}
    api.call("POST", "/events", [event])


def add_run(api: PrefectApi, *states: str, tag: str = "x") -> str:
    flow = api.call("POST", "/flows/", {"name": "lost"})["id"]
    body = {"name": str(uuid.uuid4()), "flow_id": flow, "work_pool_name": "default", "concurrency_limit": 1}
    deployment = api.call("POST", "/deployments/", {**body, "tags": [tag]})["id"]
    run = api.call("POST", f"/deployments/{deployment}/create_flow_run", {})["id"]
    for state in ("PENDING", *states):
        body = {"state": {"type": state, "name": state.capitalize()}}
        assert api.call("POST", f"/flow_runs/{run}/set_state", body)["status"] == "ACCEPT"
        api.call("PATCH", f"/flow_runs/{run}/labels", {"prefect.worker.name": WORKER})
    return str(run)


def slots(api: PrefectApi) -> int:
    found = api.filter("/deployments/filter")
    return sum(one["global_concurrency_limit"]["active_slots"] for one in found)


@pytest.mark.thorough
def test_lost_runs_are_resolved_and_living_ones_left(
    prefect: Site, api: PrefectApi, site_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.call("POST", "/work_pools/", {"name": "default", "type": "process"})
    beat_of_worker = {"name": WORKER, "heartbeat_interval_seconds": 30}
    api.call("POST", "/work_pools/default/workers/heartbeat", beat_of_worker)
    pending, running, cancelling = add_run(api), add_run(api, "RUNNING"), add_run(api, "RUNNING", "CANCELLING")
    again, cut_off = add_run(api, "RUNNING", tag=RESCHEDULE_TAG), add_run(api, "RUNNING")
    task = api.call("POST", "/task_runs/", {"flow_run_id": running, "task_key": "sub", "dynamic_key": "0"})["id"]
    body = {"parent_task_run_id": task, "state": {"type": "RUNNING", "name": "Running"}}
    child = api.call("POST", "/flow_runs/", {**body, "flow_id": api.call("POST", "/flows/", {"name": "sub"})["id"]})[
        "id"
    ]
    for run in (running, cancelling, again, cut_off, child):
        beat(api, run)
    heard = "SELECT count(*) FROM prefect.events WHERE event = 'prefect.flow-run.heartbeat'"
    wait_for(lambda: prefect.sql(heard) == [(5,)], seconds=30)

    login = Login("127.0.0.1", prefect.server.port, prefect.declaration.monitor, PASSWORD)
    with contextlib.closing(connect(login, prefect.database)) as connection:
        tenant = replace(prefect.tenant, server="")
        assert find_lost(connection, tenant) == []
        # The power is cut, and two minutes go by.
        for table, column in (
            ("flow_run", "state_timestamp"),
            ("events", "received"),
            ("worker", "last_heartbeat_time"),
        ):
            prefect.sql(f"UPDATE prefect.{table} SET {column} = {column} - interval '2 minutes'")
        assert find_lost(connection, prefect.tenant) == []  # the server has just begun to listen
        lost = find_lost(connection, tenant)
        assert {one.run.id for one in lost} == {pending, running, cancelling, again, cut_off, child}
        assert all(one.silence and "was last heard from" in one.reason for one in lost)

        def meanwhile(_seconds: float) -> None:
            """One of the runs lived, and its network is back."""
            beat(api, cut_off)
            looked = "SELECT count(*) FROM prefect.events WHERE event = 'pgprefect.recovery.looked'"
            wait_for(lambda: prefect.sql(looked) == [(1,)] and prefect.sql(heard) == [(6,)], seconds=30)

        sure = confirm(connection, api, tenant, lost, pause=meanwhile)
        assert {one.run.id for one in sure} == {pending, running, cancelling, again, child}
        assert slots(api) == 5
        resolved = {run.id: run.state for run in recover(api, sure)}
        crashed = dict.fromkeys((running, child), "Crashed")
        assert resolved == {pending: "Scheduled", cancelling: "Cancelled", again: "AwaitingRetry", **crashed}
        assert slots(api) == 1
        assert recover(api, sure) == []  # what has changed meanwhile is left
        # What the server does not record, it may have heard.
        prefect.sql("UPDATE prefect.events SET received = received - interval '3 minutes'")
        (one,) = find_lost(connection, tenant)

        def deaf(_seconds: float) -> None:
            prefect.sql("DELETE FROM prefect.events")

        assert confirm(connection, api, tenant, [one], pause=deaf) == []

    # By the command; a worker that started again is proof at once.
    told = add_run(api, "RUNNING")
    report_start(api, WORKER)
    started = f"SELECT count(*) FROM prefect.events WHERE event = '{WORKER_STARTED}'"
    wait_for(lambda: prefect.sql(started) == [(1,)], seconds=30)
    prefect.sql("UPDATE prefect.flow_run SET state_timestamp = state_timestamp - interval '5 s' WHERE id = %s", told)

    def command(*options: str) -> dict[str, Any]:
        assert main(["--config", str(site_file), "runs", "recover", "--json", *options]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    name = prefect.tenant.name
    seen = {one["id"]: one["evidence"] for one in command("--dry-run")["lost"][name]}
    assert set(seen) == {cut_off, told} and all("started again" in why for why in seen.values())
    assert main(["--config", str(site_file), "runs", "recover", "--yes"]) == 3
    assert f"{name}.env cannot be read" in capsys.readouterr().err
    environment = site_file.parent / f"{name}.env"
    environment.write_text('PREFECT_API_URL="http://127.0.0.1:1/api"\n')
    assert main(["--config", str(site_file), "runs", "recover", "--yes"]) == 3
    assert "No Prefect API answers" in capsys.readouterr().err
    environment.write_text(f'PREFECT_API_URL="{api.url}"\n')
    assert [run["state"] for run in command("--yes")["resolved"][name]] == ["Crashed"] * 2
    assert command("--yes") == {"lost": {name: []}, "resolved": {}}
