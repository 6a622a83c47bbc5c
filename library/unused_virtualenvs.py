#!/usr/bin/python
"""Remove virtualenvs whose packages were replaced and that nothing uses any more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unused_virtualenvs
short_description: Remove virtualenvs whose packages were replaced and that nothing uses any more
description:
  - Each set of packages of a release has a virtualenv of its own, called RELEASE+CHECKSUM. This removes those beside
    the given ones that have the same release. Those of other releases stay.
  - One from which a process runs, such as a worker that still ends its runs, stays until the module runs again, and one
    that a unit in C(/etc/systemd/system) or a command in C(/usr/local/bin) names stays as well.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode: {support: full, description: "Takes it that everything has restarted, as it has when the module runs."}
  diff_mode: {support: full, description: Shows which are, or would be, removed.}
extends_documentation_fragment: [attributes.changes]
options:
  paths: {description: The virtualenvs that the host uses now., type: list, elements: path, required: true}
"""

EXAMPLES = r"""
- name: Remove what the packages of before were in
  unused_virtualenvs:
    paths: [/opt/prefect/3.9.1+0a1b2c3d]
"""

RETURN = r"""
removed:
  description: The virtualenvs that were removed (in check mode would be).
  returned: success
  type: list
  elements: str
kept:
  description: By the path of each that is still in use the process or the file that uses it.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.unused_virtualenvs import remove, replaced_virtualenvs, users_of


def main() -> None:
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "required": True}}, supports_check_mode=True
    )
    replaced = replaced_virtualenvs(module.params["paths"])
    users = {} if module.check_mode else users_of(replaced)
    removed = [virtualenv for virtualenv in replaced if virtualenv not in users]
    if not module.check_mode:
        for virtualenv in removed:
            remove(virtualenv)
    before = "".join(f"virtualenv {virtualenv}\n" for virtualenv in removed)
    module.exit_json(
        changed=bool(removed),
        removed=[str(virtualenv) for virtualenv in removed],
        kept={str(virtualenv): user for virtualenv, user in users.items()},
        diff={"before": before, "after": ""},
    )


if __name__ == "__main__":
    main()
