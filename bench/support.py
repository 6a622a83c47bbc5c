"""Shared by the benchmarks: a database with Prefect's tables, a real server on it, and the printed table."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pgprefect.core.http import is_ready
from pgprefect.core.prefect import MADE_HERE
from pgprefect.core.sql import quote
from redis import Redis

from bench.data import fill
from tests.support.ports import free_port
from tests.support.postgresql import running_postgresql
from tests.support.project import VIRTUALENV
from tests.support.redis_server import running_redis
from tests.support.site import Site, migrated_site

# The tests' PostgreSQL is fast because it is not durable. Debian's, which applications use, is.
DURABLE = (
    "-c fsync=on -c synchronous_commit=on -c full_page_writes=on -c wal_level=replica -c max_wal_senders=10 "
    "-c log_statement=none"
)


@contextlib.contextmanager
def prefect_database(settings: str = "") -> Iterator[Site]:
    """Yield a declared database with Prefect's real tables on its own PostgreSQL."""
    # As on a host of 8 GB; parallel queries need more shared memory than docker's default.
    options = ["--shm-size=1g", "--env", f"POSTGRES_OPTIONS=-c shared_buffers=2GB {settings}"]
    # A plain file system as on a host, without the container's layers.
    options += ["--volume=/var/lib/postgresql", "--volume=/var/tmp"]
    with running_postgresql(*options) as server, tempfile.TemporaryDirectory() as home:
        yield migrated_site(server, "bench", Path(home))


@contextlib.contextmanager
def database_of_runs(runs: int) -> Iterator[Site]:
    """Yield such a database with runs of 120 days, and nothing that belongs to them."""
    with prefect_database() as site:
        print(f"Fill the database with {runs:,} runs of 120 days ...", flush=True)
        with contextlib.closing(site.server.connect(site.database)) as connection:
            fill(connection, site.tenant.schema, runs, children=False)
        yield site


@contextlib.contextmanager
def copied(site: Site, name: str) -> Iterator[Site]:
    """Yield a copy of the database, so that each side has the same data."""
    owner = quote(site.declaration.app_owner)
    site.server.sql("postgres", f"CREATE DATABASE {quote(name)} TEMPLATE {quote(site.database)} OWNER {owner}")
    site.server.sql("postgres", f"COMMENT ON DATABASE {quote(name)} IS '{MADE_HERE}'")  # it is not in a copy
    copy = Site(site.server, replace(site.declaration, database=name))
    copy.apply()
    try:
        yield copy
    finally:
        site.server.sql("postgres", f"DROP DATABASE {quote(name)} WITH (FORCE)")


@contextlib.contextmanager
def prefect_server(site: Site, virtualenv: Path = VIRTUALENV) -> Iterator[str]:
    """Start a real Prefect server on loopback with the tenant's own role, and yield the API's URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "w+") as log:
        process = subprocess.Popen(
            [virtualenv / "bin/prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={
                **site.environment(role=site.tenant.server, home=home),
                "PREFECT_API_URL": url,
                "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3650D",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while not is_ready(f"{url}/ready"):
                assert process.poll() is None, Path(log.name).read_text()
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def shared_by_redis(environment: Mapping[str, str]) -> Iterator[tuple[dict[str, str], Redis]]:
    """Run a Redis, and yield the environment of a server's processes that share by it what they know."""
    port, password = free_port(), "bench"
    url = f"redis://default:{password}@127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder), port, password) as redis:
        yield (
            {
                **environment,
                "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
                "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
                "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
                "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
                "PREFECT_REDIS_MESSAGING_URL": f"{url}/0",
                "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"{url}/0",
                "PREFECT_SERVER_DOCKET_URL": f"{url}/1",
            },
            redis,
        )


@contextlib.contextmanager
def prefect_command(environment: Mapping[str, str], *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of Prefect's until the end of the block, whatever it still does then."""
    process = subprocess.Popen(
        [VIRTUALENV / "bin/prefect", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_services(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the background services in a process of their own."""
    with tempfile.TemporaryDirectory() as home:
        own = {"PATH": os.environ["PATH"], "DO_NOT_TRACK": "1", **environment, "HOME": home, "PREFECT_HOME": home}
        with prefect_command(own, "server", "services", "start") as services:
            yield services


def latencies(url: str, stop: threading.Event) -> list[float]:
    """Request the newest runs, as the UI does, until ``stop`` is set, and return the sorted seconds."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    body = json.dumps({"limit": 20, "sort": "EXPECTED_START_TIME_DESC"})
    taken = []
    while not stop.is_set():
        started = time.perf_counter()
        connection.request("POST", f"{parts.path}/flow_runs/filter", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        taken.append(time.perf_counter() - started)
        time.sleep(0.01)
    connection.close()
    return sorted(taken)


def p99(taken: list[float]) -> float:
    return taken[int(len(taken) * 0.99)]


def latencies_during(url: str, work: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Return the API's latencies while it is idle, and while ``work`` runs."""
    stop, idle_seconds = threading.Event(), 10.0
    threading.Timer(2, stop.set).start()
    latencies(url, stop)  # warm up
    stop = threading.Event()
    threading.Timer(idle_seconds, stop.set).start()
    idle = latencies(url, stop)
    stop = threading.Event()

    def do() -> None:
        try:
            work()
        finally:
            stop.set()

    working = threading.Thread(target=do)
    working.start()
    busy = latencies(url, stop)
    working.join()
    return idle, busy


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """Yield a list that holds the seconds of the block once it has ended."""
    seconds: list[float] = []
    started = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - started)


def show(title: str, rows: Sequence[tuple[str, float, str, float | None]]) -> None:
    """Print rows of (what, seconds, what it is compared with, how many times faster it is)."""
    width = max(len(row[0]) for row in rows)
    other = max(len("compared with"), *(len(row[2]) for row in rows))
    print(f"\n{title}\n{'what':<{width}}  {'seconds':>9}  {'compared with':<{other}}  {'times faster':>12}")
    for what, seconds, against, ratio in rows:
        text = "" if ratio is None else f"{ratio:,.1f}"
        print(f"{what:<{width}}  {seconds:>9.3f}  {against:<{other}}  {text:>12}")
