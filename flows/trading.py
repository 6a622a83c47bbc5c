"""What the trading flows share: the application's database, and events in public.system_logs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg2
from prefect import get_run_logger
from prefect.runtime import flow_run
from psycopg2.extras import Json, execute_values
from pydantic import StringConstraints

Symbol = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9.^=-]{1,16}$")]


@contextmanager
def database() -> Iterator[Any]:
    """A cursor in one transaction. libpq's own variables (PGHOST, PGUSER, ...) say where; no flow holds a password."""
    connection = psycopg2.connect("", application_name=flow_run.flow_name)
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def upsert(cursor: Any, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Run an INSERT ... VALUES %s ... ON CONFLICT ...; how many rows were written."""
    return len(execute_values(cursor, f"{statement} RETURNING 1", rows, page_size=1000, fetch=True))


def log_workflow_event(
    *,
    event_type: str,
    status: str,
    message: str | None = None,
    level: str = "INFO",
    metadata: dict[str, Any] | None = None,
    cursor: Any = None,
) -> None:
    """Append an event to public.system_logs, in the caller's transaction when given its cursor."""
    if cursor is None:
        with database() as own_cursor:
            log_workflow_event(
                event_type=event_type,
                status=status,
                message=message,
                level=level,
                metadata=metadata,
                cursor=own_cursor,
            )
        return
    cursor.execute(
        "INSERT INTO public.system_logs (level, event_type, workflow_name, status, message, flow_run_id, metadata)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (level, event_type, flow_run.flow_name, status, message, flow_run.id, Json(metadata or {})),
    )


@contextmanager
def step(event_type: str, **metadata: Any) -> Iterator[dict[str, Any]]:
    """Log a part of a flow as one event, whether it succeeds or fails; the part may add to the event's metadata."""
    started = time.monotonic()
    try:
        yield metadata
    except Exception as error:
        metadata["seconds"] = round(time.monotonic() - started, 3)
        try:
            log_workflow_event(
                event_type=event_type, status="failed", message=str(error), level="ERROR", metadata=metadata
            )
        except psycopg2.Error as log_error:  # what made the part fail is worth more than the missing event
            get_run_logger().warning("The event %s could not be logged: %s", event_type, log_error)
        raise
    metadata["seconds"] = round(time.monotonic() - started, 3)
    log_workflow_event(event_type=event_type, status="success", metadata=metadata)
