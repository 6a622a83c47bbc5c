"""Events of the application and of its flows, in public.system_logs or a table like it: writing and reading them.

What logs an event does not fail by it: an event that can not be written goes, whole, to the flow run's own log.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import datetime
import decimal
import enum
import functools
import importlib
import json
import logging
import math
import os
import re
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Callable

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FAILURES = ("failed", "failure", "error", "crashed")

Connect = Callable[[], contextlib.AbstractContextManager[Any]]  # gives an open connection

# Below the logger whose records Prefect sends to its API; that one itself would want each record to name its run.
_LOGGER = logging.getLogger("prefect.flow_runs.pgprefect")


@dataclass(frozen=True)
class Event:
    """One event. The names of these fields are the columns of public.system_logs."""

    event_type: str
    workflow_name: str | None = None
    status: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    message: str | None = None
    level: str = "INFO"
    flow_run_id: str | None = None
    created_at: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))


FIELDS = tuple(column.name for column in fields(Event))


@dataclass(frozen=True)
class EventTable:
    """Where events are stored. ``columns`` names the column of a field where it is not the field's own name.

    With an empty name a field has no column: what it holds is written into the metadata.
    """

    schema: str = "public"
    table: str = "system_logs"
    columns: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strangers = sorted(set(self.columns) - set(FIELDS))
        if strangers:
            raise ValueError(f"An event has no {', '.join(strangers)}; it has {', '.join(FIELDS)}.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> EventTable:
        """PGPREFECT_EVENTS_TABLE is the table's name, PGPREFECT_EVENTS_COLUMNS a JSON object of field and column."""
        columns = json.loads(environment.get("PGPREFECT_EVENTS_COLUMNS") or "{}")
        return cls(table=environment.get("PGPREFECT_EVENTS_TABLE") or "system_logs", columns=columns)

    @property
    def name(self) -> tuple[str, str]:
        return self.schema, self.table

    def column(self, name: str) -> str | None:
        return self.columns.get(name, name) or None

    @property
    def stored(self) -> dict[str, str]:
        """Field and column, of the fields that have one."""
        return {name: column for name in FIELDS for column in [self.column(name)] if column}


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
    """Append one event; whether it was written.

    With a cursor it is part of that cursor's transaction, which survives also an event that can not be written.
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
            with (connect or _own_connection)() as connection, connection, connection.cursor() as own:
                write_events(own, [event], table)
    except Exception as error:
        if strict:
            raise
        given = (event_type, workflow_name, status, metadata, message, level, flow_run_id)
        _log_instead(dict(zip(FIELDS, given)), error)
        return False
    return True


def log_flow_run(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook for Prefect that logs the state of a flow run: ``@flow(on_completion=[log_flow_run], ...)``."""
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


class EventBuffer:
    """Gathers events and writes many in one statement: when ``size`` are there, ``age`` seconds after the first, and
    in the end.

    It may be used by several threads. ``connect`` returns a context manager of an open connection, for instance from a
    pool; without it each batch has a connection of its own, to where libpq's variables say. An event that can not be
    written goes to the flow run's log; with ``strict`` its error is raised by the next call instead.
    """

    def __init__(
        self,
        connect: Connect | None = None,
        table: EventTable | None = None,
        size: int = 500,
        age: float = 2.0,
        strict: bool = False,
    ) -> None:
        if size < 1 or age <= 0:
            raise ValueError(f"size is {size} and age {age}; size must be at least 1, and age above 0.")
        self._connect = connect or _own_connection
        self._table = table or EventTable.from_environment(os.environ)
        self._size, self._age, self._strict = size, age, strict
        self._closed = False
        self._error: Exception | None = None
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._process = os.getpid()
        self._pending: list[Event] = []
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()  # of the three above
        self._writing = threading.Lock()  # whoever flushes returns when all that was pending is written

    def log(
        self,
        event_type: str,
        workflow_name: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        message: str | None = None,
        level: str | None = None,
        flow_run_id: Any = None,
    ) -> None:
        """Add an event, as of now. The metadata is taken as it is now."""
        if self._process != os.getpid():
            self._reset()  # after a fork: what is pending is the parent's to write
        values = (event_type, workflow_name, status, metadata, message, level, flow_run_id)
        try:
            full = self._add(make_event(*values))
        except Exception as error:
            if self._strict:
                raise
            _log_instead(dict(zip(FIELDS, values)), error)
            return
        if full:
            self.flush()

    def _add(self, event: Event) -> bool:
        """Whether it is time to write."""
        with self._lock:
            if self._closed:
                raise ValueError("The buffer is closed.")
            self._pending.append(event)
            full = len(self._pending) >= self._size
            if not full and self._timer is None:
                self._timer = threading.Timer(self._age, self._flush)
                self._timer.daemon = True
                self._timer.start()
        return full

    def flush(self) -> None:
        """Write all that is pending."""
        self._flush()
        error, self._error = self._error, None
        if error:
            raise error

    def _flush(self) -> None:
        if self._process != os.getpid():
            return
        with self._writing:
            with self._lock:
                events, self._pending = self._pending, []
                if self._timer:
                    self._timer.cancel()
                    self._timer = None
            if events:
                self._write(events)

    def close(self) -> None:
        """Write all that is pending, and take no more."""
        if self._process == os.getpid():  # else the lock may be one that a fork copied while it was held
            with self._lock:
                self._closed = True
        atexit.unregister(self.close)
        self.flush()

    def __enter__(self) -> EventBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, events: list[Event]) -> None:
        failed: dict[int, Exception] = {}
        try:
            with self._connect() as connection, connection, connection.cursor() as cursor:
                failed = _write_each(cursor, events, self._table)
        except Exception as error:
            failed = dict.fromkeys(range(len(events)), error)
        for number, reason in failed.items():
            if self._strict:
                self._error = reason
            else:
                _log_instead(asdict(events[number]), reason)


def make_event(
    event_type: str,
    workflow_name: str | None = None,
    status: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    message: str | None = None,
    level: str | None = None,
    flow_run_id: Any = None,
) -> Event:
    """Complete what a caller gave, and make it fit for PostgreSQL. Raises ValueError."""
    level = (level or ("ERROR" if str(status).lower() in FAILURES else "INFO")).upper()
    if level not in LEVELS:
        raise ValueError(f"The level is {level!r}; it must be one of {', '.join(LEVELS)}.")
    if not event_type:
        raise ValueError("An event needs an event_type, for instance batch_collection.")
    if not isinstance(metadata or {}, Mapping):
        raise ValueError(f"The metadata is of the type {type(metadata).__name__}; it must be a mapping.")
    run = _current_run() if workflow_name is None or flow_run_id is None else {}
    workflow_name = workflow_name if workflow_name is not None else run.get("flow_name")
    flow_run_id = flow_run_id if flow_run_id is not None else run.get("id")
    return Event(
        event_type=_text(event_type),
        workflow_name=None if workflow_name is None else _text(workflow_name),
        status=None if status is None else _text(status),
        metadata=json_value(metadata or {}),
        message=None if message is None else _text(message),
        level=level,
        flow_run_id=None if flow_run_id is None else str(uuid.UUID(str(flow_run_id))),
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


def read_events(
    connection: Any,
    table: EventTable | None = None,
    workflow: str | None = None,
    since: datetime.datetime | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Return events, the newest first, by their fields' names. A field without a column is null."""
    from psycopg2 import sql

    if not 0 < limit <= 100_000:
        raise ValueError(f"limit is {limit!r}; it must be from 1 to 100000.")
    table = table or EventTable()
    stored = table.stored
    if "created_at" not in stored:
        raise ValueError(f"The table {table.table} has no column for created_at, so its events have no order.")
    if workflow is not None and "workflow_name" not in stored:
        raise ValueError(f"The table {table.table} has no column for workflow_name.")

    conditions = [
        sql.SQL("{} {}").format(sql.Identifier(stored[name]), sql.SQL(f"{operator} {{}}").format(sql.Literal(value)))
        for name, operator, value in (("workflow_name", "=", workflow), ("created_at", ">=", since))
        if value is not None
    ]
    statement = sql.SQL("SELECT {} FROM {}{} ORDER BY {} DESC LIMIT {}").format(
        sql.SQL(", ").join(map(sql.Identifier, stored.values())),
        sql.Identifier(*table.name),
        sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL(""),
        sql.Identifier(stored["created_at"]),
        sql.Literal(limit),
    )
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall()
    return [{**dict.fromkeys(FIELDS), **dict(zip(stored, row))} for row in rows]


def json_value(value: Any, depth: int = 0) -> Any:
    """Turn anything into what jsonb takes, and lose nothing silently: what JSON can not say becomes a text that does.

    A character that PostgreSQL refuses becomes its escape (``\\u0000``), NaN and the infinities become texts, decimals,
    UUIDs and dates too; what nests deeper than 50 levels, or is of another type, becomes its repr().
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return json_value(value.value, depth)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if abs(value) < 10**300 else hex(value)  # Python writes no number of 4300 digits
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    try:
        if depth < 50:
            if is_dataclass(value) and not isinstance(value, type):
                value = {column.name: getattr(value, column.name) for column in fields(value)}
            if isinstance(value, Mapping):
                return _unique_keys(value.items(), depth)
            if isinstance(value, (list, tuple, set, frozenset)):
                return [json_value(item, depth + 1) for item in value]
            if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
                return json_value(value.tolist(), depth + 1)
        return _text(repr(value))
    except Exception as error:
        return f"<{type(value).__qualname__}, which raised {type(error).__name__}>"


def _unique_keys(items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
    """Keys are texts in JSON: 1 and "1" stay two by a number behind the second."""
    result: dict[str, Any] = {}
    for key, value in items:
        name = wanted = _text(key) if isinstance(key, str) else str(json_value(key, depth + 1))
        number = 1
        while name in result:
            number += 1
            name = f"{wanted} ({number})"
        result[name] = json_value(value, depth + 1)
    return result


def _text(value: Any) -> str:
    return re.sub("[\0\ud800-\udfff]", lambda found: f"\\u{ord(found.group()):04x}", str(value))


def _current_run() -> dict[str, Any]:
    """The flow run inside which this runs.

    Prefect's context knows it, also in a subflow. Where that does not reach, as in a thread of the flow's own or in a
    program that it starts, the variable of the run's process does.
    """
    context = sys.modules.get("prefect.context")
    run: Any = os.environ.get("PREFECT__FLOW_RUN_ID")
    if context:
        inside = context.FlowRunContext.get()
        if inside and inside.flow_run:
            return {"id": inside.flow_run.id, "flow_name": inside.flow.name if inside.flow else None}
        task = context.TaskRunContext.get()
        run = task.task_run.flow_run_id if task else run
    return {"id": run, "flow_name": _flow_name(str(run))} if run else {}


@functools.lru_cache(maxsize=100)
def _flow_name(run: str) -> str | None:  # noqa: ARG001 (the answer is kept for each run)
    """Prefect asks its API for this, here once for each run; its silence must not keep an event out of the database."""
    with contextlib.suppress(Exception):
        if "prefect" in sys.modules:
            return str(importlib.import_module("prefect.runtime.flow_run").flow_name)
    return None


def _row(event: Event, table: EventTable) -> list[Any]:
    values = {column.name: getattr(event, column.name) for column in fields(event)}
    stored = table.stored
    others = [
        (name, value)
        for name, value in values.items()
        if name not in stored and name not in ("created_at", "metadata") and value is not None
    ]
    values["metadata"] = json.dumps(_unique_keys([*event.metadata.items(), *others], 0), allow_nan=False)
    return [values[name] for name in stored]


@contextlib.contextmanager
def _own_connection() -> Iterator[Any]:
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


def _write_each(cursor: Any, events: list[Event], table: EventTable) -> dict[int, Exception]:
    """Write all at once or, where the table refuses one of them, one by one; return what failed, by its number."""
    from psycopg2 import DataError, IntegrityError

    try:
        write_events(cursor, events, table)
    except (DataError, IntegrityError) as error:
        if len(events) == 1:
            return {0: error}
        failed = {}
        for number, event in enumerate(events):
            for single in _write_each(cursor, [event], table).values():
                failed[number] = single
        return failed
    return {}


def _log_instead(event: Mapping[str, Any], error: Exception) -> None:
    """The event goes to the flow run's log. It must not be lost for the reason for which the table refused it."""
    run = event["flow_run_id"]
    reason = str(error).strip()
    _LOGGER.error(
        "An event could not be written to the database (%s: %s). The event: %s",
        type(error).__name__,
        reason,
        json.dumps(json_value(event), ensure_ascii=False),
        extra={"flow_run_id": str(run)} if run else {},
    )
