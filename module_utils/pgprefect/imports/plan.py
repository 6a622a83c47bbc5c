"""The plan of an import of a Prefect server's SQLite file into the schema of a tenant.

The file is copied, and the copy is brought to the installed Prefect's revision and examined. Nothing else is changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.connection import Login, connect
from ..core.problems import ERROR, NOTICE, WARNING, Problem
from ..core.process import error_lines
from ..schema.revision import CURRENT, compare, head_of, installed_migrations, stored_revisions, with_predecessors
from ..site.configuration import Tenant
from .expiry import Retention, expiring
from .problems import ImportRefused
from .scratch import Scratch, owner_of, scratch_folder
from .source import Contents
from .target import NOT_IMPORTED, Target, obstacles, read_target, replaced

# Every release of Prefect 3 has this migration, none of 2 has.
_FIRST_OF_3 = "2ac65f1758c2"
# How much of the file's size is needed: by a copy; by one whose tables a migration may write anew; by the tables and
# their indexes, and WAL of both.
_COPY, _UPGRADE, _LOADED = 1.1, 3.0, 4.0
_log = logging.getLogger(__name__)
Progress = Callable[[str], None]

# Run by Prefect's Python, which alone has the cryptography.
_DECRYPT = """
import json, sqlite3, sys
from cryptography.fernet import Fernet, InvalidToken
connection = sqlite3.connect(sys.argv[1])
row = connection.execute("SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'").fetchone()
key = row and Fernet(json.loads(row[0])["fernet_key"])
unreadable = []
for name, data in connection.execute("SELECT name, data FROM block_document"):
    data = json.loads(data) if isinstance(data, str) else data
    if isinstance(data, str):
        try:
            if key is None:
                raise InvalidToken
            key.decrypt(data.encode())
        except InvalidToken:
            unreadable.append(name)
print(json.dumps({"answer": unreadable}))
"""


@dataclass(frozen=True)
class Order:
    """What is imported, and into which tenant; ``program`` is the command that starts pgprefect.

    ``login`` is that of the tenant's migrator, ``observer`` may read the server's figures, and ``service_user`` reads
    the copy of a file of root. ``leave_out_orphans`` and ``let_expire`` are decisions of a person.
    """

    source: Path
    login: Login
    database: str
    tenant: Tenant
    virtualenv: str
    program: Sequence[str]
    scratch: Path = Path("/var/tmp")
    service_user: str = "prefect"
    observer: Login | None = None
    retention: Retention = field(default_factory=Retention)
    leave_out_orphans: bool = False
    let_expire: bool = False


@dataclass(frozen=True)
class Plan:
    """An examined import. ``replaced`` counts what the server itself has made in the schema."""

    revision: str
    head: str
    contents: Contents
    target: Target
    replaced: Mapping[str, int]
    notes: Sequence[Problem]

    @property
    def rows(self) -> dict[str, int]:
        """The rows to import, by table."""
        return {table: self.contents.rows[table] for table in self.target.tables}


@contextlib.contextmanager
def prepared(order: Order, dry_run: bool = False, progress: Progress = _log.info) -> Iterator[tuple[Plan, Scratch]]:
    """Copy the file, upgrade and examine the copy, and look at the target; the copy is removed afterwards.

    Nothing else is changed. With ``dry_run`` a server that runs is a note. Raises ImportRefused, RevisionError and
    ConnectionFailed.
    """
    migrations = installed_migrations(order.virtualenv, "sqlite")
    head = head_of(migrations)
    copier, reader = owner_of(order.source, order.service_user)
    with contextlib.closing(connect(order.login, order.database)) as connection:
        target, notes, there = _target(connection, order, dry_run)
    size = _size(order.source)
    _check_free_space(order.scratch, size * _COPY, "the copy of the file")
    with scratch_folder(order.scratch, reader) as scratch:
        progress(f"Copying {order.source}")
        revision = _copied(order, scratch, copier)
        _check_revision(order, revision, migrations)
        if revision != head:
            _check_free_space(order.scratch, size * _UPGRADE, "the upgrade of the copy")
            progress(f"Bringing the copy from the revision {revision} to {head}")
            _upgrade(order, scratch)
        progress("Examining the copy")
        contents = _examined(order, scratch, target)
        problems = [*_orphans(order, contents), *expiring(order.retention, contents, order.tenant.name)]
        blocking = [problem for problem in problems if problem.severity != NOTICE and not _allowed(order, problem)]
        if blocking:
            raise ImportRefused(*blocking)
        _check_blocks(order, scratch)
        _check_data_directory(order, size * _LOADED)
        notes = [*map(_as_warning, [*notes, *problems]), *_unfinished(contents)]
        yield Plan(str(revision), head, contents, target, there, notes), scratch


def _allowed(order: Order, problem: Problem) -> bool:
    return order.leave_out_orphans if problem.code == "import_orphans" else order.let_expire


def _as_warning(problem: Problem) -> Problem:
    return replace(problem, severity=WARNING) if problem.severity == ERROR else problem


def _target(connection: Any, order: Order, dry_run: bool) -> tuple[Target, list[Problem], dict[str, int]]:
    schema = order.tenant.schema
    found = compare(stored_revisions(connection, schema), installed_migrations(order.virtualenv))
    if found.state != CURRENT:
        remedy = "Run playbooks/server.yml, which migrates it, and import again."
        raise ImportRefused(
            Problem(code="import_target_not_migrated", object=f"schema {schema}", message=found.message, remedy=remedy)
        )
    with connection.cursor() as cursor:
        problems = list(obstacles(cursor, schema, order.tenant.server))
        running = [problem for problem in problems if problem.code == "import_server_running"]
        if dry_run:
            problems = [problem for problem in problems if problem not in running]
        if problems:
            raise ImportRefused(*problems)
        return read_target(cursor, schema), running, replaced(cursor, schema)


def _copied(order: Order, scratch: Scratch, copier: str | None) -> str | None:
    """Copy the file as its owner, and give the copy to the reader. Returns its revision."""
    revision: str | None
    if copier == scratch.user:
        revision = _ask(order, scratch, "import-copy", str(order.source), str(scratch.copy))
        return revision
    # Root's file: nobody else may read it. Root writes where nobody else does.
    revision = _ask(order, scratch, "import-copy", str(order.source), str(scratch.hand_over), user=copier)
    scratch.take_over()
    return revision


def _ask(order: Order, scratch: Scratch, *words: str, given: Any = None, user: str | None = None) -> Any:
    return scratch.ask([*order.program, *words], given, user)


def _size(source: Path) -> int:
    log = Path(f"{source}-wal")
    return source.stat().st_size + (log.stat().st_size if log.exists() else 0)


def _check_free_space(folder: Path, needed: float, what: str) -> None:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        message = f"{folder} cannot be used: {error.strerror}."
        raise ImportRefused(
            Problem(code="import_unreadable", object=str(folder), message=message, remedy="Name another folder.")
        ) from error
    if free < needed:
        message = f"{folder} has {free:,} bytes free, and {what} needs about {needed:,.0f}."
        remedy = "Free space, or name a folder of another file system with --scratch."
        raise ImportRefused(Problem(code="import_no_space", object=str(folder), message=message, remedy=remedy))


def _check_data_directory(order: Order, needed: float) -> None:
    """Check the space of the server's file system, where the server is on this host and says where its data are."""
    import psycopg2

    if order.observer is None or order.observer.host not in ("", "127.0.0.1", "localhost", "::1"):
        return
    with contextlib.closing(connect(order.observer, order.database)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT current_setting('data_directory')")
        except psycopg2.Error:  # the role may not know
            return
        folder = Path(cursor.fetchone()[0])
    with contextlib.suppress(PermissionError):
        if folder.exists():
            _check_free_space(folder, needed, "what is loaded into the database")


def _check_revision(order: Order, revision: str | None, migrations: Mapping[str, Sequence[str]]) -> None:
    known = with_predecessors([revision], migrations) if revision and revision in migrations else set()
    where = str(order.source)
    if not known:
        message = (
            f"{where} is at the revision {revision or 'none'}, which the Prefect in {order.virtualenv} does not know."
        )
        remedy = (
            "Where a newer Prefect wrote the file, set prefect_version to its release, run site.yml and import again."
        )
        raise ImportRefused(Problem(code="import_newer", object=where, message=message, remedy=remedy))
    if _FIRST_OF_3 not in known:
        message = f"{where} is at the revision {revision}, which is of Prefect 2; only files of Prefect 3 are imported."
        remedy = "Upgrade the old server to Prefect 3 first, and start it once."
        raise ImportRefused(Problem(code="import_prefect_2", object=where, message=message, remedy=remedy))


def _upgrade(order: Order, scratch: Scratch) -> None:
    """Let the installed Prefect migrate the copy, without a server, which would delete events and register blocks."""
    address = f"sqlite+aiosqlite:///{scratch.copy}"
    environment = {
        "PREFECT_HOME": str(scratch.folder / "home"),
        "PREFECT_API_DATABASE_CONNECTION_URL": address,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": address,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    programs = os.path.join(order.virtualenv, "bin")
    command = [f"{programs}/python", "-I", f"{programs}/prefect", "server", "database", "upgrade", "--yes"]
    process = scratch.start(
        command, environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = process.communicate()[0].decode(errors="replace")
    if process.returncode:
        message = f"The installed Prefect cannot migrate the copy of {order.source}: {error_lines(said)}"
        remedy = (
            "Let the old server's own Prefect repair the file (`prefect server database upgrade`), and import again."
        )
        raise ImportRefused(
            Problem(code="import_upgrade_failed", object=str(order.source), message=message, remedy=remedy)
        )


def _examined(order: Order, scratch: Scratch, target: Target) -> Contents:
    keys = [asdict(foreign.key) for foreign in target.keys]
    given = {"keys": keys, "leave_out": order.leave_out_orphans}
    contents = Contents.from_dict(_ask(order, scratch, "import-examine", str(scratch.copy), given=given))
    differing = [
        table
        for table, columns in target.columns.items()
        if table not in NOT_IMPORTED and set(columns) != set(contents.columns.get(table, ()))
    ]
    if differing:
        message = (
            f"After its upgrade the copy of {order.source} and the schema {target.schema} differ in the columns of "
            f"{', '.join(differing)}."
        )
        remedy = "Compare the schema with the installed Prefect: pgprefect verify"
        raise ImportRefused(
            Problem(code="import_columns_differ", object=str(order.source), message=message, remedy=remedy)
        )
    return contents


def _orphans(order: Order, contents: Contents) -> Iterator[Problem]:
    for orphans in contents.orphans:
        refer = (
            f"{orphans.rows:,} rows of {orphans.table} refer to a {orphans.parent} that is not there ({orphans.column})"
        )
        fate = "Their reference is emptied" if orphans.emptied else "They are left out"
        said = f"{fate}." if order.leave_out_orphans else f"{fate} with --leave-out-orphans."
        message = f"{refer}, such as {', '.join(orphans.ids)}. PostgreSQL refuses such rows. {said}"
        remedy = "Import again with --leave-out-orphans, or mend the file."
        yield Problem(code="import_orphans", object=f"table {orphans.table}", message=message, remedy=remedy)


def _unfinished(contents: Contents) -> Iterator[Problem]:
    running = {state: count for state, count in contents.unfinished.items() if state != "SCHEDULED"}
    if running:
        listed = ", ".join(f"{count:,} {state}" for state, count in running.items())
        message = f"Runs of the file had not ended: {listed}. They do not go on here."
        yield Problem(
            code="import_unfinished_runs",
            object="flow runs",
            message=message,
            remedy="pgprefect health lists them.",
            severity=NOTICE,
        )
    if contents.schedules:
        message = f"{contents.schedules:,} active schedules of the file go on here as soon as the server is started."
        remedy = "Stop the old server before, or each run is scheduled twice."
        yield Problem(code="import_schedules", object="deployments", message=message, remedy=remedy, severity=NOTICE)


def _check_blocks(order: Order, scratch: Scratch) -> None:
    unreadable = scratch.ask([f"{order.virtualenv}/bin/python", "-I", "-c", _DECRYPT, str(scratch.copy)])
    if unreadable:
        message = (
            f"The key in {order.source} does not decrypt its blocks {', '.join(map(str, unreadable[:5]))} "
            f"({len(unreadable):,} in all): the old server had another one in PREFECT_SERVER_ENCRYPTION_KEY."
        )
        remedy = (
            'Write that key into the table configuration of a copy of the file, as value {"fernet_key": KEY} of the '
            "key ENCRYPTION_KEY, and import the copy."
        )
        raise ImportRefused(
            Problem(code="import_blocks_unreadable", object=str(order.source), message=message, remedy=remedy)
        )
