#!/usr/bin/python
"""Make the triggers of database events as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_database_events
short_description: Make the triggers of database events as declared
description:
  - Creates the outbox of each tenant that has a relay, and for each of its database events a function and triggers on
    the application's table; removes triggers and functions that are no longer declared. What an outbox holds stays.
  - M(prefect_schema) must have made the roles and schemas, and the application's tables must be there.
  - Fails before anything is changed where a table, a column or a condition cannot be used. A condition is SQL of the
    site's own; it is parsed, and not executed.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode: {support: full, description: Plans the same statements and executes none.}
  diff_mode: {support: full, description: "Shows each trigger and function that differs."}
extends_documentation_fragment: [attributes.changes, declaration, login]
"""

EXAMPLES = r"""
- name: Check the risk limits of a portfolio when it gets an order
  prefect_database_events:
    database: mltrading
    app_owner: mltrading_owner
    app_login: mltrading_app
    monitor: prefect_monitor
    backup: prefect_backup
    tenants:
      - name: prefect
        schema: prefect
        owner: prefect_owner
        migrator: prefect_migrator
        server: prefect_server
        relay: prefect_relay
        database_events:
          - name: new_order
            table: orders
            operations: [insert]
            values: {portfolios: [portfolio]}
            deployment: check-risk-limits/on-order
"""

RETURN = r"""
statements:
  description: The SQL statements that were executed (in check mode would be), in order.
  returned: success
  type: list
  elements: str
  sample: ["SET ROLE mltrading_owner; DROP TRIGGER \"pgprefect-prefect-new_order-i\" ON public.orders; RESET ROLE"]
problems:
  description: What blocks the plan, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.database import database_changes
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, Login
from ansible.module_utils.pgprefect.schema.declaration import DECLARATION_ARGUMENTS, declare
from ansible.module_utils.pgprefect.schema.event_plan import apply


def main() -> None:
    module = AnsibleModule(argument_spec={**LOGIN_ARGUMENTS, **DECLARATION_ARGUMENTS}, supports_check_mode=True)
    with failures(module):
        declaration = declare(**{name: module.params[name] for name in DECLARATION_ARGUMENTS})
        changes = apply(Login.from_arguments(module.params), declaration, module.check_mode)
        module.exit_json(**database_changes(changes))


if __name__ == "__main__":
    main()
