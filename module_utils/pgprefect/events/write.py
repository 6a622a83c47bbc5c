"""Writing events of the application and of its flows into public.system_logs or a table like it.

A caller does not fail because an event cannot be written: the event goes, whole, to the flow run's own log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Callable

from ..schema.event_table import FIELDS, Event, EventTable
from .model import json_value, make_event, unique_keys

Connect = Callable[[], contextlib.AbstractContextManager[Any]]  # gives an open connection


# Below the logger whose records Prefect sends to its API; that one itself would want each record to name its run.
_LOGGER = logging.getLogger("prefect.flow_runs.pgprefect")


def log_workflow_event(
    event_type: str,
    workflow_name: str | None = None,
    status: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    message: str | None = None,
    level: str | None = None,
    flow_run_id: Any = None,
    cursor: Any = None,
    connect: Connect | None = None,
    table: EventTable | None = None,
    strict: bool = False,
) -> bool:
    """Append one event, and return whether it was written.

    With a cursor it is part of that cursor's transaction, which survives also an event that cannot be written.
    Without one it has a connection of its own, by ``connect`` as in EventBuffer, else to where libpq's variables
    (PGHOST, PGUSER, ...) say. Inside a flow run the flow's name and the run's id are known. Without a level it is
    ERROR for a status like failed, else INFO.
    With ``strict`` the error is raised instead of logged.
    """
    try:
        event = make_event(event_type, workflow_name, status, metadata, message, level, flow_run_id)
        table = table or EventTable.from_environment(os.environ)
        if cursor is not None:
            write_events(cursor, [event], table)
        else:
            with (connect or own_connection)() as connection, connection, connection.cursor() as own:
                write_events(own, [event], table)
    except Exception as error:
        if strict:
            raise
        given = (event_type, workflow_name, status, metadata, message, level, flow_run_id)
        log_instead(dict(zip(FIELDS, given)), error)
        return False
    return True


def log_flow_run(flow: Any, flow_run: Any, state: Any) -> None:
    """Log the state of a flow run, as a hook of Prefect: ``@flow(on_completion=[log_flow_run], ...)``."""
    kind = str(getattr(state.type, "value", state.type))
    names = ("deployment_id", "run_count", "expected_start_time", "start_time", "tags")
    log_workflow_event(
        "flow_run",
        flow.name,
        kind.lower(),
        {
            "flow_run_name": flow_run.name,
            "state_name": state.name,
            **{name: getattr(flow_run, name, None) for name in names},
        },
        message=state.message,
        level={"FAILED": "ERROR", "CRASHED": "ERROR", "CANCELLED": "WARNING"}.get(kind, "INFO"),
        flow_run_id=flow_run.id,
    )


def write_events(cursor: Any, events: Iterable[Event], table: EventTable) -> None:
    """Insert events with one statement. Inside a transaction a savepoint keeps a failure from it."""
    from psycopg2 import sql
    from psycopg2.extras import execute_values

    def identifier(*names: str) -> sql.Identifier:
        return sql.Identifier(*(name.replace("%", "%%") for name in names))  # else it would be a parameter's mark

    columns = sql.SQL(", ").join(map(identifier, table.stored.values()))
    statement = sql.SQL("INSERT INTO {} ({}) VALUES %s").format(identifier(*table.name), columns)
    rows = [_row(event, table) for event in events]
    with _savepoint(cursor):
        execute_values(cursor, statement, rows, page_size=len(rows))


def write_each(cursor: Any, events: list[Event], table: EventTable) -> dict[int, Exception]:
    """Write all events at once or, where the table refuses one, one by one; return the failed ones by number."""
    from psycopg2 import DataError, IntegrityError

    try:
        write_events(cursor, events, table)
    except (DataError, IntegrityError) as error:
        if len(events) == 1:
            return {0: error}
        failed = {}
        for number, event in enumerate(events):
            for single in write_each(cursor, [event], table).values():
                failed[number] = single
        return failed
    return {}


def _row(event: Event, table: EventTable) -> list[Any]:
    values = {column.name: getattr(event, column.name) for column in fields(event)}
    stored = table.stored
    others = [
        (name, value)
        for name, value in values.items()
        if name not in stored and name not in ("created_at", "metadata") and value is not None
    ]
    values["metadata"] = json.dumps(unique_keys([*event.metadata.items(), *others], 0), allow_nan=False)
    return [values[name] for name in stored]


@contextlib.contextmanager
def own_connection() -> Iterator[Any]:
    """Yield a connection to where libpq's variables say."""
    import psycopg2

    connection = psycopg2.connect("", application_name="pgprefect", connect_timeout=5)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _savepoint(cursor: Any) -> Iterator[None]:
    from psycopg2.extensions import TRANSACTION_STATUS_IDLE

    connection = cursor.connection
    if connection.autocommit and connection.get_transaction_status() == TRANSACTION_STATUS_IDLE:
        yield
        return
    cursor.execute("SAVEPOINT pgprefect_event")
    try:
        yield
    except Exception:
        if not connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT pgprefect_event")
        raise
    cursor.execute("RELEASE SAVEPOINT pgprefect_event")


def log_instead(event: Mapping[str, Any], error: Exception) -> None:
    """Log an event that the table refused, so that it is not lost."""
    run = event["flow_run_id"]
    reason = str(error).strip()
    _LOGGER.error(
        "An event could not be written to the database (%s: %s). The event: %s",
        type(error).__name__,
        reason,
        json.dumps(json_value(event), ensure_ascii=False),
        extra={"flow_run_id": str(run)} if run else {},
    )
