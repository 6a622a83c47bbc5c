"""Deleting in small transactions: how much one may delete, how often it is tried, and when a cleanup pauses."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .cleanup_sql import CLEANED_TABLES
from .session import CleanupSession, RetentionError, is_transient, reason_of

FIRST_ROWS = 4000
# A batch is sized for this share of the longest transaction, because the machine may be busier a moment later.
_TARGET_SHARE = 0.4
_ATTEMPTS = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One committed transaction: what it deleted, by table, and how long it took."""

    phase: str
    deleted: dict[str, int]
    seconds: float
    total_rows: int  # deleted so far, in all tables

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


Progress = Callable[[Batch], None]


@dataclass
class BatchSize:
    """The number of rows that a transaction deletes: as many as fit into its time."""

    rows: int = FIRST_ROWS

    def learn(self, deleted: int, seconds: float, limit: float) -> None:
        """Adapt it to what a transaction deleted in its seconds, where ``limit`` are the most that it may take."""
        if deleted and seconds:
            fitting = int(deleted / seconds * limit * _TARGET_SHARE)
            self.rows = max(100, min(fitting, self.rows * 2))


@dataclass
class Throttle:
    """Pauses a cleanup while the database exceeds the policy's limits. ``seconds`` are those of all pauses."""

    session: CleanupSession
    seconds: float = 0

    def wait(self) -> None:
        """Wait while a replica lags or the database is busy. Raises RetentionError when that does not end."""
        policy = self.session.policy
        limits = (policy.max_replication_lag_bytes, policy.max_replication_lag_seconds, policy.max_active_sessions)
        if all(limit is None for limit in limits):
            return
        started = time.monotonic()
        while exceeded := self._exceeded_limits():
            waited = time.monotonic() - started
            _log.info("Pause because of %s, for %.1f s up to now.", exceeded, waited)
            if waited > policy.pause_timeout:
                raise RetentionError(
                    f"The cleanup paused for {waited:.0f} s because of {exceeded}, and that did not end. "
                    "What was deleted stays deleted; run it again later, or raise the limit."
                )
            time.sleep(min(0.2, policy.pause_timeout))
        self.seconds += time.monotonic() - started

    def _exceeded_limits(self) -> str:
        """Return in words the limits of the policy that the database exceeds now."""
        policy = self.session.policy
        with self.session.transaction():
            lag_bytes, lag_seconds, sessions = self.session.observe(
                """SELECT lag.bytes::float8, extract(epoch FROM lag.time)::float8, busy.sessions
                   FROM (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, flush_lsn))) AS bytes,
                                max(coalesce(replay_lag, flush_lag)) AS time FROM pg_stat_replication) lag,
                        (SELECT count(*) AS sessions FROM pg_stat_activity
                         WHERE datname = current_database() AND state = 'active'
                         AND backend_type = 'client backend' AND pid <> pg_backend_pid()) busy"""
            )[0]
        return " and ".join(
            f"{value:g} {name}"
            for value, limit, name in (
                (lag_bytes, policy.max_replication_lag_bytes, "bytes of replication lag"),
                (lag_seconds, policy.max_replication_lag_seconds, "seconds of replication lag"),
                (sessions, policy.max_active_sessions, "active sessions"),
            )
            if value is not None and limit is not None and value > limit
        )


@dataclass
class Batches:
    """The transactions of a cleanup, and what they deleted."""

    session: CleanupSession
    progress: Progress
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLEANED_TABLES, 0))
    committed: int = 0
    longest: float = 0
    throttle: Throttle = field(init=False)

    def __post_init__(self) -> None:
        self.throttle = Throttle(self.session)

    @contextlib.contextmanager
    def measured(self, deleting: bool = False) -> Iterator[None]:
        """Run the block as one transaction whose duration counts."""
        started = time.monotonic()
        with self.session.transaction(deleting=deleting):
            yield
        self.longest = max(self.longest, time.monotonic() - started)

    def commit(self, phase: str, size: BatchSize, delete: Callable[[int], int]) -> int:
        """Let ``delete`` delete about ``size`` rows in one transaction, and return what it returns.

        It is tried again with fewer rows where a lock or the time runs out. Raises RetentionError.
        """
        done, deleted, seconds = self._try(phase, size, delete)
        size.learn(sum(deleted.values()), seconds, self.session.policy.max_transaction_seconds)
        for table, count in deleted.items():
            self.rows[table] += count
        if deleted:
            self.committed += 1
            self.progress(Batch(phase, deleted, round(seconds, 4), sum(self.rows.values())))
        self.throttle.wait()
        return done

    def _try(self, phase: str, size: BatchSize, delete: Callable[[int], int]) -> tuple[int, dict[str, int], float]:
        """Return the result of ``delete``, the deleted rows by table, and the seconds of the transaction."""
        import psycopg2

        for attempt in range(1, _ATTEMPTS + 1):
            started = time.monotonic()
            try:
                with self.measured(deleting=True):
                    before = self._deleted()
                    done = delete(size.rows)
                    after = self._deleted()
                break
            except psycopg2.Error as error:
                if not is_transient(error):
                    raise
                if attempt == _ATTEMPTS:
                    raise RetentionError(
                        f"The cleanup of {phase} gave up after {_ATTEMPTS} attempts: {reason_of(error)}; what was "
                        "deleted stays deleted."
                    ) from error
                _log.info("Deleting %d rows of %s failed, try fewer: %s", size.rows, phase, str(error).strip())
                size.rows = max(1, size.rows // 4)
                time.sleep(0.05 * attempt)
        deleted = {table: after[table] - before[table] for table in CLEANED_TABLES if after[table] > before[table]}
        return done, deleted, time.monotonic() - started

    def _deleted(self) -> dict[str, int]:
        """Return how many rows this transaction has deleted, by table, as PostgreSQL counts them with foreign keys."""
        return dict(
            self.session.ask(
                """SELECT c.relname::text, pg_stat_get_xact_tuples_deleted(c.oid) FROM pg_class c
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s)""",
                schema=self.session.schema,
                tables=list(CLEANED_TABLES),
            )
        )
