"""Health of a tenant's outbox, from which the relay sends its database events."""

from __future__ import annotations

from ..core.problems import ERROR, Problem
from ..core.sql import Statement
from ..schema.database_events import MOST_WAITING
from ..schema.outbox_sql import STATUS, names
from ..site.configuration import Tenant
from .probes import Ask, Finding
from .thresholds import Thresholds


def database_events(ask: Ask, limits: Thresholds, part: Tenant) -> Finding:
    """Check how long rows have waited, whether there is room for more, and what was given up."""
    waiting, lag, dead, refused, failed = ask(Statement.named(STATUS, dict(names(part.outbox))))[0]
    where = f"outbox {part.outbox}"
    unit = f"prefect-events@{part.name}"
    problems = []
    severity = limits.database_events_lag_s.severity(lag)
    if severity:
        message = f"{waiting} rows of the outbox of tenant {part.name} wait to be sent, the oldest for {lag:.0f} s."
        remedy = f"See what keeps the relay: systemctl status {unit}; journalctl -u {unit}"
        problems.append(Problem("database_events_late", where, message, remedy, severity))
    if waiting + dead >= MOST_WAITING:
        message = f"The outbox of tenant {part.name} is full: what rows change now starts nothing ({refused} so far)."
        remedy = f"Start the relay (systemctl restart {unit}); retry dead letters: pgprefect database-events retry"
        problems.append(Problem("database_events_full", where, message, remedy, ERROR))
    severity = limits.dead_letters.severity(dead)
    if severity:
        message = f"{dead} rows of the outbox of tenant {part.name} are dead letters."
        remedy = f"pgprefect database-events dead --tenant {part.name}"
        problems.append(Problem("database_events_dead", where, message, remedy, severity))
    return problems, {"waiting": waiting, "lag_s": lag, "dead": dead, "refused": refused, "failed": failed}
