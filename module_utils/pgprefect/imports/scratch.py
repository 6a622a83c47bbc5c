"""A scratch folder of an import, and the processes that work in it as an unprivileged user."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..core.problems import Problem
from .problems import ImportRefused

PREFIX = "pgprefect-import-"
_TAIL = 2000


@dataclass(frozen=True)
class Scratch:
    """The folder in which ``user`` may write, or this process's own user where it is None."""

    folder: Path
    user: str | None = None

    @property
    def copy(self) -> Path:
        """The copy of the file."""
        return self.folder / "copy.db"

    @property
    def hand_over(self) -> Path:
        """The place where root writes what the user takes over: the user cannot write there."""
        return self.folder.parent / "copy.db"

    def take_over(self) -> None:
        """Give what root has written to the user."""
        account = pwd.getpwnam(str(self.user))
        os.chown(self.hand_over, account.pw_uid, account.pw_gid)
        self.hand_over.replace(self.copy)

    def start(
        self, command: Sequence[str], environment: dict[str, str] | None = None, user: str | None = None, **streams: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command as the user, without this process's environment."""
        name = user or self.user
        account = pwd.getpwnam(name) if name and os.geteuid() == 0 else None
        identity: dict[str, Any] = {}
        if account:
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        base = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.folder),
            "SQLITE_TMPDIR": str(self.folder),
        }
        return subprocess.Popen(
            command, env={**base, **(environment or {})}, cwd=self.folder, umask=0o077, **identity, **streams
        )

    def ask(self, command: Sequence[str], given: Any = None, user: str | None = None) -> Any:
        """Run a command of pgprefect with this on its standard input, as JSON, and return its answer.

        Raises ImportRefused with the problem that the command printed.
        """
        process = self.start(command, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = process.communicate(json.dumps(given).encode())
        with contextlib.suppress(ValueError, TypeError, KeyError):
            answer = _printable(json.loads(output))
            if "problem" in answer:
                raise ImportRefused(Problem(**{name: str(text) for name, text in answer["problem"].items()}))
            return answer["answer"]
        raise failed_process(command, process.returncode, errors.decode(errors="replace"))

    @contextlib.contextmanager
    def stream(self, command: Sequence[str], given: Any) -> Iterator[IO[bytes]]:
        """Give the output of a command that reads this as JSON. Raises ImportRefused where it fails."""
        with tempfile.TemporaryFile() as errors:
            process = self.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            assert process.stdin and process.stdout
            try:
                process.stdin.write(json.dumps(given).encode())
                process.stdin.close()
                yield process.stdout
            except Exception as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
                if process.returncode:  # this is the cause
                    errors.seek(0)
                    raise failed_process(command, process.returncode, errors.read().decode(errors="replace")) from error
                raise
            finally:
                process.kill()
                process.stdout.close()
                process.wait()


def _printable(value: Any) -> Any:
    """Return what a process has answered without control characters, which a terminal would obey."""
    if isinstance(value, str):
        return "".join(character if character.isprintable() else "?" for character in value)
    if isinstance(value, list):
        return [_printable(one) for one in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(one) for name, one in value.items()}
    return value


def failed_process(command: Sequence[str], status: int, said: str) -> ImportRefused:
    """Return the error of a process that ended without an answer."""
    reason = _printable(" ".join(said[-_TAIL:].split())) or f"it ended with {status}"
    message = f"A process that reads the copy failed: {reason}."
    return ImportRefused(
        Problem(
            code="import_process_failed",
            object=command[-1],
            message=message,
            remedy="Mend the cause, and import again.",
        )
    )


def owner_of(source: Path, service_user: str) -> tuple[str | None, str | None]:
    """Return the users who copy the file and who read the copy, where this process is root's; else None.

    Who owns the file copies it. The copy of root's file is read by the user of Prefect's services, who sees all that
    it will hold anyway. Raises ImportRefused where the file cannot be read.
    """
    try:
        owner = source.stat().st_uid
        if not source.is_file():
            raise OSError(0, "it is no file")
    except OSError as error:
        message = f"{source} cannot be read: {error.strerror}."
        raise ImportRefused(
            Problem(code="import_unreadable", object=str(source), message=message, remedy="Name the SQLite file.")
        ) from error
    if os.geteuid() != 0:
        return None, None
    try:
        name = pwd.getpwuid(owner).pw_name
        reader = name if owner else pwd.getpwnam(service_user).pw_name
    except KeyError as error:
        message = f"The user {owner or service_user} is not on this host, as whom {source} would be read."
        remedy = "Run this on the host of Prefect's server, on a file of root or of a user of this host."
        raise ImportRefused(
            Problem(code="import_no_user", object=str(source), message=message, remedy=remedy)
        ) from error
    return name, reader


@contextlib.contextmanager
def scratch_folder(parent: Path, user: str | None) -> Iterator[Scratch]:
    """Make a folder that only this user can read, and remove it afterwards; also those of killed imports."""
    _remove_left_over(parent)
    outer = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    descriptor = os.open(outer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        folder = outer / "work"
        folder.mkdir(mode=0o700)
        if user and os.geteuid() == 0:
            account = pwd.getpwnam(user)
            os.chown(folder, account.pw_uid, account.pw_gid)
            outer.chmod(0o711)
        yield Scratch(folder, user)
    finally:
        shutil.rmtree(outer, ignore_errors=True)
        os.close(descriptor)


def _remove_left_over(parent: Path) -> None:
    """Remove the folders of imports that were killed: this user's, and locked by no process."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)  # it follows no link
            finally:
                os.close(descriptor)
