"""The lock of a folder, which root and the folder's owner share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pgprefect.core.errors import ProblemError
from pgprefect.core.lock import folder_lock
from pgprefect.core.problems import Problem

TAKEN = ProblemError(Problem("taken", "folder", "It is taken.", "Wait."))


def unwritable(error: OSError) -> ProblemError:
    return ProblemError(Problem("unwritable", "folder", f"It cannot be written: {error.strerror}.", "Free space."))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = (tmp_path, ".lock", TAKEN, unwritable)
    with folder_lock(*lock), pytest.raises(ProblemError, match="It is taken"), folder_lock(*lock):
        pass
    with folder_lock(*lock):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_what_root_makes_is_the_owners_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with folder_lock(tmp_path, ".lock", TAKEN, unwritable):
        found = (tmp_path / ".lock").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o600)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """The folder's owner could have root give another file away."""
    (tmp_path / "of root").touch()
    (tmp_path / ".lock").symlink_to(tmp_path / "of root")
    with pytest.raises(ProblemError, match="cannot be written"), folder_lock(tmp_path, ".lock", TAKEN, unwritable):
        pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(ProblemError, match="cannot be written"),
        folder_lock(tmp_path / "gone", ".lock", TAKEN, unwritable),
    ):
        pass
