"""The roles by which the hosts of one database log in to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.pgprefect.core.errors import ProblemError
from ansible.module_utils.pgprefect.core.prefect import MADE_HERE
from ansible.module_utils.pgprefect.core.problems import Problem
from ansible.module_utils.pgprefect.core.scram import scram_verifier, verifier_matches
from ansible.module_utils.pgprefect.core.sql import Statement, Value, quote

# What pg_rewind calls on the new primary, where it is no superuser.
_REWIND = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)
_ROLE = "SELECT rolpassword, rolcanlogin, rolreplication FROM pg_authid WHERE rolname = %s"
_OTHERS = """
SELECT rolname FROM pg_roles
WHERE rolname = ANY(%s) AND strpos(coalesce(shobj_description(oid, 'pg_authid'), ''), %s) = 0 ORDER BY 1
"""
_MISSING = """
SELECT signature FROM unnest(%s::text[]) AS signature
WHERE NOT has_function_privilege(%s, ('pg_catalog.' || signature)::regprocedure, 'EXECUTE')
"""


def plan(cursor: Any, replication: str, rewind: str, passwords: Mapping[str, str]) -> Iterator[Statement]:
    """Yield the statements that make both roles what they must be.

    Raises ProblemError for roles of these names that were not made here.
    """
    cursor.execute(_OTHERS, ([replication, rewind], MADE_HERE))
    if others := [name for (name,) in cursor.fetchall()]:
        raise ProblemError(*map(_taken, others))
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
    if found is None:
        yield Statement("COMMENT ON ROLE {} IS {}", (name, Value(MADE_HERE)))


def _taken(name: str) -> Problem:
    return Problem(
        code="role_taken",
        object=f"role {name}",
        message=f"There is a role {name} that was not made here, and by which the members would log in to each other.",
        remedy=f"Rename it: ALTER ROLE {quote(name)} RENAME TO ...; or, if nobody else uses it, let it be taken over: "
        f"COMMENT ON ROLE {quote(name)} IS '{MADE_HERE}';",
    )
