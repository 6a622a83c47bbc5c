"""What jobs that were killed left behind. The next job of any kind removes it; until then it takes room, or worse."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.jobs import RESTORES
from ..core.problems import NOTICE, WARNING, Problem


@dataclass(frozen=True)
class Place:
    """A folder in which a job works: what it calls things meanwhile, and the lock that it holds while it lives."""

    folder: str
    names: str  # a regular expression
    lock: str
    job: str
    command: str  # removes it


def places(backup_directory: str, drill_directory: str) -> list[Place]:
    """Return where backups, restores and drills work."""
    found = []
    if backup_directory:
        found = [
            Place(
                folder=backup_directory,
                names=r"\.(partial|removed)-.+",
                lock=".lock",
                job="backup",
                command="pgprefect backup",
            ),
            Place(
                folder=RESTORES, names=r"restore\.json(\.new)?", lock=".lock", job="restore", command="pgprefect backup"
            ),
        ]
    if drill_directory:
        found.append(
            Place(folder=drill_directory, names="copy|cluster", lock=".lock", job="drill", command="pgprefect drill")
        )
    return found


def leftovers(looked_at: Sequence[Place]) -> tuple[list[Problem], dict[str, Any]]:
    """Name what no living job works on."""
    problems, found = [], []
    for place in looked_at:
        try:
            names = [name for name in sorted(os.listdir(place.folder)) if re.fullmatch(place.names, name)]
            if not names or _is_held(os.path.join(place.folder, place.lock)):
                continue
        except FileNotFoundError:  # nothing has been made yet
            continue
        except OSError as error:
            message = f"{place.folder} cannot be read ({error.strerror}), so what a {place.job} left is not known."
            problems.append(Problem("not_visible", place.folder, message, "Ask as root on this host.", NOTICE))
            continue
        paths = [os.path.join(place.folder, name) for name in names]
        found += paths
        message = f"A {place.job} that was killed has left {', '.join(paths)}."
        remedy = f"The next job of any kind removes it; to do it now, as root on this host: {place.command}"
        problems.append(Problem("left_over", place.folder, message, remedy, WARNING))
    return problems, {"found": found}


def _is_held(lock: str) -> bool:
    """Return whether a process holds the lock, and so works there."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
