"""The contents of a schema, as a manifest records them and as a copy is compared with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..core.sql import Names, Statement, Value
from ..schema.app_schemas import privileged
from ..schema.revision import stored_revision
from .sets import Dump

# Tables with rows of their own, partitioned tables, and materialized views. A partition that is a foreign table has its
# rows elsewhere, so that its parent cannot be counted here.
_RELATIONS = """
    SELECT c.relname, CASE c.relkind WHEN 'r' THEN pg_table_size(c.oid) END, c.relispopulated FROM pg_class c
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {}) AND c.relkind = {}
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
          AND (c.relkind <> 'p' OR NOT EXISTS (
              WITH RECURSIVE tree AS (
                  SELECT c.oid UNION ALL SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = oid)
              SELECT FROM tree JOIN pg_class p USING (oid) WHERE p.relkind = 'f'))
    ORDER BY 1"""


def _relations(connection: Any, schema: str, kind: str) -> list[tuple[str, int, bool]]:
    with connection.cursor() as cursor:
        Statement(_RELATIONS, (Value(schema), Value(kind))).execute(cursor)
        return list(cursor.fetchall())


def tables_of(connection: Any, schema: str) -> list[tuple[str, int]]:
    """Return the tables of a schema, without those of extensions, with their bytes without indexes."""
    return [(name, size) for name, size, _ in _relations(connection, schema, "r")]


def _count(connection: Any, schema: str, names: Iterable[str], source: str) -> dict[str, int]:
    names = list(names)
    if not names:
        return {}
    counts = ", ".join(f"(SELECT count(*) FROM {source})" for _ in names)
    with connection.cursor() as cursor:
        Statement(f"SELECT {counts}", tuple(Names(((schema, name),)) for name in names)).execute(cursor)
        return dict(zip(names, cursor.fetchone()))


def rows_of(connection: Any, schema: str, heirs: bool = False) -> dict[str, int]:
    """Count the rows of each table of a schema; with ``heirs``, as older sets do, those of tables that inherit too."""
    names = [name for name, _ in tables_of(connection, schema)]
    return _count(connection, schema, names, "{}" if heirs else "ONLY {}")


def parents_of(connection: Any, schema: str) -> dict[str, int]:
    """Count the rows of each partitioned table of a schema, which its partitions have."""
    return _count(connection, schema, [name for name, *_ in _relations(connection, schema, "p")], "{}")


def views_of(connection: Any, schema: str) -> dict[str, int | None]:
    """Count the rows of each materialized view of a schema; None where it is not populated."""
    found = _relations(connection, schema, "m")
    counts = _count(connection, schema, [name for name, _, populated in found if populated], "{}")
    return {name: counts.get(name) for name, *_ in found}


def large_objects_of(connection: Any) -> tuple[int, int]:
    """Return the number of large objects in the database, and the bytes of all. They belong to no schema."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), pg_table_size('pg_largeobject') FROM pg_largeobject_metadata")
        number, size = cursor.fetchone()
    return number, size


def structure_counts(connection: Any, schema: str) -> tuple[int, int]:
    """Return the numbers of indexes and of constraints in a schema."""
    question = """
        SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = n.oid AND relkind IN ('i', 'I')),
               (SELECT count(*) FROM pg_constraint WHERE connamespace = n.oid)
        FROM pg_namespace n WHERE nspname = {}"""
    with connection.cursor() as cursor:
        Statement(question, (Value(schema),)).execute(cursor)
        indexes, constraints = cursor.fetchone()
    return indexes, constraints


_SETVAL = re.compile(rb"^SELECT pg_catalog\.setval\('((?:[^'\\]|'')+)', (-?\d+), (true|false)\);$", re.MULTILINE)


def sequence_values(sql: bytes) -> dict[str, list[Any]]:
    """Return value and use of each sequence, by its quoted name, from the SQL that sets them.

    A sequence has no snapshot: what a dump has of it is what counts.
    """
    return {
        name.decode().replace("''", "'"): [int(value), used == b"true"] for name, value, used in _SETVAL.findall(sql)
    }


_SEQUENCE = """
SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE c.oid = to_regclass(%s) AND relkind = 'S'
"""


def _sequences(connection: Any, names: Iterable[str]) -> dict[str, list[Any]]:
    found = {}
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(_SEQUENCE, (name,))
            if row := cursor.fetchone():
                cursor.execute(f"SELECT last_value, is_called FROM {row[0]}")
                found[name] = list(cursor.fetchone())
    return found


def differences(connection: Any, part: Dump) -> Iterator[str]:
    """Yield how a copy of a schema differs from its part of a manifest."""
    yield from row_differences(connection, part)
    yield from structure_differences(connection, part)


def row_differences(connection: Any, part: Dump) -> Iterator[str]:
    """Yield how the rows, the sequences and the large objects of a copy differ from a part of a manifest."""
    schema = str(part.schema)
    counted = {"rows": (rows_of(connection, schema, heirs=part.parents is None), part.rows)}
    if part.parents is not None:
        counted["rows of partitions"] = (parents_of(connection, schema), part.parents)
    for what, (found, promised) in counted.items():
        for table in [*promised, *sorted(found.keys() - promised.keys())]:
            if found.get(table) != promised.get(table):
                yield f"{schema}.{table} has {found.get(table)} {what}, the manifest says {promised.get(table)}"
    values = _sequences(connection, part.sequences)
    for name, value in part.sequences.items():
        if values.get(name) != value:
            yield f"the sequence {name} has {values.get(name)}, the manifest says {value}"
    if part.large_objects is not None and (number := large_objects_of(connection)[0]) != part.large_objects:
        yield f"the database has {number} large objects, the manifest says {part.large_objects}"


def structure_differences(connection: Any, part: Dump) -> Iterator[str]:
    """Yield how the views, indexes, constraints and the revision of a copy differ from a part of a manifest."""
    schema = str(part.schema)
    views = views_of(connection, schema)
    for name, count in part.views.items():
        # A view that was not refreshed since its tables changed has other rows now; that is no loss.
        if name not in views or (views[name] is None) != (count is None):
            state = "missing" if name not in views else "populated" if count is None else "not populated"
            yield f"the materialized view {schema}.{name} is {state}"
    compared: dict[str, tuple[object, object]] = {
        "indexes, constraints": (structure_counts(connection, schema), (part.indexes, part.constraints)),
        "revision": (stored_revision(connection, schema) if part.revision else None, part.revision),
    }
    for what, (found_one, promised_one) in compared.items():
        if found_one != promised_one:
            yield f"{schema} has the {what} {found_one}, the manifest says {promised_one}"


def refreshed(connection: Any, part: Dump) -> dict[str, list[int]]:
    """Return the materialized views whose rows a copy has anew, with the old count and the new one."""
    views = views_of(connection, str(part.schema))
    found = {}
    for name, count in part.views.items():
        now = views.get(name)
        if count is not None and now is not None and count != now:
            found[name] = [count, now]
    return found


# Roles and owners, from the records of what depends on roles; those of the objects of a schema and of their parts.
_OWNED = """
SELECT o.type, o.object_names, o.object_args, pg_get_userbyid(owner) FROM (
    SELECT 'pg_class'::regclass AS class, oid, relnamespace AS home, relowner AS owner FROM pg_class
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT (relkind = 'S' AND EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype IN ('a', 'i')
                                    AND refclassid = 'pg_class'::regclass AND refobjsubid > 0))
    UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace, proowner FROM pg_proc
    UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace, typowner FROM pg_type t
    WHERE typtype IN ('e', 'd', 'r') OR EXISTS (SELECT FROM pg_class WHERE oid = t.typrelid AND relkind = 'c')
    UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace, oprowner FROM pg_operator
    UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace, collowner FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace, conowner FROM pg_conversion
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace, stxowner FROM pg_statistic_ext
    UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace, cfgowner FROM pg_ts_config
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace, dictowner FROM pg_ts_dict
) AS things JOIN pg_namespace n ON n.oid = home, pg_identify_object_as_address(class, things.oid, 0) AS o
WHERE nspname = %(schema)s
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = class AND objid = things.oid AND deptype = 'e')
ORDER BY 1, 2
"""
_LARGE_OBJECTS = """
SELECT 'large object', ARRAY[oid::text], ARRAY[]::text[], pg_get_userbyid(lomowner) FROM pg_largeobject_metadata
ORDER BY oid
"""
_ROLES = """
SELECT DISTINCT pg_get_userbyid(s.refobjid)::text FROM pg_shdepend s
WHERE s.refclassid = 'pg_authid'::regclass AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((s.classid = 'pg_namespace'::regclass AND s.objid = n_oid) OR EXISTS (
      SELECT FROM pg_class c WHERE s.classid = 'pg_class'::regclass AND c.oid = s.objid AND c.relnamespace = n_oid
      UNION ALL SELECT FROM pg_proc WHERE s.classid = 'pg_proc'::regclass AND oid = s.objid AND pronamespace = n_oid
      UNION ALL SELECT FROM pg_type WHERE s.classid = 'pg_type'::regclass AND oid = s.objid AND typnamespace = n_oid
      UNION ALL SELECT FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
                WHERE s.classid = 'pg_policy'::regclass AND p.oid = s.objid AND c.relnamespace = n_oid
      UNION ALL SELECT FROM pg_default_acl a
                WHERE s.classid = 'pg_default_acl'::regclass AND a.oid = s.objid AND a.defaclnamespace = n_oid)
      OR (%(large_objects)s AND s.classid = 'pg_largeobject'::regclass))
ORDER BY 1
"""


def of_roles(connection: Any, schema: str, owner: str, large_objects: bool) -> dict[str, Any]:
    """Return what a restore must know of the roles of a schema, as the fields of a part are named."""
    parameters = {"schema": schema, "large_objects": large_objects}
    with connection.cursor() as cursor:
        cursor.execute(_OWNED, parameters)
        owners = [list(row) for row in cursor.fetchall() if row[3] != owner]
        if large_objects:
            cursor.execute(_LARGE_OBJECTS)
            owners += [list(row) for row in cursor.fetchall() if row[3] != owner]
        number = "(SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)"
        cursor.execute(_ROLES.replace("n_oid", number), parameters)
        roles = [name for (name,) in cursor.fetchall()]
        return {"owners": owners, "roles": roles, "privileged": privileged(cursor, [schema])}


def schema_owners(connection: Any, schemas: Sequence[str]) -> dict[str, str]:
    """Return the owners of these schemas, where they exist."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nspname, pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = ANY(%s::name[])",
            (list(schemas),),
        )
        return dict(cursor.fetchall())


_SETTINGS = """
SELECT r.rolname::text, split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
     unnest(s.setconfig) entry
WHERE d.datname = current_database() ORDER BY 1 NULLS FIRST, 2
"""
_COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"


def settings_of(cursor: Any) -> list[list[str | None]]:
    """Return role (or None), name and value of each setting of this database."""
    cursor.execute(_SETTINGS)
    return [list(row) for row in cursor.fetchall()]


def comment_of(cursor: Any) -> str | None:
    """Return the comment on this database."""
    cursor.execute(_COMMENT)
    comment: str | None = cursor.fetchone()[0]
    return comment


_PUBLICATIONS = """
SELECT pubname::text, puballtables, pubviaroot,
       concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
                 CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END),
       ARRAY(SELECT jsonb_build_array(n.nspname, c.relname, {columns}, {condition})
             FROM pg_publication_rel r JOIN pg_class c ON c.oid = prrelid JOIN pg_namespace n ON n.oid = relnamespace
             WHERE r.prpubid = p.oid ORDER BY 1),
       {schemas}
FROM pg_publication p ORDER BY 1
"""
# Since PostgreSQL 15 a publication may have whole schemas, and a part of the columns and of the rows of a table.
COLUMNS = """
ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = r.prrelid AND attnum = ANY(r.prattrs) ORDER BY attnum)"""
CONDITION = "pg_get_expr(r.prqual, r.prrelid)"
_SCHEMAS = """
ARRAY(SELECT nspname::text FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
      WHERE s.pnpubid = p.oid ORDER BY 1)"""


def publications_of(connection: Any) -> list[dict[str, Any]]:
    """Return the publications of this database with their tables: schema, name, columns and condition."""
    parts = connection.server_version >= 150000
    question = _PUBLICATIONS.format(
        columns=COLUMNS if parts else "ARRAY[]::text[]",
        condition=CONDITION if parts else "NULL",
        schemas=_SCHEMAS if parts else "ARRAY[]::text[]",
    )
    with connection.cursor() as cursor:
        cursor.execute(question)
        return [
            {"name": name, "all": everything, "root": root, "publish": publish, "tables": tables, "schemas": schemas}
            for name, everything, root, publish, tables, schemas in cursor.fetchall()
        ]
