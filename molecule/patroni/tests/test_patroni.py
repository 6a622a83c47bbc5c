"""A database of three hosts: one takes writes, and when it dies another one does, with all that was acknowledged."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from testinfra.host import Host

from tests.support.hosts import wait_for_health
from tests.support.patroni import health, is_whole, switch_over
from tests.support.scenario import PSQL, Playbook, container_of
from tests.support.waiting import wait_for
from tests.support.writes import longest_gap, lost_rows, writes_go_on, writing


def test_one_member_takes_writes(members: dict[str, Host], primaries: Callable[[], list[str]]) -> None:
    (primary,) = primaries()
    assert is_whole(members[primary], members)
    for host in members.values():
        assert host.check_output("systemctl is-system-running") == "running"
        assert host.run("systemctl start postgresql@15-main").rc == 0  # and starts nothing beside Patroni
        assert not host.service("etcd").is_running
        assert host.file("/etc/patroni/config.yml").mode == 0o640
    assert primaries() == [primary]


def test_the_members_are_encrypted_and_ask_for_certificates(members: dict[str, Host]) -> None:
    address = members["db1"].check_output("hostname --all-ip-addresses").strip()
    answer = members["db2"].run(f"etcdctl --endpoints https://{address}:2379 --cacert /etc/prefect/tls/ca.pem get a")
    assert answer.rc != 0
    sessions = "SELECT count(*), bool_and(ssl) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)"
    counts = {host.check_output(PSQL, sessions) for host in members.values()}
    assert counts == {"2|t", "0|"}
    words = "import ssl, urllib.request as r; c = ssl.create_default_context(cafile='/etc/prefect/tls/ca.pem')\n"
    for verb, expected in (("GET", "200"), ("PATCH", "403")):
        body = "b'{}'" if verb == "PATCH" else None
        ask = f"q = r.Request('https://{address}:8008/config', method='{verb}', data={body})"
        code = f"{words}{ask}\ntry: print(r.urlopen(q, context=c).status)\nexcept r.HTTPError as e: print(e.code)"
        assert members["db2"].check_output("python3 -c %s", code) == expected


def test_nothing_acknowledged_is_lost_when_the_primary_dies(
    members: dict[str, Host], app: Host, primaries: Callable[[], list[str]]
) -> None:
    (primary,) = primaries()
    with writing(app, members[primary]):
        subprocess.run(["docker", "kill", container_of(primary)], check=True, capture_output=True)
        wait_for(lambda: bool(primaries()), seconds=60)
        (successor,) = primaries()
        assert successor != primary
        writes_go_on(app)
    assert longest_gap(app) < 40  # 20 seconds until the lock ends, and a machine that does other things
    assert lost_rows(app, members[successor]) == set()
    wait_for(lambda: health(members[successor]) == ("degraded", ["patroni_member_away"]), seconds=30)
    # It comes back, and rejoins by itself.
    subprocess.run(["docker", "start", container_of(primary)], check=True, capture_output=True)
    wait_for(lambda: is_whole(members[successor], members), seconds=120)
    assert primaries() == [successor]
    wait_for(lambda: health(members[primary])[0] == health(members[successor])[0] == "healthy", seconds=30)


def test_the_site_finds_the_new_primary(playbook: Playbook) -> None:
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}, done.stdout


def test_the_api_goes_on(members: dict[str, Host], app: Host) -> None:
    command = "prefect deployment run collect-market-data/sample --watch"
    assert "Flow run finished successfully" in app.check_output(command)
    # The members cannot ask an API that listens on loopback elsewhere.
    for host in (app, *members.values()):
        wait_for_health(host)


def test_a_switchover(members: dict[str, Host], primaries: Callable[[], list[str]]) -> None:
    (primary,) = primaries()
    assert switch_over(members, primary) != primary
