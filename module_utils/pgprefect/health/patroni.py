"""The members of a PostgreSQL cluster of several hosts, as Patroni on this host sees them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from ..core.formats import size
from ..core.http import get
from ..core.problems import ERROR, NOTICE, WARNING, Problem
from ..site.configuration import Patroni
from ..site.patroni import (
    LEADERS,
    RUNNING,
    SYNCHRONOUS,
    describe,
    describe_member,
    members_of,
    shared_settings,
    typed,
)
from .probes import Finding
from .thresholds import Thresholds

_LIST = typed("list")
# After the primary's start, until the standbys receive WAL from it again and Patroni has chosen the synchronous one.
_SETTLED = timedelta(seconds=60)
_RECEIVES = ("catchup", "streaming")


@dataclass(frozen=True)
class _Primary:
    """What the primary's Patroni knows: who receives WAL from it, and whether transactions should wait for somebody."""

    receivers: tuple[str, ...]
    synchronous: bool


def patroni(cluster: Patroni, limits: Thresholds, timeout: float) -> Finding:
    """Check that there is one leader, that all members follow it and could take over, and that etcd has a majority.

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
    problems = [*_etcd(reached), *_pause(described), *_leader(leaders)]
    primary = None
    if len(leaders) == 1:
        try:
            primary = _ask_primary(cluster, found[leaders[0]], timeout)
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            problems.append(_silent_primary(leaders[0], error))
    absent = dict(_absent(cluster, found, leaders, primary))
    problems += _members(cluster, found, absent)
    if primary:
        problems += _replication(cluster, found, absent, primary, limits)
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


def _ask_primary(cluster: Patroni, member: Mapping[str, Any], timeout: float) -> _Primary | None:
    described, settings = describe_member(cluster, member, timeout), shared_settings(cluster, timeout)
    receivers = [row["application_name"] for row in described.get("replication", ()) if row["state"] in _RECEIVES]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(described["postmaster_start_time"])
    return _Primary(tuple(receivers), bool(settings.get("synchronous_mode"))) if age > _SETTLED else None


def _silent_primary(name: str, error: Exception) -> Problem:
    reason = getattr(error, "reason", None) or error
    message = f"Patroni of the primary {name} does not say to this host who receives WAL from it: {reason}."
    remedy = f"On {name}: systemctl status patroni; journalctl -u patroni. Else look at the network to it, port 8008."
    return Problem("patroni_silent", f"member {name}", message, remedy, WARNING)


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


def _absent(
    cluster: Patroni, found: Mapping[str, Mapping[str, Any]], leaders: list[str], primary: _Primary | None
) -> Iterator[tuple[str, str]]:
    """Yield the declared members that cannot take over, each with the reason."""
    timelines = {found[name].get("timeline") for name in leaders}
    for name in cluster.members:
        member = found.get(name)
        if not member:
            yield name, "is not in the cluster"
        elif member.get("state") not in RUNNING:
            yield name, f"is {member.get('state')}"
        # One that receives nothing may not say on which it is.
        elif timelines and member.get("timeline") not in (*timelines, None):
            yield name, f"is on the timeline {member['timeline']}, and the leader is on another one"
        elif primary and name not in (*leaders, *primary.receivers):
            yield name, "receives no WAL from the primary"


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


def _replication(
    cluster: Patroni,
    found: Mapping[str, Mapping[str, Any]],
    absent: Mapping[str, str],
    primary: _Primary,
    limits: Thresholds,
) -> Iterator[Problem]:
    if primary.synchronous and not any(member.get("role") in SYNCHRONOUS for member in found.values()):
        message = "No standby is synchronous, so that none takes over where the primary is lost."
        remedy = f"{_LIST} shows which of them runs; journalctl -u patroni on the primary says why none is chosen."
        yield Problem("patroni_not_synchronous", "cluster", message, remedy, WARNING)
    for name in cluster.members:
        if name in absent or found[name].get("role") in LEADERS:
            continue
        lag = found[name].get("lag")
        if isinstance(lag, int):
            severity, far = limits.standby_lag_bytes.severity(lag), f"is {size(lag)} behind the primary"
        else:
            severity, far = WARNING, "does not say how far it is behind the primary"
        if severity:
            remedy = f"Look at its disk and at the network to it; on {name}: journalctl -u patroni"
            yield Problem("patroni_member_behind", f"member {name}", f"The member {name} {far}.", remedy, severity)
