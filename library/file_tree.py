#!/usr/bin/python
"""Keep the text files of some folders as given, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_tree
short_description: Keep the text files of some folders as given, in one call
description:
  - Writes the files that differ, each by an atomic rename, and corrects their modes and groups; their owner is root.
  - One call for many files, where M(ansible.builtin.template) and M(ansible.builtin.copy) take two for each, and
    nothing is needed on either side, where M(ansible.posix.synchronize) wants rsync on both.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: Reports what would be written and removed, also where the folders or the group do not exist yet.
  diff_mode:
    support: full
    description: Shows the change of each file; of new and of long ones only the name.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  folders:
    description: The folders. One may be named twice, for files of different modes.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where the folder is., type: path, required: true}
      files: {description: Its files' texts by their paths in it., type: dict, required: true}
      mode: {description: Mode of the files., type: str, default: "0644"}
      group: {description: Group of the files and of a folder that is made for them., type: str, default: root}
      folder_mode: {description: Mode of a folder that is made for them., type: str, default: "0755"}
      only:
        description: Remove all other files, but for compiled Python and hidden ones.
        type: bool
        default: false
  absent:
    description: Paths of files that are to be removed where they are.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Deliver the flows
  file_tree:
    folders:
      - path: /opt/prefect/flows
        only: true
        files:
          hello.py: |
            from prefect import flow
          sample/prices.csv: |
            symbol,price

- name: Remove keys that nobody uses any more
  file_tree:
    absent: [/etc/pgbackrest/sftp_key, /etc/pgbackrest/known_hosts]
"""

RETURN = r"""
written:
  description: Paths of the files that were written or whose mode or group was corrected (in check mode would be).
  returned: success
  type: list
  elements: str
removed:
  description: Paths of the files that were removed (in check mode would be).
  returned: success
  type: list
  elements: str
"""

import grp
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule

LONG = 200  # lines


@dataclass(frozen=True)
class File:
    """What a file must be."""

    path: str
    content: bytes
    mode: int
    folder_mode: int
    group: int | None  # None where the group does not exist yet

    def write(self) -> None:
        """Replace the file by an atomic rename: a reader sees the old or the new one, and never with a wrong mode."""
        folder = os.path.dirname(self.path)
        missing = folder
        made = []
        while not os.path.isdir(missing):
            made.append(missing)
            missing = os.path.dirname(missing)
        for path in reversed(made):
            os.mkdir(path)
        if made:
            os.chown(folder, 0, self.group or 0)
            os.chmod(folder, self.folder_mode)
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

    def before(self) -> tuple[bytes, str]:
        """Return the content and a word for mode and group of what is there now; nothing where nothing is."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                return file.read(), rights(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        except FileNotFoundError:
            return b"", ""


def rights(mode: int, owner: int, group: int | None) -> str:
    return f"mode {mode:04o}, owner {owner}, group {'new' if group is None else group}"


def existing(folder: str) -> Iterator[str]:
    """Yield the paths of a folder's files, but for compiled Python and what is hidden."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def files_of(module: AnsibleModule, folder: dict[str, Any]) -> Iterator[File]:
    try:
        group = grp.getgrnam(folder["group"]).gr_gid
    except KeyError:
        if not module.check_mode:
            module.fail_json(msg=f"There is no group {folder['group']} for the files of {folder['path']}.")
        group = None
    root = os.path.normpath(folder["path"])
    for name, text in folder["files"].items():
        path = os.path.normpath(os.path.join(root, name))
        if not path.startswith(root + os.sep):
            module.fail_json(msg=f"{name} is outside of {root}.")
        yield File(path, str(text).encode(), int(folder["mode"], 8), int(folder["folder_mode"], 8), group)


def difference(file: File, content: bytes, present: str) -> dict[str, str]:
    """Return what --diff shows of a file that is to be written over what is there now."""
    wanted = rights(file.mode, 0, file.group)
    if not present:
        return {"prepared": f"new: {file.path} ({wanted})\n"}
    if max(content.count(b"\n"), file.content.count(b"\n")) > LONG:
        return {"prepared": f"changed: {file.path}\n"}
    header = {"before_header": file.path, "after_header": file.path}
    if present != wanted:
        return {**header, "before": f"{present}\n{content.decode()}", "after": f"{wanted}\n{file.content.decode()}"}
    return {**header, "before": content.decode(), "after": file.content.decode()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folders": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "files": {"type": "dict", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "group": {"type": "str", "default": "root"},
                    "folder_mode": {"type": "str", "default": "0755"},
                    "only": {"type": "bool", "default": False},
                },
            },
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    folders = module.params["folders"]
    files = {file.path: file for folder in folders for file in files_of(module, folder)}
    present = {path: file.before() for path, file in files.items()}
    wrong = [file for file in files.values() if present[file.path] != (file.content, rights(file.mode, 0, file.group))]
    found = {path for folder in folders if folder["only"] for path in existing(os.path.normpath(folder["path"]))}
    found |= {path for path in module.params["absent"] if os.path.lexists(path)}
    removed = sorted(found - set(files))
    diff = [difference(file, *present[file.path]) for file in wrong] + [
        {"prepared": f"removed: {path}\n"} for path in removed
    ]
    if not module.check_mode:
        os.umask(0o022)
        for file in wrong:
            file.write()
        for path in removed:
            os.unlink(path)
    module.exit_json(
        changed=bool(wrong or removed), written=sorted(file.path for file in wrong), removed=removed, diff=diff
    )


if __name__ == "__main__":
    main()
