"""Limits at which a check becomes degraded or unhealthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..core.errors import InputError
from ..core.problems import ERROR, WARNING

_MOST = 1e15  # of anything


class ThresholdError(InputError):
    """A threshold that does not exist, or whose value is not allowed; the message says which."""


@dataclass(frozen=True)
class Limit:
    """A value from ``warning`` on makes a check degraded, from ``critical`` on unhealthy; None is no limit."""

    warning: float | None = None
    critical: float | None = None
    sign: ClassVar[str] = ">="  # between a value and the limit that it reaches

    def severity(self, value: float | None) -> str | None:
        """Return ERROR or WARNING for a value that reaches a limit, or None."""
        for limit, severity in ((self.critical, ERROR), (self.warning, WARNING)):
            if value is not None and limit is not None and self.reached(value, limit):
                return severity
        return None

    @staticmethod
    def reached(value: float, limit: float) -> bool:
        """Return whether a value is as bad as a limit, or worse."""
        return value >= limit


@dataclass(frozen=True)
class Least(Limit):
    """A limit of what should be large: a value from ``warning`` down makes a check degraded."""

    sign: ClassVar[str] = "<="

    @staticmethod
    def reached(value: float, limit: float) -> bool:
        """Return whether a value is as bad as a limit, or worse."""
        return value <= limit


@dataclass(frozen=True)
class Thresholds:
    """All thresholds; the names of seconds end in ``_s``. A larger value is worse, unless it is a ``Least``."""

    # Time of the database's slowest answer, without connecting.
    latency_ms: Limit = Limit(1000, 3000)
    # Connections in use, as a share of those that the server, the database or the role allows.
    connections_percent: Limit = Limit(80, 95)
    # Age of the oldest transaction, which keeps vacuum from removing dead rows. A dump is such a transaction too.
    transaction_s: Limit = Limit(900, 7200)
    # Idle within a transaction: its locks and its snapshot stay.
    idle_in_transaction_s: Limit = Limit(60, 900)
    # The longest wait of a session for a lock.
    lock_wait_s: Limit = Limit(10, 60)
    # Age of the oldest transaction number; at 2.1 billion the server refuses to write.
    xid_age: Limit = Limit(500e6, 1200e6)
    # Share of dead rows, in tables with at least 10,000 of them. Autovacuum starts at 20.
    dead_percent: Limit = Limit(60, None)
    # Use of the database's file system; checked on its own host only.
    disk_used_percent: Limit = Limit(85, 95)
    # How long a scheduled run has been due; Prefect calls it Late after 15 s.
    late_s: Limit = Limit(300, 3600)
    # How long an active schedule has had no planned run; Prefect's scheduler runs each minute.
    scheduler_lag_s: Limit = Limit(180, 900)
    # How long a due run has not been marked late, which Prefect's services do within 20 s, or after their start.
    late_mark_lag_s: Limit = Limit(120, 600)
    # How long a run that began or ended has had no event.
    events_lag_s: Limit = Limit(120, 900)
    # How long a row has waited in an outbox, and rows that the relay gave up.
    database_events_lag_s: Limit = Limit(300, 3600)
    dead_letters: Limit = Limit(1, None)
    # Use of the memory that a tenant's Redis may have; at 100 no run changes its state.
    redis_memory_percent: Limit = Limit(70, 90)
    # Runs that are due, in one work queue.
    backlog: Limit = Limit(100, 1000)
    # Time in this state without a change: the process behind it may be gone.
    running_s: Limit = Limit(86400, None)
    pending_s: Limit = Limit(900, None)
    cancelling_s: Limit = Limit(900, None)
    # Time without a heartbeat, a line of the log or a change of state after which a run counts as dead. The workers of
    # the site have each run send a heartbeat every 30 s; of others' runs, at least 540 s are allowed.
    silence_s: Limit = Limit(90, None)
    # WAL that a standby of a cluster of several hosts has not got. Patroni compares positions of different seconds, so
    # that a busy primary always seems to be ahead.
    standby_lag_bytes: Limit = Limit(250e6, None)
    # How long no WAL has been archived, once archiving fails.
    archive_lag_s: Limit = Limit(120, 3600)
    # Time since the scheduled job last succeeded, or was scheduled.
    backup_age_s: Limit = Limit(129600, 259200)
    copy_age_s: Limit = Limit(129600, 604800)
    drill_age_s: Limit = Limit(777600, None)
    pitr_age_s: Limit = Limit(129600, 259200)
    cleanup_age_s: Limit = Limit(172800, None)
    # Days until the end of a certificate. The site renews its own before the first of them.
    certificate_days: Limit = Least(30, 7)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any] | None) -> Thresholds:
        """Make them of ``{name: {warning: number, critical: number}}``; a missing limit keeps its default.

        Null is no limit. Raises ThresholdError.
        """
        known: dict[str, Any] = {column.name: column.default for column in fields(cls)}
        found: dict[str, Limit] = {}
        for name, given in (arguments or {}).items():
            if name not in known:
                raise ThresholdError(f"There is no threshold {name!r}; there are: {', '.join(known)}.")
            if not isinstance(given, Mapping) or not set(given) <= {"warning", "critical"}:
                raise ThresholdError(f"The threshold {name} is {given!r}; it takes warning and critical, by name.")
            kind, numbers = type(known[name]), {key: _number(name, given[key]) for key in given}
            found[name] = limit = kind(**{**vars(known[name]), **numbers})
            ordered = None in (limit.warning, limit.critical) or limit.reached(limit.critical, limit.warning)
            if not ordered:
                raise ThresholdError(
                    f"The threshold {name} warns at {limit.warning:g}, beyond its critical {limit.critical:g}."
                )
        return cls(**found)


def _number(name: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= _MOST:
        raise ThresholdError(f"The threshold {name} has {value!r}, which is not a number from 0.")
    return number
