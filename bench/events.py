"""Measure events through the buffer against one insert and one commit each, on a server that flushes to its disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from statistics import median
from typing import Any

from pgprefect.events import EventBuffer, EventTable, log_workflow_event

from bench.support import DURABLE, show, timed
from tests.support.postgresql import running_postgresql
from tests.support.site import TRADING_SQL, Site, declaration_of

SINGLY = 1000
BUFFERED = 10_000
ROUNDS = 3
METADATA = {"symbols_processed": 100, "records_collected": 5000, "processing_time": 45.2}


def singly(connection: Any) -> float:
    """Return the seconds for one event, each with its commit, on one open connection."""
    with timed() as seconds:
        for number in range(SINGLY):
            with connection, connection.cursor() as cursor:
                event = {**METADATA, "number": number}
                log_workflow_event("bench", "single", "success", event, cursor=cursor, table=EventTable(), strict=True)
    return seconds[0] / SINGLY


def buffered(connection: Any) -> float:
    """Return the seconds for one event through the buffer, on one open connection, with the last flush."""

    @contextlib.contextmanager
    def connect() -> Iterator[Any]:
        yield connection

    with timed() as seconds, EventBuffer(connect, EventTable(), strict=True) as buffer:
        for number in range(BUFFERED):
            buffer.log("bench", "buffered", "success", {**METADATA, "number": number})
    return seconds[0] / BUFFERED


def main() -> None:
    with running_postgresql("--env", f"POSTGRES_OPTIONS={DURABLE}") as server:
        site = Site(server, declaration_of("bench"))
        site.apply(app_schema_sql=TRADING_SQL)
        if site.sql("SHOW fsync") != [("on",)]:
            raise RuntimeError("The server does not flush to its disk.")
        role = site.declaration.app_login
        with contextlib.closing(server.connect(site.database, role, site.declaration.passwords[role])) as connection:
            connection.autocommit = False
            rounds = [
                (singly(connection), buffered(connection)) for _ in range(ROUNDS)
            ]  # in turn, because the load varies
            written = site.sql("SELECT workflow_name, count(*) FROM system_logs GROUP BY 1 ORDER BY 1")
    if written != [("buffered", ROUNDS * BUFFERED), ("single", ROUNDS * SINGLY)]:
        raise RuntimeError(f"Not all events were written: {written}")
    one, many = (median(seconds) for seconds in zip(*rounds, strict=True))
    rows: list[tuple[str, float, str, float | None]] = [
        (f"{BUFFERED:,} events through the buffer", many * BUFFERED, "an insert and a commit each", one / many),
        (f"the same one by one, extrapolated from {SINGLY:,}", one * BUFFERED, "", None),
    ]
    show(f"Events, median of {ROUNDS} rounds", rows)


if __name__ == "__main__":
    main()
