#!/usr/bin/python
"""Check that a host meets the requirements before anything is changed on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Check that a host meets the requirements
description:
  - Checks the operating system, the ports, the memory, the disk, the directories, the certificates, and systemd.
  - Says what of the packages, users, files and units there is, so that a task which makes them runs only if it has to.
  - Changes nothing and does not fail on a problem; the caller decides what it means.
version_added: "1.0.0"
author: The ansible-prefect authors
extends_documentation_fragment: [attributes.reads]
options:
  requirements:
    description: What each of the roles requires of this host.
    type: list
    elements: dict
    default: []
    suboptions:
      ports:
        description: Ports that must be free, or in use by their own unit.
        type: list
        elements: dict
        default: []
        suboptions:
          address: {description: The address to listen on., type: str, default: 0.0.0.0}
          port: {description: The port., type: int, required: true}
          unit:
            description: The systemd unit that may listen there already, with its suffix; C(*) stands for any text.
            type: str
            required: true
      memory_mb: {description: Memory that the host must have., type: int, default: 0}
      memory:
        description: Memory that a service plans with, which the host must have.
        type: list
        elements: dict
        default: []
        suboptions:
          mb: {description: The memory., type: int, required: true}
          variable: {description: The variable that sets it., type: str, required: true}
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
          variable: {description: The variable that sets the path., type: str, required: true}
      certificates:
        description: Certificates that must be there, and the private keys that belong to them.
        type: list
        elements: dict
        default: []
        suboptions:
          path: {description: The certificate's file., type: path, required: true}
          variable: {description: The variable that sets the path., type: str, required: true}
          key: {description: "The key's file, if the host has one.", type: path, default: ""}
          key_variable: {description: The variable that sets the key's path., type: str, default: ""}
          private: {description: Whether the certificate's file has the key too., type: bool, default: false}
      makes:
        description: Certificates and keys that a role installs before others need them, so that they may be missing.
        type: list
        elements: path
        default: []
      trees:
        description: Folders from which other files than these are removed; to remove most of them needs a confirmation.
        type: list
        elements: dict
        default: []
        suboptions:
          path: {description: The folder., type: path, required: true}
          files: {description: The files that stay or come., type: list, elements: str, required: true}
          variable: {description: The variable that says which these are., type: str, required: true}
          confirmation: {description: The variable that confirms the removal., type: str, required: true}
          confirmed: {description: Whether it does., type: bool, default: false}
      settings:
        description: Settings of PostgreSQL, which the installed one must take; it proves them with a throwaway server.
        type: list
        elements: dict
        default: []
        suboptions:
          variable: {description: The variable that sets them., type: str, required: true}
          version: {description: PostgreSQL's major version., type: str, required: true}
          settings: {description: The settings by name., type: dict, required: true}
          file: {description: "The file in use; what it has already is not proved again.", type: path, required: true}
      only_ports:
        description: Ports that a firewall is to leave open; at no other may this host answer others.
        type: list
        elements: dict
        default: []
        suboptions:
          port: {description: The port., type: int, required: true}
          protocol: {description: Its protocol., type: str, choices: [tcp, udp, any], default: tcp}
      systemd: {description: Whether systemd must run the host., type: bool, default: false}
      packages: {description: Packages of Debian that will be installed., type: list, elements: str, default: []}
      packages_without_services:
        description: Packages of Debian that will be installed, and whose own services must not start.
        type: list
        elements: str
        default: []
      users:
        description: Users that will be created.
        type: list
        elements: dict
        default: []
        suboptions:
          name: {description: The name., type: str, required: true}
          home: {description: The home., type: path, required: true}
          shell: {description: The shell., type: path, default: /usr/sbin/nologin}
      files: {description: Paths that will be created., type: list, elements: path, default: []}
      units: {description: Units that will be started and enabled., type: list, elements: str, default: []}
      unused_units:
        description: Units that must neither run nor start with the system.
        type: list
        elements: str
        default: []
      folders: {description: Folders whose entries are of interest., type: list, elements: path, default: []}
"""

EXAMPLES = r"""
- name: Check that this host can run Prefect
  host_preflight:
    requirements:
      - ports:
          - {address: 127.0.0.1, port: 4200, unit: prefect-server@prefect.service}
        memory_mb: 1500
        disk:
          - {path: /opt/prefect, mb: 1000}
        systemd: true
        packages: [python3-venv]
  register: preflight

- name: Install what is missing
  ansible.builtin.apt:
    name: "{{ preflight.missing_packages }}"
  when: preflight.missing_packages | length > 0
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
checked:
  description: How many requirements were checked.
  returned: always
  type: int
missing_packages:
  description: Packages that are not installed.
  returned: always
  type: list
  elements: str
missing_packages_without_services:
  description: Names of the packages without services that are not installed.
  returned: always
  type: list
  elements: str
missing_users:
  description: Names of users that do not exist or have another home or shell.
  returned: always
  type: list
  elements: str
missing_files:
  description: Paths that do not exist.
  returned: always
  type: list
  elements: str
stopped_units:
  description: Units that do not run, or do not start with the system.
  returned: always
  type: list
  elements: str
outdated_units:
  description: Units whose process began before their environment was written, so that they must restart.
  returned: always
  type: list
  elements: str
used_units:
  description: Units that run, or start with the system, and must not.
  returned: always
  type: list
  elements: str
folders:
  description: The names in each folder, none if there is no such folder.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.preflight import check_host, missing_state

REQUIREMENTS = {
    "type": "list",
    "elements": "dict",
    "default": [],
    "options": {
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
        "memory": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"mb": {"type": "int", "required": True}, "variable": {"type": "str", "required": True}},
        },
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
                "variable": {"type": "str", "required": True},
            },
        },
        "certificates": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "path": {"type": "path", "required": True},
                "variable": {"type": "str", "required": True},
                "key": {"type": "path", "default": ""},
                "key_variable": {"type": "str", "default": ""},
                "private": {"type": "bool", "default": False},
            },
        },
        "makes": {"type": "list", "elements": "path", "default": []},
        "trees": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "path": {"type": "path", "required": True},
                "files": {"type": "list", "elements": "str", "required": True},
                "variable": {"type": "str", "required": True},
                "confirmation": {"type": "str", "required": True},
                "confirmed": {"type": "bool", "default": False},
            },
        },
        "settings": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "variable": {"type": "str", "required": True},
                "version": {"type": "str", "required": True},
                "settings": {"type": "dict", "required": True},
                "file": {"type": "path", "required": True},
            },
        },
        "only_ports": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "port": {"type": "int", "required": True},
                "protocol": {"type": "str", "choices": ["tcp", "udp", "any"], "default": "tcp"},
            },
        },
        "systemd": {"type": "bool", "default": False},
        "packages": {"type": "list", "elements": "str", "default": []},
        "packages_without_services": {"type": "list", "elements": "str", "default": []},
        "users": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "home": {"type": "path", "required": True},
                "shell": {"type": "path", "default": "/usr/sbin/nologin"},
            },
        },
        "files": {"type": "list", "elements": "path", "default": []},
        "units": {"type": "list", "elements": "str", "default": []},
        "unused_units": {"type": "list", "elements": "str", "default": []},
        "folders": {"type": "list", "elements": "path", "default": []},
    },
}


def main() -> None:
    module = AnsibleModule(argument_spec={"requirements": REQUIREMENTS}, supports_check_mode=True)
    requirements = module.params["requirements"]
    problems = [problem.as_dict() for problem in check_host(requirements)]
    module.exit_json(changed=False, problems=problems, checked=len(requirements), **missing_state(requirements))


if __name__ == "__main__":
    main()
