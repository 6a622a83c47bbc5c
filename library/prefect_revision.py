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
requirements: ["psycopg2 on the host (Debian's python3-psycopg2)"]
attributes:
  check_mode:
    support: full
    description: The module only reads. Where Prefect or the database is not there yet, RV(state) is V(empty).
  diff_mode:
    support: none
    description: There is nothing to change.
  idempotent:
    support: full
    description: The module only reads.
extends_documentation_fragment: [login]
options:
  database: {description: The database., type: str, required: true}
  schema: {description: The tenant's schema., type: str, required: true}
  virtualenv: {description: The virtualenv with Prefect., type: path, required: true}
  login_user: {description: A role that may read the schema., type: str, default: postgres}
"""

EXAMPLES = r"""
- name: Look whether the database must be migrated
  prefect_revision:
    database: mltrading
    schema: prefect
    virtualenv: /opt/prefect/3.8.8
    login_host: 127.0.0.1
    login_user: prefect_migrator
    login_password: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_migrator') }}"
  register: revision
"""

RETURN = r"""
state:
  description: >-
    V(empty) has no Prefect yet, V(current) needs nothing, V(behind) needs its migration, V(unknown) was migrated by a
    newer Prefect than the installed one.
  returned: success
  type: str
current:
  description: The revision in the database.
  returned: when the database has one
  type: str
head:
  description: The newest revision of the installed Prefect.
  returned: when Prefect is installed
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
  description: Why the database could not be asked, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.core.connection import (
    LOGIN_ARGUMENTS,
    ConnectionFailed,
    Login,
    connect,
)
from ansible.module_utils.pgprefect.core.problems import format_problems
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
    try:
        migrations = revision.installed_migrations(module.params["virtualenv"])
        connection = connect(Login.from_arguments(module.params), module.params["database"])
        try:
            found = revision.compare(revision.stored_revisions(connection, module.params["schema"]), migrations)
        finally:
            connection.close()
    except (ConnectionFailed, revision.RevisionError) as error:
        if module.check_mode:
            message = f"Not installed yet: {error}"
            module.exit_json(changed=False, state=revision.EMPTY, current=None, head=None, pending=0, message=message)
        if isinstance(error, ConnectionFailed):
            module.fail_json(msg=format_problems([error.problem]), problems=[error.problem.as_dict()])
        module.fail_json(msg=str(error), problems=[])
    module.exit_json(changed=False, **asdict(found))


if __name__ == "__main__":
    main()
