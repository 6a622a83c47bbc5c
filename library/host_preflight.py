#!/usr/bin/python
"""Check that a host meets the requirements before anything is changed on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Check that a host meets the requirements
description:
  - Checks the operating system, the ports, the memory, the disk, the directories and systemd.
  - Changes nothing and does not fail on a problem; the caller decides what it means.
version_added: "1.0.0"
author: The ansible-prefect authors
extends_documentation_fragment: [attributes.reads]
options:
  ports:
    description: Ports that must be free, or in use by their own unit.
    type: list
    elements: dict
    default: []
    suboptions:
      address: {description: The address to listen on., type: str, default: 0.0.0.0}
      port: {description: The port., type: int, required: true}
      unit:
        description: The systemd unit that may already listen there, with its suffix; C(*) stands for any characters.
        type: str
        required: true
  memory_mb: {description: Memory that the host must have., type: int, default: 0}
  disk:
    description: Free space that a path must have. If the path does not exist yet, its nearest parent must have it.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The path., type: path, required: true}
      mb: {description: The free space., type: int, required: true}
  directories:
    description: Directories that must belong to one user alone. Each must not exist yet, or be that user's already.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The path., type: path, required: true}
      owner: {description: The user's name., type: str, required: true}
      holds: {description: A regular expression for the names that may be in it., type: str, required: true}
  systemd: {description: Whether systemd must run the host., type: bool, default: false}
"""

EXAMPLES = r"""
- name: Check that this host can run Prefect
  host_preflight:
    ports:
      - {address: 127.0.0.1, port: 4200, unit: prefect-server@prefect.service}
    memory_mb: 1500
    disk:
      - {path: /opt/prefect, mb: 1000}
    systemd: true
  register: preflight
"""

RETURN = r"""
problems:
  description: What is missing, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: always
  type: list
  elements: dict
  sample:
    - code: port_in_use
      severity: error
      object: port 4200
      message: The port 4200 is in use by nginx (process 812) and not by prefect-server@prefect.service.
      remedy: Stop that process, or choose another port.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.preflight import check_host


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "address": {"type": "str", "default": "0.0.0.0"},
                    "port": {"type": "int", "required": True},
                    "unit": {"type": "str", "required": True},
                },
            },
            "memory_mb": {"type": "int", "default": 0},
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "path", "required": True}, "mb": {"type": "int", "required": True}},
            },
            "directories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "owner": {"type": "str", "required": True},
                    "holds": {"type": "str", "required": True},
                },
            },
            "systemd": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    problems = check_host(**module.params)
    module.exit_json(changed=False, problems=[problem.as_dict() for problem in problems])


if __name__ == "__main__":
    main()
