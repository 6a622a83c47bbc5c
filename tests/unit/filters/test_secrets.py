"""Check mode leaves no password on the controller."""

from __future__ import annotations

from pathlib import Path

from filter_plugins.secrets import secret_files


def test_check_mode_keeps_no_new_secret(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert secret_files(["old", "new"], str(tmp_path)) == [old, new]
    assert secret_files(["old", "new"], str(tmp_path), check_mode=True) == [old, "/dev/null"]
