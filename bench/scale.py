"""Measure what a flow run costs each part of a site, and work out what a large site needs and where its first wall is.

The runs are real: a worker takes them, their processes have tasks and write logs, and API, background services, Redis
and PostgreSQL are processes of their own, whose processor time counts, so that other load matters little. BENCH_RUNS
sets their number (60). From the costs per run the needs are computed, and an hour of the site is simulated, second by
second, with as many API processes as given: how long a request waits where schedules begin runs at full minutes.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pgprefect.core.http import PrefectApi, is_ready
from redis import Redis

from bench.support import DURABLE, prefect_command, prefect_database, running_services, shared_by_redis
from tests.support.ports import free_port
from tests.support.postgresql import docker
from tests.support.site import Site
from tests.support.waiting import wait_for

RUNS = int(os.environ.get("BENCH_RUNS", "60"))
TASKS, LINES = 5, 10
AT_ONCE = 4  # runs of the measurement
IDLE_SECONDS = 60
_FLOW = f"""
from prefect import flow, get_run_logger, task

@task
def step(number):
    return number

@flow
def measured():
    logger = get_run_logger()
    for number in range({LINES}):
        logger.info("line %s", number)
    for number in range({TASKS}):
        step(number)
"""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Costs:
    """What one flow run costs: processor seconds, bytes and rows."""

    api_s: float
    services_s: float
    postgresql_s: float
    redis_s: float
    wal_bytes: float
    table_bytes: float
    rows: float
    redis_bytes: float
    transactions: float

    def __add__(self, other: Costs) -> Costs:
        return Costs(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: Costs) -> Costs:
        return Costs(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))

    def __truediv__(self, number: float) -> Costs:
        return Costs(*(getattr(self, one.name) / number for one in fields(self)))

    def __mul__(self, number: float) -> Costs:
        return self / (1 / number)


@dataclass(frozen=True)
class LargeSite:
    """A site on paper."""

    hosts: int = 100
    runs_per_minute: int = 1000
    rows: float = 100e6
    at_full_minutes: float = 0.8  # the share of runs whose schedules begin there
    run_s: float = 60
    api_connections: int = 22  # of a process: the site's pool, and the two besides
    away_s: float = 600  # for which the services take no events out


def tree_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time of a process and its children."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            number = int(path.parent.name)
            children.setdefault(int(words[1]), []).append(number)
            used[number] = sum(map(int, words[11:15])) / _TICK
    found, total = [process.pid], 0.0
    while found:
        one = found.pop()
        total += used.get(one, 0)
        found += children.get(one, [])
    return total


def container_seconds(container: str) -> float:
    """Return the processor time of a container."""
    files = "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || sed -n s/usage_usec.//p /sys/fs/cgroup/cpu.stat"
    digits = docker("exec", container, "sh", "-c", f"{files}; stat -fc %T /sys/fs/cgroup").split()
    return int(digits[0]) / (1e6 if digits[-1] == "cgroup2fs" else 1e9)


@dataclass
class Measured:
    """A site whose parts are processes of their own."""

    site: Site
    redis: Redis
    api: subprocess.Popen[bytes]
    services: subprocess.Popen[bytes]

    def used(self) -> Costs:
        """Return what was used since the start."""
        schema = self.site.tenant.schema
        tables = "FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'"
        [(size,)] = self.site.sql(f"SELECT sum(pg_total_relation_size(oid)) {tables}", schema)
        names = [name for (name,) in self.site.sql(f"SELECT oid::regclass::text {tables}", schema)]
        [(rows,)] = self.site.sql("SELECT " + " + ".join(f"(SELECT count(*) FROM {name})" for name in names))
        [(wal,)] = self.site.sql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
        [(transactions,)] = self.site.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        cpu, stats = self.redis.info("cpu"), self.redis.info("stats")
        return Costs(
            api_s=tree_seconds(self.api),
            services_s=tree_seconds(self.services),
            postgresql_s=container_seconds(self.site.server.container),
            redis_s=cpu["used_cpu_user"] + cpu["used_cpu_sys"],
            wal_bytes=float(wal),
            table_bytes=float(size),
            rows=rows,
            redis_bytes=stats["total_net_input_bytes"],
            transactions=transactions,
        )


def over(measured: Measured, work: Callable[[], Any]) -> tuple[Costs, float]:
    """Return what was used while something was done, and the seconds that it took."""
    begin, before = time.monotonic(), measured.used()
    work()
    return measured.used() - before, time.monotonic() - begin


def run_all(api: PrefectApi, deployment: str, count: int) -> None:
    """Have a worker do so many runs, and wait until all have completed and their events are written."""
    runs = [api.call("POST", f"/deployments/{deployment}/create_flow_run", {})["id"] for _ in range(count)]

    def completed() -> bool:
        states = {"id": {"any_": runs}, "state": {"type": {"any_": ["COMPLETED"]}}}
        return int(api.call("POST", "/flow_runs/count", {"flow_runs": states})) == count

    wait_for(completed, seconds=60 + 10 * count)
    time.sleep(15)


def measure() -> tuple[Costs, Costs, Costs]:
    """Return the costs of a run, those of a second without runs, and those that a worker adds to it."""
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(prefect_database(DURABLE))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        url = f"http://127.0.0.1:{port}/api"
        ours = {**site.environment(role=site.tenant.server, home=str(folder)), "PREFECT_API_URL": url}
        shared, redis = stack.enter_context(shared_by_redis(ours))
        words = ("server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-services")
        api = stack.enter_context(prefect_command(shared, *words))
        wait_for(lambda: is_ready(f"{url}/ready"), seconds=180)
        services = stack.enter_context(running_services(shared))
        measured, call = Measured(site, redis, api, services), PrefectApi(url)
        (folder / "measured.py").write_text(_FLOW)
        call.call("POST", "/work_pools/", {"name": "default", "type": "process"})
        body = {
            "name": "measured",
            "flow_id": call.call("POST", "/flows/", {"name": "measured"})["id"],
            "work_pool_name": "default",
            "entrypoint": "measured.py:measured",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
        }
        deployment = call.call("POST", "/deployments/", body)["id"]
        time.sleep(20)  # what the start needs
        idle, seconds = over(measured, lambda: time.sleep(IDLE_SECONDS))
        a_second = idle / seconds
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "DO_NOT_TRACK": "1", "PREFECT_API_URL": url}
        worker = ("worker", "start", "--pool", "default", "--limit", str(AT_ONCE))
        stack.enter_context(prefect_command(environment, *worker))
        run_all(call, deployment, AT_ONCE)  # what is done once
        with_worker, seconds = over(measured, lambda: time.sleep(IDLE_SECONDS))
        a_worker = with_worker / seconds - a_second
        used, seconds = over(measured, lambda: run_all(call, deployment, RUNS))
        return (used - with_worker * (seconds / IDLE_SECONDS)) / RUNS, a_second, a_worker


def waits(site: LargeSite, per_run: float, others: float, processes: int) -> tuple[float, float]:
    """Simulate an hour, and return the seconds that what a run asks of the API waits: the median, and the 99th part.

    Half of what a run costs the API falls on its beginning and half on its end. ``others`` are processor seconds a
    second for what else asks.
    """
    chance = random.Random(1)
    begins = [0] * 3600
    for minute in range(60):
        for _ in range(site.runs_per_minute):
            late = chance.expovariate(1) if chance.random() < site.at_full_minutes else chance.uniform(0, 60)
            begins[min(minute * 60 + int(late), 3599)] += 1
    work = [others] * 3600
    for second, count in enumerate(begins):
        work[second] += count * per_run / 2
        for _ in range(count):
            end = second + int(chance.expovariate(1 / site.run_s))
            if end < 3600:
                work[end] += per_run / 2
    queue, found = 0.0, []
    for second, added in enumerate(work):
        queue = max(0.0, queue + added - processes)
        found += [queue / processes] * begins[second]
    found.sort()
    return statistics.median(found), found[int(len(found) * 0.99)]


def show(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    print(f"\n{title}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def say_costs(run: Costs, a_second: Costs, a_worker: Costs) -> None:
    rows = [
        (one.name, *(f"{getattr(costs, one.name):,.4f}" for costs in (run, a_second, a_worker)))
        for one in fields(Costs)
    ]
    title = f"A run with {TASKS} tasks and {LINES} lines of log; a second without runs, and what a worker adds to it"
    show(title, [("", "a run", "idle", "a worker"), *rows])


def say_needs(site: LargeSite, run: Costs, needed: Costs) -> None:
    day = 86_400 * site.runs_per_minute / 60  # runs
    million = f"{site.rows / 1e6:.0f} million rows"
    rows = [
        ("API, cores", f"{needed.api_s:.1f}"),
        ("background services, cores", f"{needed.services_s:.1f}"),
        ("PostgreSQL, cores", f"{needed.postgresql_s:.1f}"),
        ("Redis, cores", f"{needed.redis_s:.2f}"),
        ("transactions a second", f"{needed.transactions:,.0f}"),
        ("WAL, GB a day", f"{needed.wal_bytes * 86_400 / 1e9:,.0f}"),
        ("rows a day, million", f"{run.rows * day / 1e6:,.1f}"),
        ("GB a day in tables and indexes", f"{run.table_bytes * day / 1e9:,.0f}"),
        (f"days until {million}", f"{site.rows / run.rows / day:.1f}"),
        (f"GB at {million}", f"{site.rows / run.rows * run.table_bytes / 1e9:,.0f}"),
        (
            f"Redis, MB after {site.away_s:.0f} s without services",
            f"{run.redis_bytes * site.away_s * day / 86_400e6:,.0f}",
        ),
    ]
    show(f"{site.hosts} hosts with a worker each, {site.runs_per_minute} runs a minute", rows)


def say_walls(site: LargeSite, run: Costs, needed: Costs) -> None:
    rows = [("API processes", "connections", "busy", "a run waits, median", "99 of 100")]
    others = needed.api_s - run.api_s * site.runs_per_minute / 60
    for count in (1, 2, 4, 8, 16, 24, 32):
        busy, said = needed.api_s / count, ("never ends", "")
        if busy < 1:
            middle, late = waits(site, run.api_s, others, count)
            said = (f"{middle:.1f} s", f"{late:.1f} s")
        rows.append((str(count), str(count * site.api_connections), f"{100 * busy:.0f} %", *said))
    show("The API, where schedules begin runs at full minutes", rows)
    walls = {
        "one API process": run.api_s,
        "one process of background services": run.services_s,
        "Redis, which has one core": run.redis_s,
        "a core of PostgreSQL": run.postgresql_s,
    }
    reached = [(name, f"{60 / seconds:,.0f}") for name, seconds in sorted(walls.items(), key=lambda one: -one[1])]
    show("Runs a minute at which a part is busy all the time", reached)


def main() -> None:
    site = LargeSite()
    run, a_second, a_worker = measure()
    needed = run * (site.runs_per_minute / 60) + a_second + a_worker * site.hosts
    say_costs(run, a_second, a_worker)
    say_needs(site, run, needed)
    say_walls(site, run, needed)


if __name__ == "__main__":
    main()
