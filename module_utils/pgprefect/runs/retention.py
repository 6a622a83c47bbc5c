"""Retention of flow runs and everything that belongs to them, and of logs, artifacts, events and cache entries.

``plan`` counts what ``clean_up`` would delete. ``clean_up`` deletes it in small transactions, each of which leaves the
schema consistent: a run goes together with its logs and artifacts, and a collection whose newest artifact goes is
pointed to the one before. So a cleanup can be killed at any time, and the next one continues. Runs that have not ended,
deployments, flows and pools are never touched.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.sql import Names, Statement
from .artifacts import Artifacts
from .batches import Batch, Batches, BatchSize, Progress
from .cleanup_sql import AGED_ROWS, BELONGING_TO_RUNS, CLEANED_TABLES, DELETED_ALONE
from .policy import Policy, PolicyError
from .rows import RowDeletion
from .session import CleanupSession, RetentionError
from .trees import TreeDeletion, find_trees
from .zombies import Zombie, crash_zombies, find_zombies

__all__ = [
    "CLEANED_TABLES",
    "Batch",
    "CleanupPlan",
    "CleanupResult",
    "Policy",
    "PolicyError",
    "RetentionError",
    "Zombie",
    "clean_up",
    "named",
    "plan",
]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleanupPlan:
    """The rows that a cleanup would delete now, by table, and about how many bytes they take with their indexes."""

    rows: dict[str, int]
    bytes: int
    zombies: list[Zombie]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**named(self.rows), "rows": self.rows, "bytes": self.bytes, "zombies": list(map(asdict, self.zombies))}


@dataclass(frozen=True)
class CleanupResult:
    """The rows that a cleanup deleted, by table, and how it went."""

    rows: dict[str, int]
    collections_repointed: int
    zombies: list[Zombie]
    zombies_crashed: int
    trees_skipped: int  # because another session held one of their runs
    batches: int
    longest_transaction_seconds: float
    seconds: float  # without vacuuming
    paused_seconds: float
    vacuumed: list[str]
    vacuum_message: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**named(self.rows), **asdict(self)}


def named(rows: Mapping[str, int]) -> dict[str, int]:
    """Return the counts under the names that programs know: flow_runs_deleted, logs_deleted, ..."""
    return {f"{table if table.endswith('s') else table + 's'}_deleted": rows[table] for table in CLEANED_TABLES}


def plan(connection: Any, schema: str, policy: Policy, observer: Any = None) -> CleanupPlan:
    """Count what ``clean_up`` would delete now, in one snapshot. Raises RetentionError."""
    session = CleanupSession(connection, schema, policy, observer)
    with session.prepared(), session.transaction(snapshot=True):
        rows = _count_rows(session)
        return CleanupPlan(rows, _estimate_bytes(session, rows), find_zombies(session))


def _count_rows(session: CleanupSession) -> dict[str, int]:
    """Return how many rows a cleanup would delete, by table."""
    rows = dict.fromkeys(CLEANED_TABLES, 0)
    for table, condition in DELETED_ALONE.items():
        rows[table] += session.ask(f"SELECT count(*) FROM {table} x WHERE {condition}")[0][0]
    runs: list[str] = []
    for trees in find_trees(session, contextlib.nullcontext):
        ids = [member for tree in trees for member in tree.members]
        runs += ids
        for table, condition in BELONGING_TO_RUNS.items():
            rest = f"AND ({DELETED_ALONE[table]}) IS NOT TRUE" if table in DELETED_ALONE else ""
            rows[table] += session.ask(f"SELECT count(*) FROM {table} x WHERE {condition} {rest}", ids=ids)[0][0]
    rows["artifact_collection"] = _count_collections(session, runs)
    return rows


def _count_collections(session: CleanupSession, runs: list[str]) -> int:
    """Return how many collections would lose their last artifact with these runs."""
    stays = f"({DELETED_ALONE['artifact']}) IS NOT TRUE AND (x.flow_run_id = ANY (%(ids)s::uuid[])) IS NOT TRUE"
    left = f"EXISTS (SELECT FROM artifact x WHERE x.key = c.key AND {stays})"
    lost = f"NOT EXISTS (SELECT FROM artifact x WHERE x.id = c.latest_id AND {stays})"
    had = "(%(orphans)s OR EXISTS (SELECT FROM artifact x WHERE x.id = c.latest_id))"
    question = f"SELECT count(*) FROM artifact_collection c WHERE {had} AND {lost} AND NOT {left}"
    return int(session.ask(question, ids=runs)[0][0])


def _estimate_bytes(session: CleanupSession, rows: Mapping[str, int]) -> int:
    """Return about how many bytes rows take on disk, from the sizes of their tables."""
    sizes = session.ask(
        """SELECT relname, pg_total_relation_size(c.oid), greatest(reltuples, 1)::float8 FROM pg_class c
           JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %(schema)s AND relname = ANY (%(tables)s)""",
        schema=session.schema,
        tables=list(CLEANED_TABLES),
    )
    return int(sum(size * min(1.0, rows[table] / tuples) for table, size, tuples in sizes))


def clean_up(
    connection: Any,
    schema: str,
    policy: Policy,
    progress: Progress | None = None,
    vacuum_connection: Any = None,
    observer: Any = None,
) -> CleanupResult:
    """Delete what the policy does not keep, and vacuum the tables that lost rows.

    The connection needs the right to delete, as the tenant's server role has it, and must not be in a transaction.
    Only an owner of the tables can vacuum them: that is left to ``vacuum_connection``, else to the connection itself
    if it may, else to autovacuum. ``observer`` is a connection that sees replicas and all sessions, for a policy that
    pauses for them; else the connection itself must. Raises RetentionError.
    """
    import psycopg2

    session = CleanupSession(connection, schema, policy, observer)
    batches = Batches(session, progress or (lambda _batch: None))
    try:
        with session.prepared(), session.cleanup_lock():
            return _clean_up(batches, vacuum_connection or connection)
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        # A server that shuts down says so (57P01, 57P02) before the connection is seen to be closed.
        if not connection.closed and not (error.pgcode or "").startswith("57P"):
            raise
        raise RetentionError(
            f"The connection broke after {sum(batches.rows.values())} deleted rows ({str(error).strip()}). They stay "
            "deleted, and the schema is consistent: run the cleanup again."
        ) from error


def _clean_up(batches: Batches, vacuum_connection: Any) -> CleanupResult:
    session, policy = batches.session, batches.session.policy
    started = time.monotonic()
    artifacts = Artifacts(session)
    trees, rows = TreeDeletion(batches, artifacts), RowDeletion(batches, artifacts)
    with _logged("flow runs", batches):
        trees.delete_all()
    for table in AGED_ROWS:
        with _logged(f"old rows of {table}", batches):
            rows.delete_aged(table)
    if policy.orphans:
        with _logged("orphans", batches):
            rows.delete_orphans()
    if policy.expired_cache:
        with _logged("expired cache entries", batches):
            rows.delete_expired_cache()
    with session.transaction():
        zombies = find_zombies(session)
    crashed = 0
    if policy.crash_zombies:
        crashed = batches.commit("zombies", BatchSize(), lambda _rows: crash_zombies(session, zombies))
    _log.info("Found %d runs without a sign of life; set %d of them to Crashed.", len(zombies), crashed)
    seconds = time.monotonic() - started
    vacuumed, message = _vacuum(session, batches.rows, vacuum_connection)
    return CleanupResult(
        rows=batches.rows,
        collections_repointed=artifacts.repointed,
        zombies=zombies,
        zombies_crashed=crashed,
        trees_skipped=trees.skipped,
        batches=batches.committed,
        longest_transaction_seconds=round(batches.longest, 4),
        seconds=round(seconds, 3),
        paused_seconds=round(batches.throttle.seconds, 3),
        vacuumed=vacuumed,
        vacuum_message=message,
    )


@contextlib.contextmanager
def _logged(phase: str, batches: Batches) -> Iterator[None]:
    """Log what the block deletes, also where it fails."""
    started, before, committed = time.monotonic(), sum(batches.rows.values()), batches.committed
    try:
        yield
    finally:
        _log.info(
            "Deleted %s of the schema %s: %d rows in %d transactions, %.1f s.",
            phase,
            batches.session.schema,
            sum(batches.rows.values()) - before,
            batches.committed - committed,
            time.monotonic() - started,
        )


def _vacuum(session: CleanupSession, rows: Mapping[str, int], connection: Any) -> tuple[list[str], str]:
    """Vacuum and analyze the tables that lost rows. Returns these, and why not where that is not allowed."""
    tables = [table for table in CLEANED_TABLES if rows[table]]
    if not tables:
        return [], ""
    session.connection.rollback()
    autocommit, connection.autocommit = connection.autocommit, True
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                """SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE'), current_user FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE nspname = %s AND relname = 'flow_run'""",
                (session.schema,),
            )
            may, role = cursor.fetchone()
            if not may:
                return [], f"The role {role} does not own the tables; vacuuming them is left to autovacuum."
            cursor.execute("SET lock_timeout = '10s'; SET statement_timeout = 0")
            for table in tables:
                started = time.monotonic()
                Statement("VACUUM (ANALYZE) {}", (Names(((session.schema, table),)),)).execute(cursor)
                _log.info("Vacuumed %s.%s in %.1f s.", session.schema, table, time.monotonic() - started)
            cursor.execute("RESET lock_timeout; RESET statement_timeout")
    finally:
        connection.autocommit = autocommit
    return tables, ""
