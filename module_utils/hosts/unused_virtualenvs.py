"""Virtualenvs of a release whose packages were replaced: each set of packages has a virtualenv of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# What starts something from a virtualenv: units with their drop-ins, and commands.
_STARTERS = ("/etc/systemd/system", "/usr/local/bin")
_REMOVED = ".removed-"
_READ_BYTES = 1 << 16  # of each file there: what starts something from a virtualenv is a short text


def replaced_virtualenvs(paths: Sequence[str]) -> list[Path]:
    """Return the virtualenvs beside ``paths`` that have the same release and other packages.

    A virtualenv is called RELEASE+CHECKSUM, or was called RELEASE alone. What a killed removal left counts too.
    """
    used = {Path(path) for path in paths}
    found = {
        beside
        for path in used
        for beside in path.parent.glob("*")
        if _release(beside) == _release(path) and beside.is_dir() and not beside.is_symlink()
    }
    return sorted(found - used)


def users_of(virtualenvs: Iterable[Path], starters: Sequence[str] = _STARTERS) -> dict[Path, str]:
    """Return of virtualenvs that are in use by whom: a process that runs from it, or a file that would start one."""
    left, users = set(virtualenvs), {}
    for user, content in _contents(starters):
        for virtualenv in [one for one in left if os.fsencode(f"{one}/") in content]:
            users[virtualenv] = user
            left.remove(virtualenv)
        if not left:
            break
    return users


def remove(virtualenv: Path) -> None:
    """Remove a virtualenv, under another name: who needs its packages again must not find half of them."""
    aside = virtualenv.with_name(f"{_REMOVED}{virtualenv.name.removeprefix(_REMOVED)}")
    virtualenv.rename(aside)
    shutil.rmtree(aside)


def _release(virtualenv: Path) -> str:
    return virtualenv.name.removeprefix(_REMOVED).partition("+")[0]


def _contents(starters: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield what may name a virtualenv, with whose it is: files that start something, and running processes."""
    for folder in starters:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    yield str(path), file.read(_READ_BYTES)
    for process in Path("/proc").glob("[0-9]*"):
        # The libraries that it has loaded count besides its arguments, which a process can replace.
        for name in ("cmdline", "maps"):
            # It has ended; or this is a container, whose root may not look at each.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                yield f"process {process.name}", (process / name).read_bytes()
