"""Access to the tables and columns that hold Prefect's secrets.

The default privileges let readers read every table that a migration creates. Right after the migration, before the
server writes a secret, the owner revokes this on the secret tables, and where only some columns are secret, lets
readers read the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..core.prefect import SECRET_COLUMNS, SECRETS
from ..core.sql import Names, Statement

_GRANTED = """
SELECT DISTINCT relname, CASE WHEN grantee > 0 THEN pg_get_userbyid(grantee) ELSE '' END AS role
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid,
     LATERAL (SELECT * FROM aclexplode(relacl) UNION ALL SELECT * FROM aclexplode(attacl)) AS granted
WHERE nspname = %(schema)s AND relname = ANY(%(tables)s::name[]) AND grantee <> relowner
      AND (grantee = 0 OR pg_get_userbyid(grantee) <> ALL(%(readers)s::name[]))
ORDER BY 1, 2
"""

# The tables that are partly secret, with whom they were granted to as a whole, and columns that a reader lacks.
_PARTLY = """
SELECT relname, rolname, whole, array_agg(attname::text ORDER BY attnum)
FROM (SELECT c.oid, relname, rolname, bool_or(NOT of_column) AS whole,
             array_agg(DISTINCT attnum) FILTER (WHERE of_column) AS readable
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid,
           LATERAL (SELECT grantee, false AS of_column FROM aclexplode(relacl)
                    UNION ALL SELECT grantee, true FROM aclexplode(attacl)) AS granted
           JOIN pg_roles r ON r.oid = grantee
      WHERE nspname = %(schema)s AND relname = ANY(%(tables)s::name[]) AND grantee <> relowner
            AND rolname <> ALL(%(readers)s::name[])
      GROUP BY c.oid, relname, rolname) AS readers
     JOIN pg_attribute a ON a.attrelid = readers.oid AND attnum > 0 AND NOT attisdropped
WHERE relname || '.' || attname <> ALL(%(columns)s)
GROUP BY relname, rolname, whole HAVING whole OR count(*) > cardinality(min(readable))
ORDER BY 1, 2
"""


def revoke_secrets(connection: Any, schema: str, readers: Sequence[str]) -> list[Statement]:
    """Revoke all rights on the secrets except the owner's and the readers', and return the statements.

    Readers are the server, and the backup where it reads by grants alone.
    """
    with connection, connection.cursor() as cursor:
        statements = [*_of_tables(cursor, schema, readers), *_of_columns(cursor, schema, readers)]
        for statement in statements:
            statement.execute(cursor)
    return statements


def _of_tables(cursor: Any, schema: str, readers: Sequence[str]) -> Iterator[Statement]:
    cursor.execute(_GRANTED, {"schema": schema, "tables": list(SECRETS), "readers": list(readers)})
    for table, role in cursor.fetchall():
        yield _revoke(schema, table, role)


def _of_columns(cursor: Any, schema: str, readers: Sequence[str]) -> Iterator[Statement]:
    columns = [f"{table}.{column}" for table, names in SECRET_COLUMNS.items() for column in names]
    parameters = {
        "schema": schema,
        "tables": list(SECRET_COLUMNS),
        "columns": columns,
        "readers": list(readers),
    }
    cursor.execute(_PARTLY, parameters)
    for table, role, whole, readable in cursor.fetchall():
        if whole:
            yield _revoke(schema, table, role)
        yield Statement(
            "GRANT SELECT ({}) ON TABLE {} TO {}", (Names(tuple(readable)), Names(((schema, table),)), role)
        )


def _revoke(schema: str, table: str, role: str) -> Statement:
    return Statement(
        f"REVOKE ALL ON TABLE {{}} FROM {'{}' if role else 'PUBLIC'} CASCADE",
        (Names(((schema, table),)), *([role] if role else [])),
    )
