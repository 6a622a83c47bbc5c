"""Restoring dumps of a backup set in one transaction, which is rolled back where anything fails."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..core.connection import Login, connect
from ..core.problems import Problem
from ..core.process import Process, ProcessFailed, decompression, libpq_environment
from ..schema import revision
from ..schema.declaration import Declaration
from ..schema.plan import apply
from . import sets
from .sets import APP, WORKFLOW, BackupError, Dump, Manifest

_LOCK_TIMEOUT = "10s"
_log = logging.getLogger(__name__)
# The objects of other schemas that could depend on the replaced ones: views, functions, keys, columns, defaults and
# triggers.
_OTHERS = """
    SELECT 'pg_class'::regclass AS class, oid, 0 AS part FROM pg_class
    WHERE relnamespace NOT IN ({schemas}) AND relkind IN ('r', 'v', 'm', 'p', 'f', 'S')
    UNION ALL SELECT 'pg_class'::regclass, attrelid, attnum FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE relnamespace NOT IN ({schemas}) AND relkind IN ('r', 'p', 'f') AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, 0 FROM pg_attrdef d JOIN pg_class c ON c.oid = adrelid
    WHERE relnamespace NOT IN ({schemas})
    UNION ALL SELECT 'pg_trigger'::regclass, t.oid, 0 FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
    WHERE relnamespace NOT IN ({schemas}) AND NOT tgisinternal
    UNION ALL SELECT 'pg_proc'::regclass, oid, 0 FROM pg_proc WHERE pronamespace NOT IN ({schemas})
    UNION ALL SELECT 'pg_extension'::regclass, oid, 0 FROM pg_extension
    UNION ALL SELECT 'pg_constraint'::regclass, oid, 0 FROM pg_constraint WHERE connamespace NOT IN ({schemas})
"""
# The schemas whose objects are none of the others: the replaced ones, and PostgreSQL's own.
_REPLACED = "SELECT oid FROM pg_namespace WHERE nspname = ANY ({}) OR nspname ~ '^(pg_|information_schema$)'"
_BEGIN = """
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = {lock_timeout};
CREATE TEMP TABLE restore_others ON COMMIT DROP AS
    SELECT *, pg_describe_object(class, oid, part) AS name FROM ({others}) AS others;
"""
_UNLINK_LARGE_OBJECTS = """
SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
"""
_EMPTY_SCHEMA = """
DROP SCHEMA IF EXISTS {schema} CASCADE;
CREATE SCHEMA {schema} AUTHORIZATION {owner};
"""
_REFUSE_LOSS = """
DO $restore$ DECLARE lost bigint; names text; BEGIN
    SELECT count(*), string_agg(name, ', ' ORDER BY name) INTO lost, names FROM pg_temp.restore_others
        WHERE (class, oid, part) NOT IN ({others});
    IF lost > 0 THEN
        RAISE EXCEPTION '% objects of other schemas stand on what would be replaced: %', lost, left(names, 300);
    END IF;
END $restore$;
"""
_COUNT_LARGE_OBJECTS = """
DO $restore$ DECLARE number bigint; BEGIN
    SELECT count(*) INTO number FROM pg_largeobject_metadata;
    IF number <> {count} THEN
        RAISE EXCEPTION 'the database has % large objects, the manifest says %', number, {count};
    END IF;
END $restore$;
"""
_COUNT_ROWS = """
DO $restore$ DECLARE rows bigint; BEGIN
    SELECT count(*) INTO rows FROM {table};
    IF rows <> {count} THEN RAISE EXCEPTION '% has % rows, the manifest says %', {name}, rows, {count}; END IF;
END $restore$;
"""


def choose(manifest: Manifest, declaration: Declaration, kinds: Sequence[str], tenant: str | None = None) -> list[Dump]:
    """Return the dumps of a set to restore, for all tenants unless one is named.

    Raises BackupError where the set lacks a kind, or where a dump is of a tenant, schema or database that is not
    declared.
    """
    schemas: dict[tuple[str, str | None], str] = {(WORKFLOW, part.name): part.schema for part in declaration.tenants}
    schemas[APP, None] = declaration.app_schema
    chosen = [
        part
        for part in manifest.parts
        if part.kind in kinds and part.schema and (part.kind == APP or tenant in (None, part.tenant))
    ]
    held = ", ".join(" of ".join(filter(None, (part.kind, part.tenant))) for part in manifest.parts)
    if missing := [kind for kind in kinds if kind not in [part.kind for part in chosen]]:
        wanted = missing[0] if tenant is None or missing[0] == APP else f"{missing[0]} of {tenant}"
        message = f"The set {manifest.name} has no {wanted}; it holds {held}."
        raise BackupError(Problem("restore_not_in_set", manifest.name, message, "Name another set, kind or tenant."))
    for part in chosen:
        if schemas.get((part.kind, part.tenant)) != part.schema or manifest.database != declaration.database:
            whose = f" and the tenant {part.tenant}" if part.tenant else ""
            message = (
                f"{part.file} of the set {manifest.name} is of the database {manifest.database}, the schema"
                f" {part.schema}{whose}, which this site does not have."
            )
            remedy = "Use a set of this database and tenant; pgprefect backup list names them."
            raise BackupError(Problem("restore_foreign_set", manifest.name, message, remedy))
    return in_order(chosen)


def in_order(parts: Sequence[Dump]) -> list[Dump]:
    """Return the dumps with the application's last, because its views may use Prefect's tables."""
    return sorted(parts, key=lambda part: part.kind == APP)


def restore(
    login: Login,
    declaration: Declaration,
    path: Path,
    parts: Sequence[Dump],
    virtualenv: str | None = None,
    into: str | None = None,
) -> dict[str, int]:
    """Replace the schemas of these dumps by those of the set at the path, and return the number of rows of each table.

    The login is the administrator's. Everything is one transaction: it counts the rows against the manifest, and fails
    where another schema would lose an object. ``into`` names a database to create and restore into instead.
    Raises BackupError and ConnectionFailed; then nothing has changed.
    """
    began = time.monotonic()
    examine(login, path, parts, virtualenv, into)
    target = replace(declaration, database=into) if into else declaration
    if into:
        _log.info("Create the database %s.", into)
        apply(login, target)
    try:
        _load(login, target, path, parts)
    except BaseException:
        if into:
            _drop(login, into)
        raise
    apply(login, target)
    _log.info("Restored the set %s into %s in %.1f s.", path.name, target.database, time.monotonic() - began)
    return {f"{part.schema}.{table}": count for part in parts for table, count in part.rows.items()}


def examine(
    login: Login, path: Path, parts: Sequence[Dump], virtualenv: str | None = None, into: str | None = None
) -> None:
    """Read the set to its end, and check that this server and the installed Prefect can use it. Changes nothing.

    Raises BackupError and ConnectionFailed.
    """
    manifest = sets.check(path)
    with closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        server = connection.server_version // 10000
        cursor.execute("SELECT datname FROM pg_database WHERE datname = %s", (into,))
        exists = cursor.fetchone() is not None
    if server < manifest.server_version // 10000:
        message = (
            f"The set {manifest.name} is of PostgreSQL {manifest.server_version // 10000}, but this server is {server}."
        )
        remedy = "Restore it on a server of that version or a later one."
        raise BackupError(Problem("restore_older_server", manifest.name, message, remedy))
    if exists:
        message = f"The database {into} exists already."
        remedy = "Name one that does not exist, or drop this one by hand."
        raise BackupError(Problem("restore_database_exists", f"database {into}", message, remedy))
    revisions = [part.revision for part in parts if part.revision]
    if virtualenv and revisions:
        migrations = revision.installed_migrations(virtualenv)
        for name in revisions:
            found = revision.compare([name], migrations)
            if found.state == revision.UNKNOWN:
                version = manifest.prefect_version or "of that time"
                remedy = f"Install Prefect {version} or a later one first (prefect_version)."
                message = (
                    f"The set {manifest.name} is at the revision {name}, which the installed Prefect does not know."
                )
                raise BackupError(Problem("restore_newer_revision", manifest.name, message, remedy))


def _load(login: Login, target: Declaration, path: Path, parts: Sequence[Dump]) -> None:
    """Replace the schemas. Raises BackupError."""
    begin, end = _frame(login, target, parts)

    def send(session: IO[bytes]) -> None:
        session.write(begin.encode())
        for part in parts:
            _log.info("Restore %s into the schema %s of %s.", part.file, part.schema, target.database)
            session.flush()
            _send(path / part.file, session)
        session.write(end.encode())

    in_one_session(login, target.database, path.name, send)


def in_one_session(login: Login, database: str, name: str, send: Callable[[IO[bytes]], None]) -> None:
    """Let ``send`` write SQL to one psql. The COMMIT comes last, so PostgreSQL rolls back whatever ends before it.

    ``name`` is the set's. Raises BackupError.
    """
    _log.info("Open one session as %s on the database %s.", login.user, database)
    psql = ["psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--output", "/dev/null"]
    session = Process([psql], libpq_environment(login, database), subprocess.PIPE, user=_peer(login))
    try:
        send(session.stdin)
        session.stdin.close()
    except (BrokenPipeError, ProcessFailed) as error:
        try:
            session.end()  # where psql was the first to fail, it knows the reason
        except ProcessFailed as reason:
            raise _failed(database, name, str(reason)) from error
        raise _failed(database, name, str(error)) from error
    except BaseException:
        session.kill()
        raise
    try:
        session.wait()
    except ProcessFailed as error:
        raise _failed(database, name, str(error)) from error


def _send(file: Path, session: IO[bytes]) -> None:
    """Write a dump as SQL, without the statement that creates its schema. Raises ProcessFailed."""
    entries = wanted(file)
    contents = [line for line in entries if re.match(rb"\d+; \d+ \d+ BLOBS ", line)]
    _send_entries(file, [line for line in entries if line not in contents], session)
    if contents:
        # pg_restore writes BEGIN and COMMIT around the contents of large objects, which would end our transaction.
        _send_entries(file, contents, session, [["sed", r"/^\(BEGIN\|COMMIT\);$/d"]])


def _send_entries(
    file: Path, entries: Sequence[bytes], session: IO[bytes], filters: Sequence[Sequence[str]] = ()
) -> None:
    with list_file(entries) as listed, open(file, "rb") as source:
        command = ["pg_restore", "--file", "-", "--use-list", listed]
        Process([*decompression(file.name), command, *filters], stdin=source, stdout=session).wait()


def wanted(file: Path) -> list[bytes]:
    """Return the table of contents of a dump, without the entry of its schema. Raises ProcessFailed."""
    with tempfile.TemporaryFile() as listed, open(file, "rb") as source:
        Process([*decompression(file.name), ["pg_restore", "--list"]], stdin=source, stdout=listed).wait()
        listed.seek(0)
        return [line for line in listed.read().splitlines() if not re.match(rb"\d+; \d+ \d+ SCHEMA - ", line)]


@contextlib.contextmanager
def list_file(entries: Sequence[bytes]) -> Iterator[str]:
    """Write these entries to a temporary file for pg_restore's --use-list, and give its name."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(entries) + b"\n")
        file.flush()
        yield file.name


def _frame(login: Login, target: Declaration, parts: Sequence[Dump]) -> tuple[str, str]:
    """Return the SQL before the dumps, which empties the schemas, and after them, which compares with the manifest."""
    from psycopg2 import sql

    owners = {part.schema: part.owner for part in target.tenants} | {target.app_schema: target.app_owner}
    schemas = [part.schema for part in parts if part.schema]
    replaced = sql.SQL(_REPLACED).format(sql.Literal(schemas))
    others = sql.SQL(_OTHERS).format(schemas=replaced)
    begin: list[sql.Composable] = [sql.SQL(_BEGIN).format(lock_timeout=sql.Literal(_LOCK_TIMEOUT), others=others)]
    if APP in [part.kind for part in parts]:  # large objects belong to no schema, and only the application has some
        begin.append(sql.SQL(_UNLINK_LARGE_OBJECTS))
    for schema in schemas:
        name, owner = sql.Identifier(schema), sql.Identifier(owners[schema])
        begin.append(sql.SQL(_EMPTY_SCHEMA).format(schema=name, owner=owner))
    begin.append(sql.SQL(_REFUSE_LOSS).format(others=others))
    end: list[sql.Composable] = []
    for part in parts:
        if part.large_objects is not None:
            end.append(sql.SQL(_COUNT_LARGE_OBJECTS).format(count=sql.Literal(part.large_objects)))
        end += [count_check(part.schema or "", table, count) for table, count in part.rows.items()]
    end.append(sql.SQL("COMMIT;\n"))
    with closing(connect(login, target.database)) as connection:
        return str(sql.Composed(begin).as_string(connection)), str(sql.Composed(end).as_string(connection))


def count_check(schema: str, table: str, count: int) -> Any:
    """Return the SQL that fails where a table does not have as many rows as the manifest says."""
    from psycopg2 import sql

    return sql.SQL(_COUNT_ROWS).format(
        table=sql.Identifier(schema, table), count=sql.Literal(count), name=sql.Literal(f"{schema}.{table}")
    )


def _peer(login: Login) -> str | None:
    """Return the operating system's user that a login over the unix socket needs."""
    return login.user if not login.host and not login.password else None


def _drop(login: Login, database: str) -> None:
    """Drop the database that this restore created."""
    from psycopg2 import sql

    with closing(connect(login, "postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def _failed(database: str, name: str, reason: str) -> BackupError:
    message = f"The restore of {name} into {database} failed and was rolled back; nothing has changed: {reason}."
    remedy = "Fix the cause and restore again; for a lock timeout, stop the server and the workers first."
    return BackupError(Problem("restore_failed", f"database {database}", message, remedy))
