"""The structure that a release of Prefect gives its tables: columns, indexes, constraints and enums."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.prefect import ENUMS, TABLES
from ..core.problems import ERROR, WARNING, Problem
from ..core.sql import quote
from .structure_data import STRUCTURES


class Element(NamedTuple):
    """One element of a schema; ``kind`` is column, index, constraint or enum, and an enum has no table."""

    kind: str
    table: str
    name: str


class Definition(NamedTuple):
    """The definition of an element."""

    definition: str
    valid: bool  # of an index or a constraint


# The definition of each element, without the names of schemas.
Structure = Mapping[Element, Definition]

# Indexes of constraints are listed as constraints, unless they are invalid. PostgreSQL 18 also lists NOT NULL.
_STRUCTURE = """
WITH tables AS (
    SELECT c.oid, nspname, quote_ident(nspname) AS quoted, relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE nspname = ANY(%(schemas)s::name[]) AND relname = ANY(%(tables)s::name[]) AND relkind IN ('r', 'p')
)
SELECT nspname, quoted, 'column', relname, attname,
       format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
       || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), ''), true
FROM tables t JOIN pg_attribute a ON attrelid = t.oid LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped
UNION ALL
SELECT nspname, quoted, 'index', t.relname, i.relname, pg_get_indexdef(i.oid), indisvalid AND indisready
FROM tables t JOIN pg_index x ON indrelid = t.oid JOIN pg_class i ON i.oid = indexrelid
WHERE NOT indisvalid OR NOT indisready
   OR NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.oid AND contype IN ('p', 'u', 'x'))
UNION ALL
SELECT nspname, quoted, 'constraint', relname, conname, pg_get_constraintdef(c.oid), convalidated
FROM tables t JOIN pg_constraint c ON conrelid = t.oid
WHERE contype IN ('p', 'u', 'f', 'c')
UNION ALL
SELECT nspname, quote_ident(nspname), 'enum', '', typname,
       string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder), true
FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace JOIN pg_enum ON enumtypid = t.oid
WHERE nspname = ANY(%(schemas)s::name[]) AND typname = ANY(%(enums)s::name[])
GROUP BY nspname, typname
"""


def read_structures(cursor: Any, schemas: Sequence[str], extensions_schema: str) -> dict[str, Structure]:
    """Return the structure of each schema; ``extensions_schema`` is the one that holds pg_trgm."""
    cursor.execute(_STRUCTURE, {"schemas": list(schemas), "tables": list(TABLES), "enums": list(ENUMS)})
    found: dict[str, dict[Element, Definition]] = {schema: {} for schema in schemas}
    for schema, quoted, kind, table, name, definition, valid in cursor:
        definition = portable(definition, quoted, extensions_schema)
        found[schema][Element(kind, table, name)] = Definition(definition.replace(" NOT VALID", ""), valid)
    return dict(found)


def portable(definition: str, schema: str, extensions_schema: str) -> str:
    """Replace the names of the two schemas, except inside string literals, by placeholders."""
    names = {schema: "$schema.", quote(extensions_schema): "$extensions."}
    pattern = r"'(?:[^']|'')*'|(?<![\w$\".])(" + "|".join(map(re.escape, names)) + r")\."
    return re.sub(pattern, lambda match: names[match.group(1)] if match.group(1) else match.group(0), definition)


def known_structure(revision: str) -> Structure | None:
    """Return the structure of the release whose newest migration this is, or None where it is not known."""
    if revision not in STRUCTURES:
        return None
    parts = {}
    for line in STRUCTURES[revision].splitlines():
        kind, table, name, definition = line.split(" ", 3)
        parts[Element(kind, table, name)] = Definition(definition, True)
    return parts


def as_text(structure: Structure) -> str:
    """Write a structure as ``known_structure`` reads it."""
    return "".join(f"{' '.join(part)} {found.definition}\n" for part, found in sorted(structure.items()))


def invalid(actual: Structure, wanted: Structure | None, schema: str) -> Iterator[Problem]:
    """Yield indexes and constraints that an interrupted statement left behind, whatever the release."""
    for part, found in sorted(actual.items()):
        name = quote((schema, part.name))
        if found.valid:
            continue
        if part.kind == "constraint":
            table = quote((schema, part.table))
            yield Problem(
                "constraint_not_valid",
                f"constraint {name}",
                f"The constraint {part.name} of the table {table} has not been validated against the rows that "
                "are older than it.",
                f"ALTER TABLE {table} VALIDATE CONSTRAINT {quote(part.name)};",
            )
        else:
            # PostgreSQL's own REINDEX CONCURRENTLY leaves such a copy when it is interrupted.
            known = {part, part._replace(kind="constraint")}
            copy = (wanted is not None and known.isdisjoint(wanted)) or re.search(r"_cc(new|old)\d*$", part.name)
            yield Problem(
                "index_invalid",
                f"index {name}",
                f"The index {part.name} of the table {quote((schema, part.table))} is invalid: its creation was "
                "interrupted, so it costs writes and serves no query.",
                f"DROP INDEX CONCURRENTLY {name};" if copy else f"REINDEX INDEX CONCURRENTLY {name};",
            )


def drift(actual: Structure, wanted: Structure, schema: str, extensions_schema: str) -> Iterator[Problem]:
    """Yield differences from the release. Missing tables and additional indexes are not reported here."""
    tables = {part.table for part in actual}
    enums = {part.name for part in actual if part.kind == "enum"}

    def written(definition: str) -> str:
        names = {"$schema": quote(schema), "$extensions": quote(extensions_schema)}
        return re.sub(r"\$\w+(?=\.)", lambda match: names.get(match.group(), match.group()), definition)

    # Enums first: a default may need a label.
    for part in sorted({*wanted, *actual}, key=lambda part: (part.kind != "enum", part)):
        have, want = actual.get(part), wanted.get(part)
        if part.table not in tables or (have and want and have.definition == want.definition):
            continue
        if part.kind == "enum":
            yield from _enum(part, have, want, schema)
        elif part.kind == "column":
            foreign = re.match(r"\$schema\.(\w+)", want.definition) if want else None
            if not foreign or foreign.group(1) in enums or not have or f".{foreign.group(1)}" not in have.definition:
                yield _column(part, have and written(have.definition), want and written(want.definition), schema)
        elif want:  # additional indexes are the operator's own
            yield _named(part, have and written(have.definition), written(want.definition), schema)


def _enum(part: Element, have: Definition | None, want: Definition | None, schema: str) -> Iterator[Problem]:
    if not have or not want:  # a column that uses another schema's type is reported as such
        return
    name = quote((schema, part.name))
    labels, present = want.definition.split(", "), have.definition.split(", ")
    additions = [
        f"ALTER TYPE {name} ADD VALUE {label} {f'AFTER {labels[index - 1]}' if index else f'BEFORE {present[0]}'};"
        for index, label in enumerate(labels)
        if label not in present
    ]
    yield Problem(
        "enum_drift",
        f"type {name}",
        f"The enum {name} has the labels {have.definition} where this release of Prefect has {want.definition}.",
        " ".join(additions) or "Leave it while no row has another label: PostgreSQL cannot remove a label.",
        ERROR if additions else WARNING,
    )


def _column(part: Element, have: str | None, want: str | None, schema: str) -> Problem:
    table, column = quote((schema, part.table)), quote(part.name)
    where = f"column {quote((schema, part.table, part.name))}"
    if not want:
        return Problem(
            "column_extra",
            where,
            f"The table {table} has a column {part.name} ({have}) that this release of Prefect does not have.",
            f"ALTER TABLE {table} DROP COLUMN {column}; unless something of yours reads it.",
            WARNING,
        )
    if not have:
        return Problem(
            "column_missing",
            where,
            f"The table {table} lacks the column {part.name}, which this release of Prefect reads and writes.",
            f"ALTER TABLE {table} ADD COLUMN {column} {want}; and restore its values from a backup.",
        )
    return Problem(
        "column_drift",
        where,
        f"The column {part.name} of the table {table} is {have} where this release of Prefect makes {want}.",
        _alter_column(table, column, _split(have), _split(want)),
    )


def _split(definition: str) -> tuple[str, bool, str]:
    declared, _, default = definition.partition(" DEFAULT ")
    return declared.replace(" NOT NULL", ""), declared.endswith(" NOT NULL"), default


def _alter_column(table: str, column: str, have: tuple[str, bool, str], want: tuple[str, bool, str]) -> str:
    actions = []
    if have[0] != want[0]:
        actions.append(f"TYPE {want[0]} USING {column}::{want[0]}")
    if have[1] != want[1]:
        actions.append("SET NOT NULL" if want[1] else "DROP NOT NULL")
    if have[2] != want[2]:
        actions.append(f"SET DEFAULT {want[2]}" if want[2] else "DROP DEFAULT")
    return f"ALTER TABLE {table} " + ", ".join(f"ALTER COLUMN {column} {action}" for action in actions) + ";"


def _named(part: Element, have: str | None, want: str, schema: str) -> Problem:
    """Return the problem of an index or a constraint that is missing or different."""
    name, table = quote((schema, part.name)), quote((schema, part.table))
    is_index = part.kind == "index"
    if is_index:
        make = want.replace("INDEX", "INDEX CONCURRENTLY", 1) + ";"
        drop = f"DROP INDEX CONCURRENTLY {name}; "
    else:
        make = f"ALTER TABLE {table} ADD CONSTRAINT {quote(part.name)} {want};"
        drop = f"ALTER TABLE {table} DROP CONSTRAINT {quote(part.name)}; "
    if have:
        message = (
            f"The {part.kind} {part.name} of the table {table} is not as this release of Prefect makes it: {have}."
        )
        return Problem("index_drift" if is_index else "constraint_drift", f"{part.kind} {name}", message, drop + make)
    message = f"The table {table} lacks the {part.kind} {part.name}, which this release of Prefect makes."
    return Problem("index_missing" if is_index else "constraint_missing", f"{part.kind} {name}", message, make)
