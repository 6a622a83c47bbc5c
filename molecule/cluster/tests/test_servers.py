"""Two hosts with the same servers: each does its part, and one goes on without the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testinfra.host import Host

from tests.support.hosts import changed, command_of, problem_codes, start_run, wait_for_problem
from tests.support.load import Load
from tests.support.project import host_virtualenv
from tests.support.scenario import PSQL, Playbook, Typed, lost, state_of
from tests.support.servers import (
    SAMPLE,
    TELLING,
    as_a_client,
    ask_redis,
    completes,
    healthy,
    lost_runs,
    other_packages,
    shown_redis,
    used_servers,
)
from tests.support.waiting import wait_for

# Which the inventory has.
RELEASE = "3.8.8"
Loads = Callable[..., Load]


@pytest.mark.usefixtures("completed_run")
def test_each_host_has_an_api_services_and_a_worker(database: Host, first: Host, second: Host) -> None:
    for host in (first, second):
        for unit in ("server@prefect", "services@prefect", "worker@prefect-default-1"):
            assert host.service(f"prefect-{unit}").is_running and host.service(f"prefect-{unit}").is_enabled
    sessions = """SELECT string_agg(DISTINCT application_name || ' ' || client_addr, ',') FROM pg_stat_activity
                  WHERE application_name ~ '^prefect-serv(er|ices)@'"""
    assert len(database.check_output(PSQL, sessions).split(",")) == 4
    healthy(first, second, database)


@pytest.mark.thorough
def test_each_proxy_sends_to_both_and_drains_neither(first: Host, second: Host) -> None:
    for host in (first, second):
        assert used_servers(host) == {"app1": "UP", "app2": "UP"}
    first.check_output("python3 -c %s", TELLING.format("set server tenant_prefect/app2 state drain"))
    try:
        assert used_servers(first)["app2"] == "DRAIN"
        wait_for_problem(first, "proxy_drains")
        assert "proxy_drains" not in problem_codes(second)
    finally:
        first.check_output("systemctl reload prefect-proxy")
    healthy(first)


@pytest.mark.thorough
def test_a_peer_must_have_a_certificate_of_the_site(database: Host, first: Host) -> None:
    first_address = first.check_output("hostname --all-ip-addresses").split()[0]
    tls = f"openssl s_client -connect {first_address}:5200 -quiet -verify_quiet"
    ask = "printf 'GET /api/health HTTP/1.0\\r\\n\\r\\n'"
    stranger = database.run(f"({ask}; sleep 1) | {tls}")
    assert "200 OK" not in stranger.stdout and "certificate required" in stranger.stderr, stranger
    own = "/etc/prefect/tls/postgresql"
    known = database.run(f"({ask}; sleep 1) | {tls} -cert {own}.pem -key {own}.key")
    assert "200 OK" in known.stdout, known


@pytest.mark.thorough
def test_redis_is_for_those_who_have_a_certificate_and_its_password(
    database: Host, redis: Host, secrets: dict[str, str]
) -> None:
    assert redis.check_output("systemctl is-active prefect-redis@prefect") == "active"
    assert redis.run("systemctl is-active valkey-server").stdout.strip() == "inactive"
    at = redis.check_output("hostname --all-ip-addresses").split()[0]
    listening = redis.check_output("ss --no-header --listening --tcp --numeric")
    assert f"{at}:6400" in listening and ":6379" not in listening
    verified = "--tls --cacert /etc/prefect/tls/ca.pem"
    tls = f"{verified} --cert /etc/prefect/tls/redis.pem --key /etc/prefect/tls/redis.key"
    client = f"valkey-cli -h {at} -p 6400 --no-auth-warning"
    assert "NOAUTH" in redis.check_output(f"{client} {tls} GET x")
    assert "NOAUTH" in redis.check_output(f"{client} {tls} --user default --pass x GET x")
    assert redis.run(f"{client} GET x").rc != 0  # without TLS
    login = f"REDISCLI_AUTH={secrets['prefect_redis']} VALKEYCLI_AUTH={secrets['prefect_redis']}"
    assert int(redis.check_output(f"{login} {client} {tls} --user prefect DBSIZE")) > 0
    without = redis.run(f"{login} {client} {verified} --user prefect DBSIZE")
    assert without.rc != 0 and without.stdout == "", without
    assert "NOPERM" in redis.check_output(f"{login} {client} {tls} --user prefect CONFIG GET dir")
    assert "NOPERM" in redis.check_output(f"{login} {client} {tls} --user prefect FLUSHALL")
    readable = redis.check_output("find /etc/prefect /var/lib/prefect-redis -type f -perm /o=r -not -path '*/tls/*'")
    assert [path for path in readable.split() if "prefect_redis" in path or path.endswith(".conf")] == []
    assert secrets["prefect_redis"] not in redis.check_output("cat /etc/prefect/redis/prefect.conf")
    assert not database.package("redis-server").is_installed


def test_what_the_api_shows_of_redis_lets_no_flow_in(first: Host, second: Host, secrets: dict[str, str]) -> None:
    for host in (first, second):
        address = shown_redis(host, "prefect")
        assert secrets["prefect_redis"] in address and ask_redis(host, "prefect", address).rc == 0
        refused = ask_redis(host, "prefect-prefect", address)
        assert refused.rc == 1 and "Permission denied" in refused.stderr, refused
        without = ask_redis(host, "prefect-prefect", address.partition("&ssl_certfile=")[0])
        assert without.rc == 1 and "Permission denied" not in without.stderr, without


@pytest.mark.thorough
def test_one_api_is_killed(database: Host, first: Host, load: Loads) -> None:
    with load("app1").running() as stream:
        wait_for(lambda: len(stream.acknowledged) > 40)
        first.check_output("systemctl kill --signal KILL prefect-server@prefect")
        before = len(stream.acknowledged)
        wait_for(lambda: len(stream.acknowledged) > before + 200, lambda: stream.failures)
    # What it was doing is lost; the proxy sends all else to the other host.
    assert len(stream.failures) <= 4 and not lost_runs(database, stream), stream.failures
    healthy(first)


@pytest.mark.thorough
def test_the_services_of_one_host_are_killed(database: Host, first: Host, second: Host) -> None:
    for host, other in ((first, second), (second, first)):
        host.check_output("systemctl stop prefect-services@prefect")
        completes(database, other)
        host.check_output("systemctl start prefect-services@prefect")
    healthy(first, second)


@pytest.mark.thorough
def test_redis_is_restarted_and_its_data_lost_under_load(database: Host, first: Host, redis: Host, load: Loads) -> None:
    with load("app2").running() as stream:
        wait_for(lambda: len(stream.acknowledged) > 20)
        redis.check_output("systemctl kill --signal KILL prefect-redis@prefect")
        wait_for(lambda: len(stream.acknowledged) > 150, lambda: stream.failures)
        redis.check_output("systemctl stop prefect-redis@prefect; rm -r /var/lib/prefect-redis/prefect/*")
        redis.check_output("systemctl start prefect-redis@prefect")
        before = len(stream.acknowledged)
        wait_for(lambda: len(stream.acknowledged) > before + 100, lambda: stream.failures)
    assert not lost_runs(database, stream)
    healthy(first)
    completes(database, first)


HOLDER = """
import os, time
from prefect.concurrency.sync import concurrency
with concurrency("exports"):
    while not os.path.exists("/run/prefect-released"):
        time.sleep(0.5)
"""


@pytest.mark.thorough
def test_slots_whose_leases_are_lost_with_redis_are_freed(
    database: Host, first: Host, redis: Host, typed: Typed
) -> None:
    taken = "SELECT active_slots FROM prefect.concurrency_limit_v2 WHERE name = 'exports'"
    first.check_output("prefect gcl create exports --limit 1 && rm -f /run/prefect-released")
    as_a_client(first, "holder", HOLDER)
    wait_for(lambda: database.check_output(PSQL, taken) == "1")
    redis.check_output("systemctl stop prefect-redis@prefect; rm -r /var/lib/prefect-redis/prefect/*")
    redis.check_output("systemctl start prefect-redis@prefect")
    first.check_output("touch /run/prefect-released")
    wait_for(lambda: not first.service("holder").is_running)
    assert database.check_output(PSQL, taken) == "1"
    shown, _freed = typed("several_servers.md", "Its data is lost")
    assert "exports" in shown and database.check_output(PSQL, taken) == "0"
    first.check_output("prefect gcl delete exports")
    healthy(first)


@pytest.mark.thorough
def test_while_redis_is_away_health_says_so_and_a_run_waits(database: Host, first: Host, redis: Host) -> None:
    run = start_run(first, SAMPLE, "--param source=sample")
    redis.check_output("systemctl stop prefect-redis@prefect")
    try:
        wait_for_problem(first, "redis_refuses")
        assert "api_not_ready" not in problem_codes(first)
    finally:
        redis.check_output("systemctl start prefect-redis@prefect")
    wait_for(lambda: state_of(database, run) == "COMPLETED", lambda: state_of(database, run), seconds=120)
    healthy(first)


def test_changed_settings_reach_one_api_after_the_other(
    database: Host, first: Host, second: Host, load: Loads, playbook: Playbook
) -> None:
    asked = ("--extra-vars", '{"prefect_server_environment": {"TZ": "Europe/Berlin"}}')
    with load("app1", rate=50, reads=4).running(threads=8) as stream:
        wait_for(lambda: len(stream.acknowledged) > 20)
        done = playbook("playbooks/server.yml", *asked)
        assert done.returncode == 0 and changed(done.stdout) == [3, 3], done.stdout
    assert stream.failures == [] and not lost_runs(database, stream)
    assert stream.answered > 500
    print(f"{stream.answered} requests, the slowest took {stream.slowest:.1f} s")
    for host in (first, second):
        for unit in ("server", "services"):
            main = host.check_output(f"systemctl show --property MainPID --value prefect-{unit}@prefect")
            assert "TZ=Europe/Berlin" in host.check_output(f"tr '\\0' '\\n' < /proc/{main}/environ")
    healthy(first, second)


@pytest.mark.thorough
def test_other_packages_reach_one_host_after_the_other(
    database: Host, first: Host, second: Host, load: Loads, playbook: Playbook
) -> None:
    def all_run_from(virtualenv: str) -> None:
        for host in (first, second):
            for unit in ("server@prefect", "services@prefect", "worker@prefect-default-1"):
                assert f"{virtualenv}/bin/" in command_of(host, f"prefect-{unit}")

    former = host_virtualenv(RELEASE)
    with load("app1", reads=4).running() as stream:
        with other_packages(RELEASE):
            other = host_virtualenv(RELEASE)
            units = first.check_output("sha256sum /etc/systemd/system/prefect-*.service")
            for name in ("server", "workers", "restore_backup"):
                refused = playbook(f"playbooks/{name}.yml")
                said = " ".join(refused.stdout.split())
                assert refused.returncode != 0 and f"Nothing was stopped. {other}, the virtualenv" in said, said
            assert first.check_output("sha256sum /etc/systemd/system/prefect-*.service") == units
            made = playbook("playbooks/prefect.yml")
            assert made.returncode == 0, made.stdout
            # All that runs still has what it has begun with.
            all_run_from(former)
            kept = playbook("playbooks/unused_virtualenvs.yml")
            assert kept.returncode == 0 and changed(kept.stdout) == [0, 0], kept.stdout
            done = playbook("playbooks/server.yml", "playbooks/workers.yml", "playbooks/unused_virtualenvs.yml")
            assert done.returncode == 0, done.stdout
            all_run_from(other)
        back = playbook("site.yml")
        assert back.returncode == 0, back.stdout
    assert stream.failures == [] and not lost_runs(database, stream)
    all_run_from(former)
    for host in (first, second):
        assert host.check_output(f"ls -d /opt/prefect/{RELEASE}*").splitlines() == [former]
    healthy(first, second)


@pytest.mark.thorough
def test_one_that_does_not_run_changes_before_the_one_that_serves(
    first: Host, second: Host, load: Loads, playbook: Playbook
) -> None:
    second.check_output("systemctl stop prefect-server@prefect")
    wait_for(lambda: used_servers(first)["app2"] == "DOWN")
    with load("app1").running() as stream:
        done = playbook("playbooks/server.yml", "--extra-vars", '{"prefect_server_environment": {"TZ": "Asia/Tokyo"}}')
        assert done.returncode == 0 and changed(done.stdout) == [3, 3], done.stdout
    assert stream.answered > 100 and stream.failures == []
    healthy(first, second)


@pytest.mark.thorough
def test_one_that_does_not_start_leaves_the_other_as_it_was(second: Host, load: Loads, playbook: Playbook) -> None:
    start = "systemctl show --property InvocationID --value prefect-server@prefect"
    before = second.check_output(start)
    asked = ("--extra-vars", '{"prefect_server_environment": {"PREFECT_SERVER_API_KEEPALIVE_TIMEOUT": "soon"}}')
    with load("app1").running() as stream:
        done = playbook("playbooks/server.yml", *asked)
        assert done.returncode != 0 and "Not all servers became ready" in done.stdout, done.stdout
        assert second.check_output(start) == before
        mended = playbook("playbooks/server.yml")
        assert mended.returncode == 0, mended.stdout
    assert stream.failures == []


@pytest.mark.thorough
def test_a_worker_that_does_not_start_leaves_the_others_as_they_were(
    database: Host, first: Host, second: Host, playbook: Playbook
) -> None:
    start = "systemctl show --property InvocationID --value prefect-worker@prefect-default-1"
    before = second.check_output(start)
    asked = ("--extra-vars", '{"prefect_worker_environment": {"PREFECT_CLIENT_MAX_RETRIES": "many"}}')
    done = playbook("playbooks/workers.yml", *asked)
    assert done.returncode != 0 and "Not all workers became ready" in done.stdout, done.stdout
    assert second.check_output(start) == before
    completes(database, second)
    mended = playbook("playbooks/workers.yml")
    assert mended.returncode == 0, mended.stdout
    healthy(first, second)


def test_a_host_is_lost_and_comes_back(database: Host, first: Host, second: Host, load: Loads) -> None:
    with lost("app1"):
        with load("app2").running() as stream:
            wait_for(lambda: len(stream.acknowledged) > 100, lambda: stream.failures)
        assert not lost_runs(database, stream)
        completes(database, second)
    healthy(first, second)
