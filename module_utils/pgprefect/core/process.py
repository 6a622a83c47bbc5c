"""Running PostgreSQL's programs, several at once and in pipes, with an eye on every exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Optional, Union

from .connection import Login
from .errors import PgprefectError

_NICENESS = 10
_Stream = Optional[Union[int, IO[bytes]]]
_BROKEN_PIPE = -signal.SIGPIPE


class ProcessFailed(PgprefectError):
    """A program ended with another status than 0; the message has its name and the last that it said."""


def _environment() -> dict[str, str]:
    """What every program gets, and no secret of this process."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}


def libpq_environment(login: Login, database: str) -> dict[str, str]:
    """Return the environment in which PostgreSQL's programs log in: no password on a command line."""
    given = {
        "PGHOST": login.host,
        "PGPORT": str(login.port),
        "PGUSER": login.user,
        "PGDATABASE": database,
        "PGPASSWORD": login.password,
        "PGPASSFILE": login.passfile,
        "PGSSLMODE": login.ssl_mode,
        "PGSSLROOTCERT": login.ca_file,
        "PGCONNECT_TIMEOUT": "10",
    }
    return {**_environment(), **{name: value for name, value in given.items() if value}}


def decompression(name: str) -> list[list[str]]:
    """Return the commands that come before one which reads a file of this name."""
    return [["zstd", "--decompress", "--stdout", "--quiet"]] if name.endswith(".zst") else []


class Process:
    """Commands of which each reads what the one before writes. It runs from here until ``wait`` or ``kill``."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        environment: dict[str, str] | None = None,
        stdin: _Stream = subprocess.DEVNULL,
        stdout: _Stream = subprocess.DEVNULL,
        user: str | None = None,
    ) -> None:
        self._processes: list[tuple[str, subprocess.Popen[bytes], IO[bytes]]] = []
        source: Any = stdin
        for command in commands:
            # A pipe would fill up while nobody reads it.
            said = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed after the process has ended)
            last = len(self._processes) == len(commands) - 1
            try:
                process = subprocess.Popen(
                    command,
                    env=environment or _environment(),
                    stdin=source,
                    stdout=stdout if last else subprocess.PIPE,
                    stderr=said,
                    # Root becomes the user that PostgreSQL knows over the unix socket.
                    user=user if os.geteuid() == 0 else None,
                )
            except FileNotFoundError as error:
                self.kill()
                raise ProcessFailed(f"{command[0]} is not installed on this host.") from error
            if user is None:  # another user's process is not to be touched, even by root in a container
                # Somebody waits for what runs beside this, such as Prefect's API.
                niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, process.pid))
                os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
            if self._processes:
                source.close()  # so that the first one notices when the second one ends
            self._processes.append((command[0], process, said))
            source = process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        """What the first command reads, where it was asked for as a pipe."""
        stream = self._processes[0][1].stdin
        assert stream is not None
        return stream

    @property
    def has_ended(self) -> bool:
        return all(process.poll() is not None for _, process, _ in self._processes)

    def end(self) -> None:
        """Say that there is nothing more to read, and wait."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.wait()

    def wait(self) -> None:
        """Wait until all have ended. Raises ProcessFailed for the first that failed by itself.

        It is none's failure that the one behind it ended well before it had read everything.
        """
        statuses = [process.wait() for _, process, _ in self._processes]
        failed = []
        for (name, _, said), status in zip(self._processes, statuses):
            if status and not (status == _BROKEN_PIPE and statuses[-1] == 0):
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                reason = f"{name} ended with {status}: {' '.join(lines[-4:]) or 'no reason given'}"
                # One whose reader ended early is not the cause.
                failed.append((status == _BROKEN_PIPE, reason))
            said.close()
        if failed:
            raise ProcessFailed(min(failed)[1])

    def kill(self) -> None:
        """End them at once."""
        for _, process, _ in self._processes:
            process.kill()
        for _, process, said in self._processes:
            process.wait()
            said.close()
