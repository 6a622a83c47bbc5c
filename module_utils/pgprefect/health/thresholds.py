"""From when on health calls something degraded or unhealthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..core.errors import InputError
from ..core.problems import ERROR, WARNING


class ThresholdError(InputError):
    """A threshold that there is not, or that makes no sense; the message says which."""


@dataclass(frozen=True)
class Limit:
    """Reaching ``warning`` makes a check degraded, reaching ``critical`` makes it unhealthy; None never does."""

    warning: float | None = None
    critical: float | None = None

    def severity(self, value: float | None) -> str | None:
        """Say how bad a value is, or None where it is well."""
        for limit, severity in ((self.critical, ERROR), (self.warning, WARNING)):
            if value is not None and limit is not None and value >= limit:
                return severity
        return None


@dataclass(frozen=True)
class Thresholds:
    """All of them; seconds end in ``_s``. The worse value is always the larger one."""

    # The time of one answer of the database, without that of connecting.
    latency_ms: Limit = Limit(1000, 3000)
    # Connections in use, of those that the server, the database or the role allows.
    connections_percent: Limit = Limit(80, 95)
    # The age of the oldest transaction: it keeps vacuum from removing dead rows. A dump of the database has one too.
    transaction_s: Limit = Limit(900, 7200)
    # Idle within a transaction: nobody works, but its locks and its snapshot stay.
    idle_in_transaction_s: Limit = Limit(60, 900)
    # The longest wait of a session for a lock.
    lock_wait_s: Limit = Limit(10, 60)
    # Age of the oldest transaction number; at 2.1 thousand million the server refuses to write.
    xid_age: Limit = Limit(500e6, 1200e6)
    # Dead rows of a table with 10,000 of them, of all its rows. Autovacuum begins at 20.
    dead_percent: Limit = Limit(60, None)
    # The file system of the database; asked on its own host only.
    disk_used_percent: Limit = Limit(85, 95)
    # How long a scheduled run has been due; Prefect's own name for it is Late, after 15 s.
    late_s: Limit = Limit(300, 3600)
    # How long an active schedule has had no run ahead; Prefect's scheduler looks each minute.
    scheduler_lag_s: Limit = Limit(180, 900)
    # How long a due run has not been called late, which Prefect's services do within 20 s, or after their start.
    late_mark_lag_s: Limit = Limit(120, 600)
    # How long a run that began or ended has left no event.
    events_lag_s: Limit = Limit(120, 900)
    # Runs that are due, in one work queue.
    backlog: Limit = Limit(100, 1000)
    # In this state without a change: the process behind it may be gone.
    running_s: Limit = Limit(86400, None)
    pending_s: Limit = Limit(900, None)
    cancelling_s: Limit = Limit(900, None)
    # How long no WAL was archived, once that fails.
    archive_lag_s: Limit = Limit(120, 3600)
    # Since the scheduled job last succeeded, or was scheduled.
    backup_age_s: Limit = Limit(129600, 259200)
    copy_age_s: Limit = Limit(129600, 604800)
    drill_age_s: Limit = Limit(777600, None)
    pitr_age_s: Limit = Limit(129600, 259200)
    cleanup_age_s: Limit = Limit(172800, None)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any] | None) -> Thresholds:
        """Take ``{name: {warning: number, critical: number}}``; what is left out keeps its default, null switches off.

        Raises ThresholdError.
        """
        known = {column.name: column.default for column in fields(cls)}
        found: dict[str, Limit] = {}
        for name, given in (arguments or {}).items():
            if name not in known:
                raise ThresholdError(f"There is no threshold {name!r}; there are: {', '.join(known)}.")
            if not isinstance(given, Mapping) or not set(given) <= {"warning", "critical"}:
                raise ThresholdError(f"The threshold {name} is {given!r}; it takes warning and critical, by name.")
            found[name] = limit = Limit(**{**vars(known[name]), **{key: _number(name, given[key]) for key in given}})
            if None not in (limit.warning, limit.critical) and limit.warning > limit.critical:  # type: ignore[operator]
                raise ThresholdError(
                    f"The threshold {name} warns at {limit.warning:g}, beyond its critical {limit.critical:g}."
                )
        return cls(**found)


def _number(name: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise ThresholdError(f"The threshold {name} has {value!r}, which is no number from 0.")
    return number
