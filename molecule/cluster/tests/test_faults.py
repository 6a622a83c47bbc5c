"""Faults of several servers: what is acknowledged stays, health names the fault, and all comes back by itself."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from testinfra.host import Host

from tests.support.certificates import sign_again
from tests.support.hosts import changed, problem_codes, wait_for_problem
from tests.support.load import Load
from tests.support.network import address_of, cut
from tests.support.scenario import PSQL, SCENARIO, Playbook, container_of
from tests.support.servers import SAMPLE, as_a_client, end, healthy, lost_runs, used_servers
from tests.support.waiting import wait_for

Loads = Callable[..., Load]
UNITS = ("prefect-server@prefect", "prefect-services@prefect")
DATA = "/var/lib/prefect-redis/prefect"
TLS = "/etc/prefect/tls"


def answers(stream: Load, more: int = 50) -> None:
    """Wait until further requests were acknowledged."""
    before = len(stream.acknowledged)
    wait_for(lambda: len(stream.acknowledged) > before + more, lambda: stream.failures[-4:], 240)


def main_process(host: Host, unit: str) -> int:
    return int(host.check_output("systemctl show --property MainPID --value %s", unit))


def is_another(host: Host, unit: str, process: int) -> bool:
    """Return whether a unit runs again, in place of a process that was killed."""
    return bool(host.service(unit).is_running) and main_process(host, unit) != process


def test_an_api_is_cut_off_from_the_database(database: Host, first: Host, second: Host, load: Loads) -> None:
    with load("app2").running() as stream:
        stream.start(SAMPLE, source="sample")
        answers(stream)
        with cut(container_of("app1"), address_of(database)):
            begun = time.monotonic()
            wait_for_problem(first, "connection_failed")
            print(f"Health names it after {time.monotonic() - begun:.1f} s.")
            assert "connection_failed" not in problem_codes(second)
            wait_for(lambda: used_servers(second)["app1"] == "DOWN", lambda: used_servers(second), 90)
            print(f"The proxy leaves it out after {time.monotonic() - begun:.1f} s.")
            # What it was asked before ends by its own limits.
            left_out = (time.time(), "")
            wait_for(lambda: time.time() - max([left_out, *stream.failures])[0] > 10, lambda: stream.failures)
            stream.start(SAMPLE, source="sample")
            answers(stream)
        healthy(first, second)
        wait_for(lambda: used_servers(second)["app1"] == "UP", lambda: used_servers(second))
        stream.start(SAMPLE, source="sample")
        answers(stream)
    print(f"{len(stream.failures)} failed, the slowest took {stream.slowest:.1f} s: {stream.failures}")
    assert not lost_runs(database, stream)
    assert end(database, stream) == ["COMPLETED"] * 3


def test_each_service_that_is_killed_comes_back(
    database: Host, first: Host, second: Host, redis: Host, load: Loads
) -> None:
    version = database.check_output("ls /etc/postgresql")
    killed = [
        *((first, unit) for unit in (*UNITS, "prefect-worker@prefect-default-1", "prefect-proxy")),
        (redis, "prefect-redis@prefect"),
        (database, f"postgresql@{version}-main"),
    ]
    with load("app2").running() as stream:
        for host, unit in killed:
            stream.start(SAMPLE, source="sample")
            before = main_process(host, unit)
            host.check_output("kill -KILL %s", str(before))
            wait_for(partial(is_another, host, unit, before), seconds=120)
            answers(stream)
    healthy(first, second, database)
    assert not lost_runs(database, stream)
    # Of the run whose worker was killed the recovery finds out, and one that writes when PostgreSQL is killed fails.
    assert set(end(database, stream)) <= {"COMPLETED", "CRASHED", "FAILED"}


def test_the_memory_of_redis_is_full(
    database: Host, first: Host, second: Host, redis: Host, load: Loads, secrets: dict[str, str]
) -> None:
    client = f"REDISCLI_AUTH={secrets['prefect_redis']} valkey-cli -h {address_of(redis)} -p 6400 --user prefect"
    client += f" --tls --cacert {TLS}/ca.pem --cert {TLS}/redis.pem --key {TLS}/redis.key"
    with load("app2").running() as stream:
        stream.start(SAMPLE, source="sample")
        answers(stream)
        assert redis.check_output(f"{client} SETRANGE filler 300000000 x") == "300000001"
        try:
            for host in (first, second):
                wait_for_problem(host, "redis_refuses")
            assert "api_not_ready" not in problem_codes(first)
        finally:
            redis.check_output(f"{client} DEL filler")
        healthy(first, second)
        answers(stream)
    assert stream.failures and not lost_runs(database, stream)
    assert end(database, stream) == ["COMPLETED"]


# As a flow run sends its heartbeats: by one connection, few at a time.
QUIET_CLIENT = """
import asyncio
from prefect.events import Event
from prefect.events.clients import get_events_client
async def main():
    async with get_events_client() as client:
        for _ in range(25):
            await client.emit(Event(event="quiet", resource={"prefect.resource.id": "quiet"}))
            await asyncio.sleep(6)
asyncio.run(main())
"""


@pytest.mark.thorough
def test_a_quiet_client_is_heard_again_after_redis_was_away(
    database: Host, first: Host, second: Host, redis: Host
) -> None:
    heard = "SELECT count(*), max(extract(epoch FROM received - occurred)) FROM prefect.events WHERE event = 'quiet'"
    as_a_client(second, "quiet", QUIET_CLIENT)
    wait_for(lambda: not database.check_output(PSQL, heard).startswith("0|"))
    redis.check_output("systemctl stop prefect-redis@prefect")
    time.sleep(40)
    redis.check_output("systemctl start prefect-redis@prefect")
    begun = database.check_output(PSQL, "SELECT now()")
    wait_for(lambda: not second.service("quiet").is_running, seconds=240)
    time.sleep(15)
    count, slowest = database.check_output(PSQL, f"{heard} AND occurred > '{begun}'").split("|")
    assert int(count) > 5 and float(slowest) < 12
    healthy(first, second)


@pytest.mark.thorough
def test_an_api_is_cut_off_from_redis(database: Host, first: Host, second: Host, redis: Host, load: Loads) -> None:
    with load("app2").running() as stream:
        stream.start(SAMPLE, source="sample")
        answers(stream)
        try:
            with cut(container_of("app1"), address_of(redis)):
                wait_for_problem(first, "redis_refuses")
                assert "redis_refuses" not in problem_codes(second)
                # Its API says that it is ready, so that the proxies go on to ask it: what the page says ends that.
                first.check_output("systemctl stop prefect-server@prefect")
                wait_for(lambda: used_servers(second)["app1"] == "DOWN", lambda: used_servers(second))
                wait_for(lambda: time.time() - stream.failures[-1][0] > 10, lambda: stream.failures)
                answers(stream)
        finally:
            first.check_output("systemctl start prefect-server@prefect")
        healthy(first, second)
        answers(stream)
    print(f"{len(stream.failures)} failed, the slowest took {stream.slowest:.1f} s: {stream.failures}")
    assert not lost_runs(database, stream)
    assert set(end(database, stream)) <= {"COMPLETED", "CRASHED"}


@pytest.fixture
def small_disk(redis: Host) -> Iterator[None]:
    """Redis has a disk of its own, with 256 MB."""
    redis.check_output(f"systemctl stop prefect-redis@prefect; mv {DATA} {DATA}.aside; mkdir {DATA}")
    redis.check_output(f"mount -t tmpfs -o size=256m tmpfs {DATA}; cp -a {DATA}.aside/. {DATA}")
    redis.check_output("systemctl start prefect-redis@prefect")
    yield
    redis.check_output(f"systemctl stop prefect-redis@prefect; rm -r {DATA}.aside/*; cp -a {DATA}/. {DATA}.aside")
    redis.check_output(f"umount {DATA}; rmdir {DATA}; mv {DATA}.aside {DATA}; systemctl start prefect-redis@prefect")


@pytest.mark.thorough
@pytest.mark.usefixtures("small_disk")
def test_the_disk_of_redis_is_full(database: Host, first: Host, second: Host, redis: Host, load: Loads) -> None:
    healthy(first, second)
    process = main_process(redis, "prefect-redis@prefect")
    with load("app2").running() as stream:
        stream.start(SAMPLE, source="sample")
        answers(stream)
        assert redis.run(f"dd if=/dev/zero of={DATA}/filler bs=64k").rc == 1
        try:
            wait_for_problem(first, "redis_refuses")
        finally:
            redis.check_output(f"rm {DATA}/filler")
        healthy(first, second)
        answers(stream)
    assert main_process(redis, "prefect-redis@prefect") == process
    assert not lost_runs(database, stream)
    assert end(database, stream) == ["COMPLETED"]


@contextlib.contextmanager
def clock_ahead(host: Host, seconds: int) -> Iterator[None]:
    """Let the API and the services of a host see a later time; all containers share the kernel's.

    The library of Debian 12 breaks the sleep of Python.
    """
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends libfaketime")
    library = host.check_output("dpkg --listfiles libfaketime | grep libfaketimeMT")
    settings = f"LD_PRELOAD={library} FAKETIME=+{seconds}s FAKETIME_DONT_FAKE_MONOTONIC=1"
    folders = [f"/etc/systemd/system/{unit}.service.d" for unit in UNITS]
    for folder in folders:
        host.check_output(f"mkdir {folder}; printf '[Service]\\nEnvironment={settings}\\n' >{folder}/clock.conf")
    restart = f"systemctl daemon-reload; systemctl restart {' '.join(UNITS)}"
    try:
        host.check_output(restart)
        yield
    finally:
        host.check_output(f"rm -r {' '.join(folders)}; apt-get purge --yes libfaketime; {restart}")


@pytest.mark.thorough
def test_the_clock_of_a_host_is_a_minute_ahead(database: Host, first: Host, second: Host, load: Loads) -> None:
    stream = load("app2")
    deployment = json.loads(stream.call("GET", f"/deployments/name/{SAMPLE}")[1])["id"]
    schedules = f"/deployments/{deployment}/schedules"
    begun = f"FROM prefect.flow_run WHERE auto_scheduled AND start_time IS NOT NULL AND deployment_id = '{deployment}'"
    with clock_ahead(second, 60), stream.running():
        answers(stream)
        status, made = stream.call("POST", schedules, [{"active": True, "schedule": {"interval": 20}}])
        assert status == 201, made
        wait_for(lambda: int(database.check_output(PSQL, f"SELECT count(*) {begun}")) > 2, seconds=240)
        stream.call("DELETE", f"{schedules}/{json.loads(made)[0]['id']}")
    healthy(first, second)
    stream.runs = database.check_output(PSQL, f"SELECT id {begun}").split()
    assert end(database, stream) == ["COMPLETED"] * len(stream.runs)
    moments = database.check_output(PSQL, f"SELECT count(DISTINCT expected_start_time) {begun}")
    assert int(moments) == len(stream.runs)
    again = f"""SELECT flow_run_id FROM prefect.flow_run_state
                WHERE type = 'RUNNING' AND flow_run_id IN (SELECT id {begun}) GROUP BY 1 HAVING count(*) > 1"""
    assert database.check_output(PSQL, again) == ""
    assert not lost_runs(database, stream)


@pytest.mark.thorough
def test_the_certificate_of_a_proxy_has_ended(
    database: Host, first: Host, second: Host, load: Loads, playbook: Playbook
) -> None:
    folder = SCENARIO / "inventory/.secrets/tls"
    ended = sign_again(folder / "app1.proxy.pem", folder / "ca.pem", folder / "ca.key", days=-1)
    key = (folder / "app1.proxy.key").read_text()
    for name, text in (("proxy.pem", ended), ("proxy-combined.pem", ended + key)):
        first.check_output("printf %%s %s >%s", text, f"{TLS}/{name}")
    with load("app2").running() as stream:
        first.check_output("systemctl reload prefect-proxy")
        wait_for_problem(first, "certificate_ends")
        wait_for(lambda: used_servers(second)["app1"] == "DOWN", lambda: used_servers(second))
        failed = len(stream.failures)
        answers(stream)
        assert len(stream.failures) == failed
        mended = playbook("playbooks/certificates.yml")
        assert mended.returncode == 0 and sum(changed(mended.stdout)) > 0, mended.stdout
        wait_for(lambda: all(set(used_servers(host).values()) == {"UP"} for host in (first, second)))
    assert not lost_runs(database, stream)
    healthy(first, second)
