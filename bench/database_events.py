"""Measure database events: what a trigger costs a bulk insert, and how soon a row has its run.

The comparison is a flow that looks for new rows each minute: a row waits for 30 s in the middle, and for 59.4 s in the
slowest hundredth, before that flow has even started.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from pgprefect.schema import event_plan

from bench.support import DURABLE, prefect_database, timed
from tests.support.database_events import ORDERS, order, waiting, with_events
from tests.support.relay import PrefectServer, relay_of, running
from tests.support.site import PASSWORD, Site

ROUNDS = 3
PRICES: dict[str, Any] = {
    "name": "prices",
    "table": "market_data",
    "operations": ["insert"],
    "for_each": "statement",
    "event": "prices.new",
}
SYMBOLS = {**PRICES, "name": "symbols", "values": {"symbols": "symbol"}}
EACH = {**PRICES, "name": "each", "for_each": "row", "values": {"symbol": "symbol"}}
INSERT = """
INSERT INTO market_data SELECT 'S' || n % 50, date '1900-01-01' + n / 50, 1, 1, 1, 1, 1, n, 'bench', now()
FROM generate_series(0, {} - 1) n
"""


def insert_seconds(site: Site, rows: int, *events: dict[str, Any]) -> float:
    """Return the seconds of one statement that inserts so many rows, with these events."""
    with (
        with_events_again(site, *events),
        contextlib.closing(site.server.connect(site.database, "mltrading_app", PASSWORD)) as connection,
    ):
        site.sql("TRUNCATE market_data CASCADE; TRUNCATE prefect_outbox.event")
        site.sql("CHECKPOINT")
        with timed() as seconds, connection.cursor() as cursor:
            cursor.execute(INSERT.format(rows))
    return seconds[0]


@contextlib.contextmanager
def with_events_again(site: Site, *events: dict[str, Any]) -> Iterator[None]:
    """Give the site other events than it had."""
    tenant = replace(site.tenant, database_events=events)
    site.declaration = replace(site.declaration, tenants=(tenant, *site.declaration.tenants[1:]))
    event_plan.apply(site.server.login, site.declaration)
    yield


def bulk(site: Site, rows: int) -> None:
    site.sql(
        "INSERT INTO stock_info (symbol, name, currency, source)"
        " SELECT 'S' || n, 'x', 'EUR', 'x' FROM generate_series(0, 49) n"
    )
    kinds: dict[str, tuple[dict[str, Any], ...]] = {
        "without": (),
        "for each statement": (PRICES,),
        "with its distinct symbols": (SYMBOLS,),
    }
    rounds = [{kind: insert_seconds(site, rows, *events) for kind, events in kinds.items()} for _ in range(ROUNDS)]
    found = {kind: median(one[kind] for one in rounds) for kind in kinds}
    few = rows // 20
    plain, each = insert_seconds(site, few), insert_seconds(site, few, EACH)
    print(f"\nOne statement that inserts {rows:,} rows, median of {ROUNDS} rounds")
    for kind, seconds in found.items():
        print(f"{kind:<26} {seconds:8.2f} s  {seconds / found['without'] - 1:+7.1%}")
    print(f"{few:,} rows: {plain:.2f} s, for each row {each:.2f} s: {(each - plain) / few * 1e6:.0f} us a row")


def latency(site: Site, rows: int, burst: int) -> None:
    """Measure from the change of a row to the creation of its run, by PostgreSQL's clock alone."""
    with tempfile.TemporaryDirectory() as home, with_events_again(site, ORDERS):
        server = PrefectServer(site, Path(home))
        with running(server), running(relay_of(site, server.url, Path(home) / "relay.log")):
            server.deployment()
            for number in range(rows):
                order(site, f"one-{number}")
                time.sleep(0.2)
            while waiting(site):
                time.sleep(0.2)
            taken = [
                seconds
                for (seconds,) in site.sql(
                    "SELECT extract(epoch FROM sent - occurred)::float8 FROM prefect_outbox.event"
                    " WHERE name = 'new_order' ORDER BY 1"
                )
            ]
            print(f"\n{rows} rows, five a second: from the change to the run, p50 {median(taken):.2f} s, ", end="")
            print(f"p99 {taken[int(len(taken) * 0.99)]:.2f} s; a flow each minute: p50 30 s, p99 59.4 s, and its start")
            site.sql(
                "INSERT INTO orders (client_order_id, portfolio, symbol, side, quantity)"
                f" SELECT 'b' || n, 'growth', 'TEST', 'buy', 1 FROM generate_series(1, {burst}) n"
            )
            with timed() as seconds:
                while waiting(site):
                    time.sleep(0.2)
            print(f"{burst:,} rows of one statement: {burst / seconds[0]:.1f} runs a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--burst", type=int, default=1000)
    options = parser.parse_args()
    with prefect_database(DURABLE) as made, with_events(made) as site:
        bulk(site, options.rows)
        latency(site, 100, options.burst)


if __name__ == "__main__":
    main()
