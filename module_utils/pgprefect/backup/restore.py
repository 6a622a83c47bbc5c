"""Restoring dumps of a backup set in one transaction, as the owners of their schemas.

Nothing that a set has is executed as a superuser. What needs one stands apart, before and after that transaction:
missing roles, schemas and extensions; publications, settings, and objects of other owners.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from ..core.connection import Login
from ..core.problems import Problem
from ..core.process import ProcessFailed, error_lines
from ..schema import event_plan
from ..schema.declaration import Declaration
from ..schema.plan import Blocked, apply
from . import unfinished
from .contents import row_differences, structure_differences
from .dependents import empty, lost
from .examine import Examination, examine
from .session import Session, as_sql, contents, entries_of, session
from .sets import APP, WORKFLOW, BackupError, Dump, Manifest

_LOCK_TIMEOUT = "10s"
_log = logging.getLogger(__name__)


def choose(
    manifest: Manifest,
    declaration: Declaration,
    kinds: Sequence[str],
    tenant: str | None = None,
    schemas: Sequence[str] = (),
) -> list[Dump]:
    """Return the dumps of a set to restore: for all tenants unless one is named, of all schemas unless some are.

    Raises BackupError where the set lacks a kind or a schema, or where a dump is of a tenant, schema or database that
    is not declared.
    """
    declared = {tenant.name: tenant.schema for tenant in declaration.tenants}
    chosen = [
        part
        for part in manifest.parts
        if part.kind in kinds
        and part.schema
        and (part.kind == APP or tenant in (None, part.tenant))
        and (not schemas or part.schema in schemas)
    ]
    held = ", ".join(" of ".join(filter(None, (part.kind, part.tenant))) for part in manifest.files)
    missing = [kind for kind in kinds if kind not in [part.kind for part in chosen]] if not schemas else []
    missing += [f"schema {schema}" for schema in schemas if schema not in [part.schema for part in chosen]]
    if missing:
        wanted = missing[0] if tenant is None or missing[0] != WORKFLOW else f"{missing[0]} of {tenant}"
        message = f"The set {manifest.name} has no {wanted}; it holds {held}."
        raise BackupError(Problem("restore_not_in_set", manifest.name, message, "Name another set, kind or tenant."))
    for part in chosen:
        foreign = (
            declared.get(str(part.tenant)) != part.schema if part.kind == WORKFLOW else _foreign(part, declaration)
        )
        if foreign or manifest.database != declaration.database:
            whose = f" and the tenant {part.tenant}" if part.tenant else ""
            message = (
                f"{part.file} of the set {manifest.name} is of the database {manifest.database}, the schema"
                f" {part.schema}{whose}, which this site does not have."
            )
            remedy = "Use a set of this database and tenant; pgprefect backup list names them."
            raise BackupError(Problem("restore_foreign_set", manifest.name, message, remedy))
    return in_order(chosen)


def _foreign(part: Dump, declaration: Declaration) -> bool:
    """Return whether a schema of the application is none of this site's: a tenant has it, or the extensions."""
    return part.schema in (*(tenant.schema for tenant in declaration.tenants), declaration.extensions_schema)


def in_order(parts: Sequence[Dump]) -> list[Dump]:
    """Return the dumps in the order in which they are restored: each file after those that have what it needs.

    The application's come last, because its views may use Prefect's tables. Raises BackupError where schemas of
    different owners need each other, because one owner is restored after the other.
    """
    files = {str(part.schema): part.file for part in parts if part.kind == APP}
    needs: dict[str, set[str]] = {file: set() for file in files.values()}
    for part in parts:
        if part.kind == APP:
            needs[part.file] |= {files[schema] for schema in part.needs if schema in files} - {part.file}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        schemas = [schema for schema, file in files.items() if file in error.args[1]]
        message = f"The schemas {', '.join(schemas)} have different owners and need each other, as views do."
        remedy = "Give them one owner (ALTER SCHEMA ... OWNER TO), or drop the views of one; then make another set."
        raise BackupError(Problem("restore_circular", f"schema {schemas[0]}", message, remedy)) from error
    return sorted(parts, key=lambda part: order.index(part.file) if part.kind == APP else -1)


def restore(
    login: Login,
    declaration: Declaration,
    path: Path,
    parts: Sequence[Dump],
    virtualenv: str | None = None,
    into: str | None = None,
    was_read: bool = False,
) -> dict[str, int]:
    """Replace the schemas of these dumps by those of the set at the path, and return the number of rows of each table.

    The login is the administrator's. Everything is one transaction, which counts and compares with the manifest before
    it commits; ``examine`` finds before it what would be lost. ``into`` names a database to create and restore into
    instead; ``was_read`` spares reading a set once more that the caller has examined. Raises BackupError and
    ConnectionFailed; then nothing has changed, unless the problem is ``restore_incomplete``.
    """
    began = time.monotonic()
    with unfinished.only_restore():
        unfinished.finish(login)
        found = examine(login, declaration, path, parts, virtualenv, into, was_read)
        target = replace(declaration, database=into) if into else declaration
        with unfinished.recorded(login, path, target.database, found, created=bool(into)) as record:
            if into:
                _log.info("Create the database %s.", into)
                apply(login, target)
            record.prepare()
            _load(login, target, path, parts, found, record)
        left = record.complete()
    apply(login, target)
    if not into:
        _recreate_event_triggers(login, target)
    if left:
        raise _incomplete(path.name, target.database, left)
    _log.info("Restored the set %s into %s in %.1f s.", path.name, target.database, time.monotonic() - began)
    return {f"{part.schema}.{table}": count for part in parts for table, count in part.rows.items()}


def _recreate_event_triggers(login: Login, target: Declaration) -> None:
    """Create the triggers of database events, which are in no dump. Where a table has changed since, verify says so."""
    try:
        event_plan.apply(login, target)
    except Blocked as blocked:
        _log.warning("The triggers of database events are not there: %s", blocked)


def _load(
    login: Login,
    target: Declaration,
    path: Path,
    parts: Sequence[Dump],
    found: Examination,
    record: unfinished.Running,
) -> None:
    """Empty the schemas and fill them from the dumps, and commit. Raises BackupError."""
    import psycopg2

    owners = list(dict.fromkeys(found.owners[str(part.schema)] for part in parts))
    large_objects = any(part.large_objects is not None for part in parts)
    try:
        with session(login, target.database, owners, large_objects) as opened:
            with opened.connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false), pg_current_xact_id()", (_LOCK_TIMEOUT,))
                record.began(str(cursor.fetchone()[1]))
            _empty(opened, parts, found)
            for file in dict.fromkeys(part.file for part in parts):
                of_file = [part for part in parts if part.file == file]
                for owner in dict.fromkeys(found.owners[str(part.schema)] for part in of_file):
                    owned = [part for part in of_file if found.owners[str(part.schema)] == owner]
                    opened.act_as(owner)
                    _fill(opened, path / file, owned, target.database)
            opened.act_as("")
            with opened.connection.cursor() as cursor:
                cursor.execute("SELECT pg_current_xact_id()")
                if (str(cursor.fetchone()[0]),) != (record.transaction,):
                    raise ProcessFailed("the dump has ended its transaction")
            _commit(opened, record, target.database)
    except (ProcessFailed, psycopg2.Error) as error:
        raise failed(target.database, path.name, error_lines(str(error))) from error


def _commit(opened: Session, record: unfinished.Running, database: str) -> None:
    """Commit. Where the connection breaks meanwhile, PostgreSQL is asked whether it did.

    Raises psycopg2's errors where it did not, and ConnectionFailed where it does not answer: then the next job asks.
    """
    import psycopg2

    try:
        opened.connection.commit()
    except psycopg2.Error:
        if not record.has_committed():
            raise
        _log.warning("The connection to %s broke after the COMMIT.", database)
    record.committed()


def _empty(opened: Session, parts: Sequence[Dump], found: Examination) -> None:
    """Drop what the schemas have, the application's first, whose views may use the others. Raises BackupError."""
    schemas = [str(part.schema) for part in parts]
    with opened.connection.cursor() as cursor:
        if names := lost(cursor, schemas):  # made since the examination
            message = f"{len(names)} objects of other schemas stand on what would be replaced: {', '.join(names)}."
            raise BackupError(
                Problem("restore_dependents", f"schema {', '.join(schemas)}", message, "Drop them first.")
            )
        if any(part.large_objects is not None for part in parts):
            opened.act_as(next(found.owners[str(part.schema)] for part in parts if part.large_objects is not None))
            cursor.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
        for part in reversed(parts):
            opened.act_as(found.owners[str(part.schema)])
            empty(cursor, [str(part.schema)])


def _fill(opened: Session, file: Path, parts: Sequence[Dump], database: str) -> None:
    """Load the schemas of these parts, and compare them with the manifest. Raises BackupError, ProcessFailed."""
    schemas = [str(part.schema) for part in parts]
    _log.info("Restore %s into the schema %s of %s.", file.name, ", ".join(schemas), database)
    large_objects = any(part.large_objects is not None for part in parts)
    entries = entries_of(contents(file), schemas, opened.owner, large_objects)
    for section in ("pre-data", "data", "post-data"):
        for lines in filter(None, (entries.inside, entries.outside)):
            with as_sql(file, lines, f"--section={section}") as sql:
                if section == "data":
                    opened.load(sql, contents=lines is entries.outside)
                else:
                    opened.execute_all(sql)
        if section == "data":
            _compare(opened.connection, parts, row_differences)  # before the row security of the tables holds
    if entries.rights:
        with as_sql(file, entries.rights) as sql:
            opened.execute_all(sql)
    with opened.connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET search_path TO pg_catalog")
    _compare(opened.connection, parts, structure_differences)


def _compare(connection: Any, parts: Sequence[Dump], compare: Callable[[Any, Dump], Iterator[str]]) -> None:
    for part in parts:
        for difference in compare(connection, part):
            raise ProcessFailed(difference)


def failed(database: str, name: str, reason: str) -> BackupError:
    """Return the error of a restore that was rolled back."""
    message = f"The restore of {name} into {database} failed and was rolled back; nothing has changed: {reason}."
    remedy = (
        "Fix the cause and restore again; for a lock timeout, stop the server and the workers first. If another host "
        "became the primary meanwhile, restore there."
    )
    return BackupError(Problem("restore_failed", f"database {database}", message, remedy))


def _incomplete(name: str, database: str, left: Sequence[str]) -> BackupError:
    message = f"The data of {name} is restored into {database}, but not all that belongs to it: {'; '.join(left)}."
    remedy = "End the cause, and execute these statements as the administrator."
    return BackupError(Problem("restore_incomplete", f"database {database}", message, remedy))
