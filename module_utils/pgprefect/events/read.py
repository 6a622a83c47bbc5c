"""Reading the application's events."""

from __future__ import annotations

import datetime
from typing import Any

from ..core.errors import InputError
from ..schema.event_table import FIELDS, EventTable


def read_events(
    connection: Any,
    table: EventTable | None = None,
    workflow: str | None = None,
    since: datetime.datetime | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Return events as dictionaries by field, the newest first. A field without a column is None.

    Raises InputError for a limit or a filter that the table cannot serve.
    """
    from psycopg2 import sql

    if not 0 < limit <= 100_000:
        raise InputError(f"limit is {limit!r}; it must be from 1 to 100000.")
    table = table or EventTable()
    stored = table.stored
    if "created_at" not in stored:
        raise InputError(f"The table {table.table} has no column for created_at, so its events have no order.")
    if workflow is not None and "workflow_name" not in stored:
        raise InputError(f"The table {table.table} has no column for workflow_name.")

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
