"""A site with database events."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pgprefect.schema import event_plan

from tests.support.site import PASSWORD, Site

APP = "mltrading_app"
# An order starts the check of its portfolio.
ORDERS = {
    "name": "new_order",
    "table": "orders",
    "operations": ["insert"],
    "values": {"portfolios": ["portfolio"]},
    "deployment": "check-risk-limits/on-order",
}


@contextlib.contextmanager
def with_events(site: Site, *events: dict[str, Any], apply: bool = True) -> Iterator[Site]:
    """Give the first tenant events and a relay; with ``apply`` the database has them, and a portfolio."""
    former = site.declaration
    tenant = replace(site.tenant, relay="prefect_relay", database_events=events)
    declaration = replace(former, tenants=(tenant, *former.tenants[1:]))
    site.declaration = replace(declaration, passwords=dict.fromkeys(declaration.login_roles, PASSWORD))
    site.sql(
        "INSERT INTO portfolios (name, currency, opening_cash, max_position_weight, max_exposure, max_order_value)"
        " VALUES ('growth', 'EUR', 1000, 1, 1, 1000000);"
        "INSERT INTO stock_info (symbol, name, currency, source) VALUES ('TEST', 'Test', 'EUR', 'test')",
        role=APP,
    )
    if apply:
        site.apply()
        event_plan.apply(site.server.login, site.declaration)
    yield site


def order(site: Site, name: str, quantity: int | None = 1, cursor: Any = None, book: bool = False) -> None:
    """Insert an order as the application, by a cursor of its own or a given one."""
    columns = {
        "client_order_id": name,
        "book" if book else "portfolio": "growth",
        "symbol": "TEST",
        "side": "buy",
        **({} if quantity is None else {"quantity": quantity}),
    }
    statement = f"INSERT INTO orders ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
    if cursor is None:
        site.sql(statement, *columns.values(), role=APP)
    else:
        cursor.execute(statement, list(columns.values()))


def waiting(site: Site) -> int:
    """Return how many rows wait to be sent."""
    [(count,)] = site.sql("SELECT count(*) FROM prefect_outbox.event WHERE sent IS NULL")
    return int(count)
