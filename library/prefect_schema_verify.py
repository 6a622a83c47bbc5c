#!/usr/bin/python
"""Compare a database with its declaration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_schema_verify
short_description: Compare the database of an application and of Prefect with its declaration
description:
  - Changes nothing and does not fail on a problem; the caller decides what it means.
  - Checks the same declaration that M(prefect_schema) applies - schemas, owners, extensions, search paths, role
    attributes, memberships, all rights with the default ones, PUBLIC - and what only happens in a database that is in
    use, such as tables in the wrong schema, rights through a group, or a stray C(alembic_version).
  - Compares tables, columns, indexes, constraints and enums with those of the schema's release of Prefect, and names
    every other object that somebody added to Prefect's tables or schema.
version_added: "1.0.0"
author: The ansible-prefect authors
extends_documentation_fragment: [attributes.reads, declaration, login]
options:
  virtualenv:
    description: The virtualenv of a Prefect on this host, whose newest migration each tenant's schema must be at.
    type: path
  check_server:
    description:
      - Whether to check the server itself as well - access rules, stored passwords, TLS, superusers, settings that
        matter for safety and for its log.
    type: bool
    default: false
  listen_addresses:
    description: Addresses that the server is meant to listen on; a C(*) that is not among them is a problem.
    type: list
    elements: str
    default: []
  passwords:
    description: The passwords of the login roles, by role; a superuser compares them with the stored ones.
    type: dict
    default: {}
  environments:
    description: A folder of services' environments on this host, with whose passwords the module logs in too.
    type: path
  login_user:
    description: Any role that may connect. RV(not_checked) lists what it cannot see; a superuser sees everything.
    type: str
    default: postgres
"""

EXAMPLES = r"""
- name: Compare the database with its declaration
  prefect_schema_verify:
    database: mltrading
    app_owner: mltrading_owner
    app_login: mltrading_app
    monitor: prefect_monitor
    backup: prefect_backup
    tenants:
      - {name: prefect, schema: prefect, owner: prefect_owner, migrator: prefect_migrator, server: prefect_server}
    virtualenv: /opt/prefect/3.9.1
    check_server: true
  register: verification
  failed_when: not verification.verified
"""

RETURN = r"""
verified:
  description: Whether there is no problem of the severity C(error).
  returned: success
  type: bool
connection_test:
  description: Whether the database could be reached.
  returned: success
  type: bool
public_schema:
  description: The application's schema.
  returned: success
  type: dict
  sample: {exists: true, owner: mltrading_owner, tables: [market_data, orders]}
prefect_schema:
  description: The schema of the first tenant, as in RV(tenants).
  returned: success
  type: dict
tenants:
  description: The schema of each tenant, by the tenant's name.
  returned: success
  type: dict
  sample:
    prefect:
      exists: true
      head: d4a7e1c93f52
      owner: prefect_owner
      revision: d4a7e1c93f52
      schema: prefect
      search_path: prefect, extensions
      tables: [agent, alembic_version]
search_path:
  description: The effective search path of the application's role.
  returned: when the database could be reached
  type: str
  sample: public, prefect
search_paths:
  description: The effective search path of each login role in this database.
  returned: success
  type: dict
problems:
  description: What differs, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: always
  type: list
  elements: dict
not_checked:
  description: What the login cannot see, and what is not known of this release of Prefect.
  returned: success
  type: list
  elements: str
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, Login
from ansible.module_utils.pgprefect.schema.declaration import DECLARATION_ARGUMENTS, declare
from ansible.module_utils.pgprefect.schema.verify import verify

CHECK_ARGUMENTS: dict[str, dict[str, Any]] = {
    "virtualenv": {"type": "path"},
    "check_server": {"type": "bool", "default": False},
    "listen_addresses": {"type": "list", "elements": "str", "default": []},
    "environments": {"type": "path"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN_ARGUMENTS,
            **DECLARATION_ARGUMENTS,
            **CHECK_ARGUMENTS,
            "passwords": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    checks = {name: module.params[name] for name in CHECK_ARGUMENTS}
    with failures(module):
        declaration = declare(**{name: module.params[name] for name in (*DECLARATION_ARGUMENTS, "passwords")})
        report = verify(Login.from_arguments(module.params), declaration, **checks)
        result = asdict(report)
        first = result["tenants"][declaration.tenants[0].name]
        module.exit_json(changed=False, verified=report.verified, prefect_schema=first, **result)


if __name__ == "__main__":
    main()
