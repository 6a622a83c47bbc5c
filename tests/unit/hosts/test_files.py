"""file_tree on real files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible import Result

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="its files belong to root")
Run = Callable[..., Result]


@pytest.fixture
def run(run_module: Run, tmp_path: Path) -> Run:
    def tree(files: dict[str, str], *, check: bool = False, **options: Any) -> Result:
        folder = {"path": str(tmp_path / "new/folder"), "files": files, **options}
        return run_module("file_tree", check=check, folders=[folder])

    return tree


def test_files_come_with_their_mode_and_a_second_run_changes_nothing(run: Run, tmp_path: Path) -> None:
    files = {"a.env": "A=1\n", "sub/b.csv": "x,y\n"}
    assert run(files, mode="0640", folder_mode="0750")["changed"]
    for name, text in files.items():
        path = tmp_path / "new/folder" / name
        assert path.read_text() == text
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "new/folder").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o755
    assert not run(files, mode="0640", folder_mode="0750")["changed"]


def test_a_wrong_mode_is_corrected(run: Run, tmp_path: Path) -> None:
    run({"a": "x\n"}, mode="0600")
    path = tmp_path / "new/folder/a"
    path.chmod(0o644)
    result = run({"a": "x\n"}, mode="0600")
    assert result["written"] == [str(path)]
    assert "mode 0644" in result["diff"][0]["before"] and "mode 0600" in result["diff"][0]["after"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_check_mode_says_the_same_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    would = run({"a": "x\n"}, check=True, group="no-such-group-yet")
    assert would["changed"] and would["written"] == [str(tmp_path / "new/folder/a")]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("check", [True, False])
def test_what_is_to_be_absent_goes(run_module: Run, tmp_path: Path, check: bool) -> None:
    file, link, never = tmp_path / "key", tmp_path / "link", tmp_path / "never"
    file.write_text("secret\n")
    link.symlink_to(never)
    absent = [str(path) for path in (file, link, never)]
    result = run_module("file_tree", check=check, absent=absent)
    assert (result["changed"], result["removed"]) == (True, absent[:2])
    assert "secret" not in str(result["diff"])
    assert (file.exists(), link.is_symlink()) == (check, check)
    assert run_module("file_tree", absent=absent)["changed"] == check


def test_only_removes_the_rest_but_not_what_python_compiled(run: Run, tmp_path: Path) -> None:
    run({"keep.py": "", "old.py": ""})
    cache = tmp_path / "new/folder/__pycache__/keep.pyc"
    cache.parent.mkdir()
    cache.write_bytes(b"\x00")
    assert run({"keep.py": ""})["removed"] == []
    assert run({"keep.py": ""}, only=True)["removed"] == [str(tmp_path / "new/folder/old.py")]
    assert cache.exists() and not (tmp_path / "new/folder/old.py").exists()


def test_the_diff_shows_the_change(run: Run) -> None:
    run({"a": "one\n"})
    (entry,) = run({"a": "two\n"})["diff"]
    assert (entry["before"], entry["after"]) == ("one\n", "two\n")


def test_a_file_outside_of_its_folder_is_refused(run: Run, tmp_path: Path) -> None:
    assert "outside of" in run({"../a": "x"})["msg"]
    assert not (tmp_path / "new").exists()


def test_an_exact_folder_is_made_and_corrected_without_files(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new/folder"
    options = {"owner": "daemon", "group": "daemon", "folder_mode": "0700", "folder_exact": True}
    assert run({}, check=True, **options)["written"] == [str(path)] and not path.exists()
    assert run({}, **options)["written"] == [str(path)]
    path.chmod(0o755)
    assert run({}, **options)["changed"]
    assert (stat.S_IMODE(path.stat().st_mode), path.owner()) == (0o700, "daemon")
    assert not run({}, **options)["changed"]


def test_a_file_that_a_program_refuses_is_not_written(run: Run, tmp_path: Path) -> None:
    run({"a": "one\n"})
    refused = run({"a": "two\n"}, validate="grep -q one %s")
    assert "grep refuses" in refused["msg"]
    assert [(path.name, path.read_text()) for path in (tmp_path / "new/folder").iterdir()] == [("a", "one\n")]
    assert run({"a": "one two\n"}, validate="grep -q one %s")["changed"]


def test_a_copy_of_the_former_file_stays(run: Run, tmp_path: Path) -> None:
    run({"a": "one\n"}, backup=True)
    run({"a": "two\n"}, backup=True)
    copy, file = sorted((tmp_path / "new/folder").iterdir(), reverse=True)
    assert (file.name, file.read_text()) == ("a", "two\n")
    assert copy.name.startswith("a.") and copy.name.endswith("~") and copy.read_text() == "one\n"


def test_a_group_that_does_not_exist_is_named(run: Run) -> None:
    assert "There is no group no-such-group" in run({"a": "x"}, group="no-such-group")["msg"]


def test_a_failure_in_the_middle_says_what_was_done(run_module: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    folders = [{"path": str(first), "files": {"a": "1\n"}}, {"path": str(second), "files": {"b": "2\n"}}]
    refused = run_module("file_tree", folders=[folders[0], {**folders[1], "validate": "false %s"}])
    assert refused["failed"] and refused["changed"] and refused["changes"] == [f"written {first / 'a'}"]
    assert f"Before that, 1 of the changes were made, the last one: written {first / 'a'}." in refused["msg"]
    assert (first / "a").exists() and not (second / "b").exists()

    # An error that nobody foresaw.
    broken = run_module("file_tree", folders=folders, absent=[str(first)])
    assert broken["failed"] and broken["changed"] and broken["changes"] == [f"written {second / 'b'}"]
    assert "IsADirectoryError" in broken["msg"]

    untouched = run_module("file_tree", folders=[{**folders[1], "files": {"c": ""}, "group": "no-such-group"}])
    assert untouched["failed"] and not untouched["changed"] and untouched["changes"] == []
