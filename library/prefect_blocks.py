#!/usr/bin/python
"""Keep a Prefect server's blocks as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_blocks
short_description: Keep a Prefect server's blocks as declared
description:
  - Creates the declared blocks that are missing, and changes only those fields of existing ones that differ.
  - Blocks that are not declared are left alone.
  - A declaration is a block's whole content; a field that is not declared is taken out of the block.
  - Secrets are compared in memory. Neither the result nor a difference shows them, as they are or as they were.
  - The server must know the type of a block, as it knows Prefect's own ones and those of the integrations that
    C(prefect block register) registered.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: >-
      Reports the same changes and makes none. An API that cannot be reached is taken for a server without blocks,
      with a warning, so that the plan for a host on which nothing is installed yet can be shown.
extends_documentation_fragment: [attributes.changes, api, record]
options:
  blocks:
    description: The blocks.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name, of small letters, digits and C(-).
        type: str
        required: true
      type:
        description: The slug of its type, as C(prefect block type ls) shows it.
        type: str
        required: true
      data:
        description: Its fields that are no secrets. A field that its type calls a secret is refused here.
        type: dict
        default: {}
      secrets:
        description: Its fields that are secrets.
        type: dict
        default: {}
"""

EXAMPLES = r"""
- name: Keep the address to which alerts are sent
  prefect_blocks:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "admin:{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_api') }}"
    blocks:
      - name: alerts
        type: slack-webhook
        secrets:
          url: "{{ vault_slack_url }}"
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: success
  sample: ["create block slack-webhook/alerts", "update block slack-webhook/alerts: url"]
ids:
  description: Identifiers of the declared blocks by type and name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {slack-webhook/alerts: "1f0b4a0e-3f1c-4b44-a2a5-52f0bd8c5b39"}
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
from ansible.module_utils.pgprefect.objects.blocks import Block, apply


def main() -> None:
    # Nor does the host's journal have the arguments.
    module = AnsibleModule(declared_arguments("blocks", Block), supports_check_mode=True, no_log=True)
    apply_declared(module, "blocks", Block, apply)


if __name__ == "__main__":
    main()
