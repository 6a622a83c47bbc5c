"""inventory/cluster with its addresses edited: set up over SSH; of its hosts some are lost, retired and added."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.support.hosts import changed, wait_for_health
from tests.support.newcomer import Clone
from tests.support.patroni import is_whole
from tests.support.scenario import Typed, lost
from tests.support.waiting import wait_for
from tests.support.writes import longest_gap, lost_rows, taking_writes, writes_go_on, writing

MEMBERS = ("database-1", "database-2", "database-3")
SITE = ".venv/bin/ansible-playbook -i inventory/mine site.yml --ask-become-pass"
OURS = "systemctl list-units --state=active --output=json 'prefect-*'"


@pytest.fixture(scope="module", autouse=True)
def site(clone: Clone, typed: Typed) -> None:
    """Begin as the page does, and edit the addresses."""
    typed("several_servers.md", "Six hosts")
    clone.edit_addresses()
    clone.assert_first_run(*typed("several_servers.md", "The first run"))


def completes(clone: Clone, server: str) -> None:
    """Have a worker of each pool run a small flow, which a server's host asks for."""
    host = clone.hosts[server]
    wait_for(lambda: "completed in" in host.run("pgprefect upgrade canary").stdout, seconds=180)


def whole(clone: Clone) -> None:
    """Wait until each host says that all is well."""
    wait_for(lambda: is_whole(clone.hosts["database-1"], MEMBERS), seconds=120)
    for name, host in clone.hosts.items():
        if name != "redis-1":
            wait_for_health(host)


def test_a_second_run_changes_nothing(clone: Clone) -> None:
    for options in ("--check --diff", ""):
        done = clone.run(f"{SITE} {options}")
        assert done.returncode == 0 and changed(done.stdout) == [0] * 6, done.stdout


def test_all_hosts_take_part(clone: Clone) -> None:
    whole(clone)
    completes(clone, "server-1")
    for name in ("server-1", "server-2"):
        for unit in ("server@prefect", "services@prefect", "worker@prefect-default-1", "worker@prefect-default-2"):
            assert clone.hosts[name].service(f"prefect-{unit}").is_running
    ask = f"curl --silent --fail --cacert '{clone.authority}' --resolve prefect.example.com:443:{{}} {{}}"
    for shipped in ("192.0.2.21", "192.0.2.22"):
        done = clone.run(ask.format(clone.addresses[shipped], "https://prefect.example.com/api/ready"))
        assert "OK" in done.stdout, done.stdout


def test_the_hosts_of_the_primary_and_of_the_first_server_are_lost(clone: Clone) -> None:
    members = {name: clone.hosts[name] for name in MEMBERS}
    (primary,) = taking_writes(members)
    app = clone.hosts["server-2"]
    with writing(app, members[primary]):
        with lost(primary):
            (successor,) = wait_for(lambda: taking_writes(members), seconds=60)
            writes_go_on(app)
            completes(clone, "server-2")
        with lost("server-1"):
            completes(clone, "server-2")
        writes_go_on(app)
    assert longest_gap(app) < 40 and lost_rows(app, members[successor]) == set()
    whole(clone)


def with_servers(clone: Clone, *names: str) -> None:
    """Write which hosts have Prefect's servers; other groups of the inventory take theirs from it."""
    path = clone.folder / "inventory/mine/hosts.yml"
    inventory = yaml.safe_load(path.read_text())
    inventory["all"]["children"]["prefect_server"]["hosts"] = dict.fromkeys(names)
    path.write_text(yaml.safe_dump(inventory, sort_keys=False))


def test_the_first_server_is_retired_and_added_again(clone: Clone, typed: Typed) -> None:
    retired = clone.hosts["server-1"]
    with_servers(clone, "server-2")
    check, stopped, _site = typed("disaster.md", "A server's or a worker's host")
    assert "prefect-worker@prefect-default-1" in check and "prefect-server@prefect" in check
    assert changed(check) == changed(stopped) and sorted(changed(stopped)) == [0] * 5 + [2], stopped
    assert json.loads(retired.check_output(OURS)) == [] and retired.check_output("systemctl --failed --no-legend") == ""
    # It fails where there is none.
    enabled = retired.run("systemctl list-unit-files --state=enabled --output=json 'prefect-*'").stdout
    assert retired.check_output("find /etc/prefect -name '*.env' -o -name pgpass") == ""
    assert json.loads(enabled) == [] and not retired.file("/etc/cron.d/prefect-retention").exists
    assert clone.hosts["server-2"].file("/etc/cron.d/prefect-retention").exists
    completes(clone, "server-2")
    wait_for_health(clone.hosts["server-2"])
    again = clone.run(".venv/bin/ansible-playbook -i inventory/mine playbooks/retire.yml --ask-become-pass")
    assert again.returncode == 0 and changed(again.stdout) == [0] * 6, again.stdout

    with_servers(clone, "server-2", "server-1")
    done = clone.run(SITE)
    assert done.returncode == 0, done.stdout
    whole(clone)
    completes(clone, "server-1")
    assert not retired.file("/etc/cron.d/prefect-retention").exists  # it is no longer the first
