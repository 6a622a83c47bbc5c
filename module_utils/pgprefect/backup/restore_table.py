"""Restoring one table of a backup set into a staging schema, to look at its rows and to copy them."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from ..core.connection import Login, connect
from ..core.problems import Problem
from ..core.process import ProcessFailed, error_lines
from ..core.sql import Statement, Value, quote
from ..schema.declaration import Declaration
from . import sets
from .examine import examine_set
from .restore import choose, failed
from .session import Session, as_sql, session
from .sets import BackupError, Dump, Manifest
from .unfinished import finish, only_restore

_QUOTE = '"'
_log = logging.getLogger(__name__)


def find_table(manifest: Manifest, declaration: Declaration, table: str) -> tuple[Dump, str]:
    """Return the dump of a set that has a table, and the table's unqualified name.

    ``table`` is SCHEMA.TABLE, plain or quoted as in SQL. Raises BackupError where the set does not have it, or is of
    another site.
    """
    held = {(str(part.schema), name): part for part in manifest.parts for name in part.rows}
    for (schema, name), part in held.items():
        if table in (f"{schema}.{name}", quote((schema, name))):
            return choose(manifest, declaration, [part.kind], part.tenant, [schema])[0], name
    message = f"The set {manifest.name} has no table {table}; it has {', '.join(map(quote, sorted(held)))}."
    raise BackupError(Problem("restore_no_table", manifest.name, message, "Name one of them, or another set."))


def restore_table(login: Login, declaration: Declaration, path: Path, table: str, dry_run: bool = False) -> str:
    """Restore the rows of a table into the staging schema of the set, and return the new table's name as SQL has it.

    The new table has the columns with their defaults and checks, but no keys, indexes or triggers. It belongs to the
    owner of the original's schema, and only that role can read it. Everything is one transaction of that owner.
    Raises BackupError and ConnectionFailed; then nothing has changed.
    """
    import psycopg2

    manifest = sets.read_manifest(path)
    part, name = find_table(manifest, declaration, table)
    staging = sets.staging_schema(manifest.name, part)
    target = quote((staging, name))
    owner = _owner(login, declaration, str(part.schema), target)
    examine_set(login, path)
    if dry_run:
        return target

    _log.info("Restore the %d rows of %s from the set %s into %s.", part.rows[name], table, manifest.name, target)
    home, comment = path.parent, f"Tables of the backup set {manifest.name}, to look at and to remove."
    with only_restore(home):
        finish(login, home)
        try:
            with (
                _schema(login, declaration.database, staging, owner, comment),
                session(login, declaration.database, [owner]) as opened,
            ):
                opened.act_as(owner)
                _copy(opened, path, part, name, staging)
                opened.act_as("")
                opened.connection.commit()
        except (ProcessFailed, psycopg2.Error) as error:
            raise failed(declaration.database, path.name, error_lines(str(error))) from error
    return target


def _owner(login: Login, declaration: Declaration, schema: str, target: str) -> str:
    """Return the owner of the table's schema. Raises BackupError where the staging table exists already."""
    with contextlib.closing(connect(login, declaration.database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (target,))
        if cursor.fetchone()[0]:
            message = f"The table {target} exists already."
            remedy = f"Use that one, or remove it: DROP TABLE {target};"
            raise BackupError(Problem("restore_table_exists", f"table {target}", message, remedy))
        cursor.execute(
            "SELECT rolname FROM pg_namespace JOIN pg_roles r ON r.oid = nspowner WHERE nspname = %s AND NOT rolsuper",
            (schema,),
        )
        found = cursor.fetchone()
    return declaration.owners.get(schema) or (found[0] if found else declaration.app_owner)


@contextlib.contextmanager
def _schema(login: Login, database: str, schema: str, owner: str, comment: str) -> Iterator[None]:
    """Create the staging schema, which only the administrator may, and drop it again where the block fails."""
    with contextlib.closing(connect(login, database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,))
        if cursor.fetchone() is not None:
            yield
            return
        Statement("CREATE SCHEMA {} AUTHORIZATION {}", (schema, owner)).execute(cursor)
        Statement("COMMENT ON SCHEMA {} IS {}", (schema, Value(comment))).execute(cursor)
        try:
            yield
        except BaseException:
            Statement("DROP SCHEMA {}", (schema,)).execute(cursor)
            raise


def _copy(opened: Session, path: Path, part: Dump, name: str, staging: str) -> None:
    """Load the table's structure and rows under its new name. Raises ProcessFailed where the rows are not all there."""
    target = quote((staging, name))
    file, select = path / part.file, [f"--schema={part.schema}", f"--table={name}"]
    omit = ["--no-privileges", "--no-comments", "--no-security-labels", "--no-publications"]
    with as_sql(file, None, "--schema-only", *select, *omit) as sql:
        opened.execute_all(io.BytesIO(_renamed(sql.read(), part, name, target)))
    with opened.connection.cursor() as cursor:
        # The rows of a table that inherits would show up in its parent.
        cursor.execute("SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = %s::regclass", (target,))
        for (parent,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {target} NO INHERIT {parent}")
    with as_sql(file, None, "--data-only", *select, *omit) as sql:
        opened.load(sql, lambda text: _renamed(text, part, name, target))
    with opened.connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {target}")
        (count,) = cursor.fetchone()
        if count != part.rows[name]:
            raise ProcessFailed(f"{target} has {count} rows, the manifest says {part.rows[name]}")
        cursor.execute(f"ANALYZE {target}")


def _renamed(sql: bytes, part: Dump, name: str, target: str) -> bytes:
    """Replace the table's name where a statement begins with it. Everything else stays, such as the names of types."""
    spelled = [
        f'(?:{re.escape(word)}|"{re.escape(word.replace(_QUOTE, _QUOTE * 2))}")' for word in (part.schema or "", name)
    ]
    source = r"\.".join(spelled)
    statement = rf"^((?:COPY|(?:CREATE (?:UNLOGGED )?|ALTER )TABLE)(?: ONLY)? ){source}(?= )"
    return re.sub(statement.encode(), lambda found: found[1] + target.encode(), sql, flags=re.MULTILINE)
