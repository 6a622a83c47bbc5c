"""What must be so before Prefect is upgraded. The checks change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..core.errors import ProblemError
from ..core.problems import ERROR, NOTICE, Problem
from ..core.sql import quote
from ..schema.revision import stored_revisions
from ..schema.structure import changes
from .clients import other_releases, read_workers
from .migration import invalid_indexes, unfinished_indexes
from .path import MigrationPath, find_path

# Transactions as old as this seldom end by themselves, and each concurrent index waits for all of them.
OLD_TRANSACTION_SECONDS = 60


@dataclass(frozen=True)
class UpgradeCheck:
    """What an upgrade would do to one tenant's schema, and what bars it. ``bytes`` is about the size of its tables and
    indexes: to measure them would wait for who locks one.

    ``path`` is None where the new release is not installed yet, or has no migrations from here. ``changes`` are what
    becomes of tables, columns and indexes, or None where the structure of one of the two releases is not known.
    """

    path: MigrationPath | None
    problems: list[Problem]
    bytes: int
    changes: list[str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        path = {**asdict(self.path), "lossless": self.path.lossless} if self.path else None
        problems = [problem.as_dict() for problem in self.problems]
        return {"path": path, "problems": problems, "bytes": self.bytes, "changes": self.changes}


def check_upgrade(connection: Any, schema: str, release: str, virtualenv: str | None, own: str) -> UpgradeCheck:
    """Look at a tenant's schema, at what would keep its migrations waiting, and at workers of other releases.

    ``virtualenv`` holds the new release, or is None where there is none yet. ``own`` begins the application names of
    the sessions that the upgrade stops by itself. Raises RevisionError.
    """
    path, problems = None, []
    if virtualenv:
        try:
            path = find_path(stored_revisions(connection, schema), virtualenv)
        except ProblemError as error:
            problems += error.problems
    with connection.cursor() as cursor:
        problems += [
            *_invalid_indexes(connection, schema),
            *_old_transactions(cursor, own),
            *_locks(cursor, schema, own),
            *other_releases(read_workers(cursor, schema), release),
        ]
        cursor.execute(
            """SELECT coalesce(sum(relpages::bigint * current_setting('block_size')::bigint), 0)::bigint
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
               WHERE nspname = %s AND relkind IN ('r', 'i')""",
            (schema,),
        )
        (size,) = cursor.fetchone()
    if path:
        problems += [
            Problem(
                code="upgrade_not_reversible",
                object=f"migration {step.revision}",
                message=f"The migration {step.revision} ({step.title}) cannot be taken back whole: {step.loses}.",
                remedy="Nothing: the way back is a backup set, which is made while the servers are stopped.",
                severity=NOTICE,
            )
            for step in path.steps
            if step.loses
        ]
    return UpgradeCheck(path, problems, int(size), changes(path.current, path.target) if path else None)


def _invalid_indexes(connection: Any, schema: str) -> Iterator[Problem]:
    unfinished = set(unfinished_indexes(connection, schema))
    for name in invalid_indexes(connection, schema):
        index = quote((schema, name))
        dropped = name in unfinished
        yield Problem(
            code="upgrade_invalid_index",
            object=f"index {index}",
            message=f"The index {index} is invalid, and a migration would take it for a finished one.",
            remedy="Nothing: the migration drops it." if dropped else "pgprefect verify names what to do with it.",
            severity=NOTICE if dropped else ERROR,
        )


_SESSION = "coalesce(nullif(a.application_name, ''), 'without a name') || ' of ' || coalesce(a.usename, '?')"
_OLD = f"""
SELECT a.pid, {_SESSION}, extract(epoch FROM now() - a.xact_start)::int FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND a.xact_start < now() - make_interval(secs => %s) AND NOT starts_with(a.application_name, %s)
ORDER BY a.xact_start
"""
_LOCKS = f"""
SELECT DISTINCT a.pid, {_SESSION}, c.relname, l.mode FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AND l.granted
  AND nspname = %s AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND a.backend_type = 'client backend' AND NOT starts_with(a.application_name, %s) ORDER BY 1, 3
"""


def _old_transactions(cursor: Any, own: str) -> Iterator[Problem]:
    cursor.execute(_OLD, (OLD_TRANSACTION_SECONDS, own))
    for pid, session, seconds in cursor.fetchall():
        yield Problem(
            code="upgrade_old_transaction",
            object=f"session {pid}",
            message=f"The session {pid} ({session}) is in a transaction since {seconds} s: indexes would wait for it.",
            remedy=f"Wait until it ends, or end it: SELECT pg_terminate_backend({pid});",
        )


def _locks(cursor: Any, schema: str, own: str) -> Iterator[Problem]:
    cursor.execute(_LOCKS, (schema, own))
    for pid, session, table, mode in cursor.fetchall():
        yield Problem(
            code="upgrade_locked",
            object=f"table {quote((schema, table))}",
            message=f"The session {pid} ({session}) holds {mode} on {quote((schema, table))}: migrations would wait.",
            remedy=f"Wait until it ends, or end it: SELECT pg_terminate_backend({pid});",
        )
