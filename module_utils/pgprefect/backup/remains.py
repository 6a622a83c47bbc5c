"""Removal of what killed backups, restores and drills left behind. Health names it until then."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..core.connection import Login
from . import sandbox, unfinished
from .create import clear_partial, directory_lock
from .sets import BackupError


def clear(login: Login, home: Path, drill_directory: Path) -> None:
    """Remove what killed jobs left behind, as root and the database's administrator; what is running stays.

    Raises ConnectionFailed where a restore was killed and the database cannot be reached.
    """
    with contextlib.suppress(BackupError), directory_lock(home):
        clear_partial(home)
    if drill_directory.is_dir():
        sandbox.clear(drill_directory)
    if unfinished.is_left():
        with contextlib.suppress(BackupError), unfinished.only_restore():
            unfinished.finish(login)
