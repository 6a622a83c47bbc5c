#!/usr/bin/python
"""Keep our lines in pg_hba.conf and pg_ident.conf, before those of others."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_access
short_description: Keep our access rules in pg_hba.conf and pg_ident.conf, before those of others
description:
  - Writes one block of lines into each file. What others wrote stays as it is, after the block.
  - The rules that Debian's package writes into a new cluster go where the cluster has no other database.
  - Where the server runs, it reads the files before they count. With an error in them the former files are put back.
    The server is reloaded, never restarted.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode: {support: full, description: Reports the same change, and writes nothing.}
  diff_mode: {support: full, description: Shows both files.}
extends_documentation_fragment: [attributes.changes]
options:
  folder: {description: The cluster's folder with both files., type: path, required: true}
  database: {description: The database whose rules these are., type: str, required: true}
  rules: {description: Our lines of pg_hba.conf., type: list, elements: str, required: true}
  mappings: {description: Our lines of pg_ident.conf., type: list, elements: str, default: []}
  exclusive:
    description:
      - Whether the rules of others admit nobody to the database. Unless given, that is so if the database does not
        exist yet or C(PUBLIC) may not connect to it.
    type: bool
  other_rules:
    description: What becomes of the rules of others; with V(refuse) the module fails and names them.
    type: str
    choices: [keep, refuse]
    default: keep
"""

EXAMPLES = r"""
- name: Let the application in
  postgresql_access:
    folder: /etc/postgresql/15/main
    database: mltrading
    rules:
      - local all postgres peer
      - host "mltrading" "mltrading_app" 127.0.0.1/32 scram-sha-256
"""

RETURN = r"""
written:
  description: Paths of the files that were written (in check mode would be).
  returned: success
  type: list
  elements: str
other_rules:
  description: The rules of others, which stay.
  returned: success
  type: list
  elements: str
cluster:
  description: The cluster as it was found, by the names of the module's Python class.
  returned: success
  type: dict
problems:
  description: On failure, what is wrong, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts.access_rules import Wanted, apply, plan
from ansible.module_utils.hosts.files import Owner
from ansible.module_utils.hosts.postgresql_cluster import look
from ansible.module_utils.module_support.failures import failures


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "database": {"type": "str", "required": True},
            "rules": {"type": "list", "elements": "str", "required": True},
            "mappings": {"type": "list", "elements": "str", "default": []},
            "exclusive": {"type": "bool"},
            "other_rules": {"type": "str", "choices": ["keep", "refuse"], "default": "keep"},
        },
        supports_check_mode=True,
    )
    given = module.params
    wanted = Wanted(
        database=given["database"],
        rules=given["rules"],
        mappings=given["mappings"],
        exclusive=given["exclusive"],
        keep_others=given["other_rules"] == "keep",
    )
    with failures(module):
        cluster = look(given["folder"], given["database"])
        # The package makes the user, the group and the files.
        owner = Owner.find("postgres", "postgres", new=module.check_mode)
        planned = plan(given["folder"], wanted, cluster, owner)
        if not module.check_mode:
            apply(planned, cluster)
        module.exit_json(cluster=cluster.as_dict(), **planned.as_dict())


if __name__ == "__main__":
    main()
