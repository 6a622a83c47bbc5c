"""The restore drill: a set is put into a throwaway cluster on this host, compared with its manifest and used.

Only a set that has passed is called verified.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from ..core.connection import Login, connect
from ..core.http import is_ready
from ..core.problems import ERROR, Problem, format_problems
from ..core.process import Process, ProcessFailed, libpq_environment
from ..core.sql import Statement, quote
from ..schema.declaration import Declaration
from ..schema.plan import apply
from ..schema.revision import stored_revision
from ..schema.verify import verify
from . import sets as backup_set
from .create import large_objects_of, rows_of, structure_counts
from .restore import in_order, list_file, wanted
from .sets import APP, WORKFLOW, BackupError, Dump, Manifest

_FOLDERS = "drill-"
# Nothing here need survive a power cut: the set does.
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
_MOST_JOBS = 4  # the site itself goes on meanwhile
_PAGE = 200  # the most that Prefect lists at once


@dataclass(frozen=True)
class Drill:
    """What a set has passed. ``servers`` are the tenants whose Prefect server answered on it, with their flows."""

    verified: str
    seconds: float
    rows: int
    servers: dict[str, int]


def drill(path: Path, declaration: Declaration, virtualenv: str | None = None) -> Drill:
    """Restore a set beside its directory, compare it, let a Prefect server run on it, and mark it as verified.

    With Prefect's virtualenv a server of each tenant starts on the copy. It runs as a user that is not root, because
    PostgreSQL does. Raises BackupError, ConnectionFailed and Blocked; then the set is not marked.
    """
    began = time.monotonic()
    manifest = backup_set.read_manifest(path)
    parts = [part for part in manifest.parts if part.schema]
    # No role needs its password here: only this drill can reach the cluster.
    copied = replace(declaration, passwords={})
    servers: dict[str, int] = {}
    with _folder(path.parent) as folder, ThreadPoolExecutor(1) as meanwhile:
        unpacking = meanwhile.submit(_unpack, path, manifest, folder)
        login = _start(folder)
        _fill(login, copied, unpacking.result())
        _compare(login, copied, manifest, parts)
        for part in parts:
            if part.kind == WORKFLOW and virtualenv and os.path.exists(f"{virtualenv}/bin/prefect"):
                servers[str(part.tenant)] = _serve(
                    login, copied, str(part.schema), virtualenv, part.rows.get("flow", 0)
                )
    passed = Drill(
        verified=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
        rows=sum(sum(part.rows.values()) for part in parts),
        servers=servers,
    )
    backup_set.mark_verified(path, asdict(passed))
    return passed


@contextlib.contextmanager
def _folder(home: Path) -> Iterator[Path]:
    """A folder below the directory for a PostgreSQL and the unpacked dumps, which is gone afterwards."""
    for left_over in home.glob(f"{_FOLDERS}*"):
        _remove(left_over)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDERS, dir=home))
    try:
        yield folder
    finally:
        _remove(folder)


def _start(folder: Path) -> Login:
    """Make and start a PostgreSQL in the folder, and return its administrator."""
    programs, data, port, password = _programs(), folder / "data", _free_port(), secrets.token_urlsafe(24)
    (folder / "password").write_text(password)
    _run([f"{programs}/initdb", f"--pgdata={data}", "--username=postgres", f"--pwfile={folder / 'password'}",
          "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])  # fmt: skip
    settings = {**_SETTINGS, "port": str(port), "unix_socket_directories": ""}
    with open(data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    log = f"--log={folder / 'log'}"
    _run([f"{programs}/pg_ctl", "start", "--wait", f"--timeout={_START_SECONDS}", f"--pgdata={data}", log])
    return Login("127.0.0.1", port, "postgres", password, ssl_mode="disable")


def _programs() -> str:
    """Return the folder of the newest PostgreSQL server's programs, which Debian keeps off the path."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    if not found:
        raise _failed("this host has no PostgreSQL server (/usr/lib/postgresql/*/bin/initdb)")
    return os.path.dirname(max(found, key=lambda path: float(path.split("/")[4])))


def _remove(folder: Path) -> None:
    """End a drill's PostgreSQL, this one's or that of one that was killed, and remove all that it had."""
    if (folder / "data/postmaster.pid").exists():
        with contextlib.suppress(BackupError):  # it has died by itself
            _run([f"{_programs()}/pg_ctl", "stop", "--mode=immediate", f"--pgdata={folder / 'data'}"])
    deadline = time.monotonic() + _START_SECONDS
    # The initdb of a drill that was killed lives on for some seconds, and still writes.
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
    if folder.exists():
        shutil.rmtree(folder)


def _run(command: Sequence[str]) -> None:
    try:
        # pg_ctl's server would hold a pipe open, so nothing reads its output.
        Process([command]).wait()
    except ProcessFailed as error:
        raise _failed(str(error)) from error


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _unpack(path: Path, manifest: Manifest, folder: Path) -> list[tuple[Dump, Path]]:
    """Read all of the set, and return its dumps as files, because several processes can not read from a pipe."""
    dumps = []
    for part in in_order(manifest.parts):
        if part.schema:
            dump = folder / part.file.removesuffix(".zst")
            backup_set.check_part(path, part, partial(backup_set.unpack, target=dump))
            dumps.append((part, dump))
        else:
            backup_set.check_part(path, part, backup_set.read_back)
    return dumps


def _fill(login: Login, declaration: Declaration, dumps: Sequence[tuple[Dump, Path]]) -> None:
    """Restore the dumps by several processes each: here it need not be one transaction."""
    apply(login, declaration)
    with contextlib.closing(connect(login, declaration.database)) as connection, connection.cursor() as cursor:
        for schema in (str(part.schema) for part, _ in dumps):  # the dump has all that was just made in it
            Statement("DROP SCHEMA {} CASCADE", (schema,)).execute(cursor)
            Statement("CREATE SCHEMA {} AUTHORIZATION {}", (schema, declaration.owners[schema])).execute(cursor)
        connection.commit()
    environment = libpq_environment(login, declaration.database)
    jobs, database = f"--jobs={min(os.cpu_count() or 1, _MOST_JOBS)}", f"--dbname={declaration.database}"
    running: list[Process] = []
    with contextlib.ExitStack() as files:
        try:
            for part, dump in dumps:
                entries = files.enter_context(list_file(wanted(dump)))
                if part.kind == APP:
                    workflows = [part for part, _ in dumps if part.kind != APP]
                    _await_tables(login, declaration.database, workflows, running)
                command = ["pg_restore", database, jobs, "--exit-on-error", f"--use-list={entries}", str(dump)]
                running.append(Process([command], environment))
            for pipeline in running:
                pipeline.wait()
        except ProcessFailed as error:
            raise _failed(f"the set can not be restored: {error}") from error
        finally:
            for pipeline in running:
                pipeline.kill()
    apply(login, declaration)


def _await_tables(login: Login, database: str, parts: Sequence[Dump], restores: Sequence[Process]) -> None:
    """Wait until dumps that are being restored have made their tables, on which views of the next one may stand."""
    missing = {(part.schema, table) for part in parts for table in part.rows}
    # The catalog alone: the tables themselves are locked while they are filled.
    question = "SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
    with contextlib.closing(connect(login, database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while missing and not all(restore.has_ended for restore in restores):
            time.sleep(0.05)
            cursor.execute(question)
            missing -= set(cursor.fetchall())


def _compare(login: Login, declaration: Declaration, manifest: Manifest, parts: Sequence[Dump]) -> None:
    """Compare rows, indexes, constraints and the revision with the manifest, and verify all as the site itself is."""
    with contextlib.closing(connect(login, declaration.database)) as connection:
        for part in parts:
            schema = str(part.schema)
            rows = rows_of(connection, schema)
            for table in sorted(rows.keys() | part.rows.keys()):
                if rows.get(table) != part.rows.get(table):
                    count, promise = rows.get(table), part.rows.get(table)
                    raise _failed(f"{schema}.{table} has {count} rows in the copy, the manifest says {promise}")
            found = {
                "indexes, constraints": structure_counts(connection, schema),
                "revision": stored_revision(connection, schema) if part.revision else None,
                "large objects": large_objects_of(connection)[0] if part.kind == APP else None,
            }
            promised = {
                "indexes, constraints": (part.indexes, part.constraints),
                "revision": part.revision,
                "large objects": part.large_objects,
            }
            for what, value in found.items():
                if value != promised[what]:
                    raise _failed(f"{schema} has the {what} {value} in the copy, the manifest says {promised[what]}")
    if {part.schema for part in parts} != {declaration.app_schema, *(part.schema for part in declaration.tenants)}:
        return  # what is not in the set would be missing
    errors = [problem for problem in verify(login, declaration).problems if problem.severity == ERROR]
    if errors:
        raise _failed(f"the copy of {manifest.name} is not as declared: {format_problems(errors)}")


def _serve(login: Login, declaration: Declaration, schema: str, virtualenv: str, flows: int) -> int:
    """Start a Prefect server on the copy, ask whether it is ready and for its flows, and return their number."""
    port, key = _free_port(), secrets.token_urlsafe(24)
    url = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [f"{virtualenv}/bin/prefect", "server", "start", "--no-services", "--host=127.0.0.1", f"--port={port}"],
            cwd=home,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": home,
                "PREFECT_HOME": home,
                "PREFECT_API_URL": url,
                "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
                "PREFECT_SERVER_DATABASE_HOST": login.host,
                "PREFECT_SERVER_DATABASE_PORT": str(login.port),
                "PREFECT_SERVER_DATABASE_NAME": declaration.database,
                "PREFECT_SERVER_DATABASE_USER": login.user,
                "PREFECT_SERVER_DATABASE_PASSWORD": str(login.password),
                "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH": ", ".join(
                    map(quote, (schema, declaration.extensions_schema))
                ),
                "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
                "PREFECT_SERVER_API_AUTH_STRING": f"drill:{key}",
                "PREFECT_API_AUTH_STRING": f"drill:{key}",
                "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3650D",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not is_ready(f"{url}/ready"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise _failed(f"Prefect's server did not start on the copy: {log.read()[-2000:].strip()}")
                time.sleep(0.2)
            listed = _list_flows(port, key)
        finally:
            process.terminate()
            process.wait()
    if listed != min(flows, _PAGE):
        raise _failed(f"Prefect's server lists {listed} flows of the copy, the manifest has {flows}")
    return listed


def _list_flows(port: int, key: str) -> int:
    """Ask the server for its first page of flows, and return how many are on it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    token = base64.b64encode(f"drill:{key}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}
    with contextlib.closing(connection):
        connection.request("POST", "/api/flows/filter", json.dumps({"limit": _PAGE}), headers)
        answer = connection.getresponse()
        content = answer.read()
    if answer.status != http.client.OK:
        raise _failed(f"Prefect's server on the copy answered {answer.status} when asked for its flows")
    return len(json.loads(content))


def _failed(reason: str) -> BackupError:
    message = f"The restore drill failed, and the set is not verified: {reason}."
    remedy = "End the cause, or make another set (pgprefect backup); then: pgprefect drill."
    return BackupError(Problem("drill_failed", "restore drill", message, remedy))
