"""Health of the database, Prefect's schemas, the APIs and the workers, checked within a bounded time.

The checks run in groups, each with a thread and at most one connection of its own. What hangs, such as a name that does
not resolve or a network that drops packets, makes the checks of its own group unhealthy and delays no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..core.connection import ConnectionFailed, Login
from ..core.jobs import Job
from ..core.problems import ERROR, WARNING, Problem
from ..core.questions import ask_within, connect_to_ask, side_by_side, with_shares
from ..core.sql import Statement
from ..site.configuration import Certificate, Patroni, Site, Tenant
from . import load, probes
from .api import api
from .certificates import certificates
from .leftovers import Place, leftovers, places
from .outbox import database_events
from .patroni import patroni
from .probes import Ask, Finding
from .proxy import may_be_asked, proxy
from .redis import redis
from .standby import database_hosts, standby
from .thresholds import Thresholds

__all__ = ["DEGRADED", "HEALTHY", "UNHEALTHY", "UNKNOWN", "Check", "Health", "check_health", "check_site"]

HEALTHY = "healthy"
DEGRADED = "degraded"
UNHEALTHY = "unhealthy"
UNKNOWN = "unknown"  # this login, or this Python, may not look

_COULD_NOT_LOOK = ("login_refused", "driver_missing", "check_not_permitted", "certificate_not_shown")
# A busy host makes these of a healthy part: what they say is that the answer came too late.
_TOO_LATE = ("no_answer", "answer_too_late", "database_slow")
_LATE_REASONS = ("timed out", "timeout expired")


@dataclass
class Check:
    """The result of one check."""

    status: str = UNHEALTHY
    problems: list[Problem] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Health:
    """The results of all checks, by name."""

    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def overall_status(self) -> str:
        """The worst status of a check."""
        found = {check.status for check in self.checks.values()}
        return next((status for status in (UNHEALTHY, UNKNOWN, DEGRADED) if status in found), HEALTHY)

    @property
    def problems(self) -> list[Problem]:
        """All problems, each once: a dead server is one, however many checks it makes unhealthy."""
        return list(dict.fromkeys(problem for check in self.checks.values() for problem in check.problems))

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "overall_status": self.overall_status,
            "checks": {name: check.status for name, check in self.checks.items()},
            "problems": [problem.as_dict() for problem in self.problems],
            "details": {name: check.details for name, check in self.checks.items()},
        }


@dataclass
class Group:
    """Checks that run one after the other; without ``database`` they need no connection."""

    checks: Mapping[str, Callable[[Ask], Finding]]
    database: bool = True


def check_health(
    login: Login,
    database: str,
    parts: Sequence[Tenant],
    timeout: float = 4.0,
    thresholds: Thresholds | None = None,
    disk_paths: Sequence[str] = (),
    jobs: Sequence[Job] = (),
    tenant: str | None = None,
    work: Sequence[Place] = (),
    watched: Sequence[Certificate] = (),
    cluster: Patroni | None = None,
    proxied: bool = False,
) -> Health:
    """Run all checks, groups of them at the same time. It takes no longer than the timeout, in seconds.

    The disk is checked at the paths, or at the data directory where the login is over the unix socket. The jobs are
    those that this host is to run. With a tenant's name the others' checks are left out. ``work`` is where jobs of this
    host work, ``watched`` its certificates, and ``cluster`` its part of a cluster of several hosts. With ``proxied``
    this host's proxy is asked.
    """
    limits = thresholds or Thresholds()
    schemas = [part.schema for part in parts]
    server: dict[str, Callable[[Ask], Finding]] = {
        "app_database": _app_database,
        "schema_separation": partial(probes.separation, schemas=schemas),
        "connections": partial(probes.connections, limits=limits),
        "transactions": partial(probes.transactions, limits=limits),
        "locks": partial(probes.locks, limits=limits),
        "storage": partial(probes.storage, limits=limits, schemas=[*schemas, "public"]),
        "archiving": partial(probes.archiving, limits=limits, declared="pitr" in [job.name for job in jobs]),
    }
    groups = [Group(server)]
    if disk_paths:
        groups.append(Group({"disk": _without_asking(probes.disk, limits, disk_paths)}, database=False))
    elif not login.host:
        server["disk"] = partial(probes.data_disk, limits=limits)
    suffixes = {part.name: f":{part.name}" if index else "" for index, part in enumerate(parts)}
    for part in [part for part in parts if tenant in (None, part.name)]:
        suffix = suffixes[part.name]
        own_probes = [*probes.TENANT_PROBES, *([database_events] if part.relay else [])]
        checks = {probe.__name__ + suffix: partial(_tenant, probe, limits, part) for probe in own_probes}
        groups.append(Group(checks))
        if part.api_url:
            groups.append(Group({f"api{suffix}": _without_asking(api, part, timeout / 2)}, database=False))
        if part.redis:
            groups.append(Group({f"redis{suffix}": _without_asking(redis, part, limits, timeout / 3)}, database=False))
    own: dict[str, Callable[[Ask], Finding]] = {
        job.name + suffixes.get(job.tenant, ""): _without_asking(probes.scheduled_job, limits, job)
        for job in jobs
        if tenant is None or job.tenant in ("", tenant)
    }
    if work:
        own["leftovers"] = _without_asking(leftovers, work)
    if watched:
        own["certificates"] = _without_asking(certificates, limits, watched)
    groups.append(Group(own, database=False))
    if "," in login.host:
        asked = _without_asking(database_hosts, login, database, timeout * 0.8)
        groups.append(Group({"database_hosts": asked}, database=False))
    if cluster:
        groups.append(Group({"patroni": _without_asking(patroni, cluster, limits, timeout / 4)}, database=False))
    if proxied:
        groups.append(Group({"proxy": _without_asking(proxy, timeout / 3)}, database=False))
    results: dict[str, Check] = {}
    deadline = time.monotonic() + timeout
    works = [partial(_run_group, group, results, login, database, timeout, limits) for group in groups]
    side_by_side(works, deadline)
    finished = dict(results)  # a late thread may still write into the other one
    names = sorted((name for group in groups for name in group.checks), key=lambda name: FIRST.get(name, len(FIRST)))
    found = {name: finished.get(name) or _silent(name, timeout) for name in names}
    busy = load.busy() if any(_is_late(problem) for check in found.values() for problem in check.problems) else None
    return Health({name: _excused(check, busy) if busy else check for name, check in found.items()})


def _is_late(problem: Problem) -> bool:
    late = problem.code in _TOO_LATE or any(reason in problem.message for reason in _LATE_REASONS)
    return late and problem.severity == ERROR


def _excused(check: Check, busy: str) -> Check:
    """Return the check as degraded where only its answers came too late, and this host is too busy to blame them."""
    errors = [problem for problem in check.problems if problem.severity == ERROR]
    if not errors or not all(map(_is_late, errors)):
        return check
    remedy = "Look again when it is less busy; see what runs here: top, or systemd-cgtop."
    excused = [
        replace(problem, message=f"{problem.message} {busy}", remedy=remedy, severity=WARNING)
        if _is_late(problem)
        else problem
        for problem in check.problems
    ]
    return Check(DEGRADED, [*excused, Problem("host_busy", "this host", busy, remedy, WARNING)], check.details)


def check_site(site: Site, login: Login | None = None, timeout: float = 4.0, tenant: str | None = None) -> Health:
    """Ask the database, the servers and the workers, by this host's login or another one, within ``timeout`` seconds.

    With a tenant's name the others' checks are left out. Raises ThresholdError.
    """
    return check_health(
        login or site.observer,
        site.database,
        site.tenants,
        timeout,
        Thresholds.from_arguments(site.health),
        jobs=site.jobs,
        tenant=tenant,
        work=places(site.backups.directory, site.backups.drill_directory) if site.backups else (),
        watched=site.certificates,
        cluster=site.patroni,
        proxied=may_be_asked(),
    )


def _app_database(ask: Ask) -> Finding:
    problems, details = probes.app_database(ask)
    return [*problems, *standby(ask)], details


def _tenant(probe: Callable[[Ask, Thresholds, Tenant], Finding], limits: Thresholds, part: Tenant, ask: Ask) -> Finding:
    return probe(ask, limits, part)


# Where readers look first; the others follow by group.
FIRST = {"app_database": 0, "prefect_schema": 1, "schema_separation": 2}


def _silent(name: str, timeout: float) -> Check:
    message = f"The check {name} did not answer within {timeout:g} seconds."
    remedy = "Look at the network to that host, and at what the server is busy with."
    return Check(UNHEALTHY, [Problem("no_answer", name, message, remedy)])


def _run_group(
    group: Group, results: dict[str, Check], login: Login, database: str, timeout: float, limits: Thresholds
) -> None:
    deadline = time.monotonic() + timeout * 0.9
    dead: Problem | None = None
    connection = None
    try:
        if group.database:
            connection = connect_to_ask(login, database, timeout)
    except Exception as error:
        dead = error.problem if isinstance(error, ConnectionFailed) else _explain(error, "connection")
    for (name, probe), time_of_check in with_shares(group.checks.items(), deadline):
        started = time.monotonic()
        slowest = 0.0

        def ask(statement: Statement, share: float = time_of_check) -> list[tuple[Any, ...]]:
            nonlocal slowest
            begun = time.monotonic()
            rows = ask_within(connection, statement, share)
            slowest = max(slowest, (time.monotonic() - begun) * 1000)
            return rows

        problems: list[Problem] = []
        details: dict[str, Any] = {}
        try:
            if dead:
                problems = [dead]
            else:
                problems, details = probe(ask)
        except probes.SchemaDead as found:
            dead = found.problem
            problems = [dead]
        except Exception as error:
            # Whatever it was, this check must say so and the others must go on.
            problems = [_explain(error, name)]
            if connection is not None and connection.closed:
                dead = problems[0]
        slow = limits.latency_ms.severity(slowest)
        if slow:
            message = f"The database took {slowest:.0f} ms to answer the check {name}."
            problems.append(
                Problem("database_slow", name, message, "See what it is busy with: pg_stat_activity.", slow)
            )
        status = _status(problems)
        details["latency_ms"] = round((time.monotonic() - started) * 1000, 1)
        results[name] = Check(status, problems, details)
    if connection is not None:
        connection.close()


def _status(problems: Sequence[Problem]) -> str:
    errors = [problem.code for problem in problems if problem.severity == ERROR]
    if errors:
        return UNKNOWN if set(errors) <= set(_COULD_NOT_LOOK) else UNHEALTHY
    return DEGRADED if WARNING in [problem.severity for problem in problems] else HEALTHY


def _explain(error: Exception, name: str) -> Problem:
    code = getattr(error, "pgcode", None)
    reason = str(error).strip().partition("\n")[0]
    if code == "42501":  # insufficient_privilege
        remedy = "Ask as a role that may, such as the monitor's; site.yml grants it what it needs."
        return Problem("check_not_permitted", name, f"This login may not ask for {name}: {reason}.", remedy)
    if code == "55P03":  # lock_not_available
        remedy = "A migration ends by itself; else see who holds it: SELECT * FROM pg_locks WHERE granted"
        return Problem(
            "table_locked", name, f"The check {name} met a lock that another session holds: {reason}.", remedy
        )
    if code == "57014":  # query_canceled
        message = f"The database did not answer the check {name} in time: {reason}."
        return Problem("answer_too_late", name, message, "See what it is busy with: pg_stat_activity.")
    remedy = "Look into the log of the part that this check asks."
    return Problem("check_failed", name, f"The check {name} failed: {reason or type(error).__name__}", remedy)


def _without_asking(probe: Callable[..., Finding], *arguments: Any) -> Callable[[Ask], Finding]:
    """Return a check that puts no question to the database."""
    return lambda _ask: probe(*arguments)
