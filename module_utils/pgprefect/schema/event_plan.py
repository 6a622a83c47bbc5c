"""The plan that brings the triggers of database events, their functions and the outboxes to their declaration.

A trigger is created by the owner of its table, its function by the owner of the outbox.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core.connection import Login
from ..core.errors import InputError
from ..core.problems import Problem
from ..core.sql import Names, Statement, Value, quote
from ..site.configuration import Tenant
from .database_events import KEEP, TABLE, TRIGGER, DatabaseEvent, events_of
from .declaration import Declaration, DeclarationError
from .outbox_sql import CREATE, keep_body, trigger_body
from .plan import Change, Plan, apply_beside

_KEEP_ARGUMENTS = "event text, content jsonb, many bigint, fault text"
_TRIGGER_TYPES = {"insert": 4, "delete": 8, "update": 16}  # bits of pg_trigger.tgtype
_ROW = 1

_TABLES = """
SELECT nspname, relname, relkind::text, pg_get_userbyid(relowner),
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE (nspname, relname) IN (SELECT * FROM unnest(%(schemas)s::name[], %(tables)s::name[]))
"""
_OUTBOXES = """
SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = ANY(%(outboxes)s::name[]) AND relname = %(table)s
"""
_FUNCTIONS = """
SELECT nspname, proname, prosrc, pg_get_userbyid(proowner), prosecdef, coalesce(proconfig, '{}')
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = ANY(%(outboxes)s::name[])
"""
# A partition's triggers come and go with those of its table.
_TRIGGERS = """
SELECT n.nspname, c.relname, tgname, pg_get_userbyid(c.relowner), f.nspname, p.proname, tgtype::int, tgenabled = 'O'
FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_proc p ON p.oid = tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
WHERE NOT tgisinternal AND tgparentid = 0 AND f.nspname = ANY(%(outboxes)s::name[]) ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class Table:
    """A table of the application."""

    kind: str
    owner: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Trigger:
    """A trigger as it must be, or is."""

    schema: str
    table: str
    name: str
    outbox: str
    function: str
    type: int
    enabled: bool = True


def wanted_triggers(tenant: Tenant, event: DatabaseEvent) -> dict[str, Trigger]:
    """Return the triggers of an event by operation."""
    return {
        operation: Trigger(
            *event.table,
            name=f"{TRIGGER}{tenant.name}-{event.name}-{operation[0]}",
            outbox=tenant.outbox,
            function=event.name,
            type=_TRIGGER_TYPES[operation] | (_ROW if event.by_row else 0),
        )
        for operation in event.operations
    }


def apply(login: Login, declaration: Declaration, dry_run: bool = False) -> list[Change]:
    """Apply the database events in one transaction, and return the changes; with ``dry_run`` those that it would make.

    Tables of the application's script may be missing in a dry run: they come first. Raises Blocked, DeclarationError
    and ConnectionFailed before anything is changed.
    """
    coming = declaration.app_schema_tables if dry_run else ()
    return apply_beside(
        login,
        declaration.database,
        plan=lambda cursor: make_plan(cursor, declaration, coming),
        anew=lambda: planned_anew(declaration),
        dry_run=dry_run,
    )


def planned_anew(declaration: Declaration) -> list[Change]:
    """Return the changes for a database that does not exist yet."""
    return list(_changes(declaration, _declared(declaration), _Found()))


@dataclass
class _Found:
    """What the database has: outboxes, functions by schema and name, and triggers with the owners of their tables."""

    outboxes: set[str] = field(default_factory=set)
    functions: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)
    triggers: dict[Trigger, str] = field(default_factory=dict)


Events = list[tuple[Tenant, tuple[DatabaseEvent, ...]]]


def _declared(declaration: Declaration) -> Events:
    try:
        return [(tenant, events_of(tenant) if tenant.relay else ()) for tenant in declaration.tenants]
    except InputError as error:
        raise DeclarationError(str(error)) from error


def make_plan(cursor: Any, declaration: Declaration, coming: Collection[str] = ()) -> Plan:
    """Compare the events with the database. Raises DeclarationError.

    ``coming`` are tables of the application's main schema that will be there before the changes are made.
    """
    events = _declared(declaration)
    # Who cannot become the owner, as the monitor, cannot try a condition.
    cursor.execute("SELECT pg_has_role(%s, 'MEMBER') FROM pg_roles WHERE rolname = %s", [declaration.app_owner] * 2)
    tries = (True,) in cursor.fetchall()
    tables = _read_tables(cursor, [event.table for _, found in events for event in found])
    awaited = {(declaration.app_schema, table) for table in coming} - tables.keys()
    planned = Plan()
    for tenant, found in events:
        for event in found:
            if event.table not in awaited:
                where = f"database event {event.name} of tenant {tenant.name}"
                problem = _blocker(declaration, where, event, tables.get(event.table))
                planned.blockers += [problem] if problem else []
                if not problem and tries and event.condition:
                    planned.blockers += _condition_blockers(cursor, declaration, where, event)
    if not planned.blockers:
        planned.changes = list(_changes(declaration, events, _read(cursor, declaration)))
    return planned


def _read(cursor: Any, declaration: Declaration) -> _Found:
    outboxes = {"outboxes": [tenant.outbox for tenant in declaration.tenants], "table": TABLE}
    found = _Found()
    cursor.execute(_OUTBOXES, outboxes)
    found.outboxes = {outbox for (outbox,) in cursor}
    cursor.execute(_FUNCTIONS, outboxes)
    found.functions = {(outbox, name): tuple(rest) for outbox, name, *rest in cursor}
    cursor.execute(_TRIGGERS, outboxes)
    for schema, table, name, owner, *rest in cursor:
        found.triggers[Trigger(schema, table, name, *rest)] = owner
    return found


def _read_tables(cursor: Any, names: list[tuple[str, str]]) -> dict[tuple[str, str], Table]:
    cursor.execute(_TABLES, {"schemas": [name[0] for name in names], "tables": [name[1] for name in names]})
    return {(schema, name): Table(kind, owner, tuple(columns)) for schema, name, kind, owner, columns in cursor}


def _blocker(declaration: Declaration, where: str, event: DatabaseEvent, table: Table | None) -> Problem | None:
    name = quote(event.table)
    if table is None or table.kind not in ("r", "p"):
        reason = "does not exist" if table is None else "is no table"
        remedy = "Create the table, or correct `table` of the event in the inventory."
        return Problem("database_event_table", where, f"The {where} names {name}, which {reason}.", remedy)
    if event.table[0] not in declaration.of_application or table.owner != declaration.app_owner:
        message = f"The {where} names {name}, which belongs to {table.owner} and is no table of {declaration.app_owner}"
        remedy = f"ALTER TABLE {name} OWNER TO {quote(declaration.app_owner)}; with its schema in app_schemas, or name "
        remedy += "another table: nobody but a table's owner gives it a trigger."
        return Problem("database_event_owner", where, f"{message}.", remedy)
    missing = [column for column in event.used_columns if column not in table.columns]
    if missing:
        message = f"The {where} names {', '.join(missing)}, which {name} has not; it has {', '.join(table.columns)}."
        return Problem("database_event_column", where, message, "Correct `values` or `columns` of the event.")
    return None


def _condition_blockers(cursor: Any, declaration: Declaration, where: str, event: DatabaseEvent) -> Iterator[Problem]:
    if reason := _refused_condition(cursor, declaration, event):
        message = f"The condition of the {where} cannot be used: {reason}"
        remedy = "Correct it: an expression about the columns of NEW, in deletes of OLD, in updates of rows of both."
        yield Problem("database_event_condition", where, message, remedy)


def _refused_condition(cursor: Any, declaration: Declaration, event: DatabaseEvent) -> str | None:
    """Return why PostgreSQL refuses the condition for one of the operations, or None. Nothing is executed."""
    import psycopg2

    for operation in event.operations:
        sides = {"insert": ["new"], "delete": ["old"]}.get(operation, ["new", "old"] if event.by_row else ["new"])
        # A name without NEW or OLD is ambiguous by the last of them, as the trigger would not know it.
        aliases = ", ".join(f"{quote(event.table)} AS {side}" for side in [*sides, '"a column needs NEW. or OLD."'])
        cursor.execute("SAVEPOINT condition")
        try:
            Statement("SET LOCAL ROLE {}", (declaration.app_owner,)).execute(cursor)
            cursor.execute(f"EXPLAIN SELECT FROM {aliases} WHERE (({event.condition}))")
        except psycopg2.Error as error:
            reason = str(error).strip().partition("\n")[0]
            return f"for {operation}, PostgreSQL says: {reason.removeprefix('ERROR:').strip()}."
        finally:
            cursor.execute("ROLLBACK TO SAVEPOINT condition")
    return None


def _changes(declaration: Declaration, events: Events, present: _Found) -> Iterator[Change]:
    wanted = {
        trigger: operation
        for tenant, found in events
        for event in found
        for operation, trigger in wanted_triggers(tenant, event).items()
    }
    for trigger, owner in present.triggers.items():
        if trigger not in wanted:
            yield _drop_trigger(trigger, owner)
    for tenant, found in events:
        if tenant.relay:
            if tenant.outbox not in present.outboxes:
                yield _create_outbox(tenant)
            yield from _functions(declaration, tenant, found, present.functions)
        names = {(tenant.outbox, name) for name in (KEEP, *(event.name for event in found))}
        for schema, name in sorted(key for key in present.functions if key[0] == tenant.outbox and key not in names):
            yield _drop_function(schema, name)
    for trigger, operation in wanted.items():
        if trigger not in present.triggers:
            yield _create_trigger(declaration, trigger, operation)


def _create_outbox(tenant: Tenant) -> Change:
    name = quote((tenant.outbox, TABLE))
    return Change(
        "outbox_missing",
        f"table {name}",
        f"The outbox {name} of the database events does not exist.",
        _as_role(tenant.outbox, CREATE.replace("{outbox}", "{}"), *[tenant.outbox] * CREATE.count("{outbox}")),
        "",
        f"table {name}: the outbox of tenant {tenant.name}",
    )


def _functions(
    declaration: Declaration,
    tenant: Tenant,
    events: tuple[DatabaseEvent, ...],
    functions: dict[tuple[str, str], tuple[Any, ...]],
) -> Iterator[Change]:
    bodies = {KEEP: keep_body(tenant.outbox), **{event.name: trigger_body(event, tenant.outbox) for event in events}}
    for name, body in bodies.items():
        path = ["search_path=pg_catalog, pg_temp"]
        if functions.get((tenant.outbox, name)) == (body, tenant.outbox, name != KEEP, path):
            continue
        title = quote((tenant.outbox, name))
        names = Names(((tenant.outbox, name),))
        signature, result, definer = ("", "trigger", " SECURITY DEFINER")
        if name == KEEP:
            signature, result, definer = (_KEEP_ARGUMENTS, "void", "")
        template = (
            f"CREATE OR REPLACE FUNCTION {{}}({signature}) RETURNS {result} LANGUAGE plpgsql{definer} "
            f"SET search_path = pg_catalog, pg_temp AS {{}}; REVOKE EXECUTE ON FUNCTION {{}} FROM PUBLIC; "
            "GRANT EXECUTE ON FUNCTION {} TO {}"
        )
        yield Change(
            "database_event_function",
            f"function {title}",
            f"The function {title} of the database events is not as declared.",
            _as_role(tenant.outbox, template, names, Value(body), names, names, declaration.app_owner),
            f"function {title}: another definition" if (tenant.outbox, name) in functions else "",
            f"function {title}: {_described(name, events)}",
        )


def _described(name: str, events: tuple[DatabaseEvent, ...]) -> str:
    found = next((event for event in events if event.name == name), None)
    if found is None:
        return "writes a row into the outbox"
    condition = f" where {found.condition}" if found.condition else ""
    operations = " or ".join(found.operations)
    return f"each {found.for_each} of {operations} on {quote(found.table)}{condition}"


def _drop_function(outbox: str, name: str) -> Change:
    title = quote((outbox, name))
    return Change(
        "database_event_excess",
        f"function {title}",
        f"The function {title} belongs to no declared database event.",
        _as_role(outbox, "DROP FUNCTION {}", Names(((outbox, name),))),
        f"function {title}",
        "",
    )


def _drop_trigger(trigger: Trigger, owner: str) -> Change:
    table = quote((trigger.schema, trigger.table))
    return Change(
        "database_event_excess",
        f"trigger {quote(trigger.name)} on {table}",
        f"The trigger {quote(trigger.name)} on {table} is not as declared.",
        _as_role(owner, "DROP TRIGGER {} ON {}", trigger.name, Names(((trigger.schema, trigger.table),))),
        f"trigger {quote(trigger.name)} on {table}",
        "",
    )


def _create_trigger(declaration: Declaration, trigger: Trigger, operation: str) -> Change:
    table = quote((trigger.schema, trigger.table))
    rows = "" if trigger.type & _ROW else f"REFERENCING {'OLD' if operation == 'delete' else 'NEW'} TABLE AS "
    rows += "" if trigger.type & _ROW else f"{'old' if operation == 'delete' else 'new'}_rows "
    each = "ROW" if trigger.type & _ROW else "STATEMENT"
    template = f"CREATE TRIGGER {{}} AFTER {operation.upper()} ON {{}} {rows}FOR EACH {each} EXECUTE FUNCTION {{}}()"
    names = Names(((trigger.schema, trigger.table),)), Names(((trigger.outbox, trigger.function),))
    return Change(
        "database_event_trigger",
        f"trigger {quote(trigger.name)} on {table}",
        f"The trigger {quote(trigger.name)} on {table}, of a database event, does not exist or is not as declared.",
        _as_role(declaration.app_owner, template, trigger.name, *names),
        "",
        f"trigger {quote(trigger.name)} on {table}: after {operation}, for each {each.lower()}",
    )


def _as_role(role: str, template: str, *arguments: Any) -> Statement:
    return Statement(f"SET ROLE {{}}; {template}; RESET ROLE", (role, *arguments))
