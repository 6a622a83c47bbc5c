#!/usr/bin/python
"""Keep a Prefect server's automations as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_automations
short_description: Keep a Prefect server's automations as declared
description:
  - Creates the declared automations that are missing, and changes only those fields of existing ones that differ.
  - Automations that are not declared are left alone.
  - Prefect lets several automations have one name. A name that is declared twice, or that the server has twice, is
    refused.
  - Prefect drops a key of a trigger or an action that it does not know. Here it is refused.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: >-
      Reports the same changes and makes none. An API that cannot be reached is taken for a server without automations,
      with a warning, so that the plan for a host on which nothing is installed yet can be shown.
extends_documentation_fragment: [attributes.changes, api, record]
options:
  automations:
    description: The automations.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name.
        type: str
        required: true
      description:
        description: What it is for. If not given, it stays as it is.
        type: str
      enabled:
        description: Whether it does anything. If not given, it stays as it is; a new one does.
        type: bool
      tags:
        description: Its tags, in any order.
        type: list
        elements: str
        default: []
      trigger:
        description:
          - When it acts, with the keys of Prefect's triggers of the types C(event), C(compound) and C(sequence). The
            type is C(event) unless given.
          - A trigger with the posture C(Reactive) needs C(expect), because it would react to every event without it.
        type: dict
        required: true
      actions:
        description:
          - What it does, with the keys of Prefect's actions, as C(run-deployment) and C(send-notification).
          - An object is named and not given by its identifier, as C(deployment) (C(flow/deployment)), C(work_pool),
            C(work_queue) (C(pool/queue)), C(block) (C(type/name)) and C(automation), which must be there or be declared
            before this one.
        type: list
        elements: dict
        required: true
      actions_on_trigger:
        description: What it does besides when the trigger fires.
        type: list
        elements: dict
        default: []
      actions_on_resolve:
        description: What it does when the trigger is resolved.
        type: list
        elements: dict
        default: []
  planned:
    description:
      - Names of what is made before the automations in the same run. In check mode an action may name what is not there
        yet, if it is one of these.
    type: dict
    default: {}
    suboptions:
      deployments:
        description: Deployments as C(flow/deployment).
        type: list
        elements: str
        default: []
      work_pools:
        description: Work pools.
        type: list
        elements: str
        default: []
      work_queues:
        description: Queues as C(pool/queue), besides the queue C(default) of each pool.
        type: list
        elements: str
        default: []
      blocks:
        description: Blocks as C(type/name).
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: Report flow runs that fail
  prefect_automations:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "admin:{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_api') }}"
    automations:
      - name: report failed runs
        trigger:
          posture: Reactive
          expect: [prefect.flow-run.Failed, prefect.flow-run.Crashed]
          match:
            prefect.resource.id: prefect.flow-run.*
        actions:
          - type: send-notification
            block: slack-webhook/alerts
            subject: A flow run failed
            body: Look at the runs in the UI.
      - name: check the risk of each new order
        trigger:
          posture: Reactive
          expect: [order.created]
        actions:
          - type: run-deployment
            deployment: check-risk-limits/hourly
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: success
  sample: ["create automation report failed runs", "update automation report failed runs: trigger"]
ids:
  description: Identifiers of the declared automations by name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {report failed runs: "1f0b4a0e-3f1c-4b44-a2a5-52f0bd8c5b39"}
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
from ansible.module_utils.pgprefect.core.options import from_options, options_of
from ansible.module_utils.pgprefect.objects.automations import Automation, Planned, apply


def main() -> None:
    spec = declared_arguments("automations", Automation)
    spec["planned"] = {"type": "dict", "default": {}, "options": options_of(Planned)}
    module = AnsibleModule(spec, supports_check_mode=True)
    planned = from_options(Planned, module.params["planned"])
    apply_declared(module, "automations", Automation, apply, planned=planned)


if __name__ == "__main__":
    main()
