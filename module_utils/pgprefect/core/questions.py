"""Questions to a database that change nothing and are answered within a bounded time."""

from __future__ import annotations

from typing import Any

from .connection import Login, connect
from .sql import Statement


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
