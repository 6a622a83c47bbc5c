"""Access to the tables that hold Prefect's secrets.

The default privileges let readers read every table that a migration creates. Right after the migration, before the
server writes a secret, the owner revokes this on the secret tables.
"""

from __future__ import annotations

from typing import Any

from ..core.prefect import SECRETS
from ..core.sql import Names, Statement

_GRANTED = """
SELECT DISTINCT relname, CASE WHEN grantee > 0 THEN pg_get_userbyid(grantee) ELSE '' END AS role
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid,
     LATERAL (SELECT * FROM aclexplode(relacl) UNION ALL SELECT * FROM aclexplode(attacl)) AS granted
WHERE nspname = %(schema)s AND relname = ANY(%(tables)s::name[]) AND grantee <> relowner
      AND (grantee = 0 OR pg_get_userbyid(grantee) <> %(server)s)
ORDER BY 1, 2
"""


def revoke_secrets(connection: Any, schema: str, server: str) -> list[Statement]:
    """Revoke all rights on the secret tables except the owner's and the server's, and return the statements."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_GRANTED, {"schema": schema, "tables": list(SECRETS), "server": server})
        statements = [
            Statement(
                f"REVOKE ALL ON TABLE {{}} FROM {'{}' if role else 'PUBLIC'} CASCADE",
                (Names(((schema, table),)), *([role] if role else [])),
            )
            for table, role in cursor.fetchall()
        ]
        for statement in statements:
            statement.execute(cursor)
    return statements
