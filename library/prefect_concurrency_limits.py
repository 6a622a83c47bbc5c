#!/usr/bin/python
"""Keep a Prefect server's concurrency limits as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_concurrency_limits
short_description: Keep a Prefect server's concurrency limits as declared
description:
  - Creates the declared limits that are missing, and changes only those fields of existing ones that differ.
  - Limits that are not declared are left alone.
  - The slots that are taken stay as they are.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: >-
      Reports the same changes and makes none. An API that cannot be reached is taken for a server without limits, with
      a warning, so that the plan for a host on which nothing is installed yet can be shown.
extends_documentation_fragment: [attributes.changes, api, record]
options:
  concurrency_limits:
    description: The limits.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Its name, which C(concurrency) and C(rate_limit) of a flow give.
          - C(tag:NAME) limits the task runs that have the tag C(NAME). A limit of C(0) stops them.
        type: str
        required: true
      limit:
        description: How many slots there are.
        type: int
        required: true
      active:
        description: Whether it limits anything. If not given, it stays as it is; a new one does.
        type: bool
      slot_decay_per_second:
        description: How many taken slots become free each second, for C(rate_limit); C(0) for none.
        type: float
        default: 0.0
"""

EXAMPLES = r"""
- name: Limit what a provider of prices allows
  prefect_concurrency_limits:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "admin:{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_api') }}"
    concurrency_limits:
      - name: quotes
        limit: 5
        slot_decay_per_second: 0.5
      - name: tag:database
        limit: 10
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: success
  sample: ["create concurrency limit quotes", "update concurrency limit tag:database: limit"]
ids:
  description: Identifiers of the declared concurrency limits by name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {quotes: "1f0b4a0e-3f1c-4b44-a2a5-52f0bd8c5b39"}
problems:
  description: Why it failed, each with C(code), C(severity), C(object), C(message) and C(remedy).
  type: list
  elements: dict
  returned: failure
changes:
  description: What had been done before it failed, in order.
  type: list
  elements: str
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.objects import apply_declared, declared_arguments
from ansible.module_utils.pgprefect.objects.concurrency_limits import ConcurrencyLimit, apply


def main() -> None:
    module = AnsibleModule(declared_arguments("concurrency_limits", ConcurrencyLimit), supports_check_mode=True)
    apply_declared(module, "concurrency_limits", ConcurrencyLimit, apply)


if __name__ == "__main__":
    main()
