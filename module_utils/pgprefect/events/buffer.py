"""A buffer that writes many events in one statement."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..schema.event_table import FIELDS, Event, EventTable
from .model import make_event
from .write import Connect, log_instead, own_connection, write_each


class EventBuffer:
    """Collects events and writes many in one statement: when there are ``size``, ``age`` seconds after the first, and
    at the end.

    It may be used by several threads. ``connect`` returns a context manager of an open connection, for instance from a
    pool; without it each batch has a connection of its own, to where libpq's variables say. An event that cannot be
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
        self._connect = connect or own_connection
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
            log_instead(dict(zip(FIELDS, values)), error)
            return
        if full:
            self.flush()

    def _add(self, event: Event) -> bool:
        """Add an event, and return whether the buffer is full."""
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
        """Write all pending events."""
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
        """Write all pending events, and accept no more."""
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
                failed = write_each(cursor, events, self._table)
        except Exception as error:
            failed = dict.fromkeys(range(len(events)), error)
        for number, reason in failed.items():
            if self._strict:
                self._error = reason
            else:
                log_instead(asdict(events[number]), reason)
