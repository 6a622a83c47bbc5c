#!/usr/bin/python
"""Keep the text files below some folders exactly as given, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_tree
short_description: Keep the text files below some folders exactly as given
description:
  - Writes the files that differ, each by an atomic rename, and removes those that are not given.
  - One call for many files, where M(ansible.builtin.copy) takes two for each, and nothing is needed on either side,
    where M(ansible.posix.synchronize) wants rsync on both.
  - The files belong to root and are readable by all; compiled Python and hidden files are left alone.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: Reports what would be written and removed.
  diff_mode:
    support: full
    description: Shows the names of the files that are written and removed.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  folders:
    description: The folders.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Where the folder is., type: path, required: true}
      files: {description: Its files' texts by their paths in it., type: dict, required: true}
"""

EXAMPLES = r"""
- name: Deliver the flows
  file_tree:
    folders:
      - path: /opt/prefect/flows
        files:
          hello.py: |
            from prefect import flow
          sample/prices.csv: |
            symbol,price
"""

RETURN = r"""
written:
  description: Paths of the files that were written (in check mode would be).
  returned: success
  type: list
  elements: str
removed:
  description: Paths of the files that were removed (in check mode would be).
  returned: success
  type: list
  elements: str
"""

import os
import tempfile
from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule


def existing(folder: str) -> Iterator[str]:
    """Yield the paths of a folder's files, but for compiled Python and what is hidden."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def read(path: str) -> bytes | None:
    """Return a file's content, or None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path: str, content: bytes) -> None:
    """Replace a file by an atomic rename, so that a reader sees the old or the new one."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folders": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"path": {"type": "path", "required": True}, "files": {"type": "dict", "required": True}},
            }
        },
        supports_check_mode=True,
    )
    folders = {os.path.normpath(folder["path"]): folder["files"] for folder in module.params["folders"]}
    wanted: dict[str, bytes] = {}
    for folder, files in folders.items():
        for name, text in files.items():
            path = os.path.normpath(os.path.join(folder, name))
            if not path.startswith(folder + os.sep):
                module.fail_json(msg=f"{name} is outside of {folder}.")
            wanted[path] = str(text).encode()
    written = sorted(path for path, content in wanted.items() if read(path) != content)
    found = (path for folder in folders for path in existing(folder))
    removed = sorted(set(found) - set(wanted))
    if not module.check_mode:
        os.umask(0o022)
        for path in written:
            write(path, wanted[path])
        for path in removed:
            os.unlink(path)
    module.exit_json(
        changed=bool(written or removed),
        written=written,
        removed=removed,
        diff={"prepared": "".join([*(f"+ {path}\n" for path in written), *(f"- {path}\n" for path in removed)])},
    )


if __name__ == "__main__":
    main()
