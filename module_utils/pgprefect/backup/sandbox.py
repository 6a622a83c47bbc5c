"""The restore drill in its sandbox: a unit whose user owns nothing else, sees one unpacked set, and has no network.

A restore runs what a set holds, such as functions of checks and indexes, with a superuser's rights in the temporary
cluster, and so with those of the operating system's user. The user of the backups could read every set, the keys of the
copies and the live database.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..core.errors import ProblemError
from ..core.lock import folder_lock
from ..core.problems import Problem, format_problems
from .drill import Drill, failed
from .sets import BackupError

UNIT = "prefect-drill.service"
USER = "prefect-drill"

# Below the drill's directory: what the user of the backups unpacks, and what the unit's user writes.
COPY = "copy"
CLUSTER = "cluster"
RESULT = "result.json"
_LOCK = ".lock"
_MOST_BYTES = 100_000  # of a result, which the set's own code may have written


def run(path: Path, directory: Path, owner: str, program: Sequence[str]) -> Drill:
    """Drill a set as root, by the unit, and mark it as verified; ``owner`` is the user of the backups.

    ``program`` is the command that starts pgprefect. Raises BackupError; then the set is not marked.
    """
    with _alone(directory):
        _clear(directory)
        try:
            _prepare(directory, owner)
            _as_owner([*program, "drill-unpack", str(path), str(directory / COPY)], owner)
            ended = subprocess.run(["systemctl", "start", UNIT], capture_output=True, text=True, check=False)
            passed = _result(directory / CLUSTER / RESULT, ended.stderr.strip())
            _as_owner([*program, "drill-mark", str(path)], owner, json.dumps(passed))
        finally:
            _clear(directory)
    return Drill(**passed)


def clear(directory: Path) -> None:
    """Remove what a killed drill left behind, unless one is running."""
    with contextlib.suppress(BackupError), _alone(directory):
        _clear(directory)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    def unwritable(error: OSError) -> BackupError:
        return failed(f"{directory / _LOCK} cannot be written ({error.strerror}): site.yml makes the folder")

    message = "Another restore drill is running."
    remedy = f"Wait until it has ended: systemctl status {UNIT}"
    taken = BackupError(Problem("drill_running", "restore drill", message, remedy))
    with folder_lock(directory, _LOCK, taken, unwritable):
        yield


def _clear(directory: Path) -> None:
    subprocess.run(["systemctl", "stop", UNIT], capture_output=True, check=False)
    for name in (COPY, CLUSTER):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory / name)  # it follows no link


def _prepare(directory: Path, owner: str) -> None:
    """Make both folders: the drill's user may read the one and write into the other."""
    account, drill = pwd.getpwnam(owner), pwd.getpwnam(USER)
    for name, user, mode in ((COPY, account, 0o2750), (CLUSTER, drill, 0o700)):
        folder = directory / name
        folder.mkdir(mode=0o700)
        os.chown(folder, user.pw_uid, drill.pw_gid)
        folder.chmod(mode)


def _as_owner(command: Sequence[str], owner: str, given: str = "") -> None:
    """Run a command as the user of the backups, whose files are read by nobody else. Raises BackupError."""
    account = pwd.getpwnam(owner)
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        umask=0o027,
    )
    if done.returncode:
        with contextlib.suppress(ValueError, TypeError):
            raise BackupError(Problem(**json.loads(done.stdout)))
        raise failed(done.stderr.strip().rstrip(".") or f"a process of {owner} ended with {done.returncode}")


def _result(path: Path, said: str) -> dict[str, Any]:
    """Read what the unit found. Raises BackupError where that is a problem, or where it wrote nothing sound."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as file:
            found = json.loads(file.read(_MOST_BYTES))
        if "problem" in found:
            raise BackupError(Problem(**{name: str(text) for name, text in found["problem"].items()}))
        known = Drill(**{column.name: found[column.name] for column in fields(Drill)})
        sound = (
            isinstance(known.verified, str)
            and isinstance(known.rows, int)
            and isinstance(known.seconds, (int, float))
            and all(isinstance(flows, int) for flows in known.servers.values())
            and all(isinstance(rows, int) for pair in known.refreshed.values() for rows in pair)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        hint = f"{said or type(error).__name__}; its journal: journalctl -u {UNIT}"
        raise failed(f"the unit {UNIT} ended without a result ({hint})") from error
    if not sound:
        raise failed(f"the unit {UNIT} wrote a result that cannot be: journalctl -u {UNIT}")
    return dict(found)


def prove_and_write(directory: Path, prove: Callable[[Path, Path], Drill]) -> int:
    """Let ``prove`` prove the copy, in the unit, and write what it found. Returns the unit's exit status."""
    found: dict[str, Any]
    try:
        (path,) = (directory / COPY).iterdir()
        found, status = asdict(prove(path, directory / CLUSTER)), 0
    except ProblemError as error:
        problem = error.problem if isinstance(error, BackupError) else failed(format_problems(error.problems)).problem
        found, status = {"problem": problem.as_dict()}, 1
    (directory / CLUSTER / RESULT).write_text(json.dumps(found), encoding="utf-8")
    return status
