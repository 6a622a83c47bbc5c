"""Runs that nothing runs any more are named by what proves it; those that live are not."""

from __future__ import annotations

import contextlib
import re
import uuid
from dataclasses import replace
from typing import Any

import pytest
from pgprefect.core.connection import Login, connect
from pgprefect.core.prefect import WORKER_RESOURCE, WORKER_STARTED
from pgprefect.core.sql import Statement
from pgprefect.health.check import Health, check_health
from pgprefect.health.thresholds import Limit, Thresholds
from pgprefect.site.open_runs import find_dead_runs, find_open_runs

from tests.support.site import PASSWORD, Site

OURS = "elsewhere-tenant0-default-1"
OTHERS = "laptop"


def check(site: Site, *, server: bool = False, **limits: Limit) -> Health:
    """Ask as the monitor; with ``server`` the sessions of the tenant's server count."""
    login = Login("127.0.0.1", site.server.port, site.declaration.monitor, PASSWORD)
    tenant = site.tenant if server else replace(site.tenant, server="")
    return check_health(login, site.database, [tenant], thresholds=Thresholds(**limits), timeout=10)


def dead(site: Site, **arguments: Any) -> dict[str, str]:
    """What health says of each dead run, by its name."""
    found = check(site, **arguments)
    problems = {problem.object: problem for problem in found.problems if problem.code == "run_dead"}
    assert {name.split()[-1] for name in problems} == set(found.checks["dead_runs"].details["dead"])
    return {problem.message.split()[3]: problem.message for problem in problems.values()}


def add_worker(site: Site, name: str, heard: float | None, started: float | None = None) -> None:
    site.sql("INSERT INTO prefect.work_pool (name, type) VALUES ('default', 'process') ON CONFLICT DO NOTHING")
    if heard is not None:
        site.sql(
            "INSERT INTO prefect.worker (name, work_pool_id, last_heartbeat_time, heartbeat_interval_seconds) "
            "SELECT %s, id, now() - make_interval(secs => %s), 30 FROM prefect.work_pool",
            name,
            heard,
        )
    if started is not None:
        add_event(site, WORKER_STARTED, WORKER_RESOURCE + name, started)


def add_event(site: Site, event: str, resource: str, ago: float, related: str | None = None) -> None:
    number = str(uuid.uuid4())
    site.sql(
        "INSERT INTO prefect.events (id, occurred, event, resource_id, resource, payload, received, recorded) "
        "SELECT %s, t, %s, %s, '{}', '{}', t, t FROM (SELECT now() - make_interval(secs => %s) AS t) x",
        number,
        event,
        resource,
        ago,
    )
    if related:
        site.sql(
            "INSERT INTO prefect.event_resources (occurred, resource_id, resource_role, resource, event_id) "
            "SELECT now() - make_interval(secs => %s), %s, 'flow-run', '{}', %s",
            ago,
            related,
            number,
        )


def add_run(
    site: Site,
    name: str,
    state: str = "RUNNING",
    age: float = 600,
    worker: str | None = OURS,
    heartbeat: float | None = None,
    ended: float | None = None,
    parent: str | None = None,
) -> str:
    """Add a run in a state for so many seconds, and return its ID."""
    labels = f'{{"prefect.worker.name": "{worker}"}}' if worker else "{}"
    ((run,),) = site.sql(
        "WITH f AS (INSERT INTO prefect.flow (name) VALUES (%s) RETURNING id) "
        "INSERT INTO prefect.flow_run (name, flow_id, state_type, state_name, state_timestamp, start_time, labels) "
        "SELECT %s, id, %s::prefect.state_type, initcap(%s), t, t, %s::jsonb "
        "FROM f, (SELECT now() - make_interval(secs => %s) AS t) x RETURNING id::text",
        f"flow-{name}",
        name,
        state,
        state,
        labels,
        age,
    )
    if parent:
        site.sql(
            "WITH t AS (INSERT INTO prefect.task_run (flow_run_id, task_key, dynamic_key, name) "
            "VALUES (%s, 'sub', %s, 'sub') RETURNING id) "
            "UPDATE prefect.flow_run SET parent_task_run_id = t.id FROM t WHERE flow_run.id = %s",
            parent,
            name,
            run,
        )
    resource = f"prefect.flow-run.{run}"
    if heartbeat is not None:
        add_event(site, "prefect.flow-run.heartbeat", resource, heartbeat)
    if ended is not None:
        add_event(site, "prefect.worker.executed-flow-run", "prefect.worker.process.x", ended, related=resource)
    return str(run)


DEAD = [
    ({"heard": 10}, {"heartbeat": 305}, "its last heartbeat came # s ago"),
    ({"heard": 10}, {"heartbeat": 305, "state": "CANCELLING"}, "its last heartbeat came # s ago"),
    ({"heard": 95}, {"heartbeat": 100}, f"its worker {OURS} was last heard from # s ago"),
    ({"heard": 95}, {"state": "PENDING"}, f"its worker {OURS} was last heard from # s ago"),
    ({"heard": None}, {"state": "PENDING"}, f"its worker {OURS} is not known any more"),
    ({"heard": 3, "started": 20}, {"age": 30, "heartbeat": 25}, f"its worker {OURS} started again # s ago"),
    ({"heard": 3, "started": 20}, {"age": 30, "state": "PENDING"}, f"its worker {OURS} started again # s ago"),
    ({"heard": 3}, {"ended": 80, "heartbeat": 85}, f"its worker {OURS} reported # s ago that its process ended"),
    ({"heard": 3}, {"ended": 80, "state": "PENDING"}, f"its worker {OURS} reported # s ago that its process ended"),
    ({"heard": 3}, {"worker": OTHERS, "heartbeat": 541}, "its last heartbeat came # s ago"),
    ({"heard": 3}, {"worker": None, "heartbeat": 541}, "its last heartbeat came # s ago"),
]
ALIVE = [
    ({"heard": 10}, {"heartbeat": 40}),
    ({"heard": 10}, {"heartbeat": 295}),  # its events are not passed on: its worker would tell of its end
    ({"heard": 200}, {"heartbeat": 40}),  # the worker is silent, and the run is not
    ({"heard": 10}, {"age": 30}),  # too new to have sent a second heartbeat
    ({"heard": 10}, {"state": "PENDING"}),  # nothing proves anything, and the check runs looks at its age
    ({"heard": 10, "started": 700}, {"heartbeat": 20}),
    ({"heard": 10}, {"worker": OTHERS, "heartbeat": 200}),
    ({"heard": 10}, {"ended": 10, "heartbeat": 12}),  # its end may be about to be told
    ({"heard": 10}, {"worker": None}),
]


@pytest.mark.parametrize(("worker", "run", "reason"), DEAD)
def test_a_dead_run_is_named_with_the_evidence(
    prefect: Site, worker: dict[str, float | None], run: dict[str, Any], reason: str
) -> None:
    add_worker(prefect, run.get("worker") or OURS, **worker)
    number = add_run(prefect, "lost", **run)
    health = check(prefect)
    found = [problem for problem in health.problems if problem.code == "run_dead"]
    assert [problem.object for problem in found] == [f"flow run {number}"]
    # A busy machine takes seconds between the insertion and the look.
    assert (
        reason in re.sub(r"\d+ s\b", "# s", found[0].message)
        and "lost of flow-lost" in found[0].message
        and found[0].remedy.endswith(f"pgprefect --tenant {prefect.tenant.name} runs recover")
    )
    assert health.checks["dead_runs"].status == "degraded"


@pytest.mark.parametrize(("worker", "run"), ALIVE)
def test_a_living_run_is_not_named(prefect: Site, worker: dict[str, float | None], run: dict[str, Any]) -> None:
    add_worker(prefect, run.get("worker") or OURS, **worker)
    add_run(prefect, "living", **run)
    assert dead(prefect) == {}


def test_a_line_of_its_log_is_a_sign_of_life(prefect: Site) -> None:
    """A flow that holds Python's lock sends no heartbeats."""
    add_worker(prefect, OURS, 10)
    run = add_run(prefect, "busy", heartbeat=310)
    assert set(dead(prefect)) == {"busy"}
    prefect.sql(
        "INSERT INTO prefect.log (name, level, message, flow_run_id, timestamp) VALUES ('x', 20, 'x', %s, now())", run
    )
    assert dead(prefect) == {}


def test_a_run_that_was_taken_and_never_begun(prefect: Site) -> None:
    """Its worker died before it could write its name."""
    add_worker(prefect, OURS, 10)
    run = add_run(prefect, "taken", state="PENDING", worker=None, age=95)
    assert dead(prefect) == {}  # nothing says that a worker took it
    prefect.sql("INSERT INTO prefect.work_queue (name, work_pool_id) SELECT 'default', id FROM prefect.work_pool")
    prefect.sql("UPDATE prefect.flow_run SET work_queue_id = (SELECT id FROM prefect.work_queue) WHERE id = %s", run)
    assert "the worker that took it has not begun it" in dead(prefect)["taken"]


def test_a_subflow_dies_with_its_parent(prefect: Site) -> None:
    add_worker(prefect, OURS, 10)
    parent = add_run(prefect, "parent", heartbeat=85, ended=80)
    child = add_run(prefect, "child", worker=None, heartbeat=84, parent=parent, age=599)
    add_run(prefect, "grandchild", worker=None, heartbeat=83, parent=child, age=598)
    found = dead(prefect)
    assert set(found) == {"parent", "child", "grandchild"}
    assert "its parent run is dead" in found["grandchild"]


def test_a_parent_lives_as_long_as_its_subflow(prefect: Site) -> None:
    add_worker(prefect, OURS, 10)
    parent = add_run(prefect, "parent", heartbeat=400)
    child = add_run(prefect, "child", worker=None, heartbeat=310, parent=parent)
    assert set(dead(prefect)) == {"parent", "child"}
    add_run(prefect, "grandchild", worker=None, heartbeat=30, parent=child)
    assert dead(prefect) == {}


def test_a_run_of_a_deployment_outlives_the_run_that_started_it(prefect: Site) -> None:
    add_worker(prefect, OURS, 10)
    parent = add_run(prefect, "parent", heartbeat=310)
    child = add_run(prefect, "child", worker="elsewhere-tenant0-default-2", heartbeat=10, parent=parent)
    deployed = (
        "WITH d AS (INSERT INTO prefect.deployment (name, flow_id) SELECT 'd', flow_id FROM prefect.flow_run "
        "WHERE id = %s RETURNING id) UPDATE prefect.flow_run SET deployment_id = d.id FROM d WHERE flow_run.id = %s"
    )
    prefect.sql(deployed, child, child)
    assert set(dead(prefect)) == {"parent"}


def test_a_subflow_of_a_run_that_has_ended(prefect: Site) -> None:
    add_worker(prefect, OURS, 10)
    parent = add_run(prefect, "parent", state="CRASHED")
    add_run(prefect, "child", worker=None, parent=parent, age=95)
    assert "the run that called it has ended" in dead(prefect)["child"]


def test_a_worker_whose_clock_is_wrong(prefect: Site) -> None:
    """What it sends bears its own time, and the server's."""
    add_worker(prefect, OURS, 10)
    add_run(prefect, "behind", heartbeat=310)
    prefect.sql("UPDATE prefect.events SET received = now() - interval '10 s'")
    assert dead(prefect) == {}
    add_run(prefect, "ahead", heartbeat=-200)
    prefect.sql("UPDATE prefect.events SET received = now() - interval '310 s' WHERE occurred > now()")
    assert set(dead(prefect)) == {"ahead"}


def test_a_server_whose_clock_is_wrong(prefect: Site) -> None:
    """What it stamps is five minutes old at once; a recovery, which runs on its host, knows by how much."""
    add_worker(prefect, OURS, 310)
    living = add_run(prefect, "living", heartbeat=310, age=900)
    lost = add_run(prefect, "lost", heartbeat=620, age=900)
    login = Login("127.0.0.1", prefect.server.port, prefect.declaration.monitor, PASSWORD)
    with contextlib.closing(connect(login, prefect.database)) as connection:

        def ask(statement: Statement) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                statement.execute(cursor)
                return list(cursor.fetchall())

        tenant = replace(prefect.tenant, server="")
        assert set(find_dead_runs(find_open_runs(ask, tenant), tenant, 90)) == {living, lost}
        assert set(find_dead_runs(find_open_runs(ask, tenant, skew=-300), tenant, 90)) == {lost}


def test_runs_that_wait_for_its_slot_are_counted(prefect: Site) -> None:
    add_worker(prefect, OURS, 10)
    holder = add_run(prefect, "holder", heartbeat=310)
    waiting = add_run(prefect, "waiting", state="SCHEDULED", worker=None)
    prefect.sql(
        "WITH d AS (INSERT INTO prefect.deployment (name, flow_id) SELECT 'd', flow_id FROM prefect.flow_run "
        "WHERE id = %s RETURNING id) UPDATE prefect.flow_run SET deployment_id = d.id, state_name = "
        "CASE WHEN state_type = 'SCHEDULED' THEN 'AwaitingConcurrencySlot' ELSE state_name END FROM d "
        "WHERE flow_run.id IN (%s, %s)",
        holder,
        holder,
        waiting,
    )
    (message,) = dead(prefect).values()
    assert message.startswith("The flow run holder of flow-holder/d counts as Running")
    assert "1 run waits for a slot that it may hold" in message


def test_after_a_start_of_the_server_silence_proves_nothing_yet(prefect: Site) -> None:
    """Heartbeats that came while the server was away are lost."""
    add_worker(prefect, OURS, 100)
    add_run(prefect, "run", heartbeat=100)
    assert dead(prefect, server=True) == {}  # no server is connected
    with contextlib.closing(prefect.server.connect(prefect.database, prefect.tenant.server, PASSWORD)):
        assert dead(prefect, server=True) == {}  # it has just come
        assert set(dead(prefect, server=True, silence_s=Limit(0.001))) == {"run"}
    # What does not rest on silence is said at once.
    add_event(prefect, WORKER_STARTED, WORKER_RESOURCE + OURS, 50)
    assert set(dead(prefect, server=True)) == {"run"}


def test_the_limit_can_be_changed_and_switched_off(prefect: Site) -> None:
    add_worker(prefect, OURS, 100)
    add_run(prefect, "run", heartbeat=100)
    assert dead(prefect, silence_s=Limit(200)) == {}
    assert dead(prefect, silence_s=Limit()) == {}
    assert check(prefect, silence_s=Limit(50, 95)).checks["dead_runs"].status == "unhealthy"


def test_many_dead_runs(prefect: Site) -> None:
    add_worker(prefect, OURS, 200)
    run = add_run(prefect, "many", heartbeat=150)
    prefect.sql(
        "INSERT INTO prefect.flow_run (name, flow_id, state_type, state_name, state_timestamp, labels) "
        "SELECT 'many', flow_id, state_type, state_name, state_timestamp, labels FROM prefect.flow_run, "
        "generate_series(1, 1500) WHERE id = %s",
        run,
    )
    health = check(prefect)
    named = [problem.code for problem in health.checks["dead_runs"].problems]
    assert named == ["run_dead"] * 50 + ["runs_dead"]
    details = health.checks["dead_runs"].details
    assert len(details["dead"]) == 1501 and details["latency_ms"] < 3000
