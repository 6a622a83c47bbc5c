"""Text files of a host: written, corrected and removed in one call."""

from __future__ import annotations

import grp
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.pgprefect.core.errors import InputError

_LONG_LINES = 200  # a longer file is not shown in a diff


class FilesError(InputError):
    """The declared files cannot be; the message says why."""


@dataclass(frozen=True)
class File:
    """A file as it must be; its owner is root, and the group is None if it does not exist yet."""

    path: str
    content: bytes
    mode: int
    folder_mode: int
    group: int | None

    @property
    def rights(self) -> str:
        return _rights(self.mode, owner=0, group=self.group)

    def current(self) -> tuple[bytes, str]:
        """Return the content and the rights of what is there now, both empty if nothing is."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                return file.read(), _rights(stat.S_IMODE(status.st_mode), owner=status.st_uid, group=status.st_gid)
        except FileNotFoundError:
            return b"", ""

    def write(self) -> None:
        """Replace the file by an atomic rename: a reader sees the old or the new one, and never with a wrong mode."""
        folder = os.path.dirname(self.path)
        self._make(folder)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchown(handle, 0, self.group or 0)
                os.fchmod(handle, self.mode)
                file.write(self.content)
            os.rename(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _make(self, folder: str) -> None:
        """Create the folder if it is missing, with its mode and group, and its parents with the defaults."""
        if not os.path.isdir(folder):
            os.makedirs(folder)
            os.chown(folder, 0, self.group or 0)
            os.chmod(folder, self.folder_mode)


@dataclass(frozen=True)
class FilesPlan:
    """The files to write, each with its current content and rights, and the paths to remove."""

    writes: list[tuple[File, bytes, str]]
    removals: list[str]

    def apply(self) -> None:
        os.umask(0o022)
        for file, _content, _rights in self.writes:
            file.write()
        for path in self.removals:
            os.unlink(path)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a module does."""
        removed = [{"prepared": f"removed: {path}\n"} for path in self.removals]
        return {
            "changed": bool(self.writes or self.removals),
            "written": sorted(file.path for file, _content, _rights in self.writes),
            "removed": self.removals,
            "diff": [_diff(*write) for write in self.writes] + removed,
        }


def plan(folders: Iterable[Mapping[str, Any]], absent: Iterable[str], new_groups: bool = False) -> FilesPlan:
    """Compare the files of folders, as the module file_tree takes them, with what is there.

    With ``new_groups`` a group need not exist yet. Raises FilesError.
    """
    folders = list(folders)
    files = {file.path: file for folder in folders for file in _files_of(folder, new_groups)}
    writes = []
    for file in files.values():
        content, rights = file.current()
        if (content, rights) != (file.content, file.rights):
            writes.append((file, content, rights))
    found = {path for folder in folders if folder["only"] for path in _existing(os.path.normpath(folder["path"]))}
    found |= {path for path in absent if os.path.lexists(path)}
    return FilesPlan(writes, sorted(found - set(files)))


def _files_of(folder: Mapping[str, Any], new_groups: bool) -> Iterator[File]:
    try:
        group = grp.getgrnam(folder["group"]).gr_gid
    except KeyError:
        if not new_groups:
            raise FilesError(f"There is no group {folder['group']} for the files of {folder['path']}.") from None
        group = None
    root = os.path.normpath(folder["path"])
    for name, text in folder["files"].items():
        path = os.path.normpath(os.path.join(root, name))
        if not path.startswith(root + os.sep):
            raise FilesError(f"{name} is outside of {root}.")
        yield File(path, str(text).encode(), int(folder["mode"], 8), int(folder["folder_mode"], 8), group)


def _existing(folder: str) -> Iterator[str]:
    """Yield the paths of a folder's files, except compiled Python and hidden files."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def _rights(mode: int, owner: int, group: int | None) -> str:
    return f"mode {mode:04o}, owner {owner}, group {'new' if group is None else group}"


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
