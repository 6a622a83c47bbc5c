"""A host that has everything grows into the six of inventory/cluster, and none of its runs is lost."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import yaml
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.newcomer import Clone
from tests.support.patroni import is_whole
from tests.support.scenario import PSQL, Typed, state_of
from tests.support.waiting import wait_for
from tests.support.writes import longest_gap, lost_rows, taking_writes, writing

MEMBERS = ("database-1", "database-2", "database-3")
SITE = ".venv/bin/ansible-playbook -i inventory/mine site.yml --ask-become-pass"
GROUPS = ("prefect_server", "prefect_proxy", "prefect_services", "prefect_worker")
READY = r"exec 3<>/dev/tcp/127.0.0.1/4200; printf 'GET /api/ready HTTP/1.0\r\n\r\n' >&3; grep -q '200 OK' <&3"
FLOWS = "{{ lookup('ansible.builtin.file', playbook_dir ~ '/../flows/deployments.yml') | from_yaml }}"


def write_inventory(clone: Clone, hosts: dict[str, object], variables: dict[str, object]) -> None:
    folder = clone.folder / "inventory/mine"
    (folder / "group_vars/all").mkdir(parents=True, exist_ok=True)
    (folder / "hosts.yml").write_text(clone.with_addresses(yaml.safe_dump({"all": hosts})))
    (folder / "group_vars/all/site.yml").write_text(yaml.safe_dump(variables))


@pytest.fixture(scope="module")
def six(clone: Clone) -> tuple[dict[str, object], dict[str, object]]:
    """The hosts and the variables of inventory/cluster, with the deployments of the example."""
    shipped = clone.folder / "inventory/cluster"
    hosts = yaml.safe_load((shipped / "hosts.yml").read_text())["all"]
    variables = yaml.safe_load((shipped / "group_vars/all/site.yml").read_text())
    variables["app_schema"] = "trading"
    variables["prefect_tenants"][0]["deployments"] = FLOWS
    return hosts, variables


@dataclass
class Client:
    """Starts a run of the sample every fifteen seconds on a host, and asks its API each second."""

    host: Host
    runs: list[str] = field(default_factory=list)
    refused: int = 0
    polls: int = 0
    failed_polls: list[float] = field(default_factory=list)

    @contextmanager
    def working(self) -> Iterator[None]:
        ended = threading.Event()
        threads = [threading.Thread(target=each, args=(ended,)) for each in (self._start, self._poll)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _start(self, ended: threading.Event) -> None:
        while not ended.wait(15):
            said = self.host.run("prefect deployment run collect-market-data/sample --param source=sample").stdout
            found = re.search(r"UUID: ([0-9a-f-]{36})", said)
            if found:
                self.runs.append(found[1])
            else:
                self.refused += 1

    def _poll(self, ended: threading.Event) -> None:
        while not ended.wait(1):
            self.polls += 1
            if self.host.run("timeout 5 bash -c %s", READY).rc != 0:
                self.failed_polls.append(time.time())


def test_it_grows_and_no_run_is_lost(
    clone: Clone, six: tuple[dict[str, object], dict[str, object]], typed: Typed
) -> None:
    hosts, variables = six
    box = clone.hosts["database-1"]
    one = {
        "vars": hosts["vars"],
        "hosts": {"database-1": {"ansible_host": "192.0.2.11"}},
        "children": {
            group: {"hosts": {"database-1": None}} for group in ("postgresql", "prefect_server", "prefect_worker")
        },
    }
    write_inventory(clone, one, {"app_schema": "trading", "prefect_tenants": variables["prefect_tenants"]})
    done = clone.run(SITE)
    assert done.returncode == 0, done.stdout

    client = Client(box)
    servers = dict.fromkeys(("server-1", "server-2", "database-1"))
    children = {**hosts["children"], **{group: {"hosts": servers} for group in GROUPS}}  # type: ignore[dict-item]
    with client.working(), writing(box, box):
        wait_for(lambda: len(client.runs) > 2)
        write_inventory(clone, {**hosts, "children": children}, variables)
        typed("several_servers.md", "From one host", on="database-1")
        grown = clone.run(SITE)
        assert grown.returncode == 0, grown.stdout
        more = len(client.runs) + 2
        wait_for(lambda: len(client.runs) > more, seconds=300)
    members = {name: clone.hosts[name] for name in MEMBERS}
    assert taking_writes(members) == ["database-1"] and is_whole(box, MEMBERS)
    print(f"{len(client.failed_polls)} of {client.polls} polls failed, {client.refused} runs were refused")
    gap = longest_gap(box)
    assert lost_rows(box, box) == set()

    write_inventory(clone, hosts, variables)
    check, stopped, _site = typed("disaster.md", "A server's or a worker's host")
    assert changed(check) == changed(stopped) and sorted(changed(stopped))[:5] == [0] * 5, stopped
    assert json.loads(box.check_output("systemctl list-units --state=active --output=json 'prefect-*'")) == []
    wait_for(lambda: {state_of(box, run) for run in client.runs} == {"COMPLETED"}, seconds=300)
    lost = box.check_output(PSQL, "SELECT count(*) FROM prefect.flow_run WHERE state_type IN ('CRASHED', 'FAILED')")
    assert lost == "0" and len(client.runs) > 10
    for name, host in clone.hosts.items():
        if name != "redis-1":
            wait_for_health(host)
    again = clone.run(SITE)
    assert again.returncode == 0 and changed(again.stdout) == [0] * 6, again.stdout
    assert gap < 30 and len(client.failed_polls) < 60
