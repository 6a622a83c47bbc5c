"""The members of a PostgreSQL cluster of several hosts, as Patroni on this host sees them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.http import get
from ..core.problems import ERROR, NOTICE, WARNING, Problem
from ..site.configuration import Patroni
from ..site.patroni import LEADERS, RUNNING, describe, members_of, typed
from .probes import Finding

_LIST = typed("list")


def patroni(cluster: Patroni, timeout: float) -> Finding:
    """Check that there is one leader, that all members follow it, and that etcd has a majority.

    Without one, Patroni goes on to show what etcd said before, so that etcd itself is asked.
    """
    try:
        described = describe(cluster, timeout)
        found = members_of(described)
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        message = f"Patroni of this host does not answer at {cluster.url}: {reason}."
        return [Problem("patroni_silent", "patroni", message, "systemctl status patroni; journalctl -u patroni")], {}
    reached = _has_majority(cluster.etcd_url, timeout)
    leaders = [name for name, member in found.items() if member.get("role") in LEADERS]
    absent = dict(_absent(cluster, found, leaders))
    problems = [*_etcd(reached), *_pause(described), *_leader(leaders), *_members(cluster, found, absent)]
    shown = {
        name: {key: member[key] for key in ("role", "state", "timeline", "lag") if key in member}
        for name, member in sorted(found.items())
    }
    details = {"leader": ", ".join(leaders), "members": shown, "absent": absent, "reaches_etcd": reached}
    return problems, details


def _has_majority(url: str, timeout: float) -> bool:
    """Ask this host's etcd, which reads a key with the consent of more than half of the members."""
    try:
        return bool(json.loads(get(f"{url}/health", timeout))["health"] == "true")
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return False


def _etcd(reached: bool) -> Iterator[Problem]:
    if not reached:
        message = (
            "etcd of this host does not answer, or does not reach more than half of its members: from here nobody can "
            "take over, and what Patroni says of the members may be old."
        )
        remedy = (
            "On each member: systemctl status postgresql-etcd; more than half of them must run, and reach each other."
        )
        yield Problem("etcd_silent", "etcd", message, remedy, ERROR)


def _pause(described: Mapping[str, Any]) -> Iterator[Problem]:
    if described.get("pause"):
        message = "Patroni is paused, so that no member takes over where the primary is lost."
        remedy = (
            "A restore in place pauses it while it runs. After one that was killed, on its host: pgprefect pitr undo "
            f"--yes. If somebody else has paused it: {typed('resume')}"
        )
        yield Problem("patroni_paused", "cluster", message, remedy, WARNING)


def _leader(leaders: list[str]) -> Iterator[Problem]:
    if len(leaders) != 1:
        said = f"{len(leaders)} leaders ({', '.join(leaders)})" if leaders else "no leader"
        message = f"The cluster has {said}, and should have one: nothing can be written, or not safely."
        yield Problem("patroni_no_leader", "cluster", message, f"{_LIST}; journalctl -u patroni on each member", ERROR)


def _absent(cluster: Patroni, found: Mapping[str, Mapping[str, Any]], leaders: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the declared members that cannot take over, each with the reason."""
    timelines = {found[name].get("timeline") for name in leaders}
    for name in cluster.members:
        member = found.get(name)
        if not member:
            yield name, "is not in the cluster"
        elif member.get("state") not in RUNNING:
            yield name, f"is {member.get('state')}"
        elif timelines and member.get("timeline") not in timelines:
            yield name, f"is on the timeline {member.get('timeline')}, and the leader is on another one"


def _members(cluster: Patroni, found: Mapping[str, Mapping[str, Any]], absent: Mapping[str, str]) -> Iterator[Problem]:
    for name in cluster.members:
        if name in absent:
            message = f"The member {name} {absent[name]}, so that it cannot take over."
            remedy = (
                f"On {name}: systemctl status patroni postgresql-etcd; journalctl -u patroni. {_LIST} shows all. If "
                "the host is lost: docs/disaster.md."
            )
            yield Problem("patroni_member_away", f"member {name}", message, remedy, WARNING)
        if found.get(name, {}).get("pending_restart"):
            message = f"The member {name} has settings that count after its next restart."
            remedy = f"At a quiet moment: {typed('restart', 'CLUSTER', name)}, or run site.yml."
            yield Problem("patroni_restart_due", f"member {name}", message, remedy, NOTICE)
