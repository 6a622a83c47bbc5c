"""Making and pruning backup sets. A set has all its dumps from one snapshot, and appears only when it is complete."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ..core.connection import Login, connect
from ..core.errors import InputError
from ..core.lock import folder_lock
from ..core.problems import Problem
from ..core.process import Process, ProcessFailed, libpq_environment
from ..core.sql import quote
from ..schema.app_schemas import app_schemas, left_out, torn, torn_problem
from ..schema.declaration import Declaration
from ..schema.revision import stored_revision
from ..site.configuration import Keep
from . import sets
from .contents import (
    comment_of,
    large_objects_of,
    of_roles,
    parents_of,
    publications_of,
    rows_of,
    schema_owners,
    sequence_values,
    settings_of,
    structure_counts,
    tables_of,
    views_of,
)
from .dependents import needs
from .session import as_sql, contents
from .sets import APP, GLOBALS, WORKFLOW, BackupError, Dump, Manifest

FULL = "full"
KINDS = (APP, WORKFLOW, FULL)
# A dump that waits for a lock makes all readers wait that come after the holder of the lock.
LOCK_WAIT_SECONDS = 60
_OWN_ZSTD = 160000  # since this server version pg_dump compresses with zstd itself
# A first set may need half of the size of its tables; a later one is a bit larger than the one before.
_FIRST_SHARE, _GROWTH = 0.5, 1.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A dump that is wanted in a set.

    The application's has ``schemas`` besides its main one; where none are declared, all that are found and not
    ``others``, which are Prefect's and the extensions'.
    """

    kind: str
    schema: str | None = None
    tenant: str | None = None
    schemas: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    main: bool = True  # False: a further one of the application, of schemas of another owner

    @property
    def all_schemas(self) -> tuple[str, ...]:
        """The schemas of the dump, the main one first."""
        return tuple(dict.fromkeys((*([self.schema] if self.schema else []), *self.schemas)))


def wanted_parts(declaration: Declaration, kinds: Sequence[str], tenant: str | None = None) -> list[Wanted]:
    """Return the dumps that kinds of backup consist of, for all tenants unless one is named. Raises InputError."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(f"kinds is {list(kinds)!r}; it must be some of: {', '.join(KINDS)}.")
    names = [part.name for part in declaration.tenants]
    if tenant is not None and tenant not in names:
        raise InputError(f"There is no tenant {tenant!r}; there are: {', '.join(names)}.")
    parts = []
    if {APP, FULL} & set(kinds):
        outboxes = [tenant.outbox for tenant in declaration.tenants]  # also where the events are declared no more
        others = (*declaration.of_tenants, *outboxes, declaration.extensions_schema)
        parts.append(Wanted(APP, declaration.app_schema, schemas=declaration.app_schemas, others=others))
    if {WORKFLOW, FULL} & set(kinds):
        parts += [
            Wanted(WORKFLOW, part.schema, part.name) for part in declaration.tenants if tenant in (None, part.name)
        ]
    if FULL in kinds:
        parts.append(Wanted(GLOBALS))
    return parts


def existing(login: Login, database: str, parts: Sequence[Wanted]) -> list[Wanted]:
    """Return those of the dumps whose schema exists. Raises ConnectionFailed."""
    with contextlib.closing(connect(login, database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT nspname FROM pg_namespace")
        schemas = {name for (name,) in cursor}
    return [
        replace(part, schemas=tuple(schema for schema in part.schemas if schema in schemas))
        for part in parts
        if part.schema is None or part.schema in schemas
    ]


def verified_set(
    login: Login, database: str, parts: Sequence[Wanted], directory: str | Path, hours: float
) -> Manifest | None:
    """Return the newest set that passed a drill, is not older than ``hours``, and is a way back to what is there.

    It has the wanted dumps, of the schemas' present revisions, and its files are what was written. Raises BackupError
    and ConnectionFailed.
    """
    home, oldest = Path(directory), datetime.now(timezone.utc) - timedelta(hours=hours)
    with contextlib.closing(connect(login, database)) as connection:
        wanted = {(part.kind, part.tenant, _revision(connection, part)) for part in parts}
    for path in reversed(sets.list_sets(home)):
        if sets.is_safety(path.name) or sets.time_of(path.name) < oldest or not sets.is_verified(path):
            continue
        with contextlib.suppress(BackupError):
            manifest = sets.read_manifest(path)
            if manifest.database == database and wanted <= {(p.kind, p.tenant, p.revision) for p in manifest.parts}:
                sets.check_hashes(path, manifest)
                return manifest
    return None


def _revision(connection: Any, part: Wanted) -> str | None:
    return stored_revision(connection, part.schema) if part.kind == WORKFLOW and part.schema else None


def back_up(
    login: Login,
    database: str,
    parts: Sequence[Wanted],
    directory: str | Path,
    prefect_version: str | None = None,
    lock_wait_seconds: float = LOCK_WAIT_SECONDS,
    safety: bool = False,
) -> Manifest:
    """Write a new set below the directory, read it back in full, and only then give it its name.

    A safety set is of the data that a restore is about to replace, and is never taken for the newest set.
    Raises BackupError and ConnectionFailed; then there is no new set, and the others are unchanged.
    """
    home = Path(directory)
    began, started = time.monotonic(), datetime.now(timezone.utc)
    with directory_lock(home):
        clear_partial(home)
        present = sets.list_sets(home)
        name = _next_name(sets.names(home), started, safety)
        partial = sets.partial_path(home, name)
        _log.info("Make the set %s of the database %s in %s.", name, database, home)
        try:
            partial.mkdir(mode=0o700)
            with _snapshot(login, database, lock_wait_seconds) as snapshot:
                parts = _with_app_schemas(snapshot, parts)
                _check_free_space(home, snapshot, parts, present)
                described = _dump(login, database, snapshot, parts, partial, lock_wait_seconds)
            manifest = Manifest(
                name=name,
                database=database,
                started=started.isoformat(timespec="seconds"),
                snapshot=snapshot.name,
                wal_position=snapshot.wal_position,
                server_version=snapshot.server_version,
                prefect_version=prefect_version,
                extensions=snapshot.extensions,
                parts=_finish(partial, described),
                seconds=round(time.monotonic() - began, 3),
                **snapshot.outside,
            )
            sets.write(partial, manifest)
            partial.rename(home / name)
            sets.sync(home)
            _log.info("The set %s is complete: %s bytes in %.1f s.", name, f"{manifest.bytes:,}", manifest.seconds)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)  # the next run removes what this one cannot
            _log.info("The set %s failed after %.1f s and is removed.", name, time.monotonic() - began)
            if isinstance(error, ProcessFailed):
                raise _dump_failed(database, login, str(error)) from error
            if isinstance(error, OSError):
                raise _not_written(home, error) from error
            raise
    return manifest


def prune(directory: str | Path, keep: Keep, dry_run: bool = False, spared: Collection[Path] = ()) -> list[str]:
    """Remove the sets that the rules do not keep, except the spared ones. Returns their names. Raises BackupError."""
    home = Path(directory)

    def find() -> list[Path]:
        return [path for path in sets.prunable(sets.list_sets(home), keep) if path not in spared]

    if dry_run:
        return [path.name for path in find()]
    with directory_lock(home):
        going = find()
        for path in going:
            _log.info("Remove the set %s.", path.name)
            sets.remove(path)
        clear_partial(home)
    return [path.name for path in going]


def would_prune(directory: str | Path, keep: Keep, spared: Collection[Path] = ()) -> list[str]:
    """Return the names of the sets that ``prune`` would remove after a set made now. Raises BackupError."""
    home = Path(directory)
    coming = home / _next_name(sets.names(home), datetime.now(timezone.utc), safety=False)
    return [path.name for path in sets.prunable([*sets.list_sets(home), coming], keep) if path not in spared]


def clear_partial(home: Path) -> None:
    """Remove what killed runs left behind. The caller holds the lock."""
    for path in sets.left_over(home):
        _log.info("Remove %s, which a killed run left behind.", path)
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def add(directory: str | Path, folder: Path) -> Manifest:
    """Read a set that was brought here to its end, and only then move it into the directory. Raises BackupError."""
    home = Path(directory)
    with directory_lock(home):
        manifest = sets.check(folder)
        if manifest.name in sets.names(home):
            message = f"{home} has a set {manifest.name} already."
            remedy = f"Use it (pgprefect backup check --set {manifest.name}), or move it away."
            raise BackupError(Problem("backup_exists", manifest.name, message, remedy))
        try:
            for file in folder.iterdir():
                file.chmod(0o600)
                sets.sync(file)
            folder.chmod(0o700)
            sets.sync(folder)
            folder.rename(home / manifest.name)
            sets.sync(home)
        except OSError as error:
            raise _not_written(home, error) from error
    return manifest


@contextlib.contextmanager
def directory_lock(directory: Path, lock: str = ".lock") -> Iterator[None]:
    """Hold a lock of the directory. Raises BackupError where another process holds it."""
    message = f"Another backup, copy or pruning is running in {directory}."
    remedy = f"Wait until it has ended; as root `lslocks | grep {lock}` names its process."
    taken = BackupError(Problem("backup_running", str(directory), message, remedy))
    with folder_lock(directory, lock, taken, lambda error: _not_written(directory, error)):
        yield


def _next_name(taken: Sequence[str], now: datetime, safety: bool) -> str:
    """Return the name for this time, or for the second after the newest set where the clock was set back."""
    if taken:
        now = max(now, sets.time_of(taken[-1]) + timedelta(seconds=1))
    return sets.name_of(now, safety)


@dataclass(frozen=True)
class _Snapshot:
    """A snapshot that this session keeps open for the dumps, and what the manifest says of it."""

    connection: Any
    name: str
    wal_position: str
    server_version: int
    extensions: dict[str, str]
    outside: dict[str, Any]  # what stands outside the schemas, as the manifest's fields are named


@contextlib.contextmanager
def _snapshot(login: Login, database: str, lock_wait_seconds: float) -> Iterator[_Snapshot]:
    """Hold a snapshot open that other sessions can use."""
    import psycopg2

    connection = connect(login, database)
    try:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(lock_wait_seconds * 1000)}ms",))
            # Counting leaves the other processors to interactive queries.
            cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            # What row security would hide from a count is an error instead.
            cursor.execute("SET LOCAL row_security = off")
            cursor.execute("""
                SELECT pg_export_snapshot(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                             ELSE pg_current_wal_lsn() END::text""")
            name, position = cursor.fetchone()
            cursor.execute("SELECT extname, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace")
            extensions = dict(cursor.fetchall())
            outside = {
                "settings": settings_of(cursor),
                "comment": comment_of(cursor),
                "publications": publications_of(connection),
            }
        yield _Snapshot(connection, name, position, connection.server_version, extensions, outside)
    except psycopg2.Error as error:
        raise _dump_failed(database, login, str(error).strip().replace("\n", " ")) from error
    finally:
        connection.close()


def _dump(
    login: Login, database: str, snapshot: _Snapshot, wanted: Sequence[Wanted], partial: Path, lock_wait: float
) -> list[Dump]:
    """Write all dumps at the same time, and count the rows meanwhile.

    Returns the dumps without their size and hash, which ``_finish`` adds.
    """
    environment = libpq_environment(login, database)
    with contextlib.ExitStack() as files:
        running: list[Process] = []
        try:
            for want in wanted:
                path = partial / _file_name(want, snapshot)
                file = files.enter_context(open(path, "xb", opener=_for_owner))
                what = f"the schema {', '.join(want.all_schemas)}" if want.schema else "the globals"
                _log.info("Dump %s into %s.", what, path)
                running.append(Process(_commands(want, snapshot, database, lock_wait), environment, stdout=file))
            parts = [part for want in wanted for part in _describe(want, snapshot)]
            for process in running:
                process.wait()
        except BaseException:
            for process in running:
                process.kill()
            raise
    return parts


def _with_app_schemas(snapshot: _Snapshot, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Find the application's schemas, and record what is in no dump. Raises BackupError for half of a table.

    Those of another owner than the main one's have a dump of their own, because it is restored as that owner.
    """
    parts: list[Wanted] = []
    tenants = [str(want.schema) for want in wanted if want.kind == WORKFLOW]
    others = {*tenants, *(name for want in wanted for name in want.others)}
    with snapshot.connection.cursor() as cursor:
        for want in wanted:
            if want.kind != APP:
                parts.append(want)
                continue
            schemas = want.schemas or tuple(app_schemas(cursor, others))
            owners = _acting_owners(snapshot.connection, [str(want.schema), *schemas])
            main = owners.get(str(want.schema), "")
            same = tuple(schema for schema in schemas if owners.get(schema, main) in ("", main))
            parts.append(replace(want, schemas=same))
            rest = dict.fromkeys(owner for schema, owner in owners.items() if owner not in ("", main))
            for owner in rest:
                of_owner = tuple(schema for schema in owners if owners[schema] == owner)
                parts.append(Wanted(APP, of_owner[0], schemas=of_owner, main=False))
        dumped = [schema for part in parts for schema in part.all_schemas]
        if problems := [torn_problem(*row) for row in torn(cursor, dumped)]:
            raise BackupError(*problems)
        has_app = any(part.kind == APP for part in parts)
        snapshot.outside["not_included"] = left_out(cursor, dumped, has_app)
    return parts


def _acting_owners(connection: Any, schemas: Sequence[str]) -> dict[str, str]:
    """Return the owner of each schema; empty for a superuser's, which is restored as the application's owner."""
    question = """
        SELECT nspname, CASE WHEN rolsuper OR rolname = 'pg_database_owner' THEN '' ELSE rolname END
        FROM pg_namespace JOIN pg_roles r ON r.oid = nspowner WHERE nspname = ANY(%s::name[])"""
    with connection.cursor() as cursor:
        cursor.execute(question, (list(schemas),))
        found = dict(cursor.fetchall())
    return {schema: found[schema] for schema in schemas if schema in found}


def _describe(want: Wanted, snapshot: _Snapshot) -> list[Dump]:
    """Return what the snapshot has of each schema of a dump, without its size and hash."""
    if want.schema is None:
        return [Dump(want.kind, None, want.tenant, _file_name(want, snapshot), bytes=0, sha256="", rows={})]
    return [_describe_schema(want, schema, snapshot) for schema in want.all_schemas]


def _describe_schema(want: Wanted, schema: str, snapshot: _Snapshot) -> Dump:
    connection = snapshot.connection
    described = Dump(want.kind, schema, want.tenant, _file_name(want, snapshot), bytes=0, sha256="", rows={})
    indexes, constraints = structure_counts(connection, schema)
    owner = schema_owners(connection, [schema]).get(schema, "")
    large_objects = want.kind == APP and schema == want.schema and want.main
    return replace(
        described,
        rows=rows_of(connection, schema),
        parents=parents_of(connection, schema),
        views=views_of(connection, schema),
        indexes=indexes,
        constraints=constraints,
        revision=stored_revision(connection, schema) if want.kind == WORKFLOW else None,
        large_objects=large_objects_of(connection)[0] if large_objects else None,
        owner=owner,
        needs=needs(connection, schema),
        **of_roles(connection, schema, owner, large_objects),
    )


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _file_name(part: Wanted, snapshot: _Snapshot) -> str:
    if part.kind == GLOBALS:
        return "globals.sql.zst"
    stem = "-".join(filter(None, (part.kind, part.tenant)))
    if not part.main:
        stem += "-" + re.sub(r"[^A-Za-z0-9_]", lambda found: f"-{ord(found[0]):x}-", str(part.schema))
    return f"{stem}.dump" + ("" if snapshot.server_version >= _OWN_ZSTD else ".zst")


def _commands(part: Wanted, snapshot: _Snapshot, database: str, lock_wait: float) -> list[list[str]]:
    zstd = ["zstd", "-1", "--quiet", "--stdout"]
    if part.schema is None:
        # Passwords are not dumped, because the site's playbooks set them again.
        return [["pg_dumpall", "--globals-only", "--no-role-passwords", f"--database={database}"], zstd]
    own = snapshot.server_version >= _OWN_ZSTD
    dump = [
        "pg_dump",
        "--format=custom",
        f"--compress={'zstd:1' if own else '0'}",
        f"--snapshot={snapshot.name}",
        *(f"--schema={quote(schema)}" for schema in part.all_schemas),
        "--strict-names",
        f"--lock-wait-timeout={int(lock_wait * 1000)}",
    ]
    if part.kind == APP and part.main:
        dump.append("--blobs")  # large objects belong to no schema; Prefect makes none
    return [dump] if own else [dump, zstd]


def _finish(partial: Path, parts: Sequence[Dump]) -> tuple[Dump, ...]:
    """Read the dumps back and make them durable. Returns them with their sizes, hashes and values of sequences."""
    finished: dict[str, tuple[int, str, dict[str, list[Any]]]] = {}
    for file in dict.fromkeys(part.file for part in parts):
        began = time.monotonic()
        size, digest = sets.read_back(partial / file)
        sets.sync(partial / file)
        finished[file] = size, digest, _sequences_in(partial / file)
        _log.info("Read %s back: %s bytes in %.1f s.", file, f"{size:,}", time.monotonic() - began)
    described = []
    for part in parts:
        size, digest, sequences = finished[part.file]
        own = {name: value for name, value in sequences.items() if part.schema and _is_in(name, part.schema)}
        described.append(replace(part, bytes=size, sha256=digest, sequences=own))
    return tuple(described)


def _sequences_in(file: Path) -> dict[str, list[Any]]:
    """Return what a dump sets its sequences to."""
    if ".dump" not in file.name:
        return {}
    entries = [line for line in contents(file) if b" SEQUENCE SET " in line]
    if not entries:
        return {}
    with as_sql(file, entries) as sql:
        return sequence_values(sql.read())


def _is_in(name: str, schema: str) -> bool:
    return name.startswith((f"{quote(schema)}.", '"{}".'.format(schema.replace('"', '""'))))


def _check_free_space(home: Path, snapshot: _Snapshot, wanted: Sequence[Wanted], present: Sequence[Path]) -> None:
    """Raise BackupError where the set would hardly fit. The last set is a measure only where it has the same dumps."""
    files = {_file_name(want, snapshot) for want in wanted}
    previous = None
    with contextlib.suppress(BackupError):  # a damaged set does not prevent a new one
        previous = sets.read_manifest(present[-1]) if present else None
    if previous and {part.file for part in previous.parts} == files:
        need = previous.bytes * _GROWTH
    else:
        schemas = [schema for want in wanted for schema in want.all_schemas]
        sizes = [size for schema in schemas for _, size in tables_of(snapshot.connection, schema)]
        sizes += [large_objects_of(snapshot.connection)[1] for want in wanted if want.kind == APP]
        need = _FIRST_SHARE * sum(sizes)
    free = shutil.disk_usage(home).free
    _log.info("%s has %s bytes free; the set may need %s.", home, f"{free:,}", f"{need:,.0f}")
    if free < need:
        message = f"{home} has {free:,} bytes free, and the set may need {need:,.0f}."
        remedy = "Free space, keep fewer sets (prefect_backup_keep), or name a directory on another file system."
        raise BackupError(Problem("backup_no_space", str(home), message, remedy))


def _dump_failed(database: str, login: Login, reason: str) -> BackupError:
    message = f"The backup of {database} as {login.user} failed, and there is no new set: {reason}"
    if not message.endswith("."):
        message += "."
    remedy = (
        "Fix the cause; `pgprefect verify` compares the role's rights with what is declared. Then: pgprefect backup"
    )
    return BackupError(Problem("backup_failed", f"database {database}", message, remedy))


def _not_written(home: Path, error: OSError) -> BackupError:
    message = f"{error.filename or home} cannot be written: {error.strerror}."
    remedy = "Free space, or run this as root or as the operating system's user of the backups."
    return BackupError(Problem("backup_not_written", str(home), message, remedy))
