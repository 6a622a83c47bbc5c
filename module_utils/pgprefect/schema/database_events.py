"""Database events: changes of the application's rows that start runs or become Prefect's events.

A trigger writes each change into the tenant's outbox, in the same transaction; the relay sends what is there. The
function of a trigger refers to the application's table by text alone, for which PostgreSQL records no dependency, so it
bars no migration of the application. Whatever fails in it is caught: the change of the row stands, and what could not
be recorded is a dead letter with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from ..core.errors import InputError
from ..site.configuration import Tenant

OPERATIONS = ("insert", "update", "delete")
MOST_VALUES = 100  # distinct values of a column that an event of a statement has
MOST_WAITING = 100_000  # rows of an outbox that are not sent; one more is refused
TABLE, KEEP = "event", "keep"
REFUSED, FAILED, VERDICT = "refused", "failed", "verdict"  # sequences: they count also what is rolled back
TRIGGER = "pgprefect-"  # what the names of the triggers begin with

NAME = re.compile("[a-z][a-z0-9_]{0,23}")
_DEPLOYMENT = re.compile("[^/]+/[^/]+")
_EVENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
_KEYS = ("name", "table", "operations", "for_each", "columns", "condition", "values", "deployment", "event")
_TAKEN = (TABLE, KEEP)

Source = Union[str, tuple[str, ...]]  # a column, or a list of columns


@dataclass(frozen=True)
class DatabaseEvent:
    """One declared event: which changes it takes from which table, and where it goes.

    ``columns`` are those of which one must change in an update. ``condition`` is SQL of the site's own about NEW or
    OLD. ``values`` gives names to columns: the parameters of the deployment's run, or the payload of Prefect's event;
    a list of columns is a list. With ``for_each`` "statement" there is one event for all rows of a statement, and a
    value is the list of the column's distinct values, or null where there are more than MOST_VALUES.
    """

    name: str
    table: tuple[str, str]
    operations: tuple[str, ...]
    for_each: str = "row"
    columns: tuple[str, ...] = ()
    condition: str = ""
    values: Mapping[str, Source] = field(default_factory=dict)
    deployment: str = ""
    event: str = ""

    @property
    def by_row(self) -> bool:
        """Say whether each row is an event of its own."""
        return self.for_each == "row"

    @property
    def used_columns(self) -> tuple[str, ...]:
        """The columns that the event names, each once; those of its condition are not known."""
        sources = [(source,) if isinstance(source, str) else source for source in self.values.values()]
        return tuple(dict.fromkeys((*self.columns, *(name for source in sources for name in source))))

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> DatabaseEvent:
        """Make an event of names and values, as they come from JSON or a module. Raises InputError with all faults."""
        faults = list(_faults(arguments))
        if faults:
            raise InputError(f"database event {arguments.get('name', '?')!r}: {'; '.join(faults)}.")
        schema, _, table = str(arguments["table"]).rpartition(".")
        values = arguments.get("values") or {}
        return cls(
            name=arguments["name"],
            table=(schema or "public", table),
            operations=tuple(name for name in OPERATIONS if name in arguments["operations"]),
            for_each=arguments.get("for_each") or "row",
            columns=tuple(arguments.get("columns") or ()),
            condition=(arguments.get("condition") or "").strip(),
            values={name: of if isinstance(of, str) else tuple(of) for name, of in values.items()},
            deployment=arguments.get("deployment") or "",
            event=arguments.get("event") or "",
        )


def events_of(tenant: Tenant) -> tuple[DatabaseEvent, ...]:
    """Return the declared events of a tenant. Raises InputError."""
    events = tuple(map(DatabaseEvent.from_arguments, tenant.database_events))
    names = [event.name for event in events]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise InputError(f"database event {doubles[0]!r}: the tenant {tenant.name} declares it twice.")
    return events


def _faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    for key in arguments:
        if key not in _KEYS:
            yield f"{key} is no key; there are {', '.join(_KEYS)}"
    name = arguments.get("name")
    if not (isinstance(name, str) and NAME.fullmatch(name)) or name in _TAKEN:
        yield f"name is {name!r}; use 1 to 24 lower-case letters, digits and '_', a letter first, not {TABLE} or {KEEP}"
    table = arguments.get("table")
    if not (isinstance(table, str) and all(map(_is_name, table.split("."))) and table.count(".") < 2):
        yield f"table is {table!r}; use TABLE for one of the schema public, or SCHEMA.TABLE"
    operations = arguments.get("operations")
    if not _is_list(operations) or not set(operations or ()) <= set(OPERATIONS) or not operations:
        yield f"operations is {operations!r}; use a list of {', '.join(OPERATIONS)}"
        operations = ()
    for_each = arguments.get("for_each") or "row"
    if for_each not in ("row", "statement"):
        yield f"for_each is {for_each!r}; use row or statement"
    columns = arguments.get("columns") or ()
    if not _is_list(columns) or not all(map(_is_name, columns)):
        yield f"columns is {columns!r}; use a list of columns"
    elif columns and (list(operations or ()) != ["update"] or for_each != "row"):
        yield "columns are for an event of each row of updates alone: operations: [update], for_each: row"
    yield from _condition_faults(arguments.get("condition") or "")
    yield from _value_faults(arguments.get("values") or {}, for_each)
    yield from _target_faults(arguments.get("deployment") or "", arguments.get("event") or "")


def _condition_faults(condition: Any) -> Iterator[str]:
    if not isinstance(condition, str):
        yield f"condition is {condition!r}; use an SQL expression about NEW or OLD, as NEW.status = 'filled'"
    elif re.search(r";|--|/\*|\bselect\b|\x00", condition, re.IGNORECASE):
        yield "condition has a ; a comment or a SELECT; use one expression about the columns of NEW or OLD"


def _value_faults(values: Any, for_each: str) -> Iterator[str]:
    if not isinstance(values, Mapping):
        yield f"values is {values!r}; use a mapping of names and columns"
        return
    for name, source in values.items():
        listed = _is_list(source) and for_each == "row"
        if not _is_name(name) or not (_is_name(source) or (listed and source and all(map(_is_name, source)))):
            yield f"values.{name} is {source!r}; use a column" + (", or a list of columns" if for_each == "row" else "")


def _target_faults(deployment: Any, event: Any) -> Iterator[str]:
    if bool(deployment) == bool(event):
        yield "it needs one of deployment and event"
    elif deployment and not (isinstance(deployment, str) and _DEPLOYMENT.fullmatch(deployment)):
        yield f"deployment is {deployment!r}; use FLOW/DEPLOYMENT"
    elif event and not (isinstance(event, str) and _EVENT.fullmatch(event) and not event.startswith("prefect.")):
        yield f"event is {event!r}; use lower-case letters, digits, '.', '_' and '-', as orders.filled, not prefect.*"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= 63 and value.isprintable()


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, Mapping))
