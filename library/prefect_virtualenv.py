#!/usr/bin/python
"""Keep a virtualenv exactly at a set of locks."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_virtualenv
short_description: Keep a virtualenv exactly at a set of locks
description:
  - Creates a virtualenv with uv and installs exactly the packages of the given locks, each checked by its hash, and
    removes all others. Files in it that belong to no package stay.
  - Uses the host's own certificate store and its Python; downloads no interpreter.
  - An unchanged virtualenv is recognized without the network.
version_added: "1.0.0"
author: The ansible-prefect authors
requirements: ["uv on the host, or python3-venv, by which it is installed"]
attributes:
  check_mode: {support: full, description: "Also works if uv, the locks or the virtualenv are still missing."}
  diff_mode: {support: full, description: Shows the packages with their versions.}
extends_documentation_fragment: [attributes.changes]
options:
  path: {description: The virtualenv's folder., type: path, required: true}
  requirements:
    description: Lock files on the host, as C(uv pip compile --generate-hashes) writes them.
    type: list
    elements: path
    required: true
  python: {description: The Python of the virtualenv., type: path, default: /usr/bin/python3}
  uv: {description: The uv executable., type: path, default: /usr/local/bin/uv}
  uv_lock:
    description: Lock file on the host by which uv is installed where it is missing, into the folder above its C(bin).
    type: path
    default: ""
"""

EXAMPLES = r"""
- name: Install Prefect
  prefect_virtualenv:
    path: /opt/prefect/3.9.1
    requirements: [/opt/prefect/prefect-3.9.1.txt]
"""

RETURN = r"""
installed:
  description: Packages that were added (in check mode would be), as C(name==version).
  returned: success
  type: list
  elements: str
removed:
  description: Packages that were removed, as C(name==version).
  returned: success
  type: list
  elements: str
changes:
  description: What had been done before it failed, in order.
  type: list
  elements: str
  returned: failure
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.virtualenv import Virtualenv
from ansible.module_utils.module_support.failures import failures


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "path", "default": "/usr/local/bin/uv"},
            "uv_lock": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # everybody on the host may use it
    os.nice(15)  # other packages may be installed at the same time, and those are waited for first
    with failures(module) as done:
        virtualenv = Virtualenv(**module.params)
        module.exit_json(**virtualenv.update(dry_run=module.check_mode, scratch=module.tmpdir, done=done))


if __name__ == "__main__":
    main()
