#!/usr/bin/python
"""Keep the text files of some folders as given, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_tree
short_description: Keep the text files of some folders as given, in one call
description:
  - Writes the files that differ, each by an atomic rename, and corrects their modes, owners and groups.
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
      files: {description: The texts of its files by their paths in it., type: dict, default: {}}
      mode: {description: Mode of the files., type: str, default: "0644"}
      owner: {description: Owner of the files and of a folder that is created for them., type: str, default: root}
      group: {description: Group of the files and of a folder that is created for them., type: str, default: root}
      folder_mode: {description: Mode of a folder that is created for them., type: str, default: "0755"}
      folder_exact:
        description: Create the folder without files too, and correct its mode, owner and group.
        type: bool
        default: false
      validate:
        description: Command that must accept a file before it replaces the former one; C(%s) stands for its path.
        type: str
        default: ""
      backup:
        description: Keep a copy of the former file, with the time in its name and a tilde at its end.
        type: bool
        default: false
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

- name: Write the server's access rules, and keep the former ones
  file_tree:
    folders:
      - path: /etc/postgresql/15/main
        owner: postgres
        group: postgres
        mode: "0640"
        backup: true
        files:
          pg_hba.conf: |
            local all postgres peer

- name: Remove unused keys
  file_tree:
    absent: [/etc/pgbackrest/sftp_key, /etc/pgbackrest/known_hosts]
"""

RETURN = r"""
written:
  description: Paths of the files and exact folders that were written or corrected (in check mode would be).
  returned: success
  type: list
  elements: str
removed:
  description: Paths of the files that were removed (in check mode would be).
  returned: success
  type: list
  elements: str
changes:
  description: What had been done before it failed, in order.
  returned: failure
  type: list
  elements: str
  sample: ["folder /etc/prefect", "written /etc/prefect/pgpass"]
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
                    "files": {"type": "dict", "default": {}},
                    "mode": {"type": "str", "default": "0644"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "folder_mode": {"type": "str", "default": "0755"},
                    "folder_exact": {"type": "bool", "default": False},
                    "validate": {"type": "str", "default": ""},
                    "backup": {"type": "bool", "default": False},
                    "only": {"type": "bool", "default": False},
                },
            },
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    with failures(module) as done:
        planned = plan(module.params["folders"], module.params["absent"], new_owners=module.check_mode)
        if not module.check_mode:
            planned.apply(done)
        module.exit_json(**planned.as_dict())


if __name__ == "__main__":
    main()
