"""The firewall: what it closes, what it leaves alone, and what it refuses to close."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.scenario import Playbook, Typed
from tests.support.waiting import wait_for

STRANGER = 8099
FIREWALL = "playbooks/firewall.yml"
OPEN = "playbooks/open_firewall.yml"
ON = {"prefect_firewall_enabled": True, "prefect_firewall_open": [{"port": 4200}]}
TABLE = "nft list table inet prefect"


def given(**variables: object) -> list[str]:
    return ["--extra-vars", json.dumps({**ON, **variables})]


@pytest.fixture
def stranger(host: Host) -> Iterator[None]:
    """Somebody else's program, which answers other hosts."""
    host.check_output(f"systemd-run --quiet --unit stranger python3 -m http.server {STRANGER} --directory /srv")
    yield
    host.check_output("systemctl stop stranger")


def reachable(host: Host, port: int) -> bool:
    """Whether the controller reaches a port of the host."""
    address = host.check_output("hostname --all-ip-addresses").split()[0]
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=3):
        return True
    return False


@pytest.mark.usefixtures("stranger")
@pytest.mark.thorough
def test_it_opens_what_is_declared_and_closes_nothing_unasked(host: Host, playbook: Playbook, typed: Typed) -> None:
    wait_for(lambda: reachable(host, STRANGER), seconds=30)
    assert reachable(host, 4200)
    refused = playbook(FIREWALL, *given())
    said = " ".join(refused.stdout.split())
    assert refused.returncode != 0 and f"The firewall would close port {STRANGER}/tcp" in said, said
    assert host.run(TABLE).rc != 0 and not host.file("/etc/prefect/firewall.nft").exists

    variables = " ".join(map(shlex.quote, given(prefect_firewall_closed=[STRANGER])))
    would, done = typed("firewall.md", "Firewall", **{FIREWALL: f"{FIREWALL} {variables}"})
    assert changed(would)[0] > 0 and changed(done)[0] > 0
    assert not reachable(host, STRANGER) and reachable(host, 4200)
    wait_for_health(host)
    assert host.run("systemctl is-active prefect-firewall-undo.timer").stdout.strip() != "active"
    again = playbook(FIREWALL, *given(prefect_firewall_closed=[STRANGER]))
    assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout

    # What site.yml does first: another port is let in, and nothing is closed, nor kept.
    more = {"prefect_firewall_closed": [4200], "prefect_firewall_open": [{"port": STRANGER, "networks": ["0.0.0.0/0"]}]}
    opened = playbook(OPEN, *given(**more))
    assert opened.returncode == 0 and changed(opened.stdout) == [1], opened.stdout
    assert reachable(host, STRANGER) and reachable(host, 4200)
    again = playbook(FIREWALL, *given(prefect_firewall_closed=[STRANGER]))
    assert again.returncode == 0 and changed(again.stdout)[0] > 0 and not reachable(host, STRANGER), again.stdout

    # Somebody's table stays, also when ours comes back after everything was emptied, and when it goes.
    host.check_output("nft flush ruleset && nft add table inet somebody")
    assert reachable(host, STRANGER)
    mended = playbook(FIREWALL, *given(prefect_firewall_closed=[STRANGER]))
    assert mended.returncode == 0 and changed(mended.stdout)[0] > 0, mended.stdout
    assert not reachable(host, STRANGER)
    table, unit = typed("firewall.md", "Look at it")
    assert "tcp dport 4200 accept" in table and "Active: active (exited)" in unit
    off = playbook(FIREWALL)
    assert off.returncode == 0, off.stdout
    assert host.run(TABLE).rc != 0 and reachable(host, STRANGER)
    assert host.check_output("nft list tables").split("\n") == ["table inet somebody"]
    host.check_output("nft delete table inet somebody")
    off = playbook(FIREWALL)
    assert off.returncode == 0 and changed(off.stdout) == [0], off.stdout
