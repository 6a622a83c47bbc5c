"""The database session of a plan or a cleanup: its rights, its lock, its transactions and the policy's values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ..core.connection import Login, connect
from ..core.errors import PgprefectError
from ..core.lock import try_table_lock
from ..core.prefect import TERMINAL_STATES
from ..core.sql import quote
from .cleanup_sql import CLEANED_TABLES, KEPT_RUNS
from .policy import Policy

_LOCK_SECONDS = 3
# SQLSTATEs of what passes by itself: a deadlock, a serialization failure, a lock or statement that took too long.
_TRANSIENT = ("40P01", "40001", "55P03", "57014")


class RetentionError(PgprefectError):
    """A cleanup cannot be done, or not now."""


def is_transient(error: Any) -> bool:
    """Return whether the same statement may succeed a moment later."""
    return error.pgcode in _TRANSIENT


def reason_of(error: Exception) -> str:
    """Return PostgreSQL's reason for a transient error, and where to look for its cause."""
    return f"{str(error).strip()}. Look for a session that holds locks in pg_stat_activity"


@dataclass
class CleanupSession:
    """A connection on which statements see Prefect's tables and the policy's values as parameters.

    ``observer`` is a connection that sees replicas and other roles' sessions, where this one may not.
    """

    connection: Any
    schema: str
    policy: Policy
    observer: Any = None
    values: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Check the role's rights and compute the policy's values; restore the connection's state at the end.

        Raises RetentionError.
        """
        import psycopg2

        if self.connection.info.transaction_status != 0:
            raise RetentionError("The connection is in a transaction: commit or roll back before a cleanup.")
        autocommit, self.connection.autocommit = self.connection.autocommit, False
        try:
            with self.transaction():
                _check_rights(self)
                _check_visibility(self)
                self.values = _policy_values(self)
            yield
        except psycopg2.Error as error:
            if not is_transient(error):
                raise
            raise RetentionError(f"The cleanup could not read the tables: {reason_of(error)}.") from error
        finally:
            if not self.connection.closed:
                self.connection.rollback()
                self.connection.autocommit = autocommit

    @contextlib.contextmanager
    def cleanup_lock(self) -> Iterator[None]:
        """Hold the lock of cleanups of the schema. Raises RetentionError where another session holds it."""
        # A connection of its own keeps the lock while this one commits batch after batch.
        with contextlib.closing(connect(Login.of(self.connection), self.connection.info.dbname)) as holder:
            with holder.cursor() as cursor:
                cursor.execute("SET idle_in_transaction_session_timeout = 0")
                if not try_table_lock(cursor, self.schema, "alembic_version", _LOCK_SECONDS):
                    raise _already_running(self)
            yield

    @contextlib.contextmanager
    def transaction(self, snapshot: bool = False, deleting: bool = False) -> Iterator[None]:
        """Run the block as one transaction, with Prefect's tables in the search path and with timeouts.

        The timeouts are for the unexpected: the size of the batches keeps a transaction to the policy's seconds.
        """
        milliseconds = int(self.policy.max_transaction_seconds * 1000)
        try:
            if snapshot:
                self.ask("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.ask(
                """SELECT set_config('search_path', %(path)s, true), set_config('lock_timeout', %(lock)s, true),
                          set_config('statement_timeout', %(longest)s, true)""",
                path=f"pg_catalog, {quote(self.schema)}",
                lock=str(max(milliseconds, 100) if deleting else 10_000),
                longest=str(max(milliseconds * 4, 2000) if deleting else 0 if snapshot else 300_000),
            )
            yield
            self.connection.commit()
        except BaseException:
            if not self.connection.closed:
                self.connection.rollback()
            raise

    def ask(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Execute a statement with the policy's values and these, and return its rows, if it has any."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, {**self.values, **values})
            return cursor.fetchall() if cursor.description else []

    def observe(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute a statement as the observer, in a transaction of its own, and return its rows."""
        if self.observer is None:
            return self.ask(statement)
        with self.observer, self.observer.cursor() as cursor:
            cursor.execute(statement)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def execute(self, statement: str, **values: Any) -> int:
        """Execute a statement with the policy's values and these, and return how many rows it changed."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, {**self.values, **values})
            return int(cursor.rowcount)


def _already_running(session: CleanupSession) -> RetentionError:
    holders = session.ask(
        """SELECT pid FROM pg_locks WHERE relation = to_regclass(%(table)s) AND granted
           AND mode = 'ShareUpdateExclusiveLock'""",
        table=quote((session.schema, "alembic_version")),
    )
    by = f" (process {holders[0][0]} of the server)" if holders else ""
    return RetentionError(
        f"Another cleanup of the schema {session.schema} is running{by}: wait for it, or end it with "
        "pg_terminate_backend; what it deleted stays deleted."
    )


def _check_rights(session: CleanupSession) -> None:
    """Raise RetentionError where tables are missing, the role may not delete, or deletions are not counted."""
    tables = session.ask(
        """SELECT c.relname, has_table_privilege(c.oid, 'DELETE') AND has_schema_privilege(n.oid, 'USAGE'),
                  current_user, current_setting('track_counts')::bool
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind = 'r'""",
        schema=session.schema,
        tables=list(CLEANED_TABLES),
    )
    missing = sorted(set(CLEANED_TABLES) - {row[0] for row in tables})
    if missing:
        raise RetentionError(
            f"The schema {session.schema} has no {', '.join(missing)}: name the schema of a Prefect server, or "
            "migrate it (playbooks/server.yml)."
        )
    if not tables[0][3]:
        raise RetentionError("track_counts is off, so PostgreSQL does not count what is deleted: set it to on.")
    if all(row[1] for row in tables):
        return
    able = session.ask(
        """SELECT r.rolname FROM pg_catalog.pg_roles r
           WHERE NOT r.rolsuper AND r.rolname !~ '^pg_'
           AND has_schema_privilege(r.oid, (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s), 'USAGE')
           AND (SELECT bool_and(has_table_privilege(r.oid, c.oid, 'DELETE')) FROM pg_catalog.pg_class c
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s)) ORDER BY 1""",
        schema=session.schema,
        tables=list(CLEANED_TABLES),
    )
    raise RetentionError(
        f"The role {tables[0][2]} may not delete from the schema {session.schema}. Log in as one that may: "
        f"{', '.join(row[0] for row in able) or 'a superuser'}."
    )


def _check_visibility(session: CleanupSession) -> None:
    """Raise RetentionError where the role cannot see what the policy pauses for: PostgreSQL hides it silently."""
    names = ("max_replication_lag_bytes", "max_replication_lag_seconds", "max_active_sessions")
    limits = [name for name in names if getattr(session.policy, name) is not None]
    sees, role = session.observe("SELECT pg_has_role('pg_read_all_stats', 'USAGE'), current_user")[0]
    if limits and not sees:
        raise RetentionError(
            f"{', '.join(limits)}: the role {role} sees neither replicas nor other roles' sessions. Clean up on "
            f'the database\'s host (pgprefect cleanup), or as a superuser: GRANT pg_read_all_stats TO "{role}"'
        )


def _policy_values(session: CleanupSession) -> dict[str, Any]:
    """Return the policy as parameters of SQL, its days turned into points in time by the server's clock."""
    policy = session.policy
    now: datetime = session.ask("SELECT now()")[0][0]

    def before(days: float | None) -> Any:
        return "-infinity" if days is None else now - timedelta(days=days)

    states = {state: before(policy.days_by_state.get(state, policy.days_to_keep)) for state in TERMINAL_STATES}
    points = [point for point in states.values() if point != "-infinity"]
    kept = session.ask(KEPT_RUNS, keep_newest=policy.keep_newest) if policy.keep_newest else []
    return {
        **states,
        **{name: before(days) for name, days in policy.days.items()},
        "now": now,
        "newest": max(points, default="-infinity"),
        "zombies": before(None if policy.zombie_hours is None else policy.zombie_hours / 24),
        "protected": list(policy.protected_tags),
        "orphans": policy.orphans,
        "expired_cache": policy.expired_cache,
        "batch_size": policy.batch_size,
        "kept": [row[0] for row in kept],
    }
