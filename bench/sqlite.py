"""Measure the import of a SQLite file against pgloader, and its memory with many more rows."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgprefect.cli.common import this_program
from pgprefect.core.prefect import TABLES
from pgprefect.core.sql import Names, Statement
from pgprefect.imports.load import load
from pgprefect.imports.plan import Order, prepared

from bench.data import fill
from bench.support import DURABLE, copied, prefect_database, show, timed
from tests.support.postgresql import docker
from tests.support.project import VIRTUALENV
from tests.support.site import Site

# What pgloader loads at all: it leaves flow_run and task_run empty, because it takes an interval for a point in time.
BOTH = ("artifact", "event_resources", "events", "flow_run_state", "log", "task_run_state")
EMPTY = """TRUNCATE {0}.flow, {0}.deployment, {0}.work_pool, {0}.work_queue, {0}.flow_run, {0}.task_run, {0}.log,
{0}.artifact, {0}.artifact_collection, {0}.events, {0}.event_resources CASCADE"""
# The form in which Prefect's SQLite keeps a type.
FORMS = {
    "timestamp with time zone": "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
    "interval": "to_char(timestamp 'epoch' + {0}, 'YYYY-MM-DD HH24:MI:SS.US')",
    "boolean": "{0}::int",
    "double precision": "{0}",
    "integer": "{0}",
}
LOADER = """
LOAD DATABASE FROM sqlite:///var/tmp/bench.db INTO postgresql://postgres:{password}@127.0.0.1/{database}
WITH data only, include no drop, disable triggers, drop indexes
SET search_path TO '{schema}, extensions, public'
INCLUDING ONLY TABLE NAMES LIKE {tables};
"""


def write_file(site: Site, path: Path) -> int:
    """Write the rows of the database into a file of Prefect's, and return their number."""
    with tempfile.TemporaryDirectory() as home:
        address = f"sqlite+aiosqlite:///{path}"
        environment = {"PATH": os.environ["PATH"], "HOME": home, "PREFECT_HOME": home, "DO_NOT_TRACK": "1"}
        subprocess.run(
            [VIRTUALENV / "bin/prefect", "server", "database", "upgrade", "-y"],
            env={**environment, "PREFECT_SERVER_DATABASE_CONNECTION_URL": address},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    schema, total = site.tenant.schema, 0
    with (
        contextlib.closing(site.server.connect(site.database)) as source,
        contextlib.closing(sqlite3.connect(path)) as target,
    ):
        source.autocommit = False
        target.execute("PRAGMA synchronous = OFF")
        for table in sorted(TABLES - {"alembic_version"}):
            columns = site.sql(
                "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute "
                "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
                f"{schema}.{table}",
            )
            if not columns:
                continue
            total += _write_table(source, target, schema, table, columns)
        target.commit()
    return total


def _write_table(source: Any, target: sqlite3.Connection, schema: str, table: str, columns: Any) -> int:
    names = ", ".join(f'"{name}"' for name, _ in columns)
    forms = ", ".join(FORMS.get(kind, "{0}::text").format(f'"{name}"') for name, kind in columns)
    count = 0
    with source.cursor("rows") as cursor:
        cursor.itersize = 5000
        cursor.execute(f'SELECT {forms} FROM {schema}."{table}"')
        while rows := cursor.fetchmany(5000):
            values = ", ".join("?" * len(columns))
            target.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({values})', rows)
            count += len(rows)
    return count


def order_of(site: Site, path: Path, scratch: str) -> Order:
    tenant = site.tenant
    login = replace(site.server.login, user=tenant.migrator, password=site.declaration.passwords[tenant.migrator])
    return Order(
        source=path,
        login=login,
        database=site.database,
        tenant=tenant,
        virtualenv=str(VIRTUALENV),
        program=this_program(),
        scratch=Path(scratch),
        service_user="root",
    )


@contextlib.contextmanager
def planned(site: Site, path: Path) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        order = order_of(site, path, scratch)
        with prepared(order) as (plan, folder):
            yield order, plan, folder


def ours(site: Site, path: Path) -> tuple[float, float, dict[str, int]]:
    """Return the seconds of the whole and of the loading alone, and the rows."""
    with timed() as whole, planned(site, path) as (order, plan, folder):
        done = load(order, plan, folder)
    return whole[0], done.seconds, dict(done.rows)


def by_pgloader(site: Site) -> tuple[float, dict[str, int]]:
    """Return pgloader's seconds, and the rows that are there afterwards."""
    container = site.server.container
    with tempfile.NamedTemporaryFile("w") as file:
        tables = ", ".join(f"'{table}'" for table in BOTH)
        file.write(
            LOADER.format(
                password=site.server.password, database=site.database, schema=site.tenant.schema, tables=tables
            )
        )
        file.flush()
        docker("cp", file.name, f"{container}:/var/tmp/bench.load")
    docker("exec", "--user", "root", container, "chmod", "0644", "/var/tmp/bench.load")
    with timed() as seconds:
        said = docker("exec", container, "pgloader", "/var/tmp/bench.load")
    if re.search("ERROR|FATAL", said):
        print(said)
    return seconds[0], {table: count(site, table) for table in BOTH}


def count(site: Site, table: str) -> int:
    with contextlib.closing(site.server.connect(site.database)) as connection, connection.cursor() as cursor:
        Statement("SELECT count(*) FROM {}", (Names(((site.tenant.schema, table),)),)).execute(cursor)
        return int(cursor.fetchone()[0])


@contextlib.contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """Yield the most memory in MiB that this process and those that it starts have during the block."""
    Path("/proc/self/clear_refs").write_text("5")  # this process's own peak begins here
    peaks: dict[str, float] = {}
    end = threading.Event()

    def watch() -> None:
        own = os.getpid()
        while not end.wait(0.1):
            for task in Path(f"/proc/{own}/task").iterdir():
                children = (task / "children").read_text().split()
                for process, name in [(str(own), "import"), *((child, "reader") for child in children)]:
                    with contextlib.suppress(OSError, StopIteration):
                        lines = Path(f"/proc/{process}/status").read_text().splitlines()
                        peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
                        peaks[name] = max(peaks.get(name, 0.0), peak)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        end.set()
        watcher.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5_000, help="92 rows each")
    parser.add_argument("--without-pgloader", action="store_true", help="import alone, and show the memory")
    options = parser.parse_args()
    with prefect_database(DURABLE) as site, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = Path(folder) / "bench.db"
        with contextlib.closing(site.server.connect(site.database)) as connection:
            fill(connection, site.tenant.schema, options.runs)
        rows = write_file(site, path)
        site.sql(EMPTY.format(site.tenant.schema))
        size = path.stat().st_size / 2**20
        with copied(site, "by_us") as copy:
            with watched_memory() as peaks:
                whole, loading, loaded = ours(copy, path)
            (bytes_there,) = copy.sql("SELECT pg_database_size(current_database())")[0]
        assert sum(loaded.values()) == rows, (loaded, rows)
        memory = ", ".join(f"{name} {peak:,.0f} MiB" for name, peak in peaks.items())
        title = (
            f"{rows:,} rows, {size:,.0f} MiB of SQLite, {bytes_there / 2**20:,.0f} MiB in PostgreSQL; memory: {memory}"
        )
        table: list[tuple[str, float, str, float | None]] = [
            (f"import, {rows / whole:,.0f} rows/s", whole, "", None),
            (f"its loading alone, {rows / loading:,.0f} rows/s", loading, "", None),
        ]
        if not options.without_pgloader:
            table.append(_against_pgloader(site, path, loaded, rows / loading))
        show(title, table)


def _against_pgloader(site: Site, path: Path, loaded: dict[str, int], rate: float) -> tuple[str, float, str, float]:
    container = site.server.container
    docker("exec", "--user", "root", container, "sh", "-c", "apt-get -qq update; apt-get -qq install -y pgloader")
    docker("cp", str(path), f"{container}:/var/tmp/bench.db")
    docker("exec", "--user", "root", container, "chmod", "0644", "/var/tmp/bench.db")
    with copied(site, "by_pgloader") as copy:
        seconds, there = by_pgloader(copy)
    lost = {table: loaded[table] - there[table] for table in BOTH if loaded[table] != there[table]}
    number = sum(there.values())
    what = f"pgloader, six tables alone, {number / seconds:,.0f} rows/s{f', lost {lost}' if lost else ''}"
    return what, seconds, "the rows of a second", rate / (number / seconds)


if __name__ == "__main__":
    main()
