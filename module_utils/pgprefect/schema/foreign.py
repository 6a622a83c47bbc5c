"""What Prefect's tables and schemas have beyond columns, indexes and constraints, whoever made it.

The dependencies of PostgreSQL's catalog say what belongs to a schema or to a table, whatever kind of object it is: a
trigger, a rule, a policy, a function, an operator, a child table. Prefect's migrations make nothing of these today.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..core.prefect import ENUMS, TABLES
from ..core.problems import ERROR, NOTICE, WARNING, Problem
from ..core.sql import quote
from .structure import Definition, Element, Structure, portable

# What a table is. Its physical storage and its statistics targets stand apart, because they change no answer.
_TABLES = """
SELECT nspname, 'table', '', relname, concat_ws(', ',
    CASE relkind WHEN 'r' THEN 'TABLE' WHEN 'p' THEN 'PARTITIONED TABLE' WHEN 'v' THEN 'VIEW'
                 WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE relkind::text END,
    CASE relpersistence WHEN 'u' THEN 'UNLOGGED' WHEN 't' THEN 'TEMPORARY' END,
    CASE WHEN relrowsecurity THEN 'ROW LEVEL SECURITY' END,
    CASE WHEN relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
    CASE WHEN reloftype <> 0 THEN 'OF ' || reloftype::regtype END,
    (SELECT 'INHERITS ' || string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno)
     FROM pg_inherits WHERE inhrelid = c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = ANY(%(schemas)s::name[]) AND relname = ANY(%(tables)s::name[])
  AND relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT nspname, 'storage', '', relname, concat_ws(', ',
    CASE WHEN amname <> 'heap' THEN 'USING ' || amname END,
    array_to_string(reloptions, ', '),
    (SELECT string_agg('toast.' || entry, ', ') FROM pg_class t, unnest(t.reloptions) entry
     WHERE t.oid = reltoastrelid),
    CASE relreplident WHEN 'n' THEN 'REPLICA IDENTITY NOTHING' WHEN 'f' THEN 'REPLICA IDENTITY FULL'
                      WHEN 'i' THEN 'REPLICA IDENTITY USING INDEX' END,
    (SELECT string_agg(attname || ' STORAGE ' || attstorage::text || attcompression::text, ', ' ORDER BY attnum)
     FROM pg_attribute a JOIN pg_type y ON y.oid = atttypid
     WHERE attrelid = c.oid AND attnum > 0 AND (attstorage <> typstorage OR attcompression <> '')))
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_am ON pg_am.oid = relam
WHERE nspname = ANY(%(schemas)s::name[]) AND relname = ANY(%(tables)s::name[]) AND relkind IN ('r', 'p')
UNION ALL
SELECT nspname, 'enforcement', relname, conname, 'DISABLED'
FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = relnamespace
     JOIN pg_constraint k ON k.oid = tgconstraint
WHERE nspname = ANY(%(schemas)s::name[]) AND relname = ANY(%(tables)s::name[]) AND tgisinternal
GROUP BY nspname, relname, conname HAVING NOT bool_and(tgenabled IN ('O', 'A'))
"""

# Members of the schemas, and what hangs on their tables and types. Left out: what a table consists of (other queries
# compare it), what only reads it from another schema (views, functions, policies), and the parts of an extension or of
# a type, which stand for them.
_OBJECTS = """
WITH schemas AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY(%(schemas)s::name[])
), relations AS (
    SELECT c.oid, nspname, relname, relkind FROM pg_class c JOIN schemas s ON s.oid = relnamespace
    WHERE relname = ANY(%(tables)s::name[]) AND relkind IN ('r', 'p', 'v', 'm', 'f')
), enums AS (
    SELECT t.oid, nspname FROM pg_type t JOIN schemas s ON s.oid = typnamespace WHERE typname = ANY(%(enums)s::name[])
), objects(nspname, subject, classid, objid) AS (
    SELECT nspname, '', classid, objid
    FROM pg_depend d JOIN schemas s ON refclassid = 'pg_namespace'::regclass AND refobjid = s.oid
    WHERE classid <> 'pg_default_acl'::regclass
      AND NOT (classid = 'pg_class'::regclass
               AND objid IN (SELECT oid FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')))
      AND NOT (classid = 'pg_type'::regclass AND objid IN (SELECT oid FROM enums))
    UNION
    SELECT r.nspname, relname, classid, objid
    FROM pg_depend d JOIN relations r ON refclassid = 'pg_class'::regclass AND refobjid = r.oid
    WHERE classid <> ALL(ARRAY['pg_attrdef', 'pg_type', 'pg_proc']::regclass[])
      AND NOT (classid = 'pg_class'::regclass AND objid IN (SELECT oid FROM pg_class WHERE relkind IN ('i', 'I', 't')))
      AND NOT (classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
               AND objid IN (SELECT oid FROM pg_class WHERE relkind = 'S'))
      AND NOT (classid = 'pg_constraint'::regclass AND objid IN (
               SELECT c.oid FROM pg_constraint c JOIN relations o ON o.oid = c.conrelid))
      AND NOT (classid = 'pg_rewrite'::regclass AND objid IN (
               SELECT oid FROM pg_rewrite WHERE ev_class <> r.oid OR ev_type = '1' AND r.relkind IN ('v', 'm')))
      AND NOT (classid = 'pg_policy'::regclass AND objid IN (SELECT oid FROM pg_policy WHERE polrelid <> r.oid))
      AND NOT (classid = 'pg_trigger'::regclass AND objid IN (
               SELECT oid FROM pg_trigger WHERE tgrelid <> r.oid OR tgisinternal))
    UNION
    SELECT e.nspname, '', classid, objid
    FROM pg_depend d JOIN enums e ON refclassid = 'pg_type'::regclass AND refobjid = e.oid
    WHERE classid IN ('pg_cast'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass)
), named AS (
    SELECT DISTINCT ON (nspname, classid, objid) o.*, (pg_identify_object(classid, objid, 0)).* FROM objects o
    WHERE subject <> '' OR NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype IN ('e', 'i'))
    ORDER BY nspname, classid, objid, subject DESC
)
SELECT nspname, type, subject, identity,
       coalesce((SELECT CASE WHEN tgtype & 66 = 0 THEN 'AFTER ' ELSE 'BEFORE ' END FROM pg_trigger
                 WHERE classid = 'pg_trigger'::regclass AND oid = objid), '')
       || coalesce(md5(CASE classid
           WHEN 'pg_proc'::regclass THEN (
               SELECT CASE WHEN prokind <> 'a' THEN pg_get_functiondef(oid) END FROM pg_proc WHERE oid = objid)
           WHEN 'pg_trigger'::regclass THEN (
               SELECT tgenabled::text || pg_get_triggerdef(oid) FROM pg_trigger WHERE oid = objid)
           WHEN 'pg_rewrite'::regclass THEN (
               SELECT ev_enabled::text || pg_get_ruledef(oid) FROM pg_rewrite WHERE oid = objid)
           WHEN 'pg_policy'::regclass THEN (
               SELECT concat_ws('|', polcmd, polpermissive, pg_get_expr(polqual, polrelid),
                                pg_get_expr(polwithcheck, polrelid)) FROM pg_policy WHERE oid = objid)
           WHEN 'pg_statistic_ext'::regclass THEN pg_get_statisticsobjdef(objid) END), '')
FROM named WHERE type <> 'toast table'
UNION ALL
SELECT nspname, 'subscription', relname, quote_ident(subname), ''
FROM pg_subscription_rel JOIN pg_subscription p ON p.oid = srsubid JOIN relations r ON r.oid = srrelid
"""


_EVENT_TRIGGERS = """
SELECT evtname, evtevent, evtfoid::regproc::text FROM pg_event_trigger e
WHERE evtenabled <> 'D' AND NOT EXISTS (
    SELECT FROM pg_depend WHERE classid = 'pg_event_trigger'::regclass AND objid = e.oid AND deptype = 'e')
ORDER BY 1
"""

KINDS_OF_TABLES = ("table", "storage", "enforcement")
# These change what Prefect reads and writes.
_ACTIVE = ("trigger", "rule", "policy", "cast", "child", "subscription")
# These only read, make a query faster, or are the key of a table of yours that refers to a run.
_HARMLESS = ("statistics object", "publication relation", "publication namespace", "table constraint")


def read_objects(cursor: Any, schemas: Sequence[str], extensions_schema: str) -> dict[str, Structure]:
    """Return of each schema what its tables are, and every object that ``read_structures`` leaves out."""
    found: dict[str, dict[Element, Definition]] = {schema: {} for schema in schemas}
    parameters = {"schemas": list(schemas), "tables": list(TABLES), "enums": list(ENUMS)}
    for query in (_TABLES, _OBJECTS):
        cursor.execute(query, parameters)
        for schema, kind, table, name, definition in cursor:
            if kind == "storage" and not definition:
                continue
            if kind in ("table", "foreign table") and query is _OBJECTS:
                kind = "child"
            portable_name = portable(name, quote(schema), extensions_schema)
            found[schema][Element(kind, table, portable_name)] = Definition(definition or "-", True)
    return dict(found)


def foreign(actual: Structure, wanted: Structure | None, schema: str) -> Iterator[Problem]:
    """Yield what tables and schemas have beyond the release of Prefect. Missing tables are not reported here.

    Of a release that is not known this is only what changes stored rows and no known release has, as warnings.
    """
    severity = ERROR if wanted is not None else WARNING
    known = wanted or {part: Definition("TABLE", True) for part in actual if part.kind == "table"}
    for part in sorted(
        {*actual, *(part for part in known if part.kind not in ("column", "index", "constraint", "enum"))}
    ):
        have, want = actual.get(part), known.get(part)
        if have and want and have.definition == want.definition:
            continue
        if part.kind == "table":
            if have and want:
                yield _table(part, have.definition, want.definition, schema, severity)
        elif part.kind == "storage":
            if have and Element("table", "", part.name) in actual:
                yield _storage(part, have.definition, schema)
        elif part.kind == "enforcement":
            yield _enforcement(part, schema, severity)
        elif have and (wanted is not None or part.kind in _ACTIVE):
            # After the row is stored, a trigger can refuse it or note it elsewhere.
            mild = have.definition.startswith("AFTER ")
            yield _object(part, schema, WARNING if mild else severity, changed=bool(want))
        elif want:
            yield _missing(part, schema)


def event_triggers(cursor: Any) -> Iterator[Problem]:
    """Yield the event triggers of the database, which run at each migration. An extension's own are not reported."""
    cursor.execute(_EVENT_TRIGGERS)
    for name, event, function in cursor:
        yield Problem(
            code="event_trigger",
            object=f"event trigger {quote(name)}",
            message=f"The event trigger {name} runs {function} at each {event}, so in Prefect's migrations too.",
            remedy=f"ALTER EVENT TRIGGER {quote(name)} DISABLE; while a migration runs, or DROP EVENT TRIGGER "
            f"{quote(name)};",
            severity=WARNING,
        )


def _table(part: Element, have: str, want: str, schema: str, severity: str) -> Problem:
    table = quote((schema, part.name))
    extra = [word for word in have.split(", ") if word not in want.split(", ")]
    remedies = {
        "ROW LEVEL SECURITY": "DISABLE ROW LEVEL SECURITY",
        "FORCE ROW LEVEL SECURITY": "NO FORCE ROW LEVEL SECURITY",
        "UNLOGGED": "SET LOGGED",
    }
    actions = [remedies[word] for word in extra if word in remedies]
    actions += ["NOT OF" for word in extra if word.startswith("OF ")]
    actions += [f"NO INHERIT {word[len('INHERITS ') :]}" for word in extra if word.startswith("INHERITS ")]
    return Problem(
        "table_drift",
        f"table {table}",
        f"The table {table} is {have} where this release of Prefect makes {want}.",
        " ".join(f"ALTER TABLE {table} {action};" for action in actions)
        or "Restore Prefect's schema from a backup: this is not the table that Prefect made.",
        severity,
    )


def _storage(part: Element, definition: str, schema: str) -> Problem:
    table = quote((schema, part.name))
    unhealthy = re.search(r"autovacuum_enabled=(false|off|no|0)", definition)
    return Problem(
        "autovacuum_off" if unhealthy else "storage_differs",
        f"table {table}",
        f"The table {table} has storage settings of its own: {definition}."
        + (" Without autovacuum it grows until it is vacuumed by hand." if unhealthy else ""),
        f"ALTER TABLE {table} RESET (autovacuum_enabled, toast.autovacuum_enabled);"
        if unhealthy
        else "Nothing, where somebody chose them.",
        WARNING if unhealthy else NOTICE,
    )


def _enforcement(part: Element, schema: str, severity: str) -> Problem:
    table = quote((schema, part.table))
    return Problem(
        code="constraint_disabled",
        object=f"constraint {quote((schema, part.name))}",
        message=f"The triggers of the table {table} that enforce the constraint {part.name} are disabled, so rows "
        "that break it are accepted, and rows that should go stay.",
        remedy=f"ALTER TABLE {table} ENABLE TRIGGER ALL;",
        severity=severity,
    )


def _object(part: Element, schema: str, severity: str, *, changed: bool) -> Problem:
    identity = part.name.replace("$schema.", f"{quote(schema)}.")
    where = f"table {quote((schema, part.table))}" if part.table else f"schema {quote(schema)}"
    if part.kind in _HARMLESS:
        severity = NOTICE
    elif part.kind not in _ACTIVE:
        severity = WARNING
    verb = "defines" if changed else "makes"
    effects = {
        "trigger": ", and runs or changes what Prefect writes",
        "rule": ", and replaces what Prefect reads or writes",
        "policy": ", and hides rows where row level security is enabled",
        "child": ": its rows appear among Prefect's",
        "table constraint": ": it refuses what Prefect deletes",
        "subscription": ": it writes Prefect's rows",
    }
    return Problem(
        "object_changed" if changed else "object_foreign",
        f"{part.kind} {identity}",
        f"The {part.kind} {identity} belongs to the {where}{effects.get(part.kind, '')}; no migration of Prefect "
        f"{verb} it{' so' if changed else ''}.",
        _removal(part, identity, schema),
        severity,
    )


def _removal(part: Element, identity: str, schema: str) -> str:
    table = quote((schema, part.table)) if part.table else ""
    if part.kind == "child":
        return f"ALTER TABLE {identity} NO INHERIT {table};"
    if part.kind == "table constraint":
        name, _, other = identity.partition(" on ")
        return f"ALTER TABLE {other} DROP CONSTRAINT {name};"
    if part.kind in ("publication relation", "publication namespace"):
        what = f"TABLE {table}" if table else f"TABLES IN SCHEMA {quote(schema)}"
        publication = identity.rpartition(" in publication ")[2]
        return f"Nothing, where somebody replicates it; else ALTER PUBLICATION {publication} DROP {what};"
    if part.kind == "subscription":
        return f"ALTER SUBSCRIPTION {identity} DISABLE; and take the table out of its publication."
    return f"DROP {part.kind.upper().replace(' OBJECT', '')} {identity};"


def _missing(part: Element, schema: str) -> Problem:
    identity = part.name.replace("$schema.", f"{quote(schema)}.")
    return Problem(
        code="object_missing",
        object=f"{part.kind} {identity}",
        message=f"The {part.kind} {identity}, which this release of Prefect makes, is missing.",
        remedy="Restore Prefect's schema from a backup.",
    )
