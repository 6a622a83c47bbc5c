"""How the Patroni of this host is asked about its PostgreSQL cluster of several hosts, and told what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.http import get
from .configuration import Patroni

PATRONICTL = ("patronictl", "-c", "/etc/patroni/config.yml")
LEADERS = ("leader", "standby_leader")
# Releases 3.0 to 4.0 describe a standby that follows by one of two words.
RUNNING = ("running", "streaming")


def describe(patroni: Patroni, timeout: float) -> Mapping[str, Any]:
    """Ask for the cluster's ``members``, and whether it is paused (``pause``).

    Raises OSError, ValueError and HTTPException where Patroni does not answer.
    """
    return dict(json.loads(get(f"{patroni.url}/cluster", timeout, patroni.ca_file)))


def members_of(described: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the members that Patroni describes, by their names. Raises KeyError."""
    return {str(member["name"]): member for member in described["members"]}


def typed(*words: str) -> str:
    """Return a command of Patroni's as a person types it."""
    return " ".join([*PATRONICTL, *words])
