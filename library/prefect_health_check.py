#!/usr/bin/python
"""Ask whether the database, Prefect's schemas, the API and the workers answer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_health_check
short_description: Ask whether the database, Prefect's schemas, the API and the workers answer
description:
  - Changes nothing and does not fail on a problem; the caller decides what it means.
  - All checks run at the same time, and the whole takes no longer than O(timeout), also where the database is stopped,
    the API hangs or the network drops packets.
version_added: "1.0.0"
author: The ansible-prefect authors
requirements: ["psycopg2 on the host (Debian's python3-psycopg2)"]
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: There is nothing to change.
  idempotent:
    support: full
    description: The module only reads.
options:
  database: {description: The database., type: str, required: true}
  tenants:
    description:
      - One dictionary for each Prefect server with C(name), C(schema), C(api_url) and C(workers), the last being the
        number that should be online (0 when left out). Other keys are ignored.
    type: list
    elements: dict
    required: true
  timeout: {description: Seconds that the whole may take., type: float, default: 4}
  login_host: {description: The server's host; empty for the unix socket., type: str, default: ""}
  login_port: {description: The server's port., type: int, default: 5432}
  login_user: {description: A role that may read the tenants' schemas., type: str, default: prefect_monitor}
  login_password: {description: Its password., type: str}
  login_ssl_mode:
    description: How far the connection is protected by TLS, as libpq's C(sslmode).
    type: str
    default: prefer
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  login_ca_file: {description: The certificate authority that signed the server's certificate., type: path}
"""

EXAMPLES = r"""
- name: Ask whether all is well
  prefect_health_check:
    database: mltrading
    login_host: 127.0.0.1
    login_password: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_monitor') }}"
    tenants:
      - {name: prefect, schema: prefect, api_url: "http://127.0.0.1:4200/api", workers: 1}
  register: health
"""

RETURN = r"""
overall_status:
  description: The worst status of all checks, V(healthy), V(degraded) or V(unhealthy).
  returned: success
  type: str
checks:
  description: >-
    The status of C(app_database), C(prefect_schema), C(schema_separation), C(api) and C(workers). For each tenant after
    the first, C(prefect_schema), C(api) and C(workers) stand there again with C(:NAME) appended.
  returned: success
  type: dict
  sample: {api: healthy, app_database: healthy, prefect_schema: healthy, schema_separation: healthy, workers: healthy}
problems:
  description: What is wrong, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: success
  type: list
  elements: dict
details:
  description: What each check saw, with its latency.
  returned: success
  type: dict
  sample: {workers: {expected: 1, known: 1, latency_ms: 7.9, online: 1, youngest_heartbeat_s: 12.3}}
"""


from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.connection import LOGIN_ARGUMENTS, Login
from ansible.module_utils.pgprefect.health import Part, check_health


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN_ARGUMENTS,
            "login_user": {"type": "str", "default": "prefect_monitor"},
            "database": {"type": "str", "required": True},
            "tenants": {"type": "list", "elements": "dict", "required": True},
            "timeout": {"type": "float", "default": 4},
        },
        supports_check_mode=True,
    )
    try:
        parts = [Part.from_arguments(tenant) for tenant in module.params["tenants"]]
    except (KeyError, ValueError) as error:
        module.fail_json(msg=f"Each of tenants needs name, schema and api_url, and workers as a number: {error}.")
    login = Login.from_arguments(module.params)
    health = check_health(login, module.params["database"], parts, module.params["timeout"])
    module.exit_json(changed=False, **health.as_dict())


if __name__ == "__main__":
    main()
