"""Declared database events: what is refused, and the functions that are made of them."""

from __future__ import annotations

from typing import Any

import pytest
from pgprefect.core.errors import InputError
from pgprefect.schema.database_events import DatabaseEvent, events_of
from pgprefect.schema.outbox_sql import trigger_body
from pgprefect.site.configuration import Tenant

from plugin_utils.inventory_checks.tenants import check_tenants

EVENT = {"name": "filled", "table": "orders", "operations": ["update"], "event": "orders.filled"}


def test_an_event_and_its_defaults() -> None:
    event = DatabaseEvent.from_arguments({**EVENT, "table": "sales.orders", "values": {"a": "x", "b": ["x", "y"]}})
    assert event.table == ("sales", "orders") and event.by_row
    assert DatabaseEvent.from_arguments(EVENT).table == ("public", "orders")
    assert event.used_columns == ("x", "y")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"colour": "x"}, "colour is no key"),
    ({"name": "event"}, "name is 'event'"),
    ({"table": "a.b.c"}, "table is 'a.b.c'"),
    ({"table": ""}, "table is ''"),
    ({"operations": []}, "operations is []"),
    ({"operations": "update"}, "operations is 'update'"),
    ({"for_each": "table"}, "for_each is 'table'"),
    ({"columns": ["a"], "operations": ["insert", "update"]}, "columns are for an event of each row of updates"),
    ({"condition": "true; DROP TABLE orders"}, "condition has a ;"),
    ({"condition": "NEW.id IN (SELECT 1)"}, "condition has a ; a comment or a SELECT"),
    ({"condition": "true -- x"}, "condition has a ;"),
    ({"values": {"a": 1}}, "values.a is 1"),
    ({"values": {"a": ["x"]}, "for_each": "statement"}, "values.a is ['x']"),
    ({"deployment": "a/b"}, "needs one of deployment and event"),
    ({"event": "", "deployment": "a"}, "deployment is 'a'"),
    ({"event": "prefect.flow-run.Failed"}, "event is 'prefect.flow-run.Failed'"),
]


@pytest.mark.parametrize(("change", "word"), WRONG, ids=[word for _, word in WRONG])
def test_what_is_no_event_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as refused:
        DatabaseEvent.from_arguments({**EVENT, **change})
    assert word in str(refused.value)
    tenant = {"port": 1, "schema": "a", "work_pools": [], "deployments": [], "database_events": [{**EVENT, **change}]}
    [mistake] = check_tenants([tenant])
    assert mistake.startswith("prefect_tenants[0].database_events[0]: ") and word in mistake


def test_a_name_stands_once() -> None:
    with pytest.raises(InputError, match="declares it twice"):
        events_of(Tenant("a", "a", relay="a_relay", database_events=(EVENT, EVENT)))


def test_names_and_values_are_quoted() -> None:
    values = {"it's": 'a "b"'}
    event = DatabaseEvent.from_arguments({**EVENT, "values": values, "for_each": "statement"})
    body = trigger_body(event, 'my "outbox"')
    assert "'it''s'" in body and 'new."a ""b"""' in body and '"my ""outbox""".keep(' in body
