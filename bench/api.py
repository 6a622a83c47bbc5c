"""Measure how many flow runs a second the API takes: the site's server, and Prefect's on PostgreSQL and SQLite.

A cycle creates a flow run and sets its state, over 16 connections. The servers take turns on the same machine. One more
is the site's with two processes over Redis, and its background services apart.
BENCH_ROUNDS and BENCH_SECONDS set the number of rounds (3) and their length (20).
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from bench.support import DURABLE, prefect_database, running_services, shared_by_redis
from tests.support.prefect_server import running_server
from tests.support.project import DEFAULT, ROOT, VIRTUALENV

ROUNDS, SECONDS = int(os.environ.get("BENCH_ROUNDS", "3")), float(os.environ.get("BENCH_SECONDS", "20"))
CONNECTIONS = 16
ADDED = ("uvloop", "httptools")  # what the lock has besides what Prefect asks for
POOL = {
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "20",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW": "0",
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
}


def cycles(url: str, flow: str, until: float) -> int:
    """Create runs and set their state until then, and return how many; an answer of 503 is tried again later."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)

    def post(path: str, body: object) -> dict[str, str]:
        for attempt in itertools.count():
            connection.request("POST", parts.path + path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status in (200, 201):
                decoded: dict[str, str] = json.loads(content)
                return decoded
            assert answer.status == 503, content
            connection.close()  # the server ends it too where the pause is long
            time.sleep(random.uniform(0.5, 1) * min(5, 0.2 * 2**attempt))
        raise AssertionError

    done = 0
    while time.monotonic() < until:
        run = post("/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})["id"]
        post(f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
        done += 1
    connection.close()
    return done


def measure(url: str, flow: str) -> float:
    """Return the cycles a second over all connections."""
    begin = time.monotonic()
    counts = []
    threads = [
        threading.Thread(target=lambda: counts.append(cycles(url, flow, begin + SECONDS))) for _ in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == CONNECTIONS
    return sum(counts) / (time.monotonic() - begin)


@contextlib.contextmanager
def plain_virtualenv() -> Iterator[Path]:
    """Yield a virtualenv with the lock's packages, without those that Prefect does not ask for."""
    with tempfile.TemporaryDirectory() as folder:
        uv, target = ROOT / ".venv/bin/uv", Path(folder) / "venv"
        lock = ROOT / f"requirements/prefect-{DEFAULT}.txt"
        subprocess.run([uv, "venv", "--quiet", "--python", VIRTUALENV / "bin/python", target], check=True)
        environment = {**os.environ, "VIRTUAL_ENV": str(target)}
        subprocess.run([uv, "pip", "install", "--quiet", "--require-hashes", "-r", lock], check=True, env=environment)
        subprocess.run([uv, "pip", "uninstall", "--quiet", *ADDED], check=True, env=environment)
        yield target


def main() -> None:
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(prefect_database(DURABLE))
        plain = stack.enter_context(plain_virtualenv())
        site.server.sql("postgres", "CREATE DATABASE plain")
        login = site.server.login
        host, port, user, password = (getattr(login, name) for name in ("host", "port", "user", "password"))
        database = f"postgresql+asyncpg://{user}:{urllib.parse.quote(password or '', safe='')}@{host}:{port}/plain"
        ours = {**site.environment(role=site.tenant.server), **POOL}
        shared, _redis = stack.enter_context(shared_by_redis(ours))
        stack.enter_context(running_services(shared))
        servers: dict[str, tuple[Path, dict[str, str], list[str]]] = {
            "the site's server": (VIRTUALENV, ours, []),
            "prefect server start on PostgreSQL": (plain, {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}, []),
            "prefect server start on SQLite": (plain, {}, []),
            "the site's with two processes": (
                VIRTUALENV,
                shared,
                ["--no-services", "--workers", "2"],
            ),
        }
        targets = {}
        for name, (virtualenv, environment, options) in servers.items():
            home = Path(tempfile.mkdtemp())
            stack.callback(shutil.rmtree, home)
            given = {"PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "true", **environment}
            call = stack.enter_context(running_server(home, given, *options, virtualenv=virtualenv))
            targets[name] = (call.__self__.url, call("POST", "/flows/", {"name": "bench"})["id"])  # type: ignore[attr-defined]
        found: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(ROUNDS):
            for name, target in targets.items():
                found[name].append(measure(*target))
                print(f"{name}: {found[name][-1]:.1f} cycles/s", flush=True)
    first = found["the site's server"]
    for name, rates in found.items():
        ratios = [one / other for one, other in zip(first, rates, strict=True)]
        said = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        median = statistics.median(ratios)
        print(f"{name:<36} {statistics.median(rates):>6.1f} cycles/s, ours is {median:.2f} times ({said})")


if __name__ == "__main__":
    main()
