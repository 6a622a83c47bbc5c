"""Backups: a set beside the guide's dumps through gzip, and what the API's users notice of it."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

from pgprefect.backup import sets as backup_set
from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.sets import APP, WORKFLOW
from pgprefect.core.connection import Login
from pgprefect.core.process import libpq_environment
from pgprefect.core.sql import quote

from bench.data import fill
from bench.support import DURABLE, latencies_beside, p99, prefect_database, prefect_server, show, timed
from tests.conftest import Site, docker

ROUNDS = 3
# Prices that go up and down: 250 symbols on 1,200 days.
MARKET_DATA = """
INSERT INTO stock_info (symbol, name, currency, source) SELECT 'S' || s, 'Stock ' || s, 'USD', 'sample'
FROM generate_series(1, 250) s;
INSERT INTO market_data (symbol, trade_date, open, high, low, close, adjusted_close, volume, source)
SELECT 'S' || s, date '2022-01-01' + d, price * (0.99 + 0.02 * random()), price * 1.01, price * 0.99, price, price,
       1000000 * random(), 'sample'
FROM generate_series(1, 250) s, generate_series(1, 1200) d,
     LATERAL (SELECT 100 + 50 * sin(s + d / 50.0) + random()) p (price);
VACUUM ANALYZE market_data
"""


def login(site: Site) -> Login:
    """The backup's own role, with a password because it comes over TCP here.

    Not by the published port: docker's proxy would take a good part of a processor, and a socket needs none.
    """
    site.server.sql("postgres", f"ALTER ROLE {quote(site.declaration.backup)} PASSWORD 'backup'")
    address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", site.server.container)
    return Login(address, user=site.declaration.backup, password="backup")


def guide(who: Login, site: Site, directory: Path) -> None:
    """One schema after the other, each from a snapshot of its own; nothing is synced or read back."""
    for schema in (site.declaration.app_schema, site.tenant.schema):
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", 'pg_dump -n "$1" | gzip > "$2"', "-", schema, directory / f"{schema}.gz"],
            env=libpq_environment(who, site.database),
            check=True,
        )


def ours(who: Login, site: Site, directory: Path) -> None:
    back_up(who, site.database, wanted_parts(site.declaration, [APP, WORKFLOW]), directory)


def unread(who: Login, site: Site, directory: Path) -> None:
    """Ours with each file hashed, as the manifest wants it, and not read back as a restore would."""
    with mock.patch.object(backup_set, "read_back", hashed):
        ours(who, site, directory)


def hashed(file: Path) -> tuple[int, str]:
    content = file.read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def fill_both(site: Site, runs: int) -> None:
    """Prefect's schema with so many runs and all that belongs to them, and the application's with prices."""
    print(f"Fill the database with {runs:,} runs ...", flush=True)
    with contextlib.closing(site.server.connect(site.database)) as connection:
        fill(connection, site.tenant.schema, runs)
        with connection.cursor() as cursor:
            for statement in MARKET_DATA.split(";"):
                cursor.execute(statement)
            cursor.execute("CHECKPOINT")


def measured(way: Callable[[Path], None]) -> tuple[float, int]:
    """Return the seconds of one backup and the bytes of its files."""
    os.sync()  # what was written before is not written now
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        with timed() as seconds:
            way(Path(name))
        return seconds[0], sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    options = parser.parse_args()
    with prefect_database(DURABLE) as site:
        fill_both(site, options.runs)
        ((megabytes,),) = site.sql("SELECT pg_database_size(current_database()) / 1000000")
        who = login(site)
        ways = {way: partial(way, who, site) for way in (guide, unread, ours)}
        rounds = [
            {way: measured(call) for way, call in ways.items()} for _ in range(ROUNDS)
        ]  # in turns: the load varies
        seconds = {way: median(one[way][0] for one in rounds) for way in ways}
        size = {way: median(one[way][1] for one in rounds) for way in ways}
        with prefect_server(site) as url, tempfile.TemporaryDirectory(dir="/var/tmp") as name:

            def several() -> None:
                for _ in range(ROUNDS):
                    ours(who, site, Path(name))

            idle, busy = latencies_beside(url, several)
    show(
        f"A backup of both schemas of {megabytes:,} MB, median of {ROUNDS} rounds",
        [
            ("pg_dump | gzip, one schema after the other", seconds[guide], "", None),
            ("a set before it is read back", seconds[unread], "pg_dump | gzip", seconds[guide] / seconds[unread]),
            ("a set, read back in full", seconds[ours], "pg_dump | gzip", seconds[guide] / seconds[ours]),
        ],
    )
    print("All rounds:", *({way.__name__: round(took, 1) for way, (took, _) in one.items()} for one in rounds))
    print(f"The set has {size[ours]:,} bytes, the guide's files {size[guide]:,}: {size[ours] / size[guide]:.2f} times.")
    show(
        "The API's answers while a backup runs",
        [
            (f"p99 idle ({len(idle)} requests)", p99(idle), "", None),
            (f"p99 during {ROUNDS} backups ({len(busy)} requests)", p99(busy), "idle", p99(idle) / p99(busy)),
        ],
    )


if __name__ == "__main__":
    main()
