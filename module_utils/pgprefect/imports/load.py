"""Loading the rows of an examined copy into the schema, in one transaction of its owner.

A process that is killed leaves the schema as it was.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.connection import connect
from ..core.lock import try_table_lock
from ..core.problems import Problem
from ..core.process import error_lines
from ..core.sql import Names, Statement
from .plan import Order, Plan, Progress
from .problems import ImportRefused
from .rows import Frames
from .scratch import Scratch
from .target import Index, drop_statements, obstacles, read_target, rebuild_statements

_LOCK_SECONDS = 10
_MEMORY = "128MB"
_MANY = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What was imported: the rows by table, the values that were changed by table, and the time that it took."""

    rows: Mapping[str, int]
    changed: Mapping[str, int]
    seconds: float


def load(order: Order, plan: Plan, scratch: Scratch, progress: Progress = _log.info) -> Imported:
    """Load the rows of the copy in one transaction, and count and compare before it is committed.

    Raises ImportRefused; then nothing has changed.
    """
    import psycopg2

    began = time.monotonic()
    try:
        with contextlib.closing(connect(order.login, order.database)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('TimeZone', 'UTC', false), set_config('maintenance_work_mem', %s, false),"
                " set_config('idle_in_transaction_session_timeout', '0', false),"
                # A killed import leaves its session no longer than this.
                " set_config('client_connection_check_interval', '2s', false)",
                (_MEMORY,),
            )
            _begin(cursor, order)
            changed = _load_all(cursor, order, plan, scratch, progress)
            _rebuild(cursor, plan, progress)
            connection.commit()
    except psycopg2.Error as error:
        raise _failed(order, error_lines(str(error))) from error
    return Imported(plan.rows, changed, time.monotonic() - began)


def _begin(cursor: Any, order: Order) -> None:
    """Lock the schema against other imports and cleanups, and look at it once more."""
    schema = order.tenant.schema
    if not try_table_lock(cursor, schema, "alembic_version", _LOCK_SECONDS):
        message = f"An import, a cleanup or a migration of the schema {schema} is running."
        raise ImportRefused(
            Problem(
                code="import_running",
                object=f"schema {schema}",
                message=message,
                remedy="Wait until it has ended, and import again.",
            )
        )
    if problems := list(obstacles(cursor, schema, order.tenant.server)):
        raise ImportRefused(*problems)


def _load_all(cursor: Any, order: Order, plan: Plan, scratch: Scratch, progress: Progress) -> dict[str, int]:
    target, changed = plan.target, {}
    filled = [table for table in target.tables if plan.rows[table]]
    given = [[table, list(target.columns[table].items())] for table in filled]
    with scratch.stream([*order.program, "import-rows", str(scratch.copy)], given) as stream:
        for statement in drop_statements(target, _made_later(plan)):  # while the reader starts
            statement.execute(cursor)
        for table in filled:
            progress(f"Loading {plan.rows[table]:,} rows of {table}")
            frames = Frames(stream)
            columns = Names(tuple(target.columns[table]))
            # Nobody else sees the table until the commit, so its rows need no later vacuum.
            copy = Statement(
                "COPY {} ({}) FROM STDIN (FORMAT csv, FREEZE)", (Names(((target.schema, table),)), columns)
            )
            cursor.copy_expert(str(copy), frames)
            if frames.changed:
                changed[table] = frames.changed
    return changed


def _made_later(plan: Plan) -> list[Index]:
    """Return the indexes that are made after the rows of their tables: for fewer rows that takes longer."""
    return [index for index in plan.target.indexes if plan.rows.get(index.table, 0) >= _MANY]


def _rebuild(cursor: Any, plan: Plan, progress: Progress) -> None:
    """Make indexes and foreign keys again, and compare rows and structure. Raises psycopg2's errors, ImportRefused."""
    target = plan.target
    progress(f"Rebuilding the indexes, and checking {len(target.keys)} foreign keys")
    for statement in rebuild_statements(target, _made_later(plan)):
        cursor.execute(statement)
    progress("Counting the rows")
    for table, expected in plan.rows.items():
        name = Names(((target.schema, table),))
        Statement("ANALYZE {}", (name,)).execute(cursor)
        Statement("SELECT count(*) FROM {}", (name,)).execute(cursor)
        (count,) = cursor.fetchone()
        if count != expected:
            raise _refused_counts(target.schema, table, count, expected)
    if read_target(cursor, target.schema) != target:
        message = f"The indexes and foreign keys of {target.schema} are not as they were."
        raise ImportRefused(
            Problem(code="import_failed", object=f"schema {target.schema}", message=message, remedy="Import again.")
        )


def _refused_counts(schema: str, table: str, count: int, expected: int) -> ImportRefused:
    message = f"{schema}.{table} has {count:,} rows after the import, and the file has {expected:,}."
    remedy = "Remove triggers of Prefect's tables, which change what is loaded, and import again."
    return ImportRefused(Problem(code="import_failed", object=f"table {table}", message=message, remedy=remedy))


def _failed(order: Order, reason: str) -> ImportRefused:
    message = f"The import into the schema {order.tenant.schema} stopped, and everything is as it was: {reason}."
    remedy = "Mend the cause, and import again; for a lock timeout see what holds the tables (pg_stat_activity)."
    return ImportRefused(
        Problem(code="import_failed", object=f"schema {order.tenant.schema}", message=message, remedy=remedy)
    )
