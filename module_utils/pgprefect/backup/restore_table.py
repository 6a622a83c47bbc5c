"""Restoring one table of a backup set into a staging schema, to look at its rows and to copy them."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.connection import Login, connect
from ..core.problems import Problem
from ..core.process import ProcessFailed, error_lines
from ..core.sql import Name, Names, Statement, Value, quote
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
    comment = f"Tables of the backup set {manifest.name}, to look at and to remove."
    with only_restore():
        finish(login)
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


@dataclass(frozen=True)
class PutBack:
    """What was copied from a staging table: the number of rows, and of those whose key another row has by now."""

    rows: int
    taken: int


def put_back(login: Login, declaration: Declaration, path: Path, table: str) -> PutBack:
    """Copy the rows that a table lacks from the staging table of the set, and set its sequences.

    A row whose key another row has by now stays in the staging table, which is dropped where no such row is left.
    Everything is one transaction of the schema's owner. Raises BackupError and ConnectionFailed; then nothing has
    changed.
    """
    import psycopg2

    manifest = sets.read_manifest(path)
    part, name = find_table(manifest, declaration, table)
    source, target = (sets.staging_schema(manifest.name, part), name), (str(part.schema), name)
    owner, columns, key = _shape(login, declaration, source, target)
    with only_restore():
        finish(login)
        try:
            with session(login, declaration.database, [owner]) as opened:
                opened.act_as(owner)
                with opened.connection.cursor() as cursor:
                    cursor.execute("SET row_security = off")
                    done = _insert(cursor, source, target, columns, key)
                    _set_sequences(cursor, target, part.sequences)
                    if not done.taken:
                        Statement("DROP TABLE {}", (Names((source,)),)).execute(cursor)
                opened.act_as("")
                opened.connection.commit()
        except psycopg2.Error as error:
            raise failed(declaration.database, path.name, error_lines(str(error))) from error
        if not done.taken:
            with contextlib.closing(connect(login, declaration.database)) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                with contextlib.suppress(psycopg2.Error):  # other tables are there to be looked at
                    Statement("DROP SCHEMA {}", (source[0],)).execute(cursor)
    return done


_COLUMNS = """
SELECT attname::text, attgenerated <> '' FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEY = """
SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
WHERE i.indrelid = to_regclass(%s) AND i.indisprimary ORDER BY 1
"""


def _shape(
    login: Login, declaration: Declaration, source: tuple[str, str], target: tuple[str, str]
) -> tuple[str, list[str], list[str]]:
    """Return the owner, the columns to copy and those of the primary key. Raises BackupError where they do not fit."""
    with contextlib.closing(connect(login, declaration.database)) as connection, connection.cursor() as cursor:
        cursor.execute(_COLUMNS, (quote(source),))
        held = [column for column, _ in cursor.fetchall()]
        cursor.execute(_COLUMNS, (quote(target),))
        there = dict(cursor.fetchall())
        cursor.execute(_KEY, (quote(target),))
        key = [column for (column,) in cursor.fetchall()]
        owner = _owner_of(cursor, declaration, target[0])
    if missing := [column for column in held if column not in there]:
        message = f"The table {quote(target)} {'lacks ' + ', '.join(missing) if there else 'does not exist'}."
        remedy = "Create it as it was (the application's own is created by playbooks/database.yml), and do this again."
        raise BackupError(Problem("restore_table_differs", f"table {quote(target)}", message, remedy))
    return owner, [column for column in held if not there[column]], key


# Rows are compared as text, because not every type can be compared.
_MISSING_BY_KEY = """
INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {columns} FROM {source} AS s WHERE NOT EXISTS (SELECT FROM {target} AS t WHERE ({t_key}) = ({s_key}))
"""
_TAKEN = """
SELECT count(*) FROM {source} AS s JOIN {target} AS t ON ({t_key}) = ({s_key})
WHERE ROW({t_columns})::text <> ROW({s_columns})::text
"""
_MISSING = """
INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {columns} FROM (
    SELECT *, ROW({columns})::text AS pgprefect_row,
           row_number() OVER (PARTITION BY ROW({columns})::text) AS pgprefect_n
    FROM {source}) AS s
    LEFT JOIN (SELECT ROW({columns})::text AS pgprefect_row, count(*) AS pgprefect_count FROM {target} GROUP BY 1) AS t
    USING (pgprefect_row)
WHERE pgprefect_n > coalesce(pgprefect_count, 0)
"""


def _insert(cursor: Any, source: Name, target: Name, columns: list[str], key: list[str]) -> PutBack:
    names = {
        "source": Names((source,)),
        "target": Names((target,)),
        "columns": Names(tuple(columns)),
        **{f"{side}_key": Names(tuple((side, column) for column in key)) for side in "st"},
        **{f"{side}_columns": Names(tuple((side, column) for column in columns)) for side in "st"},
    }
    taken = 0
    if key:
        Statement.named(_TAKEN, names).execute(cursor)
        (taken,) = cursor.fetchone()
    Statement.named(_MISSING_BY_KEY if key else _MISSING, names).execute(cursor)
    return PutBack(cursor.rowcount, taken)


_SEQUENCES = """
SELECT a.attname::text, n.nspname::text, c.relname::text, s.seqincrement > 0
FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     JOIN pg_sequence s ON s.seqrelid = d.objid JOIN pg_class c ON c.oid = d.objid
     JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  AND d.refobjid = to_regclass(%s)
"""
_ADVANCE = """
SELECT setval({name}, value) FROM (SELECT {extreme}(value) AS value FROM (
    SELECT {column} AS value FROM {target} UNION ALL SELECT {held}) AS v) AS w, {sequence} AS s
WHERE value {beyond} s.last_value OR (value = s.last_value AND NOT s.is_called)
"""


def _set_sequences(cursor: Any, target: tuple[str, str], held: dict[str, list[Any]]) -> None:
    """Let the sequences of the columns go on after the largest value of the table and of the set."""
    cursor.execute(_SEQUENCES, (quote(target),))
    for column, schema, name, rises in cursor.fetchall():
        value, used = held.get(quote((schema, name)), (None, False))
        extreme, beyond = ("max", ">") if rises else ("min", "<")
        template = _ADVANCE.replace("{extreme}", extreme).replace("{beyond}", beyond)
        arguments = {
            "name": Value(quote((schema, name))),
            "column": column,
            "target": Names((target,)),
            "held": Value(value if used else None),
            "sequence": Names(((schema, name),)),
        }
        Statement.named(template, arguments).execute(cursor)


def _owner(login: Login, declaration: Declaration, schema: str, target: str) -> str:
    """Return the owner of the table's schema. Raises BackupError where the staging table exists already."""
    with contextlib.closing(connect(login, declaration.database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (target,))
        if cursor.fetchone()[0]:
            message = f"The table {target} exists already."
            remedy = f"Use that one, or remove it: DROP TABLE {target};"
            raise BackupError(Problem("restore_table_exists", f"table {target}", message, remedy))
        return _owner_of(cursor, declaration, schema)


def _owner_of(cursor: Any, declaration: Declaration, schema: str) -> str:
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
