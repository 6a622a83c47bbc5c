#!/usr/bin/python
"""Make the database of an application and of Prefect as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_schema
short_description: Make the database of an application and of Prefect as declared
description:
  - Creates the database, the roles, the schemas, the extensions, the rights, the default privileges and the search
    paths of one application (schema C(public)) and of one or more Prefect servers (a schema each) in one PostgreSQL
    database.
  - Reads the catalog, plans the changes and executes only those, in one transaction, except C(CREATE DATABASE).
  - Takes back what drifted, such as a right that somebody granted to PUBLIC. Roles and schemas that are not declared,
    the rights of such roles, and all data stay as they are.
  - Fails before anything is changed, with all problems that a person must decide, such as a database that belongs to
    another role or Prefect's tables in C(public).
  - Creates the outboxes of tenants with database events, and the triggers on the application's tables, and removes
    triggers that are not declared any more. What an outbox holds stays. A condition is SQL of the site's own; it is
    parsed, and not executed.
  - Passwords are stored as SCRAM-SHA-256 verifiers which the module computes; no password reaches the server.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: Plans the same statements and executes none. If PostgreSQL is not installed yet, plans a new database.
  diff_mode: {support: full, description: "Shows each role, schema and right that differs; passwords are masked."}
extends_documentation_fragment: [attributes.changes, declaration, login]
options:
  app_schema_tables:
    description: The application's tables. If one is missing in C(public), O(app_schema_sql) is run.
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
compared:
  description: Whether the database could be asked; in check mode its server may not run yet.
  returned: success
  type: bool
server_version:
  description: The major version of a server of others, which O(administrator) manages, if it could be asked.
  returned: success
  type: int
problems:
  description: What blocks the plan, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
changes:
  description: What had been done before it failed, in order.
  type: list
  elements: str
  returned: failure
"""

import contextlib
import glob
import importlib.util

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.database import database_changes
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, ConnectionFailed, Login, connect
from ansible.module_utils.pgprefect.schema import audit
from ansible.module_utils.pgprefect.schema.catalog import clean_database
from ansible.module_utils.pgprefect.schema.declaration import DECLARATION_ARGUMENTS, declare
from ansible.module_utils.pgprefect.schema.event_plan import apply as apply_events
from ansible.module_utils.pgprefect.schema.event_plan import planned_anew
from ansible.module_utils.pgprefect.schema.plan import apply, make_plan


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
    compared = True
    with failures(module) as done:
        declaration = declare(**{name: module.params[name] for name in (*DECLARATION_ARGUMENTS, "passwords")})
        if module.check_mode and login.host and not is_installed(login):
            module.warn(
                "psycopg2 is not installed on this host yet, so it is not known what differs at "
                f"{login.where}. site.yml installs it."
            )
            changes, compared = [], False
        elif module.check_mode and not is_installed(login):
            changes = make_plan(clean_database(declaration), declaration, script).changes + planned_anew(declaration)
            changes += audit.planned_anew(declaration)
        else:
            try:
                if not module.check_mode and any(tenant.relay for tenant in declaration.tenants):
                    apply_events(login, declaration, dry_run=True)  # what blocks them is said before anything changes
                changes = apply(login, declaration, script, module.check_mode, done)
                changes += apply_events(login, declaration, module.check_mode)
                changes += audit.apply(login, declaration, module.check_mode)
            except ConnectionFailed as failed:
                if not (module.check_mode and is_stopped(login, failed)):
                    raise
                module.warn(
                    f"{failed.problem.message} What differs is not known until it is started, which site.yml does."
                )
                changes, compared = [], False
        known = compared and module.params["administrator"]
        module.exit_json(
            compared=compared, server_version=version_of(login) if known else None, **database_changes(changes)
        )


def version_of(login: Login) -> int:
    """Return the major version of a server. Raises ConnectionFailed."""
    with contextlib.closing(connect(login, "postgres")) as connection:
        return int(connection.server_version) // 10000


def is_stopped(login: Login, failed: ConnectionFailed) -> bool:
    """Return whether the server of this host does not run, so that there is nobody to ask yet."""
    absent = ("No such file or directory", "Connection refused")
    return not login.host and any(reason in failed.problem.message for reason in absent)


def is_installed(login: Login) -> bool:
    """Return whether this host has the driver, and PostgreSQL itself if the login is over the unix socket."""
    driver = importlib.util.find_spec("psycopg2") is not None
    return driver and bool(login.host or glob.glob("/usr/lib/postgresql/*/bin/postgres"))


if __name__ == "__main__":
    main()
