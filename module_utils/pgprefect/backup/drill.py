"""The restore drill: restore a set into a temporary cluster on this host, compare it with its manifest and use it.

Only a set that has passed is called verified.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from ..core.connection import Login, connect
from ..core.http import PAGE, ApiError, PrefectApi, is_ready
from ..core.prefect import server_environment
from ..core.problems import ERROR, Problem, format_problems
from ..core.process import Process, ProcessFailed, error_lines, libpq_environment
from ..core.sql import Statement
from ..schema.declaration import Declaration
from ..schema.plan import apply
from ..schema.verify import verify
from . import sets
from .contents import differences, refreshed
from .restore import in_order
from .session import contents, list_file
from .sets import APP, WORKFLOW, BackupError, Dump, Manifest

# The cluster is temporary, so it trades durability for speed.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "autovacuum": "off",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "max_parallel_maintenance_workers": "0",  # the restore itself has several processes
    "checkpoint_timeout": "1h",
}
_START_SECONDS = 120
_MOST_JOBS = 4  # the site needs processors meanwhile
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drill:
    """The result of a drill that a set has passed.

    ``servers`` maps each tenant whose Prefect server answered on the copy to the number of flows that it listed.
    ``refreshed`` are materialized views whose rows changed, because they had not been refreshed before the backup.
    """

    verified: str
    seconds: float
    rows: int
    servers: dict[str, int]
    refreshed: dict[str, list[int]] = field(default_factory=dict)


def prove(copy: Path, work: Path, declaration: Declaration, virtualenv: str | None = None) -> Drill:
    """Restore an unpacked set into a cluster in a folder, compare it, and run a Prefect server on it.

    With Prefect's virtualenv a server of each tenant starts on the copy. Raises BackupError, ConnectionFailed and
    Blocked.
    """
    began = time.monotonic()
    manifest = sets.read_manifest(copy)
    _log.info("Drill the set %s.", manifest.name)
    parts = [part for part in manifest.parts if part.schema]
    # The roles get no passwords, so that only this drill can log in, as a superuser even of a copy of others' server.
    # What the application's rows start is not in the set.
    tenants = tuple(replace(tenant, relay="", database_events=()) for tenant in declaration.tenants)
    copied = replace(declaration, passwords={}, administrator="", tenants=tenants)
    servers: dict[str, int] = {}
    programs = _programs(manifest.server_version // 10000)
    try:
        login = _start(programs, work)
        _fill(
            programs,
            login,
            copied,
            manifest,
            [(part, copy / _unpacked(part)) for part in {part.file: part for part in in_order(parts)}.values()],
        )
        views = _compare(login, copied, manifest, parts)
        for part in parts:
            if part.kind == WORKFLOW and virtualenv and os.path.exists(f"{virtualenv}/bin/prefect"):
                servers[str(part.tenant)] = _serve(login, copied, part, virtualenv)
    finally:
        _stop(programs, work)
    return Drill(
        verified=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
        rows=sum(sum(part.rows.values()) for part in parts),
        servers=servers,
        refreshed=views,
    )


def mark(path: Path, passed: Drill) -> None:
    """Mark a set as verified."""
    sets.mark_verified(path, asdict(passed))
    _log.info("The set %s is verified after %.1f s: %s rows.", path.name, passed.seconds, f"{passed.rows:,}")


def _start(programs: str, folder: Path) -> Login:
    """Create and start a cluster in the folder, and return its administrator's login."""
    began = time.monotonic()
    data, port, password = folder / "data", _free_port(), secrets.token_urlsafe(24)
    (folder / "password").write_text(password)
    _run([f"{programs}/initdb", f"--pgdata={data}", "--username=postgres", f"--pwfile={folder / 'password'}",
          "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])  # fmt: skip
    settings = {**_SETTINGS, "port": str(port), "unix_socket_directories": ""}
    with open(data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    log = f"--log={folder / 'log'}"
    _run([f"{programs}/pg_ctl", "start", "--wait", f"--timeout={_START_SECONDS}", f"--pgdata={data}", log])
    _log.info("Started a cluster of %s in %s, port %d, in %.1f s.", programs, data, port, time.monotonic() - began)
    return Login("127.0.0.1", port, "postgres", password, ssl_mode="disable")


def _programs(version: int) -> str:
    """Return the folder with the programs of a PostgreSQL server, which Debian keeps off the path.

    Those of the major version, or the newest where the host lacks that.
    """
    found = {path.split("/")[4]: os.path.dirname(path) for path in glob.glob("/usr/lib/postgresql/*/bin/initdb")}
    if not found:
        raise failed("this host has no PostgreSQL server (/usr/lib/postgresql/*/bin/initdb)")
    return found.get(str(version)) or found[max(found, key=float)]


def _stop(programs: str, folder: Path) -> None:
    if (folder / "data/postmaster.pid").exists():
        with contextlib.suppress(BackupError):  # it may have stopped already
            _run([f"{programs}/pg_ctl", "stop", "--mode=immediate", f"--pgdata={folder / 'data'}"])


def _run(command: Sequence[str]) -> None:
    try:
        # The server that pg_ctl starts would hold a pipe open, so nothing reads its output.
        Process([command]).wait()
    except ProcessFailed as error:
        raise failed(str(error)) from error


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def unpack(path: Path, folder: Path) -> None:
    """Read all of a set, and write its dumps and its manifest into a folder of its name in another folder.

    Several processes cannot read from a pipe. Raises BackupError.
    """
    began = time.monotonic()
    manifest = sets.read_manifest(path)
    folder = folder / path.name
    folder.mkdir()
    for part in manifest.files:
        if part.schema:
            sets.check_part(path, part, partial(sets.unpack, target=folder / _unpacked(part)))
        else:
            sets.check_part(path, part, sets.read_back)
    shutil.copyfile(path / sets.MANIFEST, folder / sets.MANIFEST)
    _log.info("Unpacked %s bytes of dumps in %.1f s.", f"{manifest.bytes:,}", time.monotonic() - began)


def _unpacked(part: Dump) -> str:
    return part.file.removesuffix(".zst")


def _prepare(login: Login, declaration: Declaration, manifest: Manifest) -> None:
    """Make the database as declared, with the roles and extensions of the set, and its schemas empty."""
    apply(login, declaration)
    parts = [part for part in manifest.parts if part.schema]
    with contextlib.closing(connect(login, declaration.database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles")
        present = {name for (name,) in cursor.fetchall()}
        needed = {
            role for part in parts for role in (*part.roles, part.owner, *(row[-1] for row in part.owners)) if role
        }
        for role in sorted(needed - present):
            Statement("CREATE ROLE {} NOLOGIN", (role,)).execute(cursor)
        for part in parts:  # the dump has its own of what ``apply`` made
            schema = str(part.schema)
            owner = declaration.owners.get(schema) or part.owner or login.user
            Statement("DROP SCHEMA IF EXISTS {} CASCADE", (schema,)).execute(cursor)
            Statement("CREATE SCHEMA {} AUTHORIZATION {}", (schema, owner)).execute(cursor)
        cursor.execute("SELECT extname FROM pg_extension")
        installed = {name for (name,) in cursor.fetchall()}
        for name, schema in manifest.extensions.items():
            if name not in installed and schema.startswith("pg_"):  # the extension itself says where
                Statement("CREATE EXTENSION {}", (name,)).execute(cursor)
            elif name not in installed:
                Statement("CREATE SCHEMA IF NOT EXISTS {}", (schema,)).execute(cursor)
                Statement("CREATE EXTENSION {} SCHEMA {}", (name, schema)).execute(cursor)
        connection.commit()


def _fill(
    programs: str, login: Login, declaration: Declaration, manifest: Manifest, dumps: Sequence[tuple[Dump, Path]]
) -> None:
    """Restore the dumps with several processes each, which cannot be one transaction. Raises BackupError."""
    import psycopg2

    began = time.monotonic()
    try:
        _prepare(login, declaration, manifest)
    except psycopg2.Error as error:
        raise failed(f"the copy cannot be prepared: {error_lines(str(error))}") from error
    environment = libpq_environment(login, declaration.database)
    jobs, database = f"--jobs={min(os.cpu_count() or 1, _MOST_JOBS)}", f"--dbname={declaration.database}"
    running: list[Process] = []
    of_application: list[Process] = []
    with contextlib.ExitStack() as files:
        try:
            for part, dump in dumps:
                entries = files.enter_context(list_file(contents(dump)))
                if part.kind == APP:
                    workflows = [part for part in manifest.parts if part.kind == WORKFLOW]
                    _await_tables(login, declaration.database, workflows, running)
                    for other in of_application:  # what it has may refer to them
                        other.wait()
                options = [database, jobs, "--exit-on-error", f"--use-list={entries}"]
                _log.info("Restore %s.", part.file)
                running.append(Process([[f"{programs}/pg_restore", *options, str(dump)]], environment))
                of_application += running[-1:] if part.kind == APP else []
            for process in running:
                process.wait()
        except ProcessFailed as error:
            raise failed(f"the set cannot be restored: {error}") from error
        finally:
            for process in running:
                process.kill()
    apply(login, declaration)
    _log.info("Restored %d dumps in %.1f s.", len(dumps), time.monotonic() - began)


def _await_tables(login: Login, database: str, parts: Sequence[Dump], restores: Sequence[Process]) -> None:
    """Wait until the running restores have created their tables, because views of the next dump may use them."""
    missing = {(part.schema, table) for part in parts for table in part.rows}
    # This reads the catalog alone, because the tables are locked while they are filled.
    question = "SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
    with contextlib.closing(connect(login, database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while missing and not all(restore.has_ended for restore in restores):
            time.sleep(0.05)
            cursor.execute(question)
            missing -= set(cursor.fetchall())


def _compare(login: Login, declaration: Declaration, manifest: Manifest, parts: Sequence[Dump]) -> dict[str, list[int]]:
    """Compare the copy with the manifest, and where it has all schemas, with the declaration. Raises BackupError.

    Returns the materialized views that had not been refreshed, with their rows in the set and in the copy.
    """
    views = {}
    with contextlib.closing(connect(login, declaration.database)) as connection:
        for part in parts:
            for difference in differences(connection, part):
                raise failed(f"in the copy {difference}")
            views.update({f"{part.schema}.{name}": counts for name, counts in refreshed(connection, part).items()})
            _log.info("The schema %s has the %s rows of the manifest.", part.schema, f"{sum(part.rows.values()):,}")
    if not set(declaration.owners) <= {part.schema for part in parts}:
        return views  # the schemas that are not in the set would be reported as missing
    errors = [problem for problem in verify(login, declaration).problems if problem.severity == ERROR]
    if errors:
        raise failed(f"the copy of {manifest.name} is not as declared: {format_problems(errors)}")
    return views


def _serve(login: Login, declaration: Declaration, part: Dump, virtualenv: str) -> int:
    """Start a Prefect server on the copy, let it list its flows, and return their number. Raises BackupError."""
    port, key, began = _free_port(), secrets.token_urlsafe(24), time.monotonic()
    path = (str(part.schema), declaration.extensions_schema)
    url = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [f"{virtualenv}/bin/prefect", "server", "start", "--no-services", "--host=127.0.0.1", f"--port={port}"],
            cwd=home,
            env={
                **server_environment(login, declaration.database, path, home),
                "PATH": "/usr/bin:/bin",
                "PREFECT_API_URL": url,
                "PREFECT_SERVER_API_AUTH_STRING": f"drill:{key}",
                "PREFECT_API_AUTH_STRING": f"drill:{key}",
                "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3650D",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not is_ready(f"{url}/ready"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise failed(f"Prefect's server did not start on the copy: {_without_banner(log.read())}")
                time.sleep(0.2)
            listed = _list_flows(url, f"drill:{key}")
        finally:
            process.terminate()
            process.wait()
    flows = part.rows.get("flow", 0)
    if listed != min(flows, PAGE):
        raise failed(f"Prefect's server lists {listed} flows of the copy, the manifest has {flows}")
    _log.info("Prefect of %s listed %d flows after %.1f s.", part.tenant, listed, time.monotonic() - began)
    return listed


_BANNER = re.compile(
    r"^[\s_/\\|.'-]*$|Configure Prefect|Check out the dashboard|View the API reference|prefect config set"
)


def _without_banner(log: str) -> str:
    """Return the first error of a server's log with its last lines, without the drawing that it begins with."""
    lines = [line.strip() for line in log.splitlines() if not _BANNER.search(line)]
    first = next((line for line in lines if re.search(r"(Error|Exception|FATAL|CRITICAL|ERROR)\b", line)), None)
    end = [line for line in lines[-3:] if line != first]
    return " ".join([first, *end] if first else lines[-10:]) or "it says nothing"


def _list_flows(url: str, auth_string: str) -> int:
    """Return the number of flows on the first page that the server lists. Raises BackupError."""
    try:
        return len(PrefectApi(url, auth_string).call("POST", "/flows/filter", {"limit": PAGE}))
    except ApiError as error:
        raise failed(f"Prefect's server on the copy does not list its flows: {str(error).rstrip('.')}") from error


def failed(reason: str) -> BackupError:
    """Return the error of a drill that failed, for a reason without a full stop."""
    message = f"The restore drill failed, and the set is not verified: {reason}."
    remedy = "Fix the cause, or make another set (pgprefect backup); then: pgprefect drill"
    return BackupError(Problem("drill_failed", "restore drill", message, remedy))
