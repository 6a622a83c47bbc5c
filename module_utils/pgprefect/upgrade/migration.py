"""Migrations by Prefect's own program, watched: what it waits for, how far its indexes are, and what it left behind."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ..core.connection import Login, connect
from ..core.errors import ProblemError
from ..core.problems import Problem
from ..core.process import error_lines
from ..core.sql import Names, Statement
from ..schema.revision import stored_revision, stored_revisions
from ..schema.structure import known_structure

_PAUSE_SECONDS = 0.5
_END_SECONDS = 10
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Migration:
    """What is to be migrated, and how the program's sessions are known.

    ``lock_seconds`` is how long it may wait for others before it is given up.
    """

    login: Login
    database: str
    schema: str
    application: str
    lock_seconds: float = 30

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        tell: Tell,
        *,
        gate: Path | None = None,
        target: str | None = None,
    ) -> None:
        """Run Prefect's program to its end. Raises ProblemError where it fails or waits too long for a lock.

        It waits by itself while ``gate`` exists, and is not run where the schema is at the revision ``target`` already:
        the way back must not depend on a release that does not run here. What a killed one left goes first: its
        sessions, which PostgreSQL may still be working for, and indexes that it had begun.
        """
        with (
            contextlib.closing(connect(self.login, self.database)) as connection,
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        ):
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET ROLE NONE")  # the migrator is the owner otherwise, who may not end its sessions
            self._end_sessions(connection)
            for index in self._drop_unfinished(connection):
                tell(f"Dropped the unfinished index {index}, which a killed migration had left.")
            before = stored_revision(connection, self.schema)
            if target and target == before:
                tell(f"{self.schema} is at {target} already.")
                return
            process = subprocess.Popen(
                command, env=dict(environment), cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                while gate and gate.exists() and process.poll() is None:
                    time.sleep(_PAUSE_SECONDS / 10)
                started = time.monotonic()
                self._watch(process, connection, tell)
            finally:
                _end(process)
                self._end_sessions(connection)
            after = stored_revision(connection, self.schema)
            if process.returncode:
                output.seek(0)
                raise ProblemError(self._failure(process.returncode, output.read(), after))
            tell(f"Migrated {self.schema} from {before} to {after} in {time.monotonic() - started:.1f} s.")

    def _watch(self, process: subprocess.Popen[bytes], connection: Any, tell: Tell) -> None:
        """Tell how far it is until it ends. Raises ProblemError where it waits too long."""
        waiting_since, told = None, None
        while process.poll() is None:
            blockers = self._blockers(connection)
            waiting_since = (waiting_since or time.monotonic()) if blockers else None
            if waiting_since and time.monotonic() - waiting_since > self.lock_seconds:
                raise ProblemError(*(self._blocked(*blocker) for blocker in blockers))
            progress = self._progress(connection)
            if progress and progress != told:
                tell(progress)
            told = progress or told
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PAUSE_SECONDS)

    def _blockers(self, connection: Any) -> list[tuple[int, str, str]]:
        """Return the sessions for which the program waits, each with its name and its user."""
        with connection.cursor() as cursor:
            cursor.execute(
                """SELECT DISTINCT b.pid, coalesce(nullif(b.application_name, ''), 'without a name'), b.usename
                   FROM pg_catalog.pg_stat_activity a
                   CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(a.pid)) blocking (pid)
                   JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid
                   WHERE a.application_name = %s AND a.usename = session_user ORDER BY 1""",
                (self.application,),
            )
            return [(pid, name, str(user)) for pid, name, user in cursor.fetchall()]

    def _blocked(self, pid: int, name: str, user: str) -> Problem:
        return Problem(
            code="migration_blocked",
            object=f"session {pid}",
            message=f"The migration of {self.schema} waited {self.lock_seconds:g} s for the session {pid} ({name} of "
            f"{user}), and was given up.",
            remedy=f"End that session: SELECT pg_terminate_backend({pid}); Then migrate again.",
        )

    def _progress(self, connection: Any) -> str | None:
        """Return which index is being made, and how far it is."""
        with connection.cursor() as cursor:
            cursor.execute(
                """SELECT c.relname, i.relname, phase,
                          CASE WHEN blocks_total > 0 THEN 10 * (10 * blocks_done / blocks_total) END
                   FROM pg_catalog.pg_stat_progress_create_index p JOIN pg_catalog.pg_stat_activity a USING (pid)
                   LEFT JOIN pg_catalog.pg_class c ON c.oid = relid
                   LEFT JOIN pg_catalog.pg_class i ON i.oid = index_relid
                   WHERE application_name = %s AND usename = session_user""",
                (self.application,),
            )
            row = cursor.fetchone()
        if not row or not row[0]:  # it begins, or was just cancelled
            return None
        table, index, phase, share = row
        return f"Index {index or ''} of {table}: {phase}{'' if share is None else f', {share} %'}"

    def _end_sessions(self, connection: Any) -> None:
        """End what PostgreSQL still does for the program, and wait until it is gone."""
        deadline = time.monotonic() + _END_SECONDS
        with connection.cursor() as cursor:
            while time.monotonic() < deadline:
                cursor.execute(
                    """SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                       WHERE application_name = %s AND usename = session_user AND pid <> pg_backend_pid()""",
                    (self.application,),
                )
                if not cursor.fetchall():
                    return
                time.sleep(_PAUSE_SECONDS / 5)

    def _drop_unfinished(self, connection: Any) -> list[str]:
        """Drop what killed migrations left, and return the names."""
        unfinished = unfinished_indexes(connection, self.schema)
        with connection.cursor() as cursor:
            cursor.execute("RESET ROLE")
            for name in unfinished:
                Statement("DROP INDEX CONCURRENTLY {}", (Names(((self.schema, name),)),)).execute(cursor)
            cursor.execute("SET ROLE NONE")
        return unfinished

    def _failure(self, status: int, output: str, revision: str | None) -> Problem:
        return Problem(
            code="migration_failed",
            object=f"schema {self.schema}",
            message=f"Prefect's migration of {self.schema} ended with {status}, at the revision {revision}: "
            f"{error_lines(output)}",
            remedy="End the cause, and migrate again; what is done stays done.",
        )


def invalid_indexes(connection: Any, schema: str) -> list[str]:
    """Return the indexes of a schema whose creation was interrupted."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT c.relname FROM pg_catalog.pg_index JOIN pg_catalog.pg_class c ON c.oid = indexrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE nspname = %s AND NOT (indisvalid AND indisready) ORDER BY 1""",
            (schema,),
        )
        return [name for (name,) in cursor.fetchall()]


def unfinished_indexes(connection: Any, schema: str) -> list[str]:
    """Return the invalid indexes that the database's release does not have: a killed migration had begun them."""
    stored = stored_revisions(connection, schema)
    known = known_structure(stored[0]) if len(stored) == 1 else None
    names = {part.name for part in known or ()}
    return [name for name in invalid_indexes(connection, schema) if known is not None and name not in names]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        process.kill()
        process.wait()
