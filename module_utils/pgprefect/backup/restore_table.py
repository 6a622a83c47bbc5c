"""Putting the rows of one table of a backup set beside what is there, to look at and to copy from."""

from __future__ import annotations

import contextlib
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
from . import sets as backup_set
from .restore import choose, count_check, examine, in_one_session
from .sets import BackupError, Dump, Manifest

_CHUNK = 1 << 20
_QUOTE = '"'


def find_table(manifest: Manifest, declaration: Declaration, table: str) -> tuple[Dump, str]:
    """Return the part of a set that has a table, and the table's bare name.

    ``table`` is SCHEMA.TABLE, as it is or as SQL quotes it. Raises BackupError where the set does not have it, or is
    of another site.
    """
    held = {(str(part.schema), name): part for part in manifest.parts for name in part.rows}
    for (schema, name), part in held.items():
        if table in (f"{schema}.{name}", quote((schema, name))):
            return choose(manifest, declaration, [part.kind], part.tenant)[0], name
    message = f"The set {manifest.name} has no table {table}; it has {', '.join(map(quote, sorted(held)))}."
    raise BackupError(Problem("restore_no_table", manifest.name, message, "Name one of them, or another set."))


def restore_table(login: Login, declaration: Declaration, path: Path, table: str, dry_run: bool = False) -> str:
    """Put the rows of a table into the side schema of the set, and return the name of the new table as SQL has it.

    It has the columns with their defaults and checks, and neither keys, indexes nor triggers. It belongs to the owner
    of the original's schema, whom alone it is for. Nothing else is touched, and all is one transaction.
    Raises BackupError and ConnectionFailed; then nothing has changed.
    """
    from psycopg2 import sql

    manifest = backup_set.read_manifest(path)
    part, name = find_table(manifest, declaration, table)
    side = backup_set.staging_schema(manifest.name, part)
    target = quote((side, name))
    with contextlib.closing(connect(login, declaration.database)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (target,))
            if cursor.fetchone()[0]:
                message = f"The table {target} is there already."
                remedy = f"Look at that one, or remove it: DROP TABLE {target};"
                raise BackupError(Problem("restore_table_exists", f"table {target}", message, remedy))
        names = {
            "schema": sql.Identifier(side),
            "table": sql.Identifier(side, name),
            "literal": sql.Literal(target),
            "owner": sql.Identifier(declaration.owners[str(part.schema)]),
            "comment": sql.Literal(f"Tables of the backup set {manifest.name}, to look at and to remove."),
            "check": count_check(side, name, part.rows[name]),
        }
        begin, between, end = (sql.SQL(text).format(**names).as_string(connection) for text in (_BEGIN, _BETWEEN, _END))
    examine(login, path, [part])
    if dry_run:
        return target

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
# An heir's rows would be seen in the table that it inherits from.
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
    """Give one table's structure or rows as SQL. Raises ProcessFailed."""
    select = ["pg_restore", "--file=-", section, f"--schema={part.schema}", f"--table={name}"]
    alone = ["--no-owner", "--no-privileges", "--no-comments", "--no-security-labels", "--no-publications"]
    reader, writer = os.pipe()
    with open(path / part.file, "rb") as file, open(reader, "rb") as output:
        try:
            pipeline = Process([*decompression(part.file), [*select, *alone]], stdin=file, stdout=writer)
        finally:
            os.close(writer)
        try:
            yield output
        except BaseException:
            pipeline.kill()
            raise
        pipeline.wait()


def _renamed(sql: bytes, part: Dump, name: str, target: str) -> bytes:
    """Let statements that begin with a table's name be of another table; all else in them stays, such as types."""
    spelled = [
        f'(?:{re.escape(word)}|"{re.escape(word.replace(_QUOTE, _QUOTE * 2))}")' for word in (part.schema or "", name)
    ]
    source = r"\.".join(spelled)
    statement = rf"^((?:COPY|(?:CREATE (?:UNLOGGED )?|ALTER )TABLE)(?: ONLY)? ){source}(?= )"
    return re.sub(statement.encode(), lambda found: found[1] + target.encode(), sql, flags=re.MULTILINE)
