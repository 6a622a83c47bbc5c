"""What would go with the objects of some schemas, read from PostgreSQL's own records of dependencies.

DROP ... CASCADE follows ``pg_depend``; so does this, whatever the catalog. What has no row there is looked for apart:
memberships of publications and subscriptions, columns that hold the numbers of objects, and bodies of functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.sql import quote
from .contents import COLUMNS, CONDITION

# The objects of the schemas and, one step after the other, all that depends on them, and the owners of parts.
# Extensions stay with their members; so do default privileges and the publication of a whole schema, because the
# schema itself stays.
_GOING = """
WITH RECURSIVE replaced AS (
    SELECT oid FROM pg_namespace WHERE nspname = ANY(%(schemas)s::name[])
), going(classid, objid, objsubid) AS (
    SELECT d.classid, d.objid, 0 FROM pg_depend d
    WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid IN (SELECT oid FROM replaced)
      AND d.classid <> ALL(ARRAY['pg_default_acl', 'pg_extension']::regclass[])
      AND d.classid IS DISTINCT FROM to_regclass('pg_publication_namespace')
      AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')
    UNION
    SELECT step.classid, step.objid, step.objsubid FROM going g CROSS JOIN LATERAL (
        SELECT d.classid, d.objid, d.objsubid FROM pg_depend d
        WHERE d.refclassid = g.classid AND d.refobjid = g.objid AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid)
        UNION ALL
        SELECT d.refclassid, d.refobjid, d.refobjsubid FROM pg_depend d
        WHERE d.classid = g.classid AND d.objid = g.objid AND d.objsubid = g.objsubid AND d.deptype IN ('i', 'e')
    ) AS step
)"""
# The schema of each object: its own, or that of its table, type or family.
_HOMES = """
, homes(classid, objid, home) AS (
    SELECT 'pg_class'::regclass, oid, relnamespace FROM pg_class
    UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_type
    UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace FROM pg_proc
    UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace FROM pg_operator
    UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace FROM pg_opfamily
    UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace FROM pg_conversion
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace FROM pg_statistic_ext
    UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace FROM pg_ts_config
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid, prsnamespace FROM pg_ts_parser
    UNION ALL SELECT 'pg_ts_template'::regclass, oid, tmplnamespace FROM pg_ts_template
    UNION ALL SELECT 'pg_constraint'::regclass, oid, connamespace FROM pg_constraint
    UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, relnamespace FROM pg_attrdef d JOIN pg_class c ON c.oid = adrelid
    UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, relnamespace FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class
    UNION ALL SELECT 'pg_trigger'::regclass, t.oid, relnamespace FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
    UNION ALL SELECT 'pg_policy'::regclass, p.oid, relnamespace FROM pg_policy p JOIN pg_class c ON c.oid = polrelid
    UNION ALL SELECT 'pg_amop'::regclass, o.oid, opfnamespace FROM pg_amop o JOIN pg_opfamily f ON f.oid = amopfamily
    UNION ALL SELECT 'pg_amproc'::regclass, p.oid, opfnamespace
    FROM pg_amproc p JOIN pg_opfamily f ON f.oid = amprocfamily
)"""
# What would not come back with the schemas. A part is not named where the whole is, or where it comes back with it.
_LOST = f"""{_GOING}{_HOMES}, placed AS (
    SELECT g.*, h.home FROM going g LEFT JOIN homes h USING (classid, objid)
)
SELECT pg_describe_object(p.classid, p.objid, p.objsubid) FROM placed p
WHERE (p.home IS NULL OR p.home NOT IN (SELECT oid FROM replaced))
  AND p.classid <> ALL(ARRAY['pg_publication_rel', 'pg_namespace']::regclass[])
  AND (p.objsubid = 0 OR (p.classid, p.objid, 0) NOT IN (SELECT classid, objid, objsubid FROM going))
  AND NOT EXISTS (
      SELECT FROM pg_depend d JOIN placed o ON o.classid = d.refclassid AND o.objid = d.refobjid
                                               AND o.objsubid IN (0, d.refobjsubid)
      WHERE d.classid = p.classid AND d.objid = p.objid AND (p.objsubid = 0 OR d.objsubid = p.objsubid)
        AND (d.deptype IN ('i', 'e') OR (d.deptype IN ('a', 'P', 'S') AND o.home = p.home))
        AND (o.classid, o.objid) <> (p.classid, p.objid))
ORDER BY 1
"""
_NEEDS = f"""
WITH{_HOMES.lstrip()[1:]}
SELECT DISTINCT other.nspname::text FROM pg_depend d
JOIN homes own ON own.classid = d.classid AND own.objid = d.objid
JOIN homes needed ON needed.classid = d.refclassid AND needed.objid = d.refobjid AND needed.home <> own.home
JOIN pg_namespace n ON n.oid = own.home JOIN pg_namespace other ON other.oid = needed.home
WHERE n.nspname = %s AND other.nspname !~ '^(pg_|information_schema$)'
ORDER BY 1
"""
_PUBLISHED = f"""{_GOING}
SELECT p.pubname, n.nspname, c.relname, pg_get_userbyid(p.pubowner), {{columns}}, {{filter}}
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (('pg_class'::regclass)::oid, r.prrelid, 0) IN (SELECT classid, objid, objsubid FROM going)
ORDER BY 1, 2, 3
"""
_SUBSCRIBED = f"""{_GOING}
SELECT s.subname, r.srrelid::regclass::text FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
WHERE r.srrelid IN (SELECT objid FROM going WHERE classid = 'pg_class'::regclass) ORDER BY 1, 2
"""
# Columns elsewhere whose values are numbers of tables, types and functions: these get new ones.
_NUMBERS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(a.attname)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.atttypid = ANY('{regclass,regcollation,regconfig,regdictionary,regoper,regoperator,regproc,regprocedure,
                         regtype}'::regtype[])
  AND c.relkind IN ('r', 'm') AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname <> ALL(%(schemas)s::name[]) AND n.nspname !~ '^(pg_|information_schema$)'
ORDER BY 1
"""
# Functions elsewhere whose body is a text, for which PostgreSQL records no dependency.
_TEXTS = """
SELECT p.oid::regprocedure::text, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname <> ALL(%(schemas)s::name[]) AND n.nspname !~ '^(pg_|information_schema$)'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
  AND p.prosrc ~ ('\\m(' || (SELECT string_agg(regexp_replace(s, '\\W', '.', 'g'), '|')
                             FROM unnest(%(schemas)s) s) || ')"?\\s*\\.')
ORDER BY 1
"""
# Tables, views and functions of the schemas, which a text may name.
_NAMED = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s::name[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
UNION SELECT n.nspname, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY(%(schemas)s::name[])
"""


@dataclass(frozen=True)
class Published:
    """A table's membership in a publication, with the columns and the condition where it has only a part."""

    publication: str
    schema: str
    table: str
    owner: str
    columns: tuple[str, ...] = ()
    condition: str | None = None

    @property
    def statement(self) -> str:
        """The SQL that adds the table to the publication."""
        columns = f" ({', '.join(map(quote, self.columns))})" if self.columns else ""
        condition = f" WHERE ({self.condition})" if self.condition else ""
        table = quote((self.schema, self.table))
        return f"ALTER PUBLICATION {quote(self.publication)} ADD TABLE ONLY {table}{columns}{condition}"


@dataclass
class Dependents:
    """What depends on the objects of some schemas and stands elsewhere.

    ``lost`` are descriptions of objects that would go. ``subscribed`` are pairs of subscription and table. ``numbers``
    are columns that may hold numbers of objects, ``texts`` are functions with their bodies, and ``named`` are the names
    that these may mention.
    """

    lost: list[str] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    subscribed: list[tuple[str, str]] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    named: list[tuple[str, str]] = field(default_factory=list)


def lost(cursor: Any, schemas: Sequence[str]) -> list[str]:
    """Return descriptions of what would go with the objects of these schemas, and would not come back with them."""
    cursor.execute(_LOST, {"schemas": list(schemas)})
    return [name for (name,) in cursor.fetchall()]


def needs(connection: Any, schema: str) -> list[str]:
    """Return the other schemas that have what objects of this schema depend on."""
    with connection.cursor() as cursor:
        cursor.execute(_NEEDS, (schema,))
        return [name for (name,) in cursor.fetchall()]


def dependents(connection: Any, schemas: Sequence[str]) -> Dependents:
    """Read what depends on the objects of these schemas and stands elsewhere. Reads the catalog alone."""
    found, parameters = Dependents(), {"schemas": list(schemas)}
    parts = connection.server_version >= 150000
    published = _PUBLISHED.format(columns=f"CASE WHEN r.prattrs IS NOT NULL THEN {COLUMNS} END" if parts else "NULL",
                                  filter=CONDITION if parts else "NULL")  # fmt: skip
    with connection.cursor() as cursor:
        found.lost = lost(cursor, schemas)
        cursor.execute(published, parameters)
        found.published = [
            Published(name, schema, table, owner, tuple(columns or ()), condition)
            for name, schema, table, owner, columns, condition in cursor.fetchall()
        ]
        for question, rows in (
            (_SUBSCRIBED, found.subscribed),
            (_TEXTS, found.texts),
            (_NAMED, found.named),
        ):
            cursor.execute(question, parameters)
            rows += cursor.fetchall()
        cursor.execute(_NUMBERS, parameters)
        found.numbers = [name for (name,) in cursor.fetchall()]
    return found


# The objects of the schemas themselves, the tables first. What is a part of another object goes with that.
_EMPTY = """
DO $restore$ DECLARE statement text; BEGIN
    FOREACH statement IN ARRAY ARRAY(
        SELECT format('DROP %%s IF EXISTS %%s CASCADE',
                      CASE WHEN o.type IN ('function', 'procedure', 'aggregate') THEN 'routine' ELSE o.type END,
                      o.identity)
        FROM pg_depend d JOIN pg_namespace n ON n.oid = d.refobjid, pg_identify_object(d.classid, d.objid, 0) o
        WHERE d.refclassid = 'pg_namespace'::regclass AND n.nspname = ANY(%(schemas)s::name[])
          AND d.classid <> ALL(ARRAY['pg_default_acl', 'pg_extension']::regclass[])
          AND d.classid IS DISTINCT FROM to_regclass('pg_publication_namespace')
          AND NOT EXISTS (SELECT FROM pg_depend e
                          WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype IN ('e', 'i')
                            AND (e.refclassid, e.refobjid) <> (d.classid, d.objid))  -- a key of partitions
        ORDER BY o.type <> 'table', o.type NOT IN ('view', 'materialized view', 'foreign table'), o.type, o.identity)
    LOOP
        EXECUTE statement;
    END LOOP;
END $restore$
"""


def empty(cursor: Any, schemas: Sequence[str]) -> None:
    """Drop all objects of these schemas but the extensions' own. The schemas stay; the login must own them."""
    cursor.execute(_EMPTY, {"schemas": list(schemas)})
