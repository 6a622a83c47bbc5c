#!/usr/bin/python
"""Keep the text files of some folders as given, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_tree
short_description: Keep the text files of some folders as given, in one call
description:
  - Writes the files that differ, each by an atomic rename, and corrects their modes and groups; their owner is root.
  - It takes one call for many files, while M(ansible.builtin.template) and M(ansible.builtin.copy) take two for each
    file, and M(ansible.posix.synchronize) needs rsync on both sides.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: Reports what would be written and removed, even if the folders or the group do not exist yet.
  diff_mode:
    support: full
    description: Shows the change of each file; of new and of long files only the name.
extends_documentation_fragment: [attributes.changes]
options:
  folders:
    description: The folders. One may be named twice, for files of different modes.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The folder's path., type: path, required: true}
      files: {description: The texts of its files by their paths in it., type: dict, required: true}
      mode: {description: Mode of the files., type: str, default: "0644"}
      group: {description: Group of the files and of a folder that is created for them., type: str, default: root}
      folder_mode: {description: Mode of a folder that is created for them., type: str, default: "0755"}
      only:
        description: Remove all other files, except compiled Python and hidden files.
        type: bool
        default: false
  absent:
    description: Paths of files that must not exist.
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

- name: Remove unused keys
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

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.files import plan
from ansible.module_utils.module_support.failures import failures


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
    with failures(module):
        planned = plan(module.params["folders"], module.params["absent"], new_groups=module.check_mode)
        if not module.check_mode:
            planned.apply()
        module.exit_json(**planned.as_dict())


if __name__ == "__main__":
    main()
