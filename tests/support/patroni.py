"""A PostgreSQL cluster of several hosts, as its members describe it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from testinfra.host import Host

from tests.support.waiting import wait_for
from tests.support.writes import taking_writes

LIST = "timeout 20 patronictl -c /etc/patroni/config.yml list -f json"


def members_of(host: Host) -> list[dict[str, Any]]:
    """Return the members as patronictl on one of them lists them; none where it does not answer."""
    found = host.run(LIST)
    return list(json.loads(found.stdout)) if found.rc == 0 else []


def is_whole(host: Host, names: Collection[str]) -> bool:
    """Say whether these are the members, and all of them run."""
    running = {row["Member"]: row["Role"] for row in members_of(host) if row["State"] in ("running", "streaming")}
    expected = ["Leader", *["Replica"] * (len(names) - 2), "Sync Standby"]
    return sorted(running) == sorted(names) and sorted(running.values()) == expected


def switch_over(members: Mapping[str, Host], primary: str) -> str:
    """Let the synchronous standby be the primary instead, and return its name when all follow it."""
    (standby,) = (row["Member"] for row in members_of(members[primary]) if row["Role"] == "Sync Standby")
    members[primary].check_output(
        f"patronictl -c /etc/patroni/config.yml switchover --candidate {standby} --force 15-main"
    )
    wait_for(lambda: taking_writes(members) == [standby], seconds=30)
    wait_for(lambda: is_whole(members[standby], members), seconds=60)
    return str(standby)


def health(host: Host) -> tuple[str, list[str]]:
    """What health says of the cluster on one of its hosts."""
    said = json.loads(host.run("pgprefect health --json").stdout)
    codes = [problem["code"] for problem in said["problems"]]
    return said["checks"]["patroni"], [code for code in codes if code.startswith(("patroni", "etcd"))]
