"""Running PostgreSQL's programs, in pipes and several at the same time, with a check of every exit status."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Optional, Union

from .connection import Login
from .errors import PgprefectError

_NICENESS = 10
# Without a login Debian's wrapper would take the version of the cluster on the default port, which may be somebody
# else's; with a host it takes the newest, which reads every dump.
_NEWEST = {"PGHOST": ""}
_Stream = Optional[Union[int, IO[bytes]]]
_BROKEN_PIPE = -signal.SIGPIPE


class ProcessFailed(PgprefectError):
    """A program failed. The message has its name, its exit status and the end of its error output."""


def _environment() -> dict[str, str]:
    """Return the environment of every program, which has no secrets of this process."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}


def libpq_environment(login: Login, database: str) -> dict[str, str]:
    """Return the environment with which PostgreSQL's programs log in, so that no password is on a command line."""
    given = {
        "PGHOST": login.host,
        "PGPORT": str(login.port),
        "PGUSER": login.user,
        "PGDATABASE": database,
        "PGPASSWORD": login.password,
        "PGPASSFILE": login.passfile,
        "PGTARGETSESSIONATTRS": login.session,
        "PGSSLMODE": login.ssl_mode,
        "PGSSLROOTCERT": login.ca_file,
        "PGCONNECT_TIMEOUT": "10",
    }
    return {**_environment(), **{name: value for name, value in given.items() if value}}


def decompression(name: str) -> list[list[str]]:
    """Return the commands to put before one that reads a file of this name: none, or a decompression."""
    return [["zstd", "--decompress", "--stdout", "--quiet"]] if name.endswith(".zst") else []


_ERROR = re.compile(r"\b(ERROR|FATAL|PANIC): |: error: ")
_MORE = re.compile(r"(DETAIL|HINT|CONTEXT|LINE \d+): ?")
_LAST_LINES, _MORE_LINES = 4, 3


def error_lines(text: str) -> str:
    """Return the first error that a program or PostgreSQL names, with its details; else the last lines."""
    lines = [line.strip() for line in text.strip().splitlines()]
    first = next((number for number, line in enumerate(lines) if _ERROR.search(line)), None)
    if first is None:
        return " ".join(lines[-_LAST_LINES:]) or "no reason given"
    more = [line for line in lines[first + 1 :] if _MORE.match(line)]
    return " ".join([lines[first], *more[:_MORE_LINES]])


class Process:
    """A running pipe of commands, each of which reads the output of the one before, until ``wait`` or ``kill``."""

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
            # Not a pipe, which would fill up while nobody reads it.
            errors = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed after the process has ended)
            last = len(self._processes) == len(commands) - 1
            try:
                process = subprocess.Popen(
                    command,
                    env=environment or {**_environment(), **_NEWEST},
                    stdin=source,
                    stdout=stdout if last else subprocess.PIPE,
                    stderr=errors,
                    # Root becomes the user that PostgreSQL knows over the unix socket.
                    user=user if os.geteuid() == 0 else None,
                )
            except OSError as error:
                errors.close()
                self.kill()
                missing = isinstance(error, FileNotFoundError)
                reason = "is not installed on this host" if missing else f"cannot be run: {error.strerror}"
                raise ProcessFailed(f"{command[0]} {reason}.") from error
            if user is None:  # root in a container may not change another user's process
                # Interactive work goes first, such as Prefect's API on the same host.
                niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, process.pid))
                with contextlib.suppress(PermissionError):  # a unit may forbid it, and has its own
                    os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
            if self._processes:
                source.close()  # so that the command before notices when this one ends
            self._processes.append((command[0], process, errors))
            source = process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        """The standard input of the first command, where it was requested as a pipe."""
        stream = self._processes[0][1].stdin
        assert stream is not None
        return stream

    @property
    def has_ended(self) -> bool:
        """True when all commands have ended."""
        return all(process.poll() is not None for _, process, _ in self._processes)

    def end(self) -> None:
        """Close the standard input and wait. Raises ProcessFailed."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.wait()

    def wait(self) -> None:
        """Wait until all commands have ended. Raises ProcessFailed for the first that failed by itself.

        A broken pipe is not a failure where the last command succeeded without reading everything.
        """
        statuses = [process.wait() for _, process, _ in self._processes]
        failed = []
        for (name, _, errors), status in zip(self._processes, statuses):
            if status and not (status == _BROKEN_PIPE and statuses[-1] == 0):
                errors.seek(0)
                reason = f"{name} ended with {status}: {error_lines(errors.read().decode(errors='replace'))}"
                # A command with a broken pipe is not the cause.
                failed.append((status == _BROKEN_PIPE, reason))
            errors.close()
        if failed:
            raise ProcessFailed(min(failed)[1])

    def kill(self) -> None:
        """Kill all commands."""
        for _, process, _ in self._processes:
            process.kill()
        for _, process, errors in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout, errors):
                if stream:
                    with contextlib.suppress(BrokenPipeError):  # of what was not read yet
                        stream.close()
