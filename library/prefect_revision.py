#!/usr/bin/python
"""Compare a database's migration with that of the installed Prefect."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_revision
short_description: Compare a database's migration with that of the installed Prefect
description:
  - Changes nothing. Reads the migrations from the files of the installed Prefect, without starting it.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: The module only reads. If Prefect or the database is not there yet, RV(state) is V(empty).
extends_documentation_fragment: [attributes.reads, login]
options:
  database: {description: The database., type: str, required: true}
  schema: {description: The tenant's schema., type: str, required: true}
  virtualenv: {description: The virtualenv with Prefect., type: path, required: true}
  login_user: {description: A role that may read the schema., type: str, default: postgres}
"""

EXAMPLES = r"""
- name: Check whether the database must be migrated
  prefect_revision:
    database: mltrading
    schema: prefect
    virtualenv: /opt/prefect/3.9.1+0a1b2c3d
    login_host: 127.0.0.1
    login_user: prefect_migrator
    login_password: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_migrator') }}"
  register: revision
"""

RETURN = r"""
state:
  description: >-
    V(empty) if there is no Prefect yet, V(current) if nothing is to do, V(behind) if it must be migrated, V(unknown) if
    it was migrated by a newer Prefect than the installed one.
  returned: success
  type: str
current:
  description: The revision in the database, null if it has none.
  returned: success
  type: str
head:
  description: The newest revision of the installed Prefect, null if there is none.
  returned: success
  type: str
pending:
  description: The number of migrations that are still to run.
  returned: success
  type: int
message:
  description: The same in a sentence.
  returned: success
  type: str
problems:
  description: Why it failed, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.database import connection
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, ConnectionFailed
from ansible.module_utils.pgprefect.schema import revision


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN_ARGUMENTS,
            "database": {"type": "str", "required": True},
            "schema": {"type": "str", "required": True},
            "virtualenv": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    with failures(module):
        try:
            migrations = revision.installed_migrations(module.params["virtualenv"])
            with connection(module) as opened:
                found = revision.compare(revision.stored_revisions(opened, module.params["schema"]), migrations)
        except (ConnectionFailed, revision.RevisionError) as error:
            if not module.check_mode:
                raise
            message = f"Not installed yet: {error}"
            module.exit_json(changed=False, state=revision.EMPTY, current=None, head=None, pending=0, message=message)
        module.exit_json(changed=False, **asdict(found))


if __name__ == "__main__":
    main()
