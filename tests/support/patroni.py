"""A PostgreSQL cluster of several hosts, as its members describe it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from testinfra.host import Host

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


def health(host: Host) -> tuple[str, list[str]]:
    """What health says of the cluster on one of its hosts."""
    said = json.loads(host.run("pgprefect health --json").stdout)
    codes = [problem["code"] for problem in said["problems"]]
    return said["checks"]["patroni"], [code for code in codes if code.startswith(("patroni", "etcd"))]
