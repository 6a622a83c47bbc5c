"""unused_virtualenvs on folders that look like virtualenvs, and processes that run from them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.hosts.unused_virtualenvs import users_of

from tests.support.ansible import Result

NOW = "3.9.1+bbbbbbbb"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of virtualenvs, with what else stands there."""
    for name in (NOW, "3.9.1", "3.9.1+aaaaaaaa", "3.8.8+aaaaaaaa", "3.9.10+aaaaaaaa", "uv-0.9.1", "requirements"):
        (tmp_path / name / "bin").mkdir(parents=True)
    (tmp_path / "3.9.1+linked").symlink_to(tmp_path / "requirements")
    (tmp_path / "3.9.1+file").touch()
    return tmp_path


def test_what_has_the_same_release_goes(folder: Path, run_module: Callable[..., Result]) -> None:
    other = folder / "libraries" / "3.8.8+cccccccc"
    (folder / "libraries" / "3.8.8").mkdir(parents=True)
    paths = [str(folder / NOW), str(other)]
    replaced = [str(folder / name) for name in ("3.9.1", "3.9.1+aaaaaaaa", "libraries/3.8.8")]
    before = sorted(path.name for path in folder.iterdir())
    planned = run_module("unused_virtualenvs", check=True, paths=paths)
    assert sorted(path.name for path in folder.iterdir()) == before
    done = run_module("unused_virtualenvs", paths=paths)
    for result in (planned, done):
        assert result["changed"] and result["removed"] == replaced and result["kept"] == {}
        assert result["diff"] == {"before": "".join(f"virtualenv {path}\n" for path in replaced), "after": ""}
    left = {
        "3.9.1+linked",
        "3.9.1+file",
        NOW,
        "3.8.8+aaaaaaaa",
        "3.9.10+aaaaaaaa",
        "uv-0.9.1",
        "requirements",
        "libraries",
    }
    assert {path.name for path in folder.iterdir()} == left
    assert not run_module("unused_virtualenvs", paths=paths)["changed"]


def test_what_a_process_runs_from_stays(folder: Path, run_module: Callable[..., Result]) -> None:
    former = folder / "3.9.1+aaaaaaaa"
    program = shutil.copy("/bin/sleep", former / "bin" / "python")
    with subprocess.Popen([program, "60"]) as process:
        # As one whose arguments were replaced: what it has loaded says it.
        with subprocess.Popen(["renamed", "60"], executable=shutil.copy(program, folder / "3.9.1" / "bin")) as renamed:
            found = run_module("unused_virtualenvs", paths=[str(folder / NOW)])
            assert not found["changed"]
            assert found["kept"] == {
                str(former): f"process {process.pid}",
                str(folder / "3.9.1"): f"process {renamed.pid}",
            }
            renamed.kill()
        process.kill()
    assert run_module("unused_virtualenvs", paths=[str(folder / NOW)])["changed"] and not former.exists()


def test_a_removal_that_was_killed_is_ended(
    folder: Path, run_module: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(_path: Path) -> None:
        raise Killed

    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(shutil, "rmtree", killed)
        run_module("unused_virtualenvs", paths=[str(folder / NOW)])
    # Nobody takes what is left for a virtualenv.
    left = [path.name for path in folder.glob("*3.9.1*") if path.is_dir() and not path.is_symlink()]
    assert sorted(left) == [".removed-3.9.1", "3.9.1+aaaaaaaa", NOW, "3.9.10+aaaaaaaa"]
    assert run_module("unused_virtualenvs", paths=[str(folder / NOW)])["changed"]
    assert not any((folder / name).exists() for name in (".removed-3.9.1", "3.9.1", "3.9.1+aaaaaaaa"))


def test_what_a_unit_would_start_is_in_use(folder: Path, tmp_path: Path) -> None:
    unit = tmp_path / "units" / "worker.service.d" / "tenant.conf"
    unit.parent.mkdir(parents=True)
    unit.write_text(f"[Service]\nExecStart={folder}/3.9.1+aaaaaaaa/bin/python -I\n")
    (unit.parent / "gone").symlink_to("/nonexistent")
    every = [folder / "3.9.1", folder / "3.9.1+aaaaaaaa"]
    assert users_of(every, [str(tmp_path / "units"), str(tmp_path / "nowhere")]) == {every[1]: str(unit)}
