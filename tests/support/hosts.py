"""A site's hosts: what a playbook changed on them, and runs that are started there."""

from __future__ import annotations

import re

from testinfra.host import Host

from tests.support.waiting import wait_for


def changed(output: str) -> list[int]:
    """How many tasks of each host changed something; the controller only checks the inventory."""
    return [int(count) for count in re.findall(r"^(?!localhost)\S+ +: ok=.*?changed=(\d+)", output, re.MULTILINE)]


def wait_for_health(host: Host, tenant: str = "prefect") -> None:
    """Wait until all answers again after a restart."""
    health = f"pgprefect --tenant {tenant} health"
    wait_for(lambda: host.run(health).rc == 0, lambda: host.run(health).stdout, 90)


def start_run(host: Host, deployment: str, *options: str) -> str:
    """Start a flow run where the command prefect is, and return its ID."""
    said = host.check_output(" ".join(["prefect deployment run", deployment, *options]))
    found = re.search(r"UUID: ([0-9a-f-]{36})", said)
    assert found, said
    return found[1]
