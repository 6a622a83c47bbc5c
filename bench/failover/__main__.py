"""Measure what a database of three hosts costs its clients: growing into it, and each way to another primary.

A site of two servers has BENCH_GIGABYTES (10) in a database of one host. Two hosts are added while a client writes
and another sends requests to the API. Then each fault is made BENCH_ROUNDS (3) times; PostgreSQL's crash also before.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from statistics import median

from testinfra.host import Host

from tests.support.load import Load
from tests.support.network import address_of
from tests.support.patroni import is_whole, switch_over
from tests.support.scenario import PSQL, SCENARIO, host_of, lost, on_the_controller
from tests.support.waiting import wait_for
from tests.support.writes import longest_gap, lost_rows, taking_writes, writes_go_on, writing

GIGABYTES, ROUNDS = int(os.environ.get("BENCH_GIGABYTES", "10")), int(os.environ.get("BENCH_ROUNDS", "3"))
MEMBERS = ("db1", "db2", "db3")
ONE, THREE = ("hosts.yml",), ("hosts.yml", "members.yml")
# Rows of a kilobyte.
FILL = f"""SET ROLE mltrading_owner; CREATE TABLE public.filler AS
           SELECT number, repeat(md5(number::text), 30) AS text FROM generate_series(1, {GIGABYTES} * 1000000) number"""


def ansible(playbook: str, inventories: tuple[str, ...]) -> float:
    """Run a playbook, and return its seconds."""
    given = [word for name in inventories for word in ("--inventory", f"inventory/mine/{name}")]
    begun = time.monotonic()
    done = on_the_controller(".venv/bin/ansible-playbook", *given, playbook)
    if done.returncode:
        raise RuntimeError(done.stdout)
    return time.monotonic() - begun


def requests(host: Host) -> Load:
    """Requests to the API by the proxy of a host, 50 a second, of which a fifth create a run."""
    secrets = SCENARIO / "inventory/.secrets"
    login = f"admin:{(secrets / 'prefect_api').read_text().strip()}"
    return Load(address_of(host), "prefect.failover.test", secrets / "tls/ca.pem", login, rate=50, reads=4)


def crash(host: Host) -> None:
    """Kill PostgreSQL, and wait until it takes writes again."""
    host.check_output("kill -KILL $(head -1 /var/lib/postgresql/*/main/postmaster.pid)")
    wait_for(lambda: taking_writes({"": host}) == [""])


def lose(members: dict[str, Host], primary: str) -> None:
    """Take the power of a host away until another one takes writes."""
    with lost(primary):
        wait_for(lambda: len(taking_writes(members)) == 1, seconds=60)
        time.sleep(5)


class Gaps:
    """The longest times without an acknowledged write, by what happened."""

    def __init__(self, members: dict[str, Host], app: Host) -> None:
        self._members, self._app = members, app
        self._found: dict[str, list[float]] = {}

    def measure(self, what: str, event: Callable[[str], object]) -> None:
        """Let something happen to the primary while a client writes."""
        (primary,) = taking_writes(self._members)
        with writing(self._app, self._members[primary]):
            event(primary)
            writes_go_on(self._app)
        (now,) = taking_writes(self._members)
        missing = lost_rows(self._app, self._members[now])
        if missing:
            raise RuntimeError(f"{what}: acknowledged rows are lost: {sorted(missing)}")
        self._found.setdefault(what, []).append(longest_gap(self._app))

    def show(self) -> None:
        print(f"\n{'what':<40} {'longest time without writes, seconds':>40}")
        for what, gaps in self._found.items():
            print(f"{what:<40} {median(gaps):>10.1f} ({', '.join(f'{gap:.1f}' for gap in gaps)})")


def grow(gaps: Gaps, stream: Load) -> None:
    """Add the two hosts under writes and requests."""

    def run(_primary: str) -> None:
        seconds = ansible("site.yml", THREE)
        print(f"site.yml took {seconds:.0f} s.", flush=True)

    with stream.running():
        gaps.measure(f"one host with {GIGABYTES} GB becomes three", run)
    sent = stream.answered + len(stream.failures)
    print(f"{len(stream.failures)} of {sent} requests failed, the slowest took {stream.slowest:.1f} s", flush=True)
    print(json.dumps(stream.failures[:5]))


def main() -> None:
    ansible("molecule/example/destroy.yml", ONE)
    try:
        ansible("molecule/example/create.yml", ONE)
        members, app = {name: host_of(name) for name in MEMBERS}, host_of("app2")
        print("Set up two servers with one database ...", flush=True)
        ansible("site.yml", ONE)
        print(f"Write {GIGABYTES} GB ...", flush=True)
        members["db1"].check_output(PSQL, FILL)
        gaps = Gaps(members, app)
        for _ in range(ROUNDS):
            gaps.measure("one host: a crash of PostgreSQL", lambda primary: crash(members[primary]))
        grow(gaps, requests(app))
        for _ in range(ROUNDS):
            wait_for(lambda: is_whole(members["db1"], members), seconds=180)
            gaps.measure("three: a switchover", lambda primary: switch_over(members, primary))
            gaps.measure("three: a crash of PostgreSQL", lambda primary: crash(members[primary]))
            wait_for(lambda: is_whole(members["db1"], members), seconds=180)
            gaps.measure("three: the primary's host is lost", lambda primary: lose(members, primary))
        gaps.show()
    finally:
        ansible("molecule/example/destroy.yml", ONE)


if __name__ == "__main__":
    main()
