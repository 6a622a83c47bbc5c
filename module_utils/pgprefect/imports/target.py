"""The schema into which a file is imported: what it holds of its own, its columns, foreign keys and indexes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.prefect import TABLES
from ..core.problems import Problem
from ..core.sql import Names, Statement, Value, quote
from .rows import KINDS, PLAIN
from .source import Key

# Alembic's names are of each database's kind, and a browser's token is of no use on another server.
NOT_IMPORTED = ("alembic_version", "csrf_token")

_COLUMNS = """
SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL)
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %(schema)s AND relname = ANY(%(tables)s::name[]) AND relkind = 'r'
  AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY 1, attnum
"""
# Each with what makes it again; a foreign key of Prefect's has one column.
_KEYS = """
SELECT c.relname::text, k.conname::text, a.attname::text, p.relname::text, b.attname::text, k.confdeltype::text,
       pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid JOIN pg_class p ON p.oid = confrelid
     JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[1]
     JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = confkey[1]
     JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE contype = 'f' AND nspname = %(schema)s AND c.relname = ANY(%(tables)s::name[])
ORDER BY 1, 2
"""
# Also primary and unique keys, unless something else stands on them, as a view that is grouped by one.
_INDEXES = """
SELECT c.relname::text, i.relname::text, k.oid IS NOT NULL,
       coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.oid))
FROM pg_index x JOIN pg_class i ON i.oid = indexrelid JOIN pg_class c ON c.oid = indrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_constraint k ON conindid = i.oid AND contype IN ('p', 'u', 'x')
WHERE nspname = %(schema)s AND c.relname = ANY(%(tables)s::name[]) AND NOT indisreplident AND NOT indisclustered
  AND NOT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_constraint'::regclass AND refobjid = k.oid
                  AND classid = 'pg_rewrite'::regclass)
ORDER BY 1, 3 DESC, 2
"""
_FROM_OUTSIDE = """
SELECT conname::text, conrelid::regclass::text
FROM pg_constraint k JOIN pg_class p ON p.oid = confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
     JOIN pg_class c ON c.oid = conrelid
WHERE contype = 'f' AND n.nspname = %(schema)s AND p.relname = ANY(%(tables)s::name[])
  AND (c.relnamespace <> p.relnamespace OR c.relname <> ALL(%(tables)s::name[]))
ORDER BY 1
"""
_SESSIONS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = %(server)s ORDER BY pid
"""

# What a person or a run has made, with the condition that tells it from what a server makes by itself.
_OWN: tuple[tuple[str, str, str], ...] = (
    ("flow_run", "NOT (auto_scheduled AND state_type = 'SCHEDULED')", "flow run"),
    ("task_run", "true", "task run"),
    ("block_document", "true", "block"),
    ("variable", "true", "variable"),
    ("automation", "true", "automation"),
    ("artifact", "true", "artifact"),
    ("concurrency_limit", "true", "concurrency limit"),
    (
        "concurrency_limit_v2",
        "id NOT IN (SELECT concurrency_limit_id FROM {schema}.deployment WHERE concurrency_limit_id IS NOT NULL)",
        "concurrency limit",
    ),
    ("saved_search", "true", "saved search"),
    ("task_run_state_cache", "true", "cached task result"),
    ("events", "event !~ '^(pg)?prefect[.]'", "event of an application"),
)
# What a server and the playbooks make by themselves, and make again; a person is told of these.
_REPLACED = ("work_pool", "deployment", "flow_run", "events")


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key with the name and the definition that make it again."""

    key: Key
    name: str
    definition: str


@dataclass(frozen=True)
class Index:
    """An index, or the constraint that has it, with the definition that makes it again."""

    table: str
    name: str
    constraint: bool
    definition: str


@dataclass(frozen=True)
class Target:
    """The structure of the schema."""

    schema: str
    columns: Mapping[str, Mapping[str, str]]  # the kind of each column of each table, as ``rows`` has it
    keys: Sequence[ForeignKey]
    indexes: Sequence[Index]

    @property
    def tables(self) -> list[str]:
        """The tables that are filled, in this order: the key of the blocks comes first."""
        return sorted(set(self.columns) - set(NOT_IMPORTED), key=lambda table: (table != "configuration", table))

    def emptied(self) -> Names:
        """Return the tables that are emptied before."""
        tables = sorted(set(self.columns) - {"alembic_version"})
        return Names(tuple((self.schema, table) for table in tables))


def read_target(cursor: Any, schema: str) -> Target:
    """Return the structure of a schema."""
    given = {"schema": schema, "tables": list(TABLES)}
    columns: dict[str, dict[str, str]] = {}
    cursor.execute(_COLUMNS, given)
    for table, column, kind in cursor:
        columns.setdefault(table, {})[column] = KINDS.get(kind, PLAIN)
    cursor.execute(_KEYS, given)
    keys = [
        ForeignKey(Key(table, column, parent, target, action), name, definition)
        for table, name, column, parent, target, action, definition in cursor
    ]
    cursor.execute(_INDEXES, given)
    return Target(schema, columns, keys, [Index(*row) for row in cursor])


def obstacles(cursor: Any, schema: str, server: str) -> Iterator[Problem]:
    """Yield what in the target would be lost or disturbed."""
    given = {"schema": schema, "tables": list(TABLES), "server": server}
    held = []
    for table, condition, noun in _OWN:
        names: dict[str, str | Names | Value] = {"table": Names(((schema, table),)), "schema": schema}
        Statement.named(f"SELECT count(*) FROM {{table}} WHERE {condition}", names).execute(cursor)
        (count,) = cursor.fetchone()
        if count:
            held.append(f"{count:,} {noun}{'' if count == 1 else 's'} ({table})")
    if held:
        yield Problem(
            code="import_target_taken",
            object=f"schema {schema}",
            message=f"The schema {schema} has something of its own, which an import would replace: {', '.join(held)}.",
            remedy="Import into a tenant of its own (prefect_tenants), or delete them where nobody needs them.",
        )
    cursor.execute(_FROM_OUTSIDE, given)
    for name, table in cursor.fetchall():
        yield Problem(
            code="import_referenced",
            object=f"table {table}",
            message=f"The foreign key {quote(name)} of {table} refers to a table of {schema}, which would be emptied.",
            remedy=f"ALTER TABLE {table} DROP CONSTRAINT {quote(name)}; and add it again after the import.",
        )
    cursor.execute(_SESSIONS, given)
    pids = ", ".join(str(pid) for (pid,) in cursor)
    if pids:
        yield Problem(
            code="import_server_running",
            object=f"role {server}",
            message=f"The server of the schema {schema} is running: {server} has the sessions {pids}.",
            remedy="Stop the tenant's workers and its server on every host (systemctl stop prefect-server@TENANT, and "
            "prefect-services@TENANT where there is one), and import again; playbooks/import_sqlite.yml does it all.",
        )


def replaced(cursor: Any, schema: str) -> dict[str, int]:
    """Return how many rows of what a server and the playbooks make by themselves the schema has."""
    found = {}
    for table in _REPLACED:
        Statement("SELECT count(*) FROM {}", (Names(((schema, table),)),)).execute(cursor)
        (count,) = cursor.fetchone()
        if count:
            found[table] = count
    return found


def drop_statements(target: Target, indexes: Sequence[Index]) -> Iterator[Statement]:
    """Yield the statements that empty the tables, and drop foreign keys and these indexes."""
    for foreign in target.keys:
        yield _dropped(target.schema, foreign.key.table, foreign.name)
    yield Statement("TRUNCATE {}", (target.emptied(),))
    for index in indexes:
        if index.constraint:
            yield _dropped(target.schema, index.table, index.name)
        else:
            yield Statement("DROP INDEX {}", (Names(((target.schema, index.name),)),))


def rebuild_statements(target: Target, indexes: Sequence[Index]) -> Iterator[str]:
    """Yield the statements that make them again, as PostgreSQL itself has written them."""
    for index in indexes:
        added = _added(target.schema, index.table, index.name, index.definition)
        yield added if index.constraint else index.definition
    for foreign in target.keys:
        yield _added(target.schema, foreign.key.table, foreign.name, foreign.definition)


def _dropped(schema: str, table: str, name: str) -> Statement:
    return Statement("ALTER TABLE {} DROP CONSTRAINT {}", (Names(((schema, table),)), name))


def _added(schema: str, table: str, name: str, definition: str) -> str:
    return f"ALTER TABLE {quote((schema, table))} ADD CONSTRAINT {quote(name)} {definition}"
