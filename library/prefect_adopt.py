#!/usr/bin/python
"""Bring an installation without the separation to the declaration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_adopt
short_description: Bring a Prefect that lives among an application's tables to the declaration
description:
  - Moves Prefect's tables and enums from C(public) to the schema of the first tenant, and extensions to their own
    schema, and gives everything its declared owner. No row is copied.
  - Does it in one transaction that waits for no lock longer than ten seconds; when anything fails, all is as before.
  - Knows Prefect's tables by their columns and their revision. What it can not tell from the application's, a schema
    that holds something else, and a Prefect that still runs are refused before anything is changed.
  - The rest, as rights and search paths, is M(prefect_schema)'s, which has nothing left to refuse after this.
  - As root over the unix socket it takes on the operating system's user O(login_user) by itself.
version_added: "1.0.0"
author: The ansible-prefect authors
requirements: ["psycopg2 on the host (Debian's python3-psycopg2)"]
attributes:
  check_mode:
    support: full
    description: Plans the same statements and executes none. A Prefect that still runs is then only a warning.
  diff_mode:
    support: full
    description: Shows the place and the owner of each thing that would have another one.
  idempotent:
    support: full
    description: A second run, and a database that is as declared, change nothing.
options:
  database: {description: The database., type: str, required: true}
  app_owner:
    description: The role that owns the database and the schema C(public). An existing one keeps its attributes.
    type: str
    required: true
  app_login: {description: The role that the application logs in as., type: str, required: true}
  tenants:
    description:
      - One dictionary for each Prefect server with C(name), C(schema), C(owner), C(migrator) and C(server), the last
        three being roles. Other keys are ignored.
    type: list
    elements: dict
    required: true
  monitor: {description: The role that monitoring logs in as., type: str, required: true}
  backup: {description: The role that backups log in as., type: str, required: true}
  extensions_schema: {description: The schema for extensions., type: str, default: extensions}
  extensions: {description: The extensions that Prefect needs., type: list, elements: str, default: [pg_trgm]}
  app_schema_tables:
    description: The application's tables, which belong into C(public).
    type: list
    elements: str
    default: []
  events_table:
    description:
      - The table of C(public) that the application's events are in. With it there is a view C(public.workflow_runs),
        which shows each flow run of every tenant with its events.
      - When empty, no view is made; one that is there stays.
    type: str
    default: ""
  events_columns:
    description:
      - The table's columns for the fields C(created_at), C(level), C(event_type), C(workflow_name), C(status),
        C(message), C(flow_run_id) (a uuid) and C(metadata), where their names differ; an empty one for a field that it
        does not have.
    type: dict
    default: {}
  connection_limits: {description: "Connections that a role may open, by role.", type: dict, default: {}}
  login_host: {description: The server's host; empty for the unix socket., type: str, default: ""}
  login_port: {description: The server's port., type: int, default: 5432}
  login_user: {description: A superuser., type: str, default: postgres}
  login_password: {description: Its password. Not needed over the unix socket., type: str}
  login_ssl_mode:
    description: How far the connection is protected by TLS, as libpq's C(sslmode).
    type: str
    default: prefer
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  login_ca_file: {description: The certificate authority that signed the server's certificate., type: path}
"""

EXAMPLES = r"""
- name: Give Prefect's tables their own schema
  prefect_adopt:
    database: mltrading
    app_owner: mltrading_owner
    app_login: mltrading_app
    monitor: prefect_monitor
    backup: prefect_backup
    tenants:
      - {name: prefect, schema: prefect, owner: prefect_owner, migrator: prefect_migrator, server: prefect_server}
"""

RETURN = r"""
statements:
  description: The SQL statements that were executed (in check mode would be), in order.
  returned: success
  type: list
  elements: str
  sample: ["ALTER TABLE public.flow_run SET SCHEMA prefect"]
problems:
  description:
    - What bars the way, each with C(code), C(severity), C(object), C(message) and C(remedy).
    - On success, what a person should see to besides, as functions that name C(public.flow_run) in their text.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.adopt import adopt
from ansible.module_utils.pgprefect.connection import LOGIN_ARGUMENTS, ConnectionFailed, Login
from ansible.module_utils.pgprefect.declaration import (
    DECLARATION_ARGUMENTS,
    DeclarationError,
    declare,
)
from ansible.module_utils.pgprefect.difference import Barred
from ansible.module_utils.pgprefect.problems import in_words


def main() -> None:
    module = AnsibleModule(argument_spec={**LOGIN_ARGUMENTS, **DECLARATION_ARGUMENTS}, supports_check_mode=True)
    try:
        declaration = declare(**{name: module.params[name] for name in DECLARATION_ARGUMENTS})
    except DeclarationError as error:
        module.fail_json(msg=str(error), problems=[])
    try:
        adoption = adopt(Login.from_arguments(module.params), declaration, dry_run=module.check_mode)
    except Barred as barred:
        module.fail_json(msg=in_words(barred.problems), problems=[problem.as_dict() for problem in barred.problems])
    except ConnectionFailed as failed:
        module.fail_json(msg=in_words([failed.problem]), problems=[failed.problem.as_dict()])
    module.exit_json(
        changed=bool(adoption.changes),
        statements=[str(change.statement) for change in adoption.changes],
        problems=[problem.as_dict() for problem in adoption.warnings],
        diff={
            "before": "".join(f"{change.before}\n" for change in adoption.changes if change.before),
            "after": "".join(f"{change.after}\n" for change in adoption.changes if change.after),
        },
    )


if __name__ == "__main__":
    main()
