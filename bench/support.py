"""What the benches share: a database with Prefect in it, a real server on it, and the table that they print."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pgprefect.ready import wait_until_ready
from pgprefect.statement import quote

from tests.conftest import VIRTUALENV, Site, migrated_site, running_postgresql


@contextlib.contextmanager
def prefect_database() -> Iterator[Site]:
    """A PostgreSQL of its own with Prefect's real tables in a declared database."""
    # As on a host of 8 GB; parallel queries want more shared memory than docker gives.
    options = ("--shm-size=1g", "--env", "POSTGRES_OPTIONS=-c shared_buffers=2GB")
    with running_postgresql(*options) as server, tempfile.TemporaryDirectory() as home:
        yield migrated_site(server, "bench", Path(home))


@contextlib.contextmanager
def copied(site: Site, name: str) -> Iterator[Site]:
    """The same database once more, so that each side finds the same data."""
    owner = quote(site.declaration.app_owner)
    site.server.sql("postgres", f"CREATE DATABASE {quote(name)} TEMPLATE {quote(site.database)} OWNER {owner}")
    copy = Site(site.server, replace(site.declaration, database=name))
    copy.bring_about()
    try:
        yield copy
    finally:
        site.server.sql("postgres", f"DROP DATABASE {quote(name)} WITH (FORCE)")


@contextlib.contextmanager
def prefect_server(site: Site) -> Iterator[str]:
    """A real Prefect server on loopback, by the tenant's own role; gives the API's address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "w+") as log:
        process = subprocess.Popen(
            [VIRTUALENV / "bin/prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={
                **site.environment(role=site.tenant.server),
                "HOME": home,
                "PREFECT_HOME": home,
                "PREFECT_API_URL": url,
                "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
                "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3650D",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_ready(f"{url}/ready")
            yield url
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """A list that holds the seconds which the block took, after it."""
    seconds: list[float] = []
    started = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - started)


def show(title: str, rows: Sequence[tuple[str, float, str, float | None]]) -> None:
    """Print rows of what was measured, its seconds, what it is compared with, and how many times faster it is."""
    width = max(len(row[0]) for row in rows)
    other = max(len(row[2]) for row in rows)
    print(f"\n{title}\n{'what':<{width}}  {'seconds':>9}  {'against':<{other}}  {'times faster':>12}")
    for what, seconds, against, ratio in rows:
        text = "" if ratio is None else f"{ratio:,.1f}"
        print(f"{what:<{width}}  {seconds:>9.3f}  {against:<{other}}  {text:>12}")
