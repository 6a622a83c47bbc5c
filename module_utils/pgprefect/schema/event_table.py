"""The application's events: what one has, and the table that stores them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..core.errors import InputError


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
    """The table that stores events. ``columns`` names the column of a field where it is not the field's own name.

    A field with an empty name has no column: its value is written into the metadata.
    """

    schema: str = "public"
    table: str = "system_logs"
    columns: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strangers = sorted(set(self.columns) - set(FIELDS))
        if strangers:
            raise InputError(f"An event has no {', '.join(strangers)}; it has {', '.join(FIELDS)}.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> EventTable:
        """Read PGPREFECT_EVENTS_TABLE, a name, and PGPREFECT_EVENTS_COLUMNS, a JSON object of field and column."""
        text = environment.get("PGPREFECT_EVENTS_COLUMNS") or "{}"
        try:
            columns = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise InputError(f"PGPREFECT_EVENTS_COLUMNS is {text!r}, which is no JSON object of columns.") from error
        return cls(table=environment.get("PGPREFECT_EVENTS_TABLE") or "system_logs", columns=columns)

    @property
    def name(self) -> tuple[str, str]:
        """The table's schema and name."""
        return self.schema, self.table

    def column(self, name: str) -> str | None:
        """Return the column of a field, or None where it has none."""
        return self.columns.get(name, name) or None

    @property
    def stored(self) -> dict[str, str]:
        """Field and column, of the fields that have one."""
        return {name: column for name in FIELDS for column in [self.column(name)] if column}
