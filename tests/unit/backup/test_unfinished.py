"""The record of a restore on a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest
from pgprefect.backup import unfinished
from pgprefect.backup.sets import BackupError
from pgprefect.core.connection import Login


def test_no_room_for_the_record_is_said_and_no_part_of_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgprefect.backup.unfinished.FOLDER", tmp_path)
    (tmp_path / "restore.json.new").symlink_to("/dev/full")
    assert unfinished.is_left()
    record = unfinished.Record(set="20261126T020000Z", database="mltrading", created=False, started="")
    with pytest.raises(BackupError, match="cannot be written: No space left on device") as failed:
        unfinished.Running(Login(), record).write()
    assert failed.value.problem.code == "backup_not_written"
    assert not unfinished.is_left()
