#!/usr/bin/python
"""Make the database of the application and of Prefect as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_schema
short_description: Make the database of an application and of Prefect as declared
description:
  - Creates the database, the roles, the schemas, the extensions, the rights, the default privileges and the search
    paths of one application (schema C(public)) and of one or more Prefect servers (a schema each) in one PostgreSQL
    database.
  - Reads the catalog, computes the difference and executes only that, in one transaction (but for C(CREATE DATABASE)).
  - Takes back what drifted, as a right that somebody granted to PUBLIC. Roles, schemas and rights of roles that are not
    declared, and all data, stay as they are.
  - Finds what a person must decide first, such as a database that belongs to another role or Prefect's tables in
    C(public), before anything is changed, and fails with all of it.
  - Passwords are stored as SCRAM-SHA-256 verifiers which the module computes; no password reaches the server.
  - As root over the unix socket it takes on the operating system's user O(login_user) by itself.
version_added: "1.0.0"
author: The ansible-prefect authors
requirements: ["psycopg2 on the host (Debian's python3-psycopg2)"]
attributes:
  check_mode:
    support: full
    description: >-
      Plans the same statements and executes none. Where PostgreSQL is not installed yet, it plans a new database.
  diff_mode:
    support: full
    description: Shows each role, schema and right that differs; passwords are masked.
  idempotent:
    support: full
    description: A second run changes nothing.
extends_documentation_fragment: [declaration, login]
options:
  app_schema_tables:
    description: The application's tables. When one is missing in C(public), O(app_schema_sql) is run.
    type: list
    elements: str
    default: []
  app_schema_sql:
    description: The application's script, run as O(app_owner). It must leave existing tables alone.
    type: str
    default: ""
  passwords: {description: "The passwords of the login roles, by role.", type: dict, default: {}}
"""

EXAMPLES = r"""
- name: Give the application and Prefect their schemas
  prefect_schema:
    database: mltrading
    app_owner: mltrading_owner
    app_login: mltrading_app
    monitor: prefect_monitor
    backup: prefect_backup
    tenants:
      - {name: prefect, schema: prefect, owner: prefect_owner, migrator: prefect_migrator, server: prefect_server}
    connection_limits: {prefect_server: 40}
    passwords:
      mltrading_app: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/mltrading_app') }}"
"""

RETURN = r"""
statements:
  description: The SQL statements that were executed (in check mode would be), in order, with passwords masked.
  returned: success
  type: list
  elements: str
  sample: ["GRANT SELECT ON TABLE prefect.flow_run TO prefect_monitor"]
problems:
  description: What bars the way, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

import glob
import importlib.util

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, ConnectionFailed, Login
from ansible.module_utils.pgprefect.core.problems import format_problems
from ansible.module_utils.pgprefect.schema.catalog import clean_database
from ansible.module_utils.pgprefect.schema.declaration import (
    DECLARATION_ARGUMENTS,
    DeclarationError,
    declare,
)
from ansible.module_utils.pgprefect.schema.plan import Blocked, apply, make_plan


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN_ARGUMENTS,
            **DECLARATION_ARGUMENTS,
            "app_schema_sql": {"type": "str", "default": ""},
            "passwords": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    login = Login.from_arguments(module.params)
    script = module.params["app_schema_sql"]
    try:
        declaration = declare(**{name: module.params[name] for name in (*DECLARATION_ARGUMENTS, "passwords")})
    except DeclarationError as error:
        module.fail_json(msg=str(error))
    installed = importlib.util.find_spec("psycopg2") and (login.host or glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    if module.check_mode and not installed:
        changes = make_plan(clean_database(declaration), declaration, script).changes
    else:
        try:
            changes = apply(login, declaration, script, dry_run=module.check_mode)
        except Blocked as barred:
            module.fail_json(
                msg=format_problems(barred.problems), problems=[problem.as_dict() for problem in barred.problems]
            )
        except ConnectionFailed as failed:
            module.fail_json(msg=format_problems([failed.problem]), problems=[failed.problem.as_dict()])
    module.exit_json(
        changed=bool(changes),
        statements=[str(change.statement) for change in changes],
        diff={
            "before": "".join(f"{change.before}\n" for change in changes if change.before),
            "after": "".join(f"{change.after}\n" for change in changes if change.after),
        },
    )


if __name__ == "__main__":
    main()
