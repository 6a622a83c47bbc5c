"""Text files of a host: written, corrected and removed in one call."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible.module_utils.pgprefect.core.errors import InputError

_LONG_LINES = 200  # a longer file is not shown in a diff


class FilesError(InputError):
    """The declared files cannot be; the message says why."""


@dataclass(frozen=True)
class Owner:
    """A user and a group, None if they do not exist yet."""

    user: int | None
    group: int | None

    @classmethod
    def find(cls, user: str, group: str, new: bool) -> Owner:
        """Look the two up by their names; with ``new`` they need not exist yet. Raises FilesError."""
        return cls(
            _number(f"user {user}", lambda: pwd.getpwnam(user).pw_uid, new),
            _number(f"group {group}", lambda: grp.getgrnam(group).gr_gid, new),
        )

    def take(self, path: str | int) -> None:
        """Make a file or a folder this owner's."""
        os.chown(path, self.user or 0, self.group or 0)


@dataclass(frozen=True)
class Folder:
    """A folder that is made for files; with ``exact`` it is made and corrected without any as well."""

    path: str
    mode: int
    owner: Owner
    exact: bool = False

    @property
    def rights(self) -> str:
        return _rights(self.mode, self.owner)

    def current(self) -> str:
        """Return the rights of the folder, or nothing if there is none."""
        return _rights_of(os.stat(self.path)) if os.path.isdir(self.path) else ""

    def make(self) -> None:
        """Create the folder if it is missing, and its parents with the defaults."""
        if not os.path.isdir(self.path):
            os.makedirs(self.path)
            self.correct()

    def correct(self) -> None:
        self.owner.take(self.path)
        os.chmod(self.path, self.mode)


@dataclass(frozen=True)
class File:
    """A file as it must be. A program may have to accept it first, and a copy of the former one may stay."""

    path: str
    content: bytes
    mode: int
    owner: Owner
    folder: Folder
    validate: str = ""
    backup: bool = False

    @property
    def rights(self) -> str:
        return _rights(self.mode, self.owner)

    def current(self) -> tuple[bytes, str]:
        """Return the content and the rights of what is there now, both empty if nothing is."""
        try:
            with open(self.path, "rb") as file:
                return file.read(), _rights_of(os.fstat(file.fileno()))
        except FileNotFoundError:
            return b"", ""

    def write(self) -> None:
        """Replace the file by an atomic rename: a reader sees the old or the new one, and never with a wrong mode.

        Raises FilesError if the program that validates it refuses it.
        """
        parent = os.path.dirname(self.path)
        replace(self.folder, path=parent).make()
        handle, temporary = tempfile.mkstemp(prefix=".", dir=parent)
        try:
            with os.fdopen(handle, "wb") as file:
                self.owner.take(handle)
                os.fchmod(handle, self.mode)
                file.write(self.content)
            self._check(temporary)
            if self.backup and os.path.exists(self.path):
                shutil.copy2(self.path, f"{self.path}.{os.getpid()}.{time.strftime('%Y-%m-%d@%H:%M:%S')}~")
            os.rename(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _check(self, path: str) -> None:
        if self.validate:
            command = [word.replace("%s", path) for word in shlex.split(self.validate)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                raise FilesError(f"{command[0]} refuses {self.path}: {(done.stderr or done.stdout).strip()}")


@dataclass(frozen=True)
class FilesPlan:
    """The folders to make, the files to write, each with what is there now, and the paths to remove."""

    folders: list[tuple[Folder, str]]
    writes: list[tuple[File, bytes, str]]
    removals: list[str]

    def apply(self, done: list[str]) -> None:
        """Make the changes, and add each to ``done`` when it is made."""
        os.umask(0o022)
        for folder, _rights in self.folders:
            folder.make()
            folder.correct()
            done.append(f"folder {folder.path}")
        for file, _content, _rights in self.writes:
            file.write()
            done.append(f"written {file.path}")
        for path in self.removals:
            os.unlink(path)
            done.append(f"removed {path}")

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a module does."""
        changed = [{"prepared": f"folder: {folder.path} ({folder.rights})\n"} for folder, _rights in self.folders]
        removed = [{"prepared": f"removed: {path}\n"} for path in self.removals]
        return {
            "changed": bool(self.folders or self.writes or self.removals),
            "written": sorted([file.path for file, *_ in self.writes] + [folder.path for folder, _ in self.folders]),
            "removed": self.removals,
            "diff": changed + [_diff(*write) for write in self.writes] + removed,
        }


def plan(folders: Iterable[Mapping[str, Any]], absent: Iterable[str], new_owners: bool = False) -> FilesPlan:
    """Compare the files of folders, as the module file_tree takes them, with what is there.

    With ``new_owners`` users and groups need not exist yet. Raises FilesError.
    """
    declared = [(declaration, _folder_of(declaration, new_owners)) for declaration in folders]
    files = {file.path: file for declaration, folder in declared for file in _files_of(declaration, folder)}
    writes = []
    for file in files.values():
        content, rights = file.current()
        if (content, rights) != (file.content, file.rights):
            writes.append((file, content, rights))
    found = {path for declaration, folder in declared if declaration["only"] for path in existing_files(folder.path)}
    found |= {path for path in absent if os.path.lexists(path)}
    exact = [(folder, folder.current()) for _declaration, folder in declared if folder.exact]
    changed = [(folder, rights) for folder, rights in exact if rights != folder.rights]
    return FilesPlan(changed, writes, sorted(found - set(files)))


def _folder_of(declaration: Mapping[str, Any], new: bool) -> Folder:
    owner = Owner.find(declaration["owner"], declaration["group"], new)
    return Folder(
        os.path.normpath(declaration["path"]), int(declaration["folder_mode"], 8), owner, declaration["folder_exact"]
    )


def _files_of(declaration: Mapping[str, Any], folder: Folder) -> Iterator[File]:
    for name, text in declaration["files"].items():
        path = os.path.normpath(os.path.join(folder.path, name))
        if not path.startswith(folder.path + os.sep):
            raise FilesError(f"{name} is outside of {folder.path}.")
        yield File(
            path,
            str(text).encode(),
            mode=int(declaration["mode"], 8),
            owner=folder.owner,
            folder=folder,
            validate=declaration["validate"],
            backup=declaration["backup"],
        )


def _number(name: str, find: Callable[[], int], new: bool) -> int | None:
    try:
        return find()
    except KeyError:
        if not new:
            raise FilesError(f"There is no {name} on this host to own the files.") from None
        return None


def existing_files(folder: str) -> Iterator[str]:
    """Yield the paths of a folder's files, except compiled Python and hidden files."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def _rights(mode: int, owner: Owner) -> str:
    user, group = ("new" if number is None else number for number in (owner.user, owner.group))
    return f"mode {mode:04o}, owner {user}, group {group}"


def _rights_of(status: os.stat_result) -> str:
    return _rights(stat.S_IMODE(status.st_mode), Owner(status.st_uid, status.st_gid))


def _diff(file: File, content: bytes, rights: str) -> dict[str, str]:
    """Return what --diff shows of a file that is written over what is there now."""
    if not rights:
        return {"prepared": f"new: {file.path} ({file.rights})\n"}
    if max(content.count(b"\n"), file.content.count(b"\n")) > _LONG_LINES:
        return {"prepared": f"changed: {file.path}\n"}
    header = {"before_header": file.path, "after_header": file.path}
    before, after = content.decode(), file.content.decode()
    if rights == file.rights:
        return {**header, "before": before, "after": after}
    return {**header, "before": f"{rights}\n{before}", "after": f"{file.rights}\n{after}"}
