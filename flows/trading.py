"""Shared by the trading flows: the application's database, and steps that are events in public.system_logs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg2
from pgprefect.events import log_workflow_event
from prefect.runtime import flow_run
from psycopg2.extras import execute_values
from pydantic import StringConstraints

Symbol = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9.^=-]{1,16}$")]


@contextmanager
def database() -> Iterator[Any]:
    """Yield a cursor in one transaction. libpq's variables (PGHOST, ...) name the database; flows hold no password."""
    connection = psycopg2.connect("", application_name=flow_run.flow_name)
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def upsert(cursor: Any, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Run an INSERT ... VALUES %s ... ON CONFLICT ..., and return the number of rows written."""
    return len(execute_values(cursor, f"{statement} RETURNING 1", rows, page_size=1000, fetch=True))


@contextmanager
def step(event_type: str, **metadata: Any) -> Iterator[dict[str, Any]]:
    """Log a part of a flow as one event, whether it succeeds or fails. Yield the event's metadata to be extended."""
    started = time.monotonic()
    try:
        yield metadata
    except Exception as error:
        metadata["seconds"] = round(time.monotonic() - started, 3)
        log_workflow_event(event_type, status="failed", message=str(error), metadata=metadata)
        raise
    metadata["seconds"] = round(time.monotonic() - started, 3)
    log_workflow_event(event_type, status="success", metadata=metadata)
