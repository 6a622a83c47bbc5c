#!/usr/bin/python
"""Make the roles by which the hosts of one database log in to each other."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replication_roles
short_description: Make the roles by which the hosts of one database log in to each other
description:
  - One role replicates, the other one may call what C(pg_rewind) calls; neither is a superuser.
  - Refuses roles of these names that were not made by it; a comment on the role says it.
  - Runs on the primary's host, and logs in as its administrator over the unix socket.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: Plans the same statements and executes none. If PostgreSQL does not answer yet, plans a new cluster.
  diff_mode: {support: none, description: The result has the statements; passwords are masked.}
extends_documentation_fragment: [attributes.changes]
options:
  port: {description: Port of the cluster., type: int, default: 5432}
  replication: {description: The role that replicates., type: str, required: true}
  rewind: {description: The role for C(pg_rewind)., type: str, required: true}
  passwords: {description: "The passwords of both, by role.", type: dict, required: true}
"""

EXAMPLES = r"""
- name: Make the roles of the members
  replication_roles:
    replication: patroni_replication
    rewind: patroni_rewind
    passwords:
      patroni_replication: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/patroni_replication') }}"
      patroni_rewind: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/patroni_rewind') }}"
"""

RETURN = r"""
statements:
  description: The SQL statements that were executed (in check mode would be), in order, with passwords masked.
  returned: success
  type: list
  elements: str
  sample: ["CREATE ROLE patroni_replication LOGIN REPLICATION PASSWORD '********'"]
problems:
  description: Why it failed, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

import contextlib

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.replication_roles import plan
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import ConnectionFailed, Login, connect


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "default": 5432},
            "replication": {"type": "str", "required": True},
            "rewind": {"type": "str", "required": True},
            "passwords": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    with failures(module) as done:
        try:
            connection = connect(Login(port=given["port"]), "postgres")
        except ConnectionFailed:
            if not module.check_mode:
                raise
            made = [f"CREATE ROLE {given[kind]}" for kind in ("replication", "rewind")]
            module.exit_json(changed=True, statements=made)
        with contextlib.closing(connection), connection, connection.cursor() as cursor:
            statements = list(plan(cursor, given["replication"], given["rewind"], given["passwords"]))
            for statement in [] if module.check_mode else statements:
                statement.execute(cursor)
        shown = [str(statement) for statement in statements]
        done += [] if module.check_mode else shown
        module.exit_json(changed=bool(statements), statements=shown)


if __name__ == "__main__":
    main()
