#!/usr/bin/python
"""Move a Prefect that lives among an application's tables to its own schema."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_adopt
short_description: Move a Prefect that lives among an application's tables to its own schema
description:
  - Moves Prefect's tables and enums from C(public) to the schema of the first tenant, and extensions to their own
    schema, and gives everything its declared owner. No row is copied.
  - Works in one transaction that waits for a lock for ten seconds at most; if anything fails, nothing is changed.
  - Recognizes Prefect's tables by their columns and their revision. It refuses, before anything is changed, tables that
    it cannot tell from the application's, a schema that holds something else, and a Prefect that still runs.
  - Rights and search paths are left to M(prefect_schema), which refuses nothing any more after this.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode: {support: full, description: Plans the same statements and executes none; a running Prefect is a warning.}
  diff_mode: {support: full, description: Shows the schema and the owner of each object that would get another one.}
extends_documentation_fragment: [attributes.changes, declaration, login]
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
    - On failure, what blocks it, each with C(code), C(severity), C(object), C(message) and C(remedy).
    - On success, what a person should check, such as functions that name C(public.flow_run) in their text.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.database import database_changes
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, Login
from ansible.module_utils.pgprefect.schema.adopt import adopt
from ansible.module_utils.pgprefect.schema.declaration import DECLARATION_ARGUMENTS, declare


def main() -> None:
    module = AnsibleModule(argument_spec={**LOGIN_ARGUMENTS, **DECLARATION_ARGUMENTS}, supports_check_mode=True)
    with failures(module):
        declaration = declare(**{name: module.params[name] for name in DECLARATION_ARGUMENTS})
        adoption = adopt(Login.from_arguments(module.params), declaration, dry_run=module.check_mode)
        warnings = [problem.as_dict() for problem in adoption.warnings]
        module.exit_json(**database_changes(adoption.changes), problems=warnings)


if __name__ == "__main__":
    main()
