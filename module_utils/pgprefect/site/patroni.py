"""How the Patroni of this host is asked about its PostgreSQL cluster of several hosts, and told what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.http import get
from .configuration import Patroni

PATRONICTL = ("patronictl", "-c", "/etc/patroni/config.yml")
LEADERS = ("leader", "standby_leader")
# How Patroni describes a member whose PostgreSQL runs; by the second, which release 3.0 has not, one that streams.
RUNNING = ("running", "streaming")
# Those for which transactions wait; the second where more than half of some are enough.
SYNCHRONOUS = ("sync_standby", "quorum_standby")


def describe(patroni: Patroni, timeout: float) -> Mapping[str, Any]:
    """Ask for the cluster's ``members``, and whether it is paused (``pause``).

    Raises OSError, ValueError and HTTPException where Patroni does not answer.
    """
    return _ask(patroni, f"{patroni.url}/cluster", timeout)


def shared_settings(patroni: Patroni, timeout: float) -> Mapping[str, Any]:
    """Ask for the settings that all members share, such as ``synchronous_mode``.

    Raises OSError, ValueError and HTTPException where Patroni does not answer.
    """
    return _ask(patroni, f"{patroni.url}/config", timeout)


def describe_member(patroni: Patroni, member: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
    """Ask the Patroni of a member for its PostgreSQL; a primary has its standbys in ``replication``.

    Raises OSError, ValueError, KeyError and HTTPException where it does not answer.
    """
    return _ask(patroni, member["api_url"], timeout)


def _ask(patroni: Patroni, url: str, timeout: float) -> Mapping[str, Any]:
    return dict(json.loads(get(url, timeout, patroni.ca_file)))


def members_of(described: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the members that Patroni describes, by their names. Raises KeyError."""
    return {str(member["name"]): member for member in described["members"]}


def typed(*words: str) -> str:
    """Return a command of Patroni's as a person types it."""
    return " ".join([*PATRONICTL, *words])
