#!/usr/bin/python
"""Keep virtualenvs exactly at sets of locks."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_virtualenv
short_description: Keep virtualenvs exactly at sets of locks
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
  further:
    description: Further virtualenvs of the same Python. What they share with the first one is downloaded once.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The virtualenv's folder., type: path, required: true}
      requirements: {description: Its lock files on the host., type: list, elements: path, required: true}
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
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.virtualenv import Virtualenv, update_virtualenvs
from ansible.module_utils.module_support.failures import failures


def main() -> None:
    content: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "requirements": {"type": "list", "elements": "path", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            **content,
            "further": {"type": "list", "elements": "dict", "default": [], "options": content},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "path", "default": "/usr/local/bin/uv"},
            "uv_lock": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # everybody on the host may use it
    os.nice(15)  # other packages may be installed at the same time, and those are waited for first
    with failures(module) as done:
        further = module.params.pop("further")
        virtualenvs = [Virtualenv(**{**module.params, **one}) for one in ({}, *further)]
        module.exit_json(**update_virtualenvs(virtualenvs, module.check_mode, module.tmpdir, done))


if __name__ == "__main__":
    main()
