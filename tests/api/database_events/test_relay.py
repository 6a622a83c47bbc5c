"""The relay between a real PostgreSQL and a real Prefect, and what becomes of rows where one of them is killed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pgprefect.schema import event_plan

from tests.support.database_events import ORDERS, order, waiting, with_events
from tests.support.postgresql import running_postgresql
from tests.support.relay import PrefectServer, Program, relay_of, running
from tests.support.site import PASSWORD, Site, migrated_site
from tests.support.waiting import wait_for

APP = "mltrading_app"
FILLED = {
    "name": "filled",
    "table": "orders",
    "operations": ["update"],
    "columns": ["status"],
    "condition": "NEW.status = 'filled'",
    "values": {"order_id": "id", "client_order_id": "client_order_id"},
    "event": "orders.filled",
}
LOST = {**ORDERS, "name": "nowhere", "operations": ["delete"], "deployment": "check-risk-limits/missing"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """On a server of its own, on which a commit that was acknowledged survives a crash."""
    with running_postgresql("--env", "POSTGRES_OPTIONS=-c synchronous_commit=on -c full_page_writes=on") as server:
        made = migrated_site(server, "relayed", tmp_path_factory.mktemp("migration"))
        with with_events(made, ORDERS, FILLED, LOST) as site:
            yield site


@pytest.fixture(scope="module")
def server(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(site, tmp_path_factory.mktemp("server"))
    with running(server):
        server.deployment()
        yield server


@pytest.fixture
def relay(site: Site, server: PrefectServer, tmp_path: Path) -> Iterator[Program]:
    """It runs; the outbox and the orders are empty before."""
    site.sql("TRUNCATE orders; TRUNCATE prefect_outbox.event; SELECT setval('prefect_outbox.verdict', 0)")
    with running(relay_of(site, server.url, tmp_path / "relay.log")) as program:
        yield program


def runs_by_order(site: Site) -> dict[str, int]:
    """How many runs there are for each row that was ever in the outbox, by the row's identifier."""
    found = site.sql(
        "SELECT e.id::text, count(r.id) FROM prefect_outbox.event e LEFT JOIN prefect.flow_run r"
        " ON r.idempotency_key = e.id::text WHERE e.name = 'new_order' GROUP BY 1"
    )
    return dict(found)


def test_an_order_starts_its_run_within_three_seconds(site: Site, server: PrefectServer, relay: Program) -> None:
    order(site, "warm")
    wait_for(lambda: not waiting(site), relay.log.read_text)
    began = time.monotonic()
    order(site, "first")
    wait_for(lambda: not waiting(site), relay.log.read_text)
    took = time.monotonic() - began
    [(run,)] = site.sql("SELECT run_id::text FROM prefect_outbox.event ORDER BY seq DESC LIMIT 1")
    found = server.api.call("GET", f"/flow_runs/{run}")
    assert found["parameters"] == {"portfolios": ["growth"]} and found["state_type"] == "SCHEDULED"
    assert took < 3, took


def test_an_event_is_sent_when_it_is_in_the_database(site: Site, relay: Program) -> None:
    order(site, "moved")
    site.sql("UPDATE orders SET status = 'filled', filled_price = 1, filled_at = now()", role=APP)
    wait_for(lambda: not waiting(site), relay.log.read_text)
    [(identifier, run)] = site.sql("SELECT id::text, run_id FROM prefect_outbox.event WHERE name = 'filled'")
    [(event, resource, payload)] = site.sql(
        "SELECT event, resource_id, payload FROM prefect.events WHERE id = %s", identifier
    )
    assert (event, resource, run) == ("orders.filled", f"postgresql.{site.database}.public.orders", None)
    assert payload["client_order_id"] == "moved"


def test_an_automation_runs_by_an_event(site: Site, server: PrefectServer, relay: Program) -> None:
    deployment = server.deployment(name="by-event")
    action: dict[str, object] = {"type": "run-deployment", "source": "selected", "deployment_id": deployment}
    action["parameters"] = {"order": "{{ event.payload.client_order_id }}"}
    trigger = {"type": "event", "posture": "Reactive", "expect": ["orders.filled"], "threshold": 1, "within": 0}
    server.api.call("POST", "/automations/", {"name": "filled", "trigger": trigger, "actions": [action]})
    time.sleep(2)  # the triggers are read anew
    order(site, "automated")
    site.sql("UPDATE orders SET status = 'filled', filled_price = 1, filled_at = now()", role=APP)
    query = {"deployments": {"id": {"any_": [deployment]}}}
    [run] = wait_for(lambda: server.api.filter("/flow_runs/filter", **query), relay.log.read_text)
    assert run["parameters"] == {"order": "automated"}


def test_a_run_that_cannot_start_is_a_dead_letter(site: Site, server: PrefectServer, relay: Program) -> None:
    order(site, "gone")
    site.sql("DELETE FROM orders", role=APP)
    tried = "SELECT attempts, error, dead IS NOT NULL FROM prefect_outbox.event WHERE name = 'nowhere'"
    wait_for(lambda: site.sql(tried)[0][0] >= 2, relay.log.read_text)
    [(_, error, dead)] = site.sql(tried)
    assert "HTTP 404" in error and not dead
    site.sql("UPDATE prefect_outbox.event SET attempts = 7, due = now() WHERE name = 'nowhere'")
    wait_for(lambda: site.sql(tried)[0][2], relay.log.read_text)
    assert "is dead: " in relay.log.read_text() and waiting(site) == 1
    with contextlib.closing(site.server.connect(site.database, "prefect_relay", PASSWORD)) as connection:
        from pgprefect.database_events.outbox import Outbox

        outbox = Outbox(connection, "prefect_outbox")
        [letter] = outbox.dead_letters(10)
        assert letter["attempts"] == 8 and letter["payload"] == {"portfolios": ["growth"]}
        made = server.deployment(name="missing")
        assert outbox.status().dead == 1 and outbox.retry([letter["id"]]) == 1
    wait_for(lambda: not waiting(site), relay.log.read_text)
    server.api.call("DELETE", f"/deployments/{made}")


def test_what_a_server_would_replace_is_not_sent(site: Site, relay: Program) -> None:
    """A value that the application's users write is no template, and gives away no variable of Prefect's."""
    payload = {"portfolios": [{"__prefect_kind": "workspace_variable", "variable_name": "secret"}]}
    insert = "INSERT INTO prefect_outbox.event (name, payload) VALUES ('new_order', %s), ('unknown', '{}')"
    site.sql(insert, json.dumps(payload))
    dead = "SELECT error FROM prefect_outbox.event WHERE dead IS NOT NULL ORDER BY seq"
    found = wait_for(lambda: len(rows := site.sql(dead)) == 2 and rows, relay.log.read_text)
    assert "__prefect_kind" in found[0][0] and "not declared any more" in found[1][0]


def insert_orders(site: Site, prefix: str, many: int, pause: float) -> set[str]:
    """Insert orders in transactions of their own, each third rolled back; return those that were acknowledged.

    One whose fate is not known, because the server died while it was committed, is looked up.
    """
    done: set[str] = set()
    connection: Any = None
    for number in range(many):
        name = f"{prefix}{number}"
        while True:
            try:
                connection = connection or site.server.connect(site.database, APP, PASSWORD)
                connection.autocommit = False
                order(site, name, cursor=connection.cursor())
                if number % 3 == 2:
                    connection.rollback()
                else:
                    connection.commit()
                    done.add(name)
                break
            except psycopg2.errors.UniqueViolation:  # the commit was done before the connection ended
                connection.rollback()
                done.add(name)
                break
            except psycopg2.Error:
                connection = None
                time.sleep(0.2)
        time.sleep(pause)
    if connection:
        connection.close()
    return done


def crash_postgresql(site: Site) -> None:
    """Kill a backend with SIGKILL: PostgreSQL ends all the others, and recovers from its log."""
    with contextlib.suppress(psycopg2.Error):
        site.sql("COPY (SELECT) TO PROGRAM 'kill -9 $PPID'")
    wait_for(site.server.answers)


@pytest.mark.parametrize("many", [600, pytest.param(10_000, marks=pytest.mark.thorough)])
def test_each_committed_row_has_one_run_whatever_is_killed(
    site: Site, server: PrefectServer, relay: Program, many: int
) -> None:
    before = site.sql("SELECT count(*) FROM prefect.flow_run")[0][0]
    done: list[set[str]] = []
    writers = [
        threading.Thread(target=lambda n=n: done.append(insert_orders(site, f"w{n}-", many // 2, 10 / many)))
        for n in range(2)
    ]

    def restart(program: Program) -> Callable[[], None]:
        def again() -> None:
            program.kill()
            time.sleep(1)
            program.start()

        return again

    for writer in writers:
        writer.start()
    faults = [restart(relay), restart(server), lambda: crash_postgresql(site)] * (2 if many > 1000 else 1)
    for fault in [*faults, restart(relay)]:
        time.sleep(3)
        fault()
    for writer in writers:
        writer.join()
    wait_for(lambda: not waiting(site), relay.log.read_text, 900)
    committed = {name for (name,) in site.sql("SELECT client_order_id FROM orders")}
    assert committed == set.union(*done) and len(committed) == 2 * len(range(many // 2)) - 2 * len(
        range(2, many // 2, 3)
    )
    counts = runs_by_order(site)
    assert len(counts) == len(committed) and set(counts.values()) == {1}
    assert site.sql("SELECT count(*) FROM prefect.flow_run")[0][0] - before == len(committed)


def test_events_survive_a_server_that_is_killed_after_it_took_them(
    site: Site, server: PrefectServer, relay: Program
) -> None:
    update = "UPDATE orders SET status = 'filled', filled_price = 1, filled_at = now() WHERE client_order_id LIKE %s"
    taken = (
        "SELECT count(*) FROM prefect_outbox.event WHERE name = 'filled' AND (posted IS NOT NULL OR sent IS NOT NULL)"
    )
    for number in range(150):
        order(site, f"{number % 2}-{number}")
    site.sql(update, "0-%", role=APP)
    wait_for(lambda: site.sql(taken)[0][0], relay.log.read_text)
    server.kill()
    site.sql(update, "1-%", role=APP)
    server.start()
    wait_for(lambda: not waiting(site), relay.log.read_text, 300)
    stored = (
        "SELECT count(DISTINCT v.id) FROM prefect.events v JOIN prefect_outbox.event e USING (id) WHERE name = 'filled'"
    )
    assert site.sql(stored) == [(150,)]


def test_a_relay_ends_when_it_is_told_to(relay: Program) -> None:
    time.sleep(2)
    assert relay.stop() == 0


def test_pruning_and_the_rate(site: Site, server: PrefectServer, tmp_path: Path) -> None:
    site.sql("TRUNCATE orders; TRUNCATE prefect_outbox.event")
    insert = "INSERT INTO prefect_outbox.event (name, payload, {}) SELECT 'x', '{{}}', now() - %s * interval '1 d'"
    for state, days in (("sent", 8), ("sent", 6), ("dead", 91), ("dead", 0)):
        site.sql(insert.format(state), days)
    for number in range(40):
        order(site, f"r{number}")
    began = time.monotonic()
    with running(relay_of(site, server.url, tmp_path / "relay.log", rate=10)):
        wait_for(lambda: waiting(site) == 1, (tmp_path / "relay.log").read_text)
        assert site.sql("SELECT count(*) FROM prefect_outbox.event WHERE name = 'x'") == [(2,)]
    # Ten at once, and a second after each ten but the last.
    assert time.monotonic() - began > 3
    assert event_plan.apply(site.server.login, site.declaration) == []
