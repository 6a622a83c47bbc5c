"""What killed jobs left is named, and what living jobs work on is not."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from pgprefect.health.leftovers import leftovers, places


@pytest.mark.parametrize(
    ("name", "lock", "job"),
    [
        (".partial-20260101T000000Z", ".lock", "backup"),
        (".removed-20260101T000000Z", ".lock", "backup"),
    ],
)
def test_what_a_killed_job_left_in_the_folder_of_the_sets(tmp_path: Path, name: str, lock: str, job: str) -> None:
    (tmp_path / "20260101T000000Z").mkdir()
    looked_at = places(str(tmp_path), "")
    assert leftovers(looked_at) == ([], {"found": []})
    (tmp_path / name).mkdir()
    (problem,), details = leftovers(looked_at)
    assert (problem.code, problem.severity) == ("left_over", "warning")
    assert f"A {job} that was killed has left {tmp_path / name}." == problem.message
    assert details == {"found": [str(tmp_path / name)]}
    with open(tmp_path / lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert leftovers(looked_at)[0] == []
    assert len(leftovers(looked_at)[0]) == 1  # the lock's file stays, and nobody holds it


def test_what_a_killed_restore_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgprefect.health.leftovers.RESTORES", str(tmp_path / "restores"))
    looked_at = places(str(tmp_path), "")
    (tmp_path / "restores").mkdir()
    (tmp_path / "restores/restore.json").touch()
    (problem,), _ = leftovers(looked_at)
    assert "A restore that was killed" in problem.message
    with open(tmp_path / "restores/.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert leftovers(looked_at)[0] == []


def test_what_a_killed_drill_left(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / ".lock").touch()
    (problem,), _ = leftovers(places("", str(tmp_path)))
    assert str(tmp_path / "cluster") in problem.message and problem.remedy.endswith("pgprefect drill")


def test_a_folder_that_is_not_there_yet_or_can_not_be_read(tmp_path: Path) -> None:
    assert leftovers(places(str(tmp_path / "none"), str(tmp_path / "none"))) == ([], {"found": []})
    (tmp_path / "file").touch()
    (problem,) = leftovers(places("", str(tmp_path / "file")))[0]
    assert (problem.code, problem.severity) == ("not_visible", "notice")
