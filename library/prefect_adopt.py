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
extends_documentation_fragment: [declaration, login]
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
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, ConnectionFailed, Login
from ansible.module_utils.pgprefect.core.problems import format_problems
from ansible.module_utils.pgprefect.schema.adopt import adopt
from ansible.module_utils.pgprefect.schema.declaration import (
    DECLARATION_ARGUMENTS,
    DeclarationError,
    declare,
)
from ansible.module_utils.pgprefect.schema.plan import Blocked


def main() -> None:
    module = AnsibleModule(argument_spec={**LOGIN_ARGUMENTS, **DECLARATION_ARGUMENTS}, supports_check_mode=True)
    try:
        declaration = declare(**{name: module.params[name] for name in DECLARATION_ARGUMENTS})
    except DeclarationError as error:
        module.fail_json(msg=str(error), problems=[])
    try:
        adoption = adopt(Login.from_arguments(module.params), declaration, dry_run=module.check_mode)
    except Blocked as barred:
        module.fail_json(
            msg=format_problems(barred.problems), problems=[problem.as_dict() for problem in barred.problems]
        )
    except ConnectionFailed as failed:
        module.fail_json(msg=format_problems([failed.problem]), problems=[failed.problem.as_dict()])
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
