"""Restoring one table of a backup set into a staging schema, to look at its rows and to copy them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..core.connection import Login, connect
from ..core.problems import Problem
from ..core.process import Process, decompression
from ..core.sql import quote
from ..schema.declaration import Declaration
from . import sets
from .restore import choose, count_check, examine, in_one_session
from .sets import BackupError, Dump, Manifest

_CHUNK = 1 << 20
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
            return choose(manifest, declaration, [part.kind], part.tenant)[0], name
    message = f"The set {manifest.name} has no table {table}; it has {', '.join(map(quote, sorted(held)))}."
    raise BackupError(Problem("restore_no_table", manifest.name, message, "Name one of them, or another set."))


def restore_table(login: Login, declaration: Declaration, path: Path, table: str, dry_run: bool = False) -> str:
    """Restore the rows of a table into the staging schema of the set, and return the new table's name as SQL has it.

    The new table has the columns with their defaults and checks, but no keys, indexes or triggers. It belongs to the
    owner of the original's schema, and only that role can read it. Everything is one transaction.
    Raises BackupError and ConnectionFailed; then nothing has changed.
    """
    from psycopg2 import sql

    manifest = sets.read_manifest(path)
    part, name = find_table(manifest, declaration, table)
    staging = sets.staging_schema(manifest.name, part)
    target = quote((staging, name))
    with contextlib.closing(connect(login, declaration.database)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (target,))
            if cursor.fetchone()[0]:
                message = f"The table {target} exists already."
                remedy = f"Use that one, or remove it: DROP TABLE {target};"
                raise BackupError(Problem("restore_table_exists", f"table {target}", message, remedy))
        names = {
            "schema": sql.Identifier(staging),
            "table": sql.Identifier(staging, name),
            "literal": sql.Literal(target),
            "owner": sql.Identifier(declaration.owners[str(part.schema)]),
            "comment": sql.Literal(f"Tables of the backup set {manifest.name}, to look at and to remove."),
            "check": count_check(staging, name, part.rows[name]),
        }
        begin, between, end = (sql.SQL(text).format(**names).as_string(connection) for text in (_BEGIN, _BETWEEN, _END))
    examine(login, path, [part])
    if dry_run:
        return target

    _log.info("Restore the %d rows of %s from the set %s into %s.", part.rows[name], table, manifest.name, target)

    def send(session: IO[bytes]) -> None:
        session.write(begin.encode())
        with _as_sql(path, part, name, "--schema-only") as structure:
            session.write(_renamed(structure.read(), part, name, target))
        session.write(between.encode())
        with _as_sql(path, part, name, "--data-only") as rows:
            for line in rows:
                session.write(_renamed(line, part, name, target))
                if line.startswith(b"COPY "):  # what follows is data
                    break
            shutil.copyfileobj(rows, session, _CHUNK)
        session.write(end.encode())

    in_one_session(login, declaration.database, path.name, send)
    return target


_BEGIN = """
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner};
COMMENT ON SCHEMA {schema} IS {comment};
"""
# The rows of a table that inherits would show up in its parent.
_BETWEEN = """
DO $restore$ DECLARE parent regclass; BEGIN
    FOR parent IN SELECT inhparent FROM pg_inherits WHERE inhrelid = {literal}::regclass LOOP
        EXECUTE format('ALTER TABLE %s NO INHERIT %s', {literal}, parent);
    END LOOP;
END $restore$;
ALTER TABLE {table} OWNER TO {owner};
"""
_END = """
{check}
ANALYZE {table};
COMMIT;
"""


@contextlib.contextmanager
def _as_sql(path: Path, part: Dump, name: str, section: str) -> Iterator[IO[bytes]]:
    """Give a stream of one table's structure or rows as SQL. Raises ProcessFailed."""
    select = ["pg_restore", "--file=-", section, f"--schema={part.schema}", f"--table={name}"]
    omit = ["--no-owner", "--no-privileges", "--no-comments", "--no-security-labels", "--no-publications"]
    reader, writer = os.pipe()
    with open(path / part.file, "rb") as file, open(reader, "rb") as output:
        try:
            process = Process([*decompression(part.file), [*select, *omit]], stdin=file, stdout=writer)
        finally:
            os.close(writer)
        try:
            yield output
        except BaseException:
            process.kill()
            raise
        process.wait()


def _renamed(sql: bytes, part: Dump, name: str, target: str) -> bytes:
    """Replace the table's name where a statement begins with it. Everything else stays, such as the names of types."""
    spelled = [
        f'(?:{re.escape(word)}|"{re.escape(word.replace(_QUOTE, _QUOTE * 2))}")' for word in (part.schema or "", name)
    ]
    source = r"\.".join(spelled)
    statement = rf"^((?:COPY|(?:CREATE (?:UNLOGGED )?|ALTER )TABLE)(?: ONLY)? ){source}(?= )"
    return re.sub(statement.encode(), lambda found: found[1] + target.encode(), sql, flags=re.MULTILINE)
