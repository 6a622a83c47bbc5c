"""Measure database events: what a trigger costs a bulk insert, and how soon a row has its run.

The comparison is what people do instead: each minute something looks for new rows, and starts a run for each. Its own
start, which a flow would need each time, is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from pgprefect.schema import event_plan

from bench.support import DURABLE, p99, prefect_database, timed
from tests.support.database_events import ORDERS, order, waiting, with_events
from tests.support.relay import PrefectServer, relay_of, running
from tests.support.site import PASSWORD, Site

ROUNDS = 3
POLL_SECONDS = 60
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


def declare(site: Site, *events: dict[str, Any]) -> None:
    """Give the site these events and no others."""
    tenant = replace(site.tenant, database_events=events)
    site.declaration = replace(site.declaration, tenants=(tenant, *site.declaration.tenants[1:]))
    event_plan.apply(site.server.login, site.declaration)


def insert_seconds(site: Site, rows: int, *events: dict[str, Any]) -> float:
    """Return the seconds of one statement that inserts so many rows, with these events."""
    declare(site, *events)
    site.sql("TRUNCATE market_data CASCADE; TRUNCATE prefect_outbox.event")
    site.sql("CHECKPOINT")
    with (
        contextlib.closing(site.server.connect(site.database, "mltrading_app", PASSWORD)) as connection,
        connection.cursor() as cursor,
        timed() as seconds,
    ):
        cursor.execute(INSERT.format(rows))
    return seconds[0]


def bulk(site: Site, rows: int) -> None:
    """Measure one large statement, in turn without and with triggers."""
    site.sql(
        "INSERT INTO stock_info (symbol, name, currency, source)"
        " SELECT 'S' || n, 'x', 'EUR', 'x' FROM generate_series(0, 49) n"
    )
    kinds: dict[str, tuple[dict[str, Any], ...]] = {
        "without a trigger": (),
        "for each statement": (PRICES,),
        "with its distinct symbols": (SYMBOLS,),
    }
    rounds = [{kind: insert_seconds(site, rows, *events) for kind, events in kinds.items()} for _ in range(ROUNDS)]
    found = {kind: median(one[kind] for one in rounds) for kind in kinds}
    few = rows // 20
    plain, each = insert_seconds(site, few), insert_seconds(site, few, EACH)
    print(f"\nOne statement that inserts {rows:,} rows, median of {ROUNDS} rounds")
    for kind, seconds in found.items():
        print(f"{kind:<26} {seconds:8.2f} s  {seconds / found['without a trigger'] - 1:+7.1%}")
    print(f"{few:,} rows: {plain:.2f} s, for each row {each:.2f} s: {(each - plain) / few * 1e6:.0f} us a row")


def poll(site: Site, server: PrefectServer, deployment: str, stop: threading.Event, taken: list[float]) -> None:
    """Start a run for each new order, each minute; append the seconds from its insert."""
    seen: set[str] = set()
    while not stop.wait(POLL_SECONDS):
        for (name,) in site.sql("SELECT client_order_id FROM orders"):
            if name not in seen:
                seen.add(name)
                body = {"parameters": {"portfolios": ["growth"]}}
                server.api.call("POST", f"/deployments/{deployment}/create_flow_run", body)
                [(seconds,)] = site.sql(
                    "SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM orders"
                    " WHERE client_order_id = %s",
                    name,
                )
                taken.append(seconds)


def latency(site: Site, minutes: int, burst: int) -> None:
    """Measure from the insert of an order to its run, with both on the same orders, and the rate of a burst."""
    declare(site, ORDERS)
    site.sql("TRUNCATE prefect_outbox.event")
    with tempfile.TemporaryDirectory() as home:
        server = PrefectServer(site, Path(home))
        with running(server), running(relay_of(site, server.url, Path(home) / "relay.log")):
            server.deployment()
            stop, polled = threading.Event(), list[float]()
            arguments = (site, server, server.deployment(name="polled"), stop, polled)
            poller = threading.Thread(target=poll, args=arguments)
            poller.start()
            for number in range(minutes * POLL_SECONDS):
                order(site, f"one-{number}")
                time.sleep(1)
            while waiting(site):
                time.sleep(0.2)
            time.sleep(POLL_SECONDS)
            stop.set()
            poller.join()
            relayed = [
                seconds
                for (seconds,) in site.sql(
                    "SELECT extract(epoch FROM sent - occurred)::float8 FROM prefect_outbox.event"
                    " WHERE name = 'new_order' ORDER BY 1"
                )
            ]
            print(f"\n{len(relayed)} orders, one a second, from the insert to the run")
            for kind, taken in (("by the relay", relayed), ("by a look each minute", sorted(polled))):
                print(f"{kind:<26} p50 {median(taken):8.2f} s   p99 {p99(taken):8.2f} s   of {len(taken)}")
            site.sql(
                "INSERT INTO orders (client_order_id, portfolio, symbol, side, quantity)"
                f" SELECT 'b' || n, 'growth', 'TEST', 'buy', 1 FROM generate_series(1, {burst}) n"
            )
            with timed() as seconds:
                while waiting(site):
                    time.sleep(0.2)
            print(f"{burst:,} orders of one statement: {burst / seconds[0]:.1f} runs a second")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=int, default=4)
    parser.add_argument("--burst", type=int, default=1000)
    options = parser.parse_args()
    with prefect_database(DURABLE) as made, with_events(made) as site:
        bulk(site, options.rows)
        latency(site, options.minutes, options.burst)


if __name__ == "__main__":
    main()
