"""Measure a backup set against `pg_dump | gzip`, and the API's latency while backups run."""

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

from pgprefect.backup import sets
from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.sets import APP, WORKFLOW
from pgprefect.core.connection import Login
from pgprefect.core.process import libpq_environment
from pgprefect.core.sql import quote

from bench.data import fill
from bench.support import DURABLE, latencies_during, p99, prefect_database, prefect_server, show, timed
from tests.support.postgresql import docker
from tests.support.site import Site

ROUNDS = 3
# Prices of 250 symbols on 1,200 days.
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
    """Return the login of the backup's own role, with a password because it connects over TCP here.

    It uses the container's address: docker's proxy for the published port would take a good part of a processor.
    """
    site.server.sql("postgres", f"ALTER ROLE {quote(site.declaration.backup)} PASSWORD 'backup'")
    address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", site.server.container)
    return Login(address, user=site.declaration.backup, password="backup")


def dump_and_gzip(who: Login, site: Site, directory: Path) -> None:
    """Dump one schema after the other, each from its own snapshot, without flushing or reading back."""
    for schema in (site.declaration.app_schema, site.tenant.schema):
        subprocess.run(
            ["bash", "-o", "pipefail", "-c", 'pg_dump -n "$1" | gzip > "$2"', "-", schema, directory / f"{schema}.gz"],
            env=libpq_environment(who, site.database),
            check=True,
        )


def ours(who: Login, site: Site, directory: Path) -> None:
    """Create a complete set."""
    back_up(who, site.database, wanted_parts(site.declaration, [APP, WORKFLOW]), directory)


def without_read_back(who: Login, site: Site, directory: Path) -> None:
    """Create a set and hash each file for the manifest, but do not read it back as a restore would."""
    with mock.patch.object(sets, "read_back", hashed):
        ours(who, site, directory)


def hashed(file: Path) -> tuple[int, str]:
    content = file.read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def fill_both(site: Site, runs: int) -> None:
    """Fill Prefect's schema with runs and everything that belongs to them, and the application's with prices."""
    print(f"Fill the database with {runs:,} runs ...", flush=True)
    with contextlib.closing(site.server.connect(site.database)) as connection:
        fill(connection, site.tenant.schema, runs)
        with connection.cursor() as cursor:
            for statement in MARKET_DATA.split(";"):
                cursor.execute(statement)
            cursor.execute("CHECKPOINT")


def measured(method: Callable[[Path], None]) -> tuple[float, int]:
    """Return the seconds of one backup and the bytes of its files."""
    os.sync()  # earlier writes must not count
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        with timed() as seconds:
            method(Path(name))
        return seconds[0], sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    options = parser.parse_args()
    with prefect_database(DURABLE) as site:
        fill_both(site, options.runs)
        ((megabytes,),) = site.sql("SELECT pg_database_size(current_database()) / 1000000")
        who = login(site)
        methods = {method: partial(method, who, site) for method in (dump_and_gzip, without_read_back, ours)}
        rounds = [
            {method: measured(call) for method, call in methods.items()} for _ in range(ROUNDS)
        ]  # in turn, because the load varies
        seconds = {method: median(one[method][0] for one in rounds) for method in methods}
        size = {method: median(one[method][1] for one in rounds) for method in methods}
        with prefect_server(site) as url, tempfile.TemporaryDirectory(dir="/var/tmp") as name:

            def several() -> None:
                for _ in range(ROUNDS):
                    ours(who, site, Path(name))

            idle, busy = latencies_during(url, several)
    show(
        f"A backup of both schemas of {megabytes:,} MB, median of {ROUNDS} rounds",
        [
            ("pg_dump | gzip, one schema after the other", seconds[dump_and_gzip], "", None),
            (
                "a set, hashed and not read back",
                seconds[without_read_back],
                "pg_dump | gzip",
                seconds[dump_and_gzip] / seconds[without_read_back],
            ),
            ("a set, read back in full", seconds[ours], "pg_dump | gzip", seconds[dump_and_gzip] / seconds[ours]),
        ],
    )
    print("All rounds:", *({method.__name__: round(took, 1) for method, (took, _) in one.items()} for one in rounds))
    ratio = size[ours] / size[dump_and_gzip]
    print(f"The set has {size[ours]:,} bytes, the pg_dump files {size[dump_and_gzip]:,}: {ratio:.2f} times.")
    show(
        "The API's answers while a backup runs",
        [
            (f"p99 idle ({len(idle)} requests)", p99(idle), "", None),
            (f"p99 during {ROUNDS} backups ({len(busy)} requests)", p99(busy), "idle", p99(idle) / p99(busy)),
        ],
    )


if __name__ == "__main__":
    main()
