#!/usr/bin/python
"""Keep a Prefect server's variables as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_variables
short_description: Keep a Prefect server's variables as declared
description:
  - Creates the declared variables that are missing, and changes only those fields of existing ones that differ.
  - Variables that are not declared are left alone.
  - Everyone who may use the API can read a variable, and so can everyone who reads this module's output.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: >-
      Reports the same changes and makes none. An API that cannot be reached is taken for a server without variables,
      with a warning, so that the plan for a host on which nothing is installed yet can be shown.
extends_documentation_fragment: [attributes.changes, api, record]
options:
  variables:
    description: The variables.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name, of small letters, digits, C(_) and C(-).
        type: str
        required: true
      value:
        description:
          - A text, a number, true or false, null, a list or a mapping, of at most 5,000 bytes as JSON.
          - The number 1 is another value than the text C("1") and than true.
        type: raw
        required: true
      tags:
        description: Its tags, in any order.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: Say which symbols the flows collect
  prefect_variables:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "admin:{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_api') }}"
    variables:
      - name: symbols
        value: [MSFT, AAPL]
        tags: [market]
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: success
  sample: ["create variable symbols", "update variable limits: value"]
ids:
  description: Identifiers of the declared variables by name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {symbols: "1f0b4a0e-3f1c-4b44-a2a5-52f0bd8c5b39"}
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
from ansible.module_utils.pgprefect.objects.variables import Variable, apply


def main() -> None:
    module = AnsibleModule(declared_arguments("variables", Variable), supports_check_mode=True)
    apply_declared(module, "variables", Variable, apply)


if __name__ == "__main__":
    main()
