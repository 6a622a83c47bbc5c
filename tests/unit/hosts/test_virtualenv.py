"""prefect_virtualenv with the real uv and two small packages of its own."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.hosts.virtualenv import locked_packages

from tests.support.ansible import Result
from tests.support.project import ROOT

UV = shutil.which("uv", path=os.path.dirname(sys.executable)) or ""
if not UV:
    pytest.fail("uv is missing beside Python: box/controller installs it.")


def wheel(folder: Path, name: str, version: str) -> str:
    """Make a package with one module, and return its line for a lock."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}\n"
        for file, text in files.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]))
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Workshop:
    """A folder of packages, a lock, and the module."""

    def __init__(self, folder: Path, run_module: Callable[..., Result]) -> None:
        self.packages = folder / "packages"
        self.packages.mkdir()
        self.lock = folder / "a lock.txt"
        self.path = folder / "a virtualenv"
        self.run_module = run_module

    def write(self, *versions: tuple[str, str]) -> None:
        self.lock.write_text("".join(wheel(self.packages, *version) for version in versions))

    def run(self, check: bool = False, **change: Any) -> Result:
        arguments = {"path": str(self.path), "requirements": [str(self.lock)], "python": sys.executable, "uv": UV}
        return self.run_module("prefect_virtualenv", check=check, **{**arguments, **change})

    def versions(self) -> dict[str, str]:
        listed = subprocess.run(
            [UV, "pip", "freeze", "--python", self.path / "bin/python"], capture_output=True, text=True, check=True
        )
        return dict(line.split("==") for line in listed.stdout.splitlines())


@pytest.fixture
def workshop(tmp_path: Path, run_module: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr(os, "nice", lambda _: None)  # the process is that of the tests
    made = Workshop(tmp_path, run_module)
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(made.packages))
    return made


def test_make_keep_change(workshop: Workshop) -> None:
    workshop.write(("alpha", "1.0"), ("beta", "1.0"))
    planned = workshop.run(check=True)
    assert planned["changed"] and not workshop.path.exists()
    done = workshop.run()
    for result in (planned, done):
        assert sorted(result["installed"]) == ["alpha==1.0", "beta==1.0"] and result["removed"] == []
    assert done["diff"] == planned["diff"]
    assert f"virtualenv {workshop.path}" in done["diff"]["after"]
    assert workshop.versions() == {"alpha": "1.0", "beta": "1.0"}
    for check in (True, False):
        again = workshop.run(check=check)
        assert not again["changed"] and again["diff"] == {"before": "", "after": ""}

    site_packages = next(workshop.path.glob("lib/python3*/site-packages"))
    copied = site_packages / "pgprefect" / "__init__.py"
    copied.parent.mkdir()
    copied.touch()
    workshop.write(("alpha", "2.0"))
    planned = workshop.run(check=True)
    assert workshop.versions() == {"alpha": "1.0", "beta": "1.0"}
    done = workshop.run()
    for result in (planned, done):
        assert (result["installed"], sorted(result["removed"])) == (["alpha==2.0"], ["alpha==1.0", "beta==1.0"])
        assert result["diff"] == {"before": "alpha==1.0\nbeta==1.0\n", "after": "alpha==2.0\n"}
    assert workshop.versions() == {"alpha": "2.0"} and copied.exists()
    assert not workshop.run()["changed"]


def test_further_virtualenvs(workshop: Workshop, tmp_path: Path) -> None:
    """Each has its own locks, and what is made of several of them is one result."""
    workshop.write(("alpha", "1.0"))
    own, path = tmp_path / "own.txt", tmp_path / "libraries" / "own" / "1"
    own.write_text(wheel(workshop.packages, "beta", "1.0"))
    further = [{"path": str(path), "requirements": [str(workshop.lock), str(own)]}]
    planned = workshop.run(check=True, further=further)
    assert planned["changed"] and not path.exists()
    done = workshop.run(further=further)
    for result in (planned, done):
        assert sorted(result["installed"]) == ["alpha==1.0", "alpha==1.0", "beta==1.0"]
    assert done["diff"] == planned["diff"] and f"virtualenv {path}" in done["diff"]["after"]
    assert workshop.versions() == {"alpha": "1.0"} and list(path.glob("lib/python3*/site-packages/beta.py"))
    assert not workshop.run(further=further)["changed"]
    own.write_text(wheel(workshop.packages, "beta", "2.0"))
    changed = workshop.run(further=further)
    assert (changed["installed"], changed["removed"]) == (["beta==2.0"], ["beta==1.0"])
    own.write_text("not-there==1\n")
    failed = workshop.run(further=further, path=str(tmp_path / "new"))
    assert failed["failed"] and f"virtualenv {tmp_path}/new of" in failed["changes"][0]


def test_everybody_may_read_it_and_find_it_compiled(workshop: Workshop) -> None:
    workshop.write(("alpha", "1.0"))
    umask = os.umask(0o077)
    try:
        workshop.run()
    finally:
        os.umask(umask)
    module = next(workshop.path.glob("lib/python3*/site-packages/alpha.py"))
    assert module.stat().st_mode & 0o044 == 0o044 and workshop.path.stat().st_mode & 0o055 == 0o055
    assert list(module.parent.glob("__pycache__/alpha.*.pyc"))


def test_nobody_else_can_hold_its_lock(workshop: Workshop) -> None:
    """Whoever can open the file can keep a run waiting, also one that opened it before."""
    workshop.write(("first", "1.0"))
    workshop.run()
    lock = workshop.path / ".lock"
    assert lock.stat().st_mode & 0o777 == 0o600
    lock.chmod(0o666)
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not workshop.run()["changed"]
    assert lock.stat().st_mode & 0o777 == 0o600


def test_a_wrong_hash_is_refused(workshop: Workshop) -> None:
    workshop.write(("alpha", "1.0"))
    workshop.lock.write_text(workshop.lock.read_text()[:-9] + "00000000\n")
    result = workshop.run()
    assert result["failed"] and "hash" in result["msg"].lower()


def test_a_line_without_a_hash_is_refused(workshop: Workshop) -> None:
    workshop.write(("alpha", "1.0"))
    workshop.lock.write_text("alpha==1.0\n")
    assert workshop.run()["failed"]


def test_a_virtualenv_whose_python_is_gone_is_made_again(workshop: Workshop) -> None:
    workshop.write(("alpha", "1.0"))
    workshop.run()
    python = workshop.path / "bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert workshop.run(check=True)["installed"] == ["alpha==1.0"]
    assert workshop.run()["installed"] == ["alpha==1.0"]
    assert workshop.versions() == {"alpha": "1.0"}


def test_a_folder_that_is_no_virtualenv_stays(workshop: Workshop) -> None:
    workshop.write(("alpha", "1.0"))
    workshop.path.mkdir()
    (workshop.path / "precious").touch()
    result = workshop.run()
    assert result["failed"] and "no virtualenv" in result["msg"] and (workshop.path / "precious").exists()


@pytest.mark.parametrize("missing", ["uv", "lock"])
def test_before_uv_or_the_lock_is_there(workshop: Workshop, missing: str) -> None:
    workshop.write(("alpha", "1.0"))
    change: dict[str, Any] = {"uv": "/nowhere/uv"} if missing == "uv" else {"requirements": ["/nowhere/lock"]}
    planned = workshop.run(check=True, **change)
    assert planned["changed"] and not workshop.path.exists()
    assert planned["installed"] == (["alpha==1.0"] if missing == "uv" else [])
    assert workshop.run(**change)["failed"] and not workshop.path.exists()


def test_packages_of_a_lock() -> None:
    text = next((ROOT / "requirements").glob("prefect-*.txt")).read_text()
    packages = locked_packages(text)
    assert any(package.startswith("prefect==") for package in packages) and len(packages) > 80
    assert not any(package.startswith("pywin32==") for package in packages)  # it has a condition


def test_a_failure_in_the_middle_says_what_was_done(workshop: Workshop) -> None:
    workshop.write(("alpha", "1.0"))
    next(workshop.packages.glob("alpha-*")).unlink()
    result = workshop.run()
    assert result["failed"] and result["changed"] and workshop.path.exists()
    assert result["changes"] == [f"virtualenv {workshop.path} of {sys.executable}, without its packages"]


def test_a_missing_uv_is_installed_by_its_lock(workshop: Workshop, tmp_path: Path) -> None:
    workshop.write(("alpha", "1.0"))
    uv = tmp_path / "uv-1/bin/uv"
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("uv==0.1.0 --hash=sha256:" + 64 * "0" + "\n")
    failed = workshop.run(uv=str(uv), uv_lock=str(wrong))
    assert "uv cannot be installed from" in failed["msg"] and not uv.parents[1].exists(), failed
    (tmp_path / "uv-1").mkdir()  # what is left of one that was killed
    made = workshop.run(uv=str(uv), uv_lock=str(ROOT / "requirements/uv.txt"))
    assert made["changed"] and workshop.versions() == {"alpha": "1.0"}
    assert sorted(path.name for path in tmp_path.glob("uv-1*")) == ["uv-1"]
    assert not workshop.run(uv=str(uv), uv_lock=str(ROOT / "requirements/uv.txt"))["changed"]
