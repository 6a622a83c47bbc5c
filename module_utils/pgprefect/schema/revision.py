"""The migration of a database, compared with the newest one of the installed Prefect."""

from __future__ import annotations

import ast
import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import PgprefectError
from ..core.sql import Names, Statement

EMPTY = "empty"
CURRENT = "current"
BEHIND = "behind"
UNKNOWN = "unknown"

_MIGRATIONS = "lib/python3*/site-packages/prefect/server/database/_migrations/versions"
_ASSIGNMENT = r"^{}\s*(?::[^=\n]+)?=\s*(None|\"[^\"]*\"|'[^']*'|[(\[][^)\]]*[)\]])"


class RevisionError(PgprefectError):
    """The migrations of the installed Prefect cannot be read."""


@dataclass(frozen=True)
class Revision:
    """The state of a database; ``pending`` counts the migrations that are still to run."""

    state: str
    current: str | None
    head: str
    pending: int
    message: str


def installed_migrations(virtualenv: str, dialect: str = "postgresql") -> dict[str, tuple[str, ...]]:
    """Return each migration with its predecessors, from the source files: importing Prefect takes seconds.

    ``dialect`` is postgresql or sqlite. Raises RevisionError.
    """
    migrations: dict[str, tuple[str, ...]] = {}
    for revision, text in migration_files(virtualenv, dialect).items():
        found = re.search(_ASSIGNMENT.format("down_revision"), text, re.MULTILINE)
        if not found:
            raise RevisionError(f"{revision} of {virtualenv} is not a migration as Alembic writes it.")
        before = ast.literal_eval(found.group(1)) or ()
        migrations[revision] = (before,) if isinstance(before, str) else tuple(before)
    return migrations


def migration_files(virtualenv: str, dialect: str = "postgresql") -> dict[str, str]:
    """Return the source of each migration by its revision, in the order of their dates. Raises RevisionError."""
    files = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(virtualenv), _MIGRATIONS, dialect, "*.py"))):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = re.search(_ASSIGNMENT.format("revision"), text, re.MULTILINE)
        if not found:
            raise RevisionError(f"{path} is not a migration as Alembic writes it.")
        files[ast.literal_eval(found.group(1))] = text
    if not files:
        raise RevisionError(
            f"There is no Prefect server in {virtualenv}: run playbooks/prefect.yml, which installs it."
        )
    return files


def head_of(migrations: dict[str, tuple[str, ...]]) -> str:
    """Return the newest migration. Raises RevisionError where there are several."""
    heads = sorted(set(migrations) - {name for before in migrations.values() for name in before})
    if len(heads) != 1:
        raise RevisionError(
            f"The installed Prefect has {len(heads)} newest migrations instead of one: {', '.join(heads)}."
        )
    return heads[0]


def with_predecessors(names: Iterable[str], migrations: Mapping[str, Sequence[str]]) -> set[str]:
    """Return these migrations and all that they follow."""
    found: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += migrations[name]
    return found


_IS_TABLE = """
SELECT bool_and(atttypid IN ('pg_catalog.varchar'::regtype, 'pg_catalog.text'::regtype))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
     JOIN pg_catalog.pg_attribute a ON attrelid = c.oid AND attname = 'version_num'
WHERE nspname = %s AND relname = 'alembic_version' AND relkind = 'r'
"""


def stored_revisions(connection: Any, schema: str) -> list[str]:
    """Return the revisions in the schema's alembic_version, or nothing where there is no such table.

    The administrator reads it too, so only a plain table is read, and locked against its replacement: a view, or a type
    of its own, would run its owner's code with the rights of this login.
    """
    table = Names(((schema, "alembic_version"),))
    with connection.cursor() as cursor:
        cursor.execute(_IS_TABLE, (schema,))
        if cursor.fetchone() != (True,):
            return []
        if not connection.autocommit:
            Statement("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", (table,)).execute(cursor)
            cursor.execute(_IS_TABLE, (schema,))
            if cursor.fetchone() != (True,):
                return []
        Statement("SELECT version_num FROM ONLY {} ORDER BY 1", (table,)).execute(cursor)
        return [name for (name,) in cursor]


def stored_revision(connection: Any, schema: str) -> str | None:
    """Return the revisions of ``stored_revisions`` as one text, or None where there are none."""
    return ", ".join(stored_revisions(connection, schema)) or None


def compare(stored: list[str], migrations: dict[str, tuple[str, ...]]) -> Revision:
    """Compare the stored revisions with the installed migrations. Raises RevisionError."""
    head = head_of(migrations)
    current = ", ".join(stored) or None
    strangers = [name for name in stored if name not in migrations]
    if strangers:
        message = (
            f"The database is at the revision {', '.join(strangers)}, which the installed Prefect does not know: a "
            "newer Prefect migrated it. Install that version or a later one, or restore a backup from before that."
        )
        return Revision(UNKNOWN, current, head, 0, message)
    pending = len(migrations) - len(with_predecessors(stored, migrations))
    if not stored:
        return Revision(EMPTY, current, head, pending, "The database holds no Prefect yet: run its migration.")
    if pending:
        message = f"The database is {pending} migrations behind the installed Prefect ({current}, not {head})."
        return Revision(BEHIND, current, head, pending, message)
    return Revision(CURRENT, current, head, 0, f"The database is at the revision of the installed Prefect ({head}).")
