"""archive_push.sh with a pgBackRest that says what a test wants."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.project import ROOT

PROGRAM = ROOT / "roles/pgbackrest/files/archive_push.sh"
# Timeline 6 ended in the segment 1B of the second 4 GiB, and 5 with a whole segment.
HISTORY = "5\t1/1A000000\tno recovery target specified\n\n6\t1/1B0000A0\tno recovery target specified\n"
DIFFERENT = 45


def push(folder: Path, segment: str, status: int, size: int = 16 * 1024**2) -> subprocess.CompletedProcess[str]:
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "pgbackrest"
    program.write_text(f'#!/bin/sh\necho "$*" >{folder}/asked; exit {status}\n')
    program.chmod(0o755)
    path = folder / "pg_wal" / segment
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return subprocess.run(
        [PROGRAM, "main", f"pg_wal/{segment}"],
        cwd=folder,
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data directory of a primary that is on timeline 7."""
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "pg_wal" / "00000006.history").write_text(HISTORY.splitlines()[0] + "\n")
    (tmp_path / "pg_wal" / "00000007.history").write_text(HISTORY)
    return tmp_path


@pytest.mark.parametrize("status", [0, 103])
def test_what_pgbackrest_says_counts(folder: Path, status: int) -> None:
    assert push(folder, "00000006000000010000001B", status).returncode == status
    assert (folder / "asked").read_text() == "--stanza=main archive-push pg_wal/00000006000000010000001B\n"


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        ("00000006000000010000001B", 0),
        ("00000006000000010000001C", 0),
        ("000000060000000200000000", 0),
        ("00000005000000010000001A", 0),
        # It is whole, so that each member has the same.
        ("00000006000000010000001A", DIFFERENT),
        ("0000000600000000000000FF", DIFFERENT),
        ("000000050000000100000019", DIFFERENT),
        # Another primary that is on the same timeline.
        ("00000007000000010000001B", DIFFERENT),
        # Of another branch of the history.
        ("00000004000000010000001B", DIFFERENT),
        ("00000006000000010000001B.partial", DIFFERENT),
        ("00000006.history", DIFFERENT),
        ("00000006000000010000001B.00000028.backup", DIFFERENT),
    ],
)
def test_another_version_of_it_is_in_the_archive(folder: Path, segment: str, expected: int) -> None:
    done = push(folder, segment, DIFFERENT)
    assert done.returncode == expected
    assert ("the archive keeps the version" in done.stderr) == (expected == 0)


def test_segments_of_another_size(folder: Path) -> None:
    """1/1B0000A0 is in the seventh of 64 MiB there."""
    size = 64 * 1024**2
    assert push(folder, "000000060000000100000006", DIFFERENT, size).returncode == 0
    assert push(folder, "000000060000000100000005", DIFFERENT, size).returncode == DIFFERENT


def test_a_cluster_that_had_one_timeline_only(tmp_path: Path) -> None:
    assert push(tmp_path, "000000010000000000000001", DIFFERENT).returncode == DIFFERENT
