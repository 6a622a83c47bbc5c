"""Virtualenvs whose packages are exactly those of sets of lock files."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.pgprefect.core.errors import PgprefectError

# Newer and older name of the same setting: the host's own certificate store.
_ENVIRONMENT = {
    "UV_SYSTEM_CERTS": "1",
    "UV_NATIVE_TLS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "UV_LINK_MODE": "copy",
    "VIRTUAL_ENV": "",
}


class VirtualenvError(PgprefectError):
    """The virtualenv cannot be created or changed; the message says why."""


@dataclass(frozen=True)
class Changes:
    """The packages that were, or would be, added and removed, as ``name==version``."""

    installed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Virtualenv:
    """A virtualenv of the given Python, and the lock files whose packages it must have."""

    path: str
    requirements: Sequence[str]
    python: str
    uv: str
    uv_lock: str = ""

    def update(self, cache: str, dry_run: bool = False, done: list[str] | None = None) -> dict[str, Any]:
        """Bring the virtualenv to its locks, and return the result as a module does; downloads are in ``cache``."""
        exists = self._works()
        if not dry_run and self.uv_lock and not os.path.exists(self.uv):
            self._install_uv(done)
        missing = [name for name in (self.uv, *self.requirements) if not os.path.exists(name)]
        if missing and not dry_run:
            raise VirtualenvError(f"Not on this host: {', '.join(missing)}. Install or copy it before this task.")
        if missing:
            changes = Changes(installed=self._locked())
        elif exists and self._is_current(cache):
            changes = Changes()
        else:
            changes = changed_packages(self._plan(exists, cache) if dry_run else self._make(exists, cache, done))
        before = "".join(f"{name}\n" for name in sorted(changes.removed))
        after = "".join(f"{name}\n" for name in sorted(changes.installed))
        if not exists:
            after = f"virtualenv {self.path} of {self.python}\n{after}"
        return {
            "changed": bool(before or after or missing),
            "installed": changes.installed,
            "removed": changes.removed,
            "diff": {"before": before, "after": after},
        }

    def _install_uv(self, done: list[str] | None) -> None:
        """Install uv, whole or not at all, by the wheel of pip that Debian's python3-venv brings.

        uv is one executable and needs no virtualenv.
        """
        wheels = glob.glob("/usr/share/python-wheels/pip-*.whl")
        if not wheels:
            raise VirtualenvError("There is no /usr/share/python-wheels/pip-*.whl: install python3-venv.")
        folder = os.path.dirname(os.path.dirname(self.uv))
        unfinished = f"{folder}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--quiet", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action", "ignore"]
        lock = ["--require-hashes", "--requirement", self.uv_lock, "--target", unfinished]
        run = _run(
            [self.python, os.path.join(wheels[0], "pip"), "install", *options, *lock],
            {"PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"},
        )
        if run.returncode:
            raise VirtualenvError(f"uv cannot be installed from {self.uv_lock}: {run.stdout.strip()}")
        shutil.rmtree(folder, ignore_errors=True)  # one without the program
        os.rename(unfinished, folder)
        if done is not None:
            done.append(f"uv in {folder}")

    @property
    def _own_python(self) -> str:
        return os.path.join(self.path, "bin", "python")

    def _works(self) -> bool:
        """Return whether the virtualenv and its Python exist: an upgrade of the system may have removed the Python."""
        if not os.path.exists(os.path.join(self.path, "pyvenv.cfg")):
            if os.path.isdir(self.path) and os.listdir(self.path):
                raise VirtualenvError(
                    f"{self.path} is not empty and no virtualenv. Name another path, or remove the folder."
                )
            return False
        return os.access(self._own_python, os.X_OK) and _run([self._own_python, "-I", "-c", ""]).returncode == 0

    def _is_current(self, cache: str) -> bool:
        run = self._sync(self._own_python, cache, "--dry-run", "--offline")
        return run.returncode == 0 and changed_packages(run.stdout) == Changes()

    def _plan(self, exists: bool, cache: str) -> str:
        """Return what uv says it would do; a missing virtualenv is tried as an empty one."""
        if exists:
            return _checked(self._sync(self._own_python, cache, "--dry-run"))
        trial = tempfile.mkdtemp(dir=cache)
        _checked(self._uv(cache, "venv", "--no-project", "--python", self.python, trial))
        return _checked(self._sync(os.path.join(trial, "bin", "python"), cache, "--dry-run"))

    def _make(self, exists: bool, cache: str, done: list[str] | None) -> str:
        """Create or change the virtualenv and return what uv says it did."""
        if not exists:
            shutil.rmtree(self.path, ignore_errors=True)
            _checked(self._uv(cache, "venv", "--no-project", "--python", self.python, self.path))
            if done is not None:
                done.append(f"virtualenv {self.path} of {self.python}, without its packages")
        output = _checked(self._sync(self._own_python, cache))
        # Its users may not write into it, so without this every start would compile the sources again. Packages' own
        # tests, a fifth of all, are never imported. A source of another Python that some package ships is no failure.
        library = glob.glob(os.path.join(self.path, "lib", "python3*", "site-packages"))
        _run([self._own_python, "-I", "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", *library])
        return output

    def _sync(self, python: str, cache: str, *options: str) -> subprocess.CompletedProcess[str]:
        self._guard_lock()
        return self._uv(cache, "pip", "sync", "--require-hashes", "--python", python, *options, *self.requirements)

    def _guard_lock(self) -> None:
        """Make the file by which uv locks a virtualenv root's alone: who can open it can keep every run waiting."""
        lock = os.path.join(self.path, ".lock")
        if not os.path.isdir(self.path):
            return
        with contextlib.suppress(FileNotFoundError):
            if os.stat(lock).st_mode & 0o077:
                os.unlink(lock)  # somebody may have it open already
        os.close(os.open(lock, os.O_CREAT | os.O_RDWR, 0o600))

    def _uv(self, cache: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run([self.uv, *arguments], {**_ENVIRONMENT, "UV_CACHE_DIR": cache})

    def _locked(self) -> list[str]:
        """Return the packages of the locks that exist, for the time before uv can be asked."""
        packages: list[str] = []
        for name in self.requirements:
            if os.path.exists(name):
                with open(name, encoding="utf-8") as lock:
                    packages += locked_packages(lock.read())
        return packages


def update_virtualenvs(
    virtualenvs: Sequence[Virtualenv], dry_run: bool = False, scratch: str | None = None, done: list[str] | None = None
) -> dict[str, Any]:
    """Bring virtualenvs to their locks and return the result as a module does; a dry run changes nothing.

    What several of them have is downloaded once. A dry run also works if uv, the locks or the virtualenvs are still
    missing. Temporary files are made in the folder ``scratch``. What was made before a failure is added to ``done``.
    Raises VirtualenvError.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        results = [virtualenv.update(cache, dry_run, done) for virtualenv in virtualenvs]
    return {
        "changed": any(result["changed"] for result in results),
        **{key: [name for result in results for name in result[key]] for key in ("installed", "removed")},
        "diff": {key: "".join(result["diff"][key] for result in results) for key in ("before", "after")},
    }


def changed_packages(output: str) -> Changes:
    """Parse uv's report: the packages that it adds (+, or ~ when it installs one again) and removes (-)."""
    lines = re.findall(r"^ ([-+~]) (\S+==\S+)", output, re.MULTILINE)
    return Changes([name for sign, name in lines if sign in "+~"], [name for sign, name in lines if sign == "-"])


def locked_packages(text: str) -> list[str]:
    """Parse a lock: the packages without a condition."""
    return re.findall(r"^([A-Za-z0-9][\w.-]*==[^\s;\\]+)(?!\s*;)(?=\s)", text, re.MULTILINE)


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in /: uv reads settings from the folder in which it runs, and that may be another user's.

    Returns its output with what it printed as errors.
    """
    try:
        return subprocess.run(
            command,
            cwd="/",
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        raise VirtualenvError(f"{command[0]} cannot be run: {error.strerror}.") from error


def _checked(run: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a program that succeeded."""
    if run.returncode:
        raise VirtualenvError(f"uv {' '.join(run.args[1:3])} failed: {run.stdout.strip()}")
    return run.stdout
