"""The view workflow_runs: the flow runs of every tenant, each with a summary of the application's events.

A view on Prefect's own tables would block its migrations (a column that a view uses cannot change its type) and could
not be created before the first one. So the view reads a function whose body is a text, for which PostgreSQL records no
dependency. The planner inlines the body, so that conditions and limits reach the indexes of the tables. Both run with
their caller's rights. Until every tenant is migrated, a query of the view names the table that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.sql import Names, Statement, Value, quote, quote_literal
from .declaration import PUBLIC
from .event_table import EventTable

NAME = "workflow_runs"
COMMENT = "One row for each flow run of every Prefect server, with the application's events. Made by pgprefect."

_COLUMNS = {
    "tenant": "text",
    "flow_run_id": "uuid",
    "flow_name": "text",
    "deployment_name": "text",
    "run_name": "text",
    "state_type": "text",
    "state_name": "text",
    "expected_start_time": "timestamp with time zone",
    "start_time": "timestamp with time zone",
    "end_time": "timestamp with time zone",
    "duration": "interval",
    "events": "bigint",
    "problems": "bigint",
    "last_event_at": "timestamp with time zone",
    "last_event_type": "text",
    "last_event_status": "text",
    "last_message": "text",
}
_RESULT = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
_NAMES = ", ".join(_COLUMNS)


@dataclass(frozen=True)
class ViewState:
    """The view and its function as the catalog has them; ``view`` is empty where it does not read the function."""

    relation: str = ""  # the kind of the relation, as pg_class.relkind
    view: str = ""
    view_owner: str = ""
    body: str = ""
    signature: str = ""
    function_owner: str = ""
    plain: bool = True  # the planner can inline both, and the function runs with its caller's rights
    callers: tuple[str, ...] = ()


_FOUND = """
SELECT coalesce(c.relkind::text, ''), CASE WHEN reads.yes THEN pg_get_viewdef(c.oid) ELSE '' END,
       coalesce(pg_get_userbyid(c.relowner), ''), coalesce(p.prosrc, ''), coalesce(pg_get_function_result(p.oid), ''),
       coalesce(pg_get_userbyid(p.proowner), ''),
       coalesce(l.lanname = 'sql' AND provolatile = 's' AND proconfig IS NULL AND NOT prosecdef AND NOT proisstrict,
                true) AND reloptions IS NULL,
       ARRAY(SELECT CASE WHEN grantee > 0 THEN pg_get_userbyid(grantee)::text ELSE '' END
             FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE privilege_type = 'EXECUTE')
FROM pg_namespace n
     LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %(name)s
     LEFT JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = %(name)s AND p.pronargs = 0
     LEFT JOIN pg_language l ON l.oid = p.prolang
     LEFT JOIN LATERAL (
         SELECT EXISTS (SELECT FROM pg_rewrite w
                             JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                        WHERE w.ev_class = c.oid AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid) AS yes
     ) AS reads ON true
WHERE n.nspname = %(schema)s
"""


def read_view(cursor: Any, schema: str) -> ViewState:
    """Read the view and its function from the catalog."""
    cursor.execute(_FOUND, {"schema": schema, "name": NAME})
    row = cursor.fetchone()
    if row is None:
        return ViewState()
    *first, callers = row
    return replace(ViewState(*first), callers=tuple(callers))


def body(events: EventTable, tenants: Sequence[tuple[str, str]]) -> str:
    """Return the query, for the pairs of name and schema of all tenants.

    The UNION has plain tables only, so that an index gives the newest runs of all tenants in order.
    """

    def each(query: str) -> str:
        tables = ("flow_run", "flow", "deployment")
        parts = [
            query.format(tenant=quote_literal(name), **{table: quote((schema, table)) for table in tables})
            for name, schema in tenants
        ]
        return "\n        UNION ALL ".join(parts)

    def column(field: str) -> str:
        name = events.column(field)
        return f"e.{quote(name)}" if name else "NULL::text"

    runs = """SELECT {tenant}::text AS tenant, id, flow_id, deployment_id, name, state_type::text AS state_type,
               state_name, expected_start_time, start_time, end_time FROM {flow_run}"""
    flows = "SELECT name FROM {flow} WHERE id = r.flow_id AND r.tenant = {tenant}"
    deployments = "SELECT name FROM {deployment} WHERE id = r.deployment_id AND r.tenant = {tenant}"
    newest = f"ORDER BY {column('created_at')} DESC"
    return f"""
    SELECT r.tenant, r.id, f.name::text, d.name::text, r.name::text, r.state_type, r.state_name::text,
           r.expected_start_time, r.start_time, r.end_time, r.end_time - r.start_time,
           e.events, e.problems, e.last_event_at, e.last_event_type, e.last_event_status, e.last_message
    FROM (
        {each(runs)}
    ) AS r LEFT JOIN LATERAL (
        {each(flows)}
    ) AS f ON true LEFT JOIN LATERAL (
        {each(deployments)}
    ) AS d ON true LEFT JOIN LATERAL (
        SELECT count(*) AS events,
               count(*) FILTER (WHERE upper({column("level")}::text) IN ('WARNING', 'ERROR', 'CRITICAL')) AS problems,
               max({column("created_at")}) AS last_event_at,
               (array_agg({column("event_type")} {newest}))[1]::text AS last_event_type,
               (array_agg({column("status")} {newest}))[1]::text AS last_event_status,
               (array_agg({column("message")} {newest}))[1]::text AS last_message
        FROM {quote(events.name)} e WHERE {column("flow_run_id")} = r.id
    ) AS e ON true
"""


def is_foreign(found: ViewState) -> bool:
    """Say whether something else than our view has the name."""
    return bool(found.relation) and not found.view


def must_be_new(found: ViewState, schema: str, owner: str, reader: str) -> bool:
    """Say whether more than the function's body differs, so that function and view must be recreated."""
    definition = f"SELECT {_NAMES} FROM {quote((schema, NAME))}() run({_NAMES});"
    view = re.sub(r"\brun\.", "", found.view)  # newer servers write no table before a column that needs none
    return (
        view.split() != definition.split()
        or found.signature != f"TABLE({_RESULT})"
        or (found.view_owner, found.function_owner) != (owner, owner)
        or not found.plain
        or reader not in found.callers
        or PUBLIC in found.callers
    )


def statement(schema: str, owner: str, text: str, recreate: bool) -> Statement:
    """Return the statement that creates both, or replaces the function's body, which keeps grants on the view."""
    name = Names(((schema, NAME),))
    function = f"CREATE OR REPLACE FUNCTION {{}}() RETURNS TABLE ({_RESULT}) LANGUAGE sql STABLE AS {{}}"
    # As the owner, so that the default privileges apply; unchecked, because Prefect's tables may not exist yet.
    parts: list[tuple[str, tuple[Any, ...]]] = [
        ("SET ROLE {}", (owner,)),
        ("SET check_function_bodies = off", ()),
        (function, (name, Value(text))),
        ("REVOKE EXECUTE ON FUNCTION {}() FROM PUBLIC", (name,)),
        ("RESET check_function_bodies", ()),
        ("RESET ROLE", ()),
    ]
    if recreate:
        parts[4:4] = [
            (f"CREATE VIEW {{}} AS SELECT {_NAMES} FROM {{}}() AS run", (name, name)),
            ("COMMENT ON VIEW {} IS {}", (name, Value(COMMENT))),
        ]
        parts[:0] = [("DROP VIEW IF EXISTS {}", (name,)), ("DROP FUNCTION IF EXISTS {}()", (name,))]
    return Statement("; ".join(part for part, _ in parts), tuple(value for _, values in parts for value in values))
