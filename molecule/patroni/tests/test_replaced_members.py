"""Members of the cluster are replaced by what docs/disaster.md says, while rows are written."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest
from testinfra.host import Host

from tests.support.patroni import health, is_whole, members_of
from tests.support.scenario import PSQL, Playbook, Typed, container_of, host_of
from tests.support.waiting import wait_for
from tests.support.writes import longest_gap, lost_rows, writing

Inventory = Callable[..., str]
ETCDCTL = (
    "ETCDCTL_API=3 etcdctl --endpoints=https://{address}:2379 --cacert=/etc/prefect/tls/ca.pem "
    "--cert=/etc/prefect/tls/postgresql.pem --key=/etc/prefect/tls/postgresql.key"
)
SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE active ORDER BY 1"

pytestmark = pytest.mark.thorough


def role_of_db1(host: Host) -> str:
    return next((row["Role"] for row in members_of(host) if row["Member"] == "db1"), "")


@pytest.fixture(scope="module", autouse=True)
def first_is_primary(host: Host) -> None:
    """Let db1 be the primary, so that any other host may be lost."""
    if role_of_db1(host) != "Leader":
        # Only a synchronous standby can be the next one.
        away = [row["Member"] for row in members_of(host) if row["Role"] == "Sync Standby" and row["Member"] != "db1"]
        for name in away:
            host_of(name).check_output("systemctl stop patroni")
        wait_for(lambda: role_of_db1(host) == "Sync Standby")
        host.check_output("patronictl -c /etc/patroni/config.yml switchover --candidate db1 --force 15-main")
        for name in away:
            host_of(name).check_output("systemctl start patroni")
    wait_for(lambda: role_of_db1(host) == "Leader" and is_whole(host, ("db1", "db2", "db3")))


@pytest.fixture(autouse=True)
def rows(host: Host, app: Host) -> Iterator[None]:
    """Write rows during each test: none is lost, and none waits longer than for a failover."""
    with writing(app, host):
        yield
    assert lost_rows(app, host) == set() and longest_gap(app) < 40


def etcd_members(host: Host) -> list[str]:
    address = host.check_output("hostname --all-ip-addresses").split()[0]
    listed = json.loads(host.check_output(f"{ETCDCTL.format(address=address)} member list --write-out=json"))
    return sorted(member.get("name", "") for member in listed["members"])


def lose(name: str) -> None:
    subprocess.run(["docker", "rm", "--force", container_of(name)], check=True, capture_output=True)


def make(playbook: Playbook) -> None:
    """Give hosts that were lost a new machine."""
    done = playbook("molecule/patroni/create.yml")
    assert done.returncode == 0, done.stdout


def change(typed: Typed, inventory: str) -> str:
    """Type what the page says, and return what was planned."""
    return typed("disaster.md", "A database host", **{"inventory/mine": inventory})[0]


def assert_members(host: Host, names: Sequence[str]) -> None:
    wait_for(lambda: is_whole(host, names), lambda: host.run("patronictl -c /etc/patroni/config.yml list").stdout, 90)
    assert etcd_members(host) == sorted(names)
    standbys = sorted(set(names) - {"db1"})
    wait_for(lambda: host.check_output(PSQL, SLOTS).split() == standbys, lambda: host.check_output(PSQL, SLOTS), 60)
    wait_for(
        lambda: all(health(host_of(name))[0] == "healthy" for name in names),
        lambda: [health(host_of(name)) for name in names],
    )


def test_a_standby_is_replaced_under_its_name(
    host: Host, playbook: Playbook, typed: Typed, inventory_of: Inventory
) -> None:
    lose("db3")
    make(playbook)
    refused = playbook("site.yml")
    assert refused.returncode != 0 and "playbooks/members.yml" in refused.stdout, refused.stdout
    planned = change(typed, inventory_of(("db1", "db2", "db3")))
    assert re.search(r"removed:\s+- db3\n", planned) and re.search(r"added:\s+- db3\n", planned), planned
    assert_members(host, ("db1", "db2", "db3"))


def test_a_lost_host_is_replaced_by_another_one(host: Host, typed: Typed, inventory_of: Inventory) -> None:
    lose("db3")
    change(typed, inventory_of(("db1", "db2", "db4"), unreachable="db3"))
    assert_members(host, ("db1", "db2", "db4"))
