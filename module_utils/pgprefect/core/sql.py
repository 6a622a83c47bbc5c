"""SQL statements that can be executed and shown.

psycopg2.sql composes what is executed. What is shown needs neither psycopg2 nor a server (check mode on a clean host),
quotes names only where they need it, and has no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

# The words that PostgreSQL 14 to 18 do not accept as a name without quotes (pg_get_keywords, all but unreserved).
_KEYWORDS_TEXT = """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast
    char character check coalesce collate collation column concurrently constraint create cross current_catalog
    current_date current_role current_schema current_time current_timestamp current_user dec decimal default deferrable
    desc distinct do else end except exists extract false fetch float for foreign freeze from full grant greatest group
    grouping having ilike in initially inner inout int integer intersect interval into is isnull join json json_array
    json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize json_table json_value
    lateral leading least left like limit localtime localtimestamp merge_action national natural nchar none normalize
    not notnull null nullif numeric offset on only or order out outer overlaps overlay placing position precision
    primary real references returning right row select session_user setof similar smallint some substring symmetric
    system_user table tablesample then time timestamp to trailing treat trim true union unique user using values varchar
    variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces
    xmlparse xmlpi xmlroot xmlserialize xmltable
"""
_KEYWORDS = frozenset(_KEYWORDS_TEXT.split())

Name = Union[str, tuple[str, ...]]  # a name, or a qualified one


@dataclass(frozen=True)
class Value:
    """A literal; a secret one is masked wherever it is shown."""

    value: Any
    secret: bool = False


@dataclass(frozen=True)
class Names:
    """A list of names, separated by commas."""

    names: tuple[Name, ...]


@dataclass(frozen=True)
class Statement:
    """A template with one ``{}`` for each argument: a name, a list of names or a value."""

    template: str
    arguments: tuple[str | Names | Value, ...] = ()

    @classmethod
    def named(cls, template: str, arguments: Mapping[str, str | Names | Value]) -> Statement:
        """Return the statement of a template with one ``{name}`` for each use of an argument."""
        names = re.findall(r"{(\w+)}", template)
        return cls(re.sub(r"{\w+}", "{}", template), tuple(arguments[name] for name in names))

    def execute(self, cursor: Any) -> None:
        """Execute it, with its arguments quoted as PostgreSQL wants them."""
        from psycopg2 import sql

        def compose(argument: Name | Names | Value) -> sql.Composable:
            if isinstance(argument, Value):
                return sql.Literal(argument.value)
            if isinstance(argument, Names):
                return sql.SQL(", ").join([compose(name) for name in argument.names])
            return sql.Identifier(*([argument] if isinstance(argument, str) else argument))

        cursor.execute(sql.SQL(self.template).format(*map(compose, self.arguments)))

    def __str__(self) -> str:
        def show(argument: str | Names | Value) -> str:
            if isinstance(argument, Value):
                text = "********" if argument.secret else str(argument.value)
                return text if isinstance(argument.value, int) else quote_literal(text)
            if isinstance(argument, Names):
                return ", ".join(map(quote, argument.names))
            return quote(argument)

        return self.template.format(*map(show, self.arguments))


@dataclass(frozen=True)
class Script:
    """A whole SQL script, run as one role with one schema as its search path."""

    text: str
    role: str
    schema: str
    reason: str

    def execute(self, cursor: Any) -> None:
        """Execute it as its role, and reset the role and the search path."""
        Statement("SET LOCAL ROLE {}", (self.role,)).execute(cursor)
        Statement("SET LOCAL search_path TO {}", (self.schema,)).execute(cursor)
        cursor.execute(self.text)
        cursor.execute("SET LOCAL search_path TO pg_catalog; RESET ROLE")

    def __str__(self) -> str:
        return f"-- the application's script, as {quote(self.role)} in {quote(self.schema)}: {self.reason}"


def quote(name: Name) -> str:
    """Return a name as SQL has it: in double quotes where it needs them."""
    if not isinstance(name, str):
        return ".".join(map(quote, name))
    if re.fullmatch("[a-z_][a-z0-9_$]*", name) and name not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return a text as an SQL literal."""
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f"E{quoted}" if "\\" in text else quoted


def search_path_names(value: str) -> list[str]:
    """Split a search path as PostgreSQL does: quoted names stay as they are, others are folded to lower case."""
    parts = re.findall(r'\s*(?:"((?:[^"]|"")*)"|([^",\s]+))\s*(?:,|$)', value)
    return [quoted.replace('""', '"') if quoted or not bare else bare.lower() for quoted, bare in parts]
