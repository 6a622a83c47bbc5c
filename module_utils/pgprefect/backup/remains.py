"""What killed backups, restores and drills left behind: named until the next job removes it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..core.connection import Login
from ..core.problems import WARNING, Problem
from . import sandbox, sets, unfinished
from .create import clear_partial, directory_lock
from .sets import BackupError


def find_remains(home: Path, drill_directory: Path) -> list[Problem]:
    """Return a problem for each kind of remains; none for what is still running, or cannot be seen by this user."""
    found = []
    killed = unfinished.killed_restore(home)
    if killed:
        found.append(killed)
    left: list[Path] = []
    with contextlib.suppress(BackupError):
        left += sandbox.left_over(drill_directory) if drill_directory.is_dir() else []
    with contextlib.suppress(BackupError), directory_lock(home):
        left += sets.left_over(home)
    if left:
        message = f"A killed backup or drill left {', '.join(map(str, left))} behind."
        remedy = "As root: pgprefect backup (or the next night's) removes it"
        found.append(Problem("backup_left_over", str(left[0].parent), message, remedy, WARNING))
    return found


def clear(login: Login, home: Path, drill_directory: Path) -> None:
    """Remove what killed jobs left behind, as root and the database's administrator; what is running stays.

    Raises ConnectionFailed where a restore was killed and the database cannot be reached.
    """
    with contextlib.suppress(BackupError), directory_lock(home):
        clear_partial(home)
    if drill_directory.is_dir():
        sandbox.clear(drill_directory)
    if unfinished.read(home):
        with contextlib.suppress(BackupError), unfinished.only_restore(home):
            unfinished.finish(login, home)
