"""Measure what the audit trail costs: single writes as Prefect's server makes them, and many rows in an audited table.

Both sides run on servers that flush to their disk, in turn. Run it with ``PYTHONPATH=module_utils .venv/bin/python -m
bench.audit``.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.support import DURABLE, show, timed
from tests.support.audit import OPTIONS, prepared
from tests.support.postgresql import running_postgresql
from tests.support.site import Site, migrated_site

WRITES = 2000
ROWS = 100_000
ROUNDS = 5
STOCK = "INSERT INTO stock_info (symbol, name, currency, source) VALUES ('A', 'a', 'EUR', 's')"
PORTFOLIO = "INSERT INTO portfolios VALUES ('p', 'EUR', 1, 1, 1, 1)"
ORDERS = """
INSERT INTO orders (client_order_id, portfolio, symbol, side, quantity)
SELECT %s || '-' || number, 'p', 'A', 'buy', 1 FROM generate_series(1, %s) AS number
"""
ORDER = "INSERT INTO orders (client_order_id, portfolio, symbol, side, quantity) VALUES (%s, 'p', 'A', 'buy', 1)"


@contextlib.contextmanager
def connected(site: Site, role: str) -> Any:
    with contextlib.closing(site.server.connect(site.database, role, site.declaration.passwords[role])) as connection:
        yield connection.cursor()


def measure(site: Site, name: str) -> tuple[float, float, float]:
    """Return the seconds for the server's writes, for many rows by one statement, and for orders one by one."""
    with connected(site, site.tenant.server) as cursor, timed() as server:
        for number in range(WRITES):
            cursor.execute("INSERT INTO flow (name) VALUES (%s)", (f"{name}-{number}",))
    with connected(site, site.declaration.app_login) as cursor:
        with timed() as rows:
            cursor.execute(ORDERS, (name, ROWS))
        with timed() as singly:
            for number in range(WRITES):
                cursor.execute(ORDER, (f"{name}-single-{number}",))
        cursor.execute("DELETE FROM orders")
    return server[0], rows[0], singly[0]


def main() -> None:
    with (
        running_postgresql("--env", f"POSTGRES_OPTIONS={DURABLE}") as plain,
        running_postgresql("--env", f"POSTGRES_OPTIONS={DURABLE} {OPTIONS}") as recording,
        tempfile.TemporaryDirectory() as home,
    ):
        without = migrated_site(plain, "bench", Path(home))
        audited = prepared(recording, "bench", Path(home))
        for site in (without, audited):
            site.sql(STOCK)
            site.sql(PORTFOLIO)
        before = len(audited.trail(role=audited.tenant.server).entries)
        rounds = [(measure(audited, f"r{number}"), measure(without, f"r{number}")) for number in range(ROUNDS)]
        trail = audited.trail()
    if len([entry for entry in trail.entries if entry.role == audited.tenant.server]) != before:
        raise RuntimeError("The server's own writes were recorded.")
    if len([entry for entry in trail.entries if entry.object == "public.orders"]) < ROUNDS * (WRITES + 1):
        raise RuntimeError("Not all orders were recorded.")
    texts = (
        f"{WRITES:,} writes of Prefect's server, with the audit",
        f"{ROWS:,} rows by one statement into an audited table",
        f"{WRITES:,} orders one by one, each recorded",
    )
    rows: list[tuple[str, float, str, float | None]] = []
    for place, text in enumerate(texts):
        own, other = (median(side[place] for side in sides) for sides in zip(*rounds, strict=True))
        rows += [(text, own, "without it", other / own), ("  the same without it", other, "", None)]
    show(f"Audit, median of {ROUNDS} rounds", rows)


if __name__ == "__main__":
    main()
