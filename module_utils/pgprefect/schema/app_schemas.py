"""The application's schemas, and what of a database is in no backup set.

Unless they are declared, they are all that belong neither to the system nor to Prefect nor to extensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..core.problems import Problem
from ..core.sql import quote

# Of single tables that a restore has put there to be looked at; ``backup.sets.staging_schema`` makes these names.
STAGING = r"restored_\d{8}t\d{6}z(_safety)?_[a-z0-9_]+"
_SYSTEM = rf"^(pg_.*|information_schema|{STAGING})$"

_FOUND = r"""
SELECT nspname::text FROM pg_namespace n
WHERE nspname !~ %(system)s AND nspname <> ALL(%(others)s::name[])
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = n.oid AND deptype = 'e')
ORDER BY nspname <> 'public', nspname
"""
_HOLDS = """
  AND EXISTS (SELECT FROM pg_depend d
              WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
                AND d.classid <> ALL(ARRAY['pg_default_acl', 'pg_extension']::regclass[])
                AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid
                                                              AND e.deptype = 'e'))
ORDER BY"""
# Pairs of a table and its partition or heir of which only one is in these schemas.
_TORN = """
SELECT pn.nspname::text, p.relname::text, cn.nspname::text, c.relname::text
FROM pg_inherits JOIN pg_class p ON p.oid = inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
     JOIN pg_class c ON c.oid = inhrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
  AND (pn.nspname = ANY(%(schemas)s::name[])) <> (cn.nspname = ANY(%(schemas)s::name[]))
ORDER BY 1, 2, 3, 4
"""
_FOREIGN = """
SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'f' AND nspname = ANY(%(schemas)s::name[]) ORDER BY 1
"""
# Rows that an extension's tables have been given: a dump of schemas has them not.
_CONFIGURED = """
SELECT quote_ident(nspname) || '.' || quote_ident(relname)
FROM pg_extension e, unnest(e.extconfig) t(oid) JOIN pg_class c ON c.oid = t.oid
     JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND pg_relation_size(c.oid) > 0 ORDER BY 1
"""
# What PostgreSQL lets nobody but a superuser create.
_PRIVILEGED = """
SELECT 'function ' || p.oid::regprocedure || ' in ' || lanname
FROM pg_proc p JOIN pg_language l ON l.oid = prolang JOIN pg_namespace n ON n.oid = pronamespace
WHERE nspname = ANY(%(schemas)s::name[]) AND (NOT lanpltrusted OR proleakproof OR prosupport <> 0)
  AND p.prokind <> 'a' AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid
                                       AND deptype IN ('e', 'i'))
UNION ALL SELECT 'type ' || t.oid::regtype FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace
WHERE nspname = ANY(%(schemas)s::name[]) AND typtype = 'b' AND typelem = 0
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = t.oid AND deptype IN ('e', 'i'))
UNION ALL SELECT pg_describe_object(class, things.oid, 0) FROM (
    SELECT 'pg_opclass'::regclass AS class, oid, opcnamespace AS home FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace FROM pg_opfamily
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid, prsnamespace FROM pg_ts_parser
    UNION ALL SELECT 'pg_ts_template'::regclass, oid, tmplnamespace FROM pg_ts_template) AS things
    JOIN pg_namespace n ON n.oid = home
WHERE nspname = ANY(%(schemas)s::name[])
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = class AND objid = things.oid AND deptype = 'e')
ORDER BY 1
"""


def _names(cursor: Any, question: str, **parameters: Any) -> list[str]:
    cursor.execute(question, parameters)
    return [name for (name,) in cursor.fetchall()]


def app_schemas(cursor: Any, others: Iterable[str]) -> list[str]:
    """Return the schemas that are none of the system's, of ``others`` (Prefect's and the extensions') or of staging."""
    return _names(cursor, _FOUND, system=_SYSTEM, others=list(others))


def left_out(cursor: Any, schemas: Sequence[str], large_objects: bool) -> dict[str, list[str]]:
    """Return what is in no dump of these schemas, by kind. What belongs to an extension comes back with it."""
    question = _FOUND.replace("ORDER BY", _HOLDS.lstrip())
    found = {
        "schemas": _names(cursor, question, system=_SYSTEM, others=list(schemas)),
        "rows of foreign tables": _names(cursor, _FOREIGN, schemas=list(schemas)),
        "rows of extensions' tables": _names(cursor, _CONFIGURED),
    }
    if not large_objects and (count := _names(cursor, "SELECT count(*) FROM pg_largeobject_metadata")[0]):
        found["large objects"] = [str(count)]
    return {kind: names for kind, names in found.items() if names}


def torn(cursor: Any, schemas: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return schema and name of tables, and those of a partition or heir, of which only one is in these schemas."""
    cursor.execute(_TORN, {"schemas": list(schemas)})
    return list(cursor.fetchall())


def torn_problem(parent: str, table: str, schema: str, part: str) -> Problem:
    """Return the problem of a table that is in a backup set without one of its partitions, or the other way round."""
    whole, rest = quote((parent, table)), quote((schema, part))
    return Problem(
        code="backup_torn",
        object=f"table {whole}",
        message=f"{rest} is a part of the table {whole} (a partition or heir), and only one of their schemas is "
        "backed up.",
        remedy=f"Have both schemas, {parent} and {schema}, in app_schemas, or ALTER TABLE {rest} SET SCHEMA "
        f"{quote(parent)};",
    )


def privileged(cursor: Any, schemas: Sequence[str]) -> list[str]:
    """Return descriptions of objects in these schemas that only a superuser can create."""
    return _names(cursor, _PRIVILEGED, schemas=list(schemas))
