"""The command ``pgprefect health``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Callable

from ..core.formats import age, ago, counted, size
from ..health.check import DEGRADED, HEALTHY, UNHEALTHY, Check, Health, check_site
from . import output
from .common import add_command, for_this_user, load_site, number
from .output import ATTENTION, BROKEN, FINE, UNKNOWN

_STATUSES = {HEALTHY: FINE, DEGRADED: ATTENTION, UNHEALTHY: BROKEN}


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "ask the database, the servers, the workers and the jobs of this host; changes nothing"
    command = add_command(commands, "health", _health, summary, tenant=True, json=True)
    command.add_argument(
        "--timeout", type=number(0.1, 3600), default=4.0, help="seconds that the whole may take (%(default)g)"
    )


def _health(options: argparse.Namespace) -> int:
    site = load_site(options)
    health = check_site(site, timeout=options.timeout, tenant=options.tenant)
    status = _STATUSES.get(health.overall_status, UNKNOWN)
    if options.json:
        output.as_json(health.as_dict())
    else:
        output.verdict(_verdict(site.database, health), status)
        rows = [(name, check.status, _figures(name, check)) for name, check in health.checks.items()]
        output.table(["check", "status", "figures"], rows)
        output.problems(for_this_user(health.problems))
    return status


def _verdict(database: str, health: Health) -> str:
    checks = list(health.checks.values())
    others = {
        word: sum(check.status == word for check in checks)
        for word in dict.fromkeys(check.status for check in checks)
        if word != HEALTHY
    }
    counts = ", ".join(f"{count} {word}" for word, count in others.items())
    what = f"of {counted(len(checks), 'check')} {counts}" if others else f"all {len(checks)} checks"
    if health.overall_status not in _STATUSES:
        return f"The health of {database} is not known: {what}."
    return f"{database} is {health.overall_status}: {what}."


def _figures(name: str, check: Check) -> str:
    describe = _FIGURES.get(name.partition(":")[0], _job if "record" in check.details else None)
    answered = describe and set(check.details) - {"latency_ms"}
    return describe(check.details) if describe and answered else ""


def _connections(details: Mapping[str, Any]) -> str:
    used = sorted(details["limits"].items(), key=lambda item: -item[1]["used"] / item[1]["allowed"])
    server = [item for item in used if item[0] == "server"]
    fullest = [item for item in used if item[0] != "server" and item[1]["used"]][:1]
    return "; ".join(f"{counts['used']} of {counts['allowed']} ({name})" for name, counts in [*server, *fullest])


def _transactions(details: Mapping[str, Any]) -> str:
    return f"{details['open']} open" + (f", the oldest for {age(details['oldest_s'])}" if details["open"] else "")


def _locks(details: Mapping[str, Any]) -> str:
    waiting = details["waiting"]
    return f"{counted(waiting, 'session')} waiting" + (f", up to {age(details['longest_s'] or 0)}" if waiting else "")


def _storage(details: Mapping[str, Any]) -> str:
    return ", ".join(f"{schema} {size(found['bytes'] or 0)}" for schema, found in details["schemas"].items())


def _disk(details: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{size(found['free_bytes'])} free ({found['used_percent']:.0f} % used) at {path}"
        for path, found in details["paths"].items()
    )


def _archiving(details: Mapping[str, Any]) -> str:
    if details["archive_mode"] == "off":
        return "off"
    return f"the last {ago(details['last_archived'])}" if details["last_archived"] else "nothing archived yet"


def _workers(details: Mapping[str, Any]) -> str:
    heard = details["youngest_heartbeat_s"]
    online = f"{details['online']} of {details['expected'] or details['known']} online"
    return online + (f", heard from {age(heard)} ago" if heard is not None else "")


def _work_pools(details: Mapping[str, Any]) -> str:
    pools = details["pools"].values()
    due, active = (sum(pool[key] for pool in pools) for key in ("due", "active"))
    return f"{counted(len(pools), 'pool')}, {counted(due, 'run')} due, {active} active"


def _services(details: Mapping[str, Any]) -> str:
    lateness = {"scheduler": details["scheduler_lag_s"], "events": details["events_lag_s"]}
    late = [f"{name} {age(seconds)} late" for name, seconds in lateness.items() if seconds >= 1]
    return ", ".join(late) or "on time"


def _runs(details: Mapping[str, Any]) -> str:
    found = [
        f"{state['runs']} {word}, up to {age(state['oldest_s'] or 0)}"
        for word, state in details.items()
        if isinstance(state, Mapping) and state["runs"]
    ]
    return "; ".join(found) or "none due, none running"


def _dead_runs(details: Mapping[str, Any]) -> str:
    return f"{counted(len(details['dead']), 'dead run')} of {details['open']} open" if details["open"] else "none open"


def _certificates(details: Mapping[str, Any]) -> str:
    found = details["certificates"]
    first = min(found, key=lambda certificate: certificate["days"], default=None)
    return f"{counted(len(found), 'certificate')}, the first ends on {first['ends'][:10]}" if first else "none found"


def _job(details: Mapping[str, Any]) -> str:
    if details.get("running"):
        return f"running, begun {ago(details['started'])}"
    figures = details.get("figures") or {}
    made = f", {size(figures['bytes'])}" if details.get("ok") and "bytes" in figures else ""
    if left_out := (figures.get("not_included") or {}).get("schemas"):
        made += f" without {', '.join(left_out)}"
    if details.get("succeeded"):
        return f"succeeded {ago(details['succeeded'])}{made}"
    return "never succeeded" if "started" in details else "has not run yet"


_FIGURES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "app_database": lambda details: (
        f"PostgreSQL {details['server_version'].split()[0]}, {size(details['size_bytes'])}"
        + (", a standby" if details["standby"] else "")
    ),
    "prefect_schema": lambda details: f"revision {details['revision']}",
    "connections": _connections,
    "transactions": _transactions,
    "locks": _locks,
    "storage": _storage,
    "disk": _disk,
    "archiving": _archiving,
    "patroni": lambda details: f"{counted(len(details['members']), 'member')}, led by {details['leader'] or 'nobody'}",
    "database_hosts": lambda details: ", ".join(f"{host}: {kind}" for host, kind in details["hosts"].items()),
    "redis": lambda details: f"{size(details['used_bytes'])} ({details['used_percent']} % of its memory)",
    "workers": _workers,
    "work_pools": _work_pools,
    "services": _services,
    "runs": _runs,
    "dead_runs": _dead_runs,
    "database_events": lambda details: (
        f"{counted(details['waiting'], 'row')} waiting, {counted(details['dead'], 'dead letter')}"
    ),
    "leftovers": lambda details: counted(len(details["found"]), "thing") if details["found"] else "none",
    "certificates": _certificates,
    "api": lambda details: str(details["url"]),
}
