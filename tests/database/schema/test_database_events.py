"""Database events in a real PostgreSQL: what a trigger records, and that it never disturbs the application."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pgprefect.schema import event_plan
from pgprefect.schema.declaration import DeclarationError
from pgprefect.schema.plan import Blocked
from pgprefect.schema.verify import verify

from tests.support.ansible import Result
from tests.support.database_events import ORDERS, order, waiting, with_events
from tests.support.site import PASSWORD, TRADING_SQL, Site
from tests.support.verification import codes, errors, refusal

APP = "mltrading_app"
OWNER = "mltrading_owner"


def apply(site: Site, dry_run: bool = False) -> list[str]:
    return [str(change.statement) for change in event_plan.apply(site.server.login, site.declaration, dry_run)]


@pytest.fixture
def site(prefect: Site) -> Iterator[Site]:
    with with_events(prefect, ORDERS) as site:
        yield site


def rows(site: Site, columns: str = "name, payload, error") -> list[tuple[Any, ...]]:
    return site.sql(f"SELECT {columns} FROM prefect_outbox.event ORDER BY seq")


def test_a_committed_row_is_recorded_and_a_rolled_back_one_is_not(site: Site) -> None:
    order(site, "first")
    with contextlib.closing(site.server.connect(site.database, APP, PASSWORD)) as connection:
        connection.autocommit = False
        cursor = connection.cursor()
        cursor.execute("UPDATE orders SET quantity = 9 WHERE client_order_id = 'first'; DELETE FROM orders")
        connection.rollback()
    assert rows(site) == [("new_order", {"portfolios": ["growth"]}, None)]
    report = verify(site.server.login, site.declaration)
    assert errors(site) == set() and not [line for line in report.not_checked if "outbox" in line]


def test_the_plan_is_idempotent_and_check_mode_is_true(prefect: Site) -> None:
    with with_events(prefect, ORDERS, apply=False) as site:
        site.apply()
        planned = apply(site, dry_run=True)
        assert planned and "database_event_trigger" in codes(site)
        assert apply(site) == planned
        assert apply(site) == [] and site.apply() == [] and errors(site) == set()
        order(site, "first")
        changed = {**ORDERS, "condition": "NEW.quantity > 5"}
        site.declaration = declared(site, changed)
        assert "database_event_function" in codes(site)
        assert len(apply(site)) == 1  # the function alone
        order(site, "second", quantity=5)
        assert len(rows(site)) == 1
        site.sql('ALTER TABLE orders DISABLE TRIGGER "pgprefect-tenant0-new_order-i"')
        assert "database_event_trigger" in codes(site)
        assert len(apply(site)) == 2 and apply(site) == []
        site.declaration = declared(site)
        assert "database_event_excess" in codes(site)
        assert len(apply(site)) == 2  # the trigger and its function; what waits is kept
        assert apply(site) == [] and len(rows(site)) == 1 and errors(site) == set()


def declared(site: Site, *events: dict[str, Any]) -> Any:
    tenant = replace(site.tenant, database_events=events)
    return replace(site.declaration, tenants=(tenant, *site.declaration.tenants[1:]))


def test_the_module(run_module: Callable[..., Result], prefect: Site) -> None:
    with with_events(prefect, ORDERS, apply=False) as site:
        planned = run_module("prefect_schema", check=True, **site.arguments())
        done = run_module("prefect_schema", **site.arguments())
        assert done["changed"] and done["statements"] == planned["statements"]
        assert "after insert, for each row" in done["diff"]["after"]
        assert run_module("prefect_schema", **site.arguments())["changed"] is False


def test_who_may_do_what(site: Site) -> None:
    order(site, "first")
    outbox = "prefect_outbox.event"
    assert refusal(site, "prefect_relay", f"SELECT * FROM {outbox}") is None
    for statement in (f"INSERT INTO {outbox} (name, payload) VALUES ('x', '{{}}')", f"TRUNCATE {outbox}"):
        assert refusal(site, "prefect_relay", statement) == "42501"
    for table in ("public.orders", "prefect.flow_run", "prefect.events"):
        assert refusal(site, "prefect_relay", f"SELECT * FROM {table}") == "42501"
    for role in (APP, "prefect_server", "prefect_migrator"):
        assert refusal(site, role, f"SELECT * FROM {outbox}") == "42501"
    assert refusal(site, APP, "SELECT prefect_outbox.keep('x', '{}', 1, NULL)") == "42501"
    assert refusal(site, "prefect_monitor", f"SELECT * FROM {outbox}") is None
    owners = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'prefect_outbox'::regnamespace"
    assert site.sql(owners) == [("prefect_outbox",)]


BAD = [
    ({"table": "nothing"}, "database_event_table", "does not exist"),
    ({"table": "prefect.flow_run"}, "database_event_owner", "belongs to prefect_owner"),
    ({"values": {"portfolios": ["portfolo"]}}, "database_event_column", "names portfolo"),
    ({"condition": "NEW.quantity >"}, "database_event_condition", "for insert"),
    ({"condition": "NEW.price > 3"}, "database_event_condition", "column new.price does not exist"),
    ({"condition": "quantity > 3"}, "database_event_condition", "ambiguous"),
    ({"condition": "OLD.quantity > 3"}, "database_event_condition", "old"),
    ({"condition": "NEW.quantity"}, "database_event_condition", "boolean"),
]


@pytest.mark.parametrize(("change", "code", "word"), BAD, ids=[str(change) for change, *_ in BAD])
def test_what_cannot_work_is_refused_before_anything_is_touched(
    prefect: Site, change: dict[str, Any], code: str, word: str
) -> None:
    with with_events(prefect, ORDERS, {**ORDERS, "name": "other", **change}, apply=False) as site:
        site.apply()
        with pytest.raises(Blocked) as blocked:
            apply(site)
        [problem] = blocked.value.problems
        assert problem.code == code and word in problem.message and "other of tenant tenant0" in problem.message
        assert site.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'prefect_outbox'::regnamespace") == [(0,)]
        assert site.sql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgprefect%'") == [(0,)]


def test_a_declaration_that_is_none(prefect: Site) -> None:
    wrong = {**ORDERS, "operations": ["upsert"], "deployment": ""}
    expected = r"operations is \['upsert'\].*needs one of deployment and event"
    with with_events(prefect, wrong, apply=False) as site, pytest.raises(DeclarationError, match=expected):
        apply(site)


def test_updates_and_deletes(prefect: Site) -> None:
    moved: dict[str, Any] = {
        "name": "moved",
        "table": "orders",
        "operations": ["update"],
        "columns": ["status"],
        "condition": "NEW.status <> OLD.status AND NEW.status = 'filled'",
        "values": {"id": "id", "status": "status"},
        "event": "orders.filled",
    }
    gone: dict[str, Any] = {
        "name": "gone",
        "table": "orders",
        "operations": ["delete"],
        "condition": "OLD.quantity > 1",
    }
    gone |= {"values": {"order": "client_order_id"}, "event": "orders.gone"}
    with with_events(prefect, moved, gone) as site:
        for name in ("a", "b"):
            order(site, name, quantity=2)
        site.sql("UPDATE orders SET quantity = 3; UPDATE orders SET status = 'submitted'", role=APP)
        site.sql(
            "UPDATE orders SET status = 'filled', filled_price = 1, filled_at = now() WHERE client_order_id = 'a'",
            role=APP,
        )
        site.sql("DELETE FROM orders WHERE client_order_id = 'b'", role=APP)
        [(_, first, _), second] = rows(site)
        assert first["status"] == "filled" and second == ("gone", {"order": "b"}, None)


def test_one_event_for_a_whole_statement(prefect: Site) -> None:
    loaded: dict[str, Any] = {
        "name": "loaded",
        "table": "market_data",
        "operations": ["insert", "update", "delete"],
        "for_each": "statement",
    }
    loaded |= {"values": {"symbols": "symbol"}, "event": "market_data.changed"}
    with with_events(prefect, loaded) as site:
        site.sql(
            "INSERT INTO stock_info (symbol, name, currency, source)"
            " SELECT 'S' || n, 'x', 'EUR', 't' FROM generate_series(1, 150) n;"
            "INSERT INTO market_data SELECT 'S' || n % 3 + 1, date '2026-01-01' + n, 1, 1, 1, 1, 1, 0, 't', now()"
            " FROM generate_series(1, 1000) n",
            role=APP,
        )
        site.sql(
            "INSERT INTO market_data SELECT symbol, '2020-01-01', 1, 1, 1, 1, 1, 0, 't', now() FROM stock_info",
            role=APP,
        )
        site.sql("UPDATE market_data SET close = 1 WHERE false; DELETE FROM market_data WHERE symbol = 'S2'", role=APP)
        assert rows(site, "payload, rows") == [
            ({"symbols": ["S1", "S2", "S3"]}, 1000),
            ({"symbols": None}, 151),
            ({"symbols": ["S2"]}, 335),
        ]


# What the application's migrations do, and what becomes of the next order.
MIGRATIONS = [
    ("ALTER TABLE orders RENAME COLUMN portfolio TO book", "orders has no column portfolio any more"),
    ("ALTER TABLE orders DROP COLUMN quantity CASCADE", 'record "new" has no field "quantity"'),
    ("ALTER TABLE orders ALTER COLUMN quantity TYPE numeric(30, 2)", None),
    ("ALTER TABLE orders ADD COLUMN quantity2 int", None),
    ("ALTER TABLE orders RENAME TO orders2; CREATE VIEW orders AS SELECT * FROM orders2", None),
]


@pytest.mark.parametrize(("migration", "error"), MIGRATIONS, ids=[text for text, _ in MIGRATIONS])
def test_a_migration_of_the_application_disturbs_no_write(prefect: Site, migration: str, error: str | None) -> None:
    with with_events(prefect, {**ORDERS, "condition": "NEW.quantity > 0"}) as site:
        order(site, "before")
        with contextlib.closing(site.server.connect(site.database, APP, PASSWORD)) as session:
            cursor = session.cursor()  # it has prepared the function for the table as it was
            cursor.execute("UPDATE orders SET status = status")
            order(site, "first", cursor=cursor)
            site.sql(f"SET ROLE {OWNER}; {migration}")
            names = [
                name
                for (name,) in site.sql(
                    "SELECT attname FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0"
                )
            ]
            order(site, "after", cursor=cursor, book="book" in names, quantity=4 if "quantity" in names else None)
        assert site.sql("SELECT count(*) FROM orders") == [(3,)]
        found = rows(site)[-1]
        assert len(rows(site)) == 3
        if error is None:
            assert found == ("new_order", {"portfolios": ["growth"]}, None)
        else:
            assert error in found[2]


def test_what_is_lost_disturbs_nothing(site: Site) -> None:
    """The outbox's table is gone, then the whole schema."""
    site.sql("DROP TABLE prefect_outbox.event")
    order(site, "first")
    assert site.sql("SELECT last_value, is_called FROM prefect_outbox.failed") == [(1, True)]
    site.sql("DROP SEQUENCE prefect_outbox.failed")
    order(site, "second")
    site.sql("DROP SEQUENCE prefect_outbox.verdict, prefect_outbox.refused")
    assert "outbox_missing" in codes(site)
    site.sql("DROP TABLE public.orders CASCADE")
    assert "database_event_table" in codes(site)


def test_a_full_outbox_refuses_the_newest_and_no_write(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgprefect.schema.outbox_sql.keep_body.__defaults__", (3,))
    assert len(apply(site)) == 1
    for number in range(8):
        site.sql("SELECT setval('prefect_outbox.verdict', 0)")
        order(site, f"o{number}")
    assert len(rows(site)) == 3
    assert site.sql("SELECT last_value FROM prefect_outbox.refused") == [(5,)]
    site.sql("UPDATE prefect_outbox.event SET sent = now()")
    site.sql("SELECT setval('prefect_outbox.verdict', 0)")
    order(site, "again")
    assert waiting(site) == 1


def test_a_serializable_transaction_is_not_disturbed(site: Site) -> None:
    """Two of them insert at the same time; with a count in the trigger one would have to be repeated."""
    order(site, "first")
    connections = [site.server.connect(site.database, APP, PASSWORD) for _ in range(2)]
    site.sql("SELECT setval('prefect_outbox.verdict', 0)")
    for number, connection in enumerate(connections):
        connection.autocommit = False
        connection.set_session(isolation_level="SERIALIZABLE")
        order(site, f"s{number}", cursor=connection.cursor())
    for connection in connections:
        connection.commit()
        connection.close()
    assert waiting(site) == 3


def test_a_partitioned_table(prefect: Site) -> None:
    event: dict[str, Any] = {
        "name": "part",
        "table": "measured",
        "operations": ["insert"],
        "values": {"n": "n"},
        "event": "measured",
    }
    create = (
        "CREATE TABLE measured (n int) PARTITION BY RANGE (n);"
        "CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM (0) TO (9)"
    )
    prefect.sql(f"SET ROLE {OWNER}; {create}")
    with with_events(prefect, event) as site:
        site.sql("INSERT INTO measured_1 VALUES (1); INSERT INTO measured VALUES (2)", role=APP)
        assert [payload["n"] for _, payload, _ in rows(site)] == [1, 2]
        assert apply(site) == []


@pytest.mark.parametrize("roles_exist", [False, True])
def test_a_new_database_has_its_events_after_one_run(
    run_module: Callable[..., Result], clean: Site, roles_exist: bool
) -> None:
    """The application's tables come in the same run, and check mode says all of it."""
    if roles_exist:
        clean.server.sql("postgres", "DO 'BEGIN CREATE ROLE prefect_outbox; EXCEPTION WHEN duplicate_object THEN END'")
    tenant = replace(clean.tenant, relay="events_relay", database_events=(ORDERS,))
    declaration = replace(clean.declaration, tenants=(tenant,))
    clean.declaration = replace(declaration, passwords=dict.fromkeys(declaration.login_roles, PASSWORD))
    arguments = {**clean.arguments(), "app_schema_sql": TRADING_SQL, "passwords": clean.declaration.passwords}
    planned = run_module("prefect_schema", check=True, **arguments)
    done = run_module("prefect_schema", **arguments)
    assert done["statements"] == planned["statements"], done
    assert run_module("prefect_schema", **arguments)["changed"] is False
    wrong = {**ORDERS, "values": {"portfolios": ["portfolo"]}}
    arguments |= {"tenants": [{**vars(tenant), "database_events": [wrong]}], "app_schemas": ["another"]}
    refused = run_module("prefect_schema", **arguments)
    assert refused["failed"] and [problem["code"] for problem in refused["problems"]] == ["database_event_column"]
    assert clean.sql("SELECT to_regnamespace('another')") == [(None,)]
