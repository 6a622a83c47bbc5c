"""A site's hosts: what a playbook changed on them, what health says there, and runs that are started there."""

from __future__ import annotations

import json
import re

from testinfra.host import Host

from tests.support.waiting import wait_for


def changed(output: str) -> list[int]:
    """How many tasks of each host changed something; the controller only checks the inventory."""
    return [int(count) for count in re.findall(r"^(?!localhost)\S+ +: ok=.*?changed=(\d+)", output, re.MULTILINE)]


def wait_for_health(host: Host, tenant: str = "prefect") -> None:
    """Wait until all answers again after a restart."""
    health = f"pgprefect --tenant {tenant} health"
    wait_for(lambda: host.run(health).rc == 0, lambda: host.run(health).stdout, 180)


def problem_codes(host: Host) -> list[str]:
    """Return the codes of the problems that health names on a host."""
    return [problem["code"] for problem in json.loads(host.run("pgprefect health --json").stdout)["problems"]]


def wait_for_problem(host: Host, code: str) -> None:
    """Wait until health names a problem, for as long as it may take with any fault."""
    wait_for(lambda: code in problem_codes(host), lambda: problem_codes(host), 30)


def command_of(host: Host, unit: str) -> str:
    """Return the command line of a unit's main process."""
    process = host.check_output("systemctl show --property MainPID --value %s", unit)
    return str(host.check_output("tr '\\0' ' ' </proc/%s/cmdline", process))


def start_run(host: Host, deployment: str, *options: str) -> str:
    """Start a flow run where the command prefect is, and return its ID."""
    said = host.check_output(" ".join(["prefect deployment run", deployment, *options]))
    found = re.search(r"UUID: ([0-9a-f-]{36})", said)
    assert found, said
    return found[1]
