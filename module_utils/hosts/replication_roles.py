"""The roles by which the hosts of one database log in to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.pgprefect.core.scram import scram_verifier, verifier_matches
from ansible.module_utils.pgprefect.core.sql import Statement, Value

# What pg_rewind calls on the new primary, where it is no superuser.
_REWIND = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)
_ROLE = "SELECT rolpassword, rolcanlogin, rolreplication FROM pg_authid WHERE rolname = %s"
_MISSING = """
SELECT signature FROM unnest(%s::text[]) AS signature
WHERE NOT has_function_privilege(%s, ('pg_catalog.' || signature)::regprocedure, 'EXECUTE')
"""


def plan(cursor: Any, replication: str, rewind: str, passwords: Mapping[str, str]) -> Iterator[Statement]:
    """Yield the statements that make both roles what they must be."""
    yield from _role(cursor, replication, passwords[replication], replicates=True)
    yield from _role(cursor, rewind, passwords[rewind], replicates=False)
    cursor.execute("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", (rewind,))
    (exists,) = cursor.fetchone()
    missing = list(_REWIND)
    if exists:
        cursor.execute(_MISSING, (missing, rewind))
        missing = [signature for (signature,) in cursor.fetchall()]
    for signature in missing:
        yield Statement(f"GRANT EXECUTE ON FUNCTION pg_catalog.{signature} TO {{}}", (rewind,))


def _role(cursor: Any, name: str, password: str, replicates: bool) -> Iterator[Statement]:
    cursor.execute(_ROLE, (name,))
    found = cursor.fetchone()
    attributes = "LOGIN REPLICATION" if replicates else "LOGIN NOREPLICATION"
    if found is None or not verifier_matches(found[0], password) or found[1:] != (True, replicates):
        action = "CREATE" if found is None else "ALTER"
        verifier = Value(scram_verifier(password), secret=True)
        yield Statement(f"{action} ROLE {{}} {attributes} PASSWORD {{}}", (name, verifier))
