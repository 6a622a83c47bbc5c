"""Questions to a database that change nothing and are answered within a bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

from .connection import Login, connect
from .sql import Statement

_Item = TypeVar("_Item")


def side_by_side(works: Iterable[Callable[[], None]], deadline: float) -> None:
    """Do works in a thread each, and wait for them until a time of the monotonic clock; those that are late go on."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def with_shares(items: Collection[_Item], deadline: float) -> Iterator[tuple[_Item, float]]:
    """Yield each item with its share, in seconds, of what is left until a time of the monotonic clock.

    A locked table so harms its own question alone.
    """
    for left, item in zip(range(len(items), 0, -1), items):
        yield item, (deadline - time.monotonic()) / left


def connect_to_ask(login: Login, database: str, timeout: float) -> Any:
    """Open a connection for questions that together take ``timeout`` seconds. Raises ConnectionFailed."""
    connection = connect(login, database, max(2, int(timeout / 2)), timeout / 4)
    connection.autocommit = True
    with connection.cursor() as cursor:
        # Compiling takes longer than such questions.
        cursor.execute("SET default_transaction_read_only = on; SET jit = off")
    return connection


def ask_within(connection: Any, statement: Statement, seconds: float) -> list[tuple[Any, ...]]:
    """Return a statement's rows, in one round trip; it waits for locks for half of the time at most."""
    milliseconds = max(50, int(seconds * 1000))
    bounded = f"SET statement_timeout = {milliseconds}; SET lock_timeout = {milliseconds // 2}; "
    with connection.cursor() as cursor:
        Statement(bounded + statement.template, statement.arguments).execute(cursor)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
