#!/usr/bin/python
"""Report how the flows of a Prefect server run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_workflow_statistics
short_description: Report how the flows of a Prefect server run
description:
  - Reads Prefect's tables with the indexes that they have, and changes nothing.
  - The totals and RV(recent_activity) are of all time; everything else is of the runs that began, or should have begun,
    in the last O(days) days. Durations and lateness are in seconds.
version_added: "1.0.0"
author: The ansible-prefect authors
extends_documentation_fragment: [attributes.reads, login]
options:
  database: {description: The database., type: str, required: true}
  schema: {description: The schema of the Prefect server., type: str, default: prefect}
  days: {description: "The length of the window in days, above 0.", type: float, default: 30}
  recent: {description: How many of the newest finished runs to list., type: int, default: 20}
  slowest: {description: How many of the slowest tasks to list., type: int, default: 10}
  failing: {description: How many of the deployments that fail most to list., type: int, default: 10}
  login_user: {description: A role that may read the schema., type: str, default: prefect_monitor}
"""

EXAMPLES = r"""
- name: Get the statistics of the last week
  prefect_workflow_statistics:
    database: mltrading
    schema: prefect
    days: 7
    login_host: 127.0.0.1
    login_password: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_monitor') }}"
  register: statistics
"""

RETURN = r"""
days:
  description: The length of the window in days.
  returned: success
  type: float
since:
  description: When the window begins.
  returned: success
  type: str
  sample: "2026-03-01T12:00:00+00:00"
total_flows:
  description: How many flows the server knows.
  returned: success
  type: int
total_runs:
  description: How many flow runs it has, in any state.
  returned: success
  type: int
successful_runs:
  description: How many of them are completed.
  returned: success
  type: int
failed_runs:
  description: How many of them failed or crashed.
  returned: success
  type: int
scheduled_runs:
  description: How many of them have not begun.
  returned: success
  type: int
average_duration:
  description: From start to end, over all finished runs; null when there are none.
  returned: success
  type: float
recent_activity:
  description: The newest finished runs.
  returned: success
  type: list
  elements: dict
  sample:
    - deployment: daily
      duration: 9.5
      end_time: "2026-03-31T11:00:09.500000+00:00"
      flow: collect-market-data
      flow_run_id: 0a39a8f2-5c6f-4a9c-9c8e-5f0d9a0c2b11
      name: clever-crow
      start_time: "2026-03-31T11:00:00+00:00"
      state_name: Completed
      state_type: COMPLETED
flows:
  description: >-
    The figures of each flow. The success rate is that of the runs which completed, failed or crashed. Retries are what
    was run again within a run.
  returned: success
  type: list
  elements: dict
  sample:
    - average_duration: 10.2
      average_lateness: 1.1
      deployment: null
      flow: collect-market-data
      max_lateness: 4.0
      p50_duration: 9.5
      p95_duration: 14.1
      p99_duration: 15.0
      retries: 2
      runs: 31
      states: {COMPLETED: 30, FAILED: 1}
      success_rate: 0.9677
deployments:
  description: >-
    The same of each deployment, and with a null one of the runs of a flow without. Of a deployment that was deleted
    the id is left.
  returned: success
  type: list
  elements: dict
trend:
  description: The figures of each day of the window, in UTC.
  returned: success
  type: list
  elements: dict
  sample: [{average_duration: 9.9, day: "2026-03-31", failed_runs: 0, runs: 1, successful_runs: 1}]
slowest_tasks:
  description: The tasks whose 95th percentile is the highest, among the window's newest 100,000 finished task runs.
  returned: success
  type: list
  elements: dict
  sample:
    - {average_duration: 7.0, failed_runs: 1, max_duration: 9.0, p95_duration: 8.8, runs: 2, task_key: get-1a2b3c4d}
most_failing:
  description: The deployments with most failed and crashed runs.
  returned: success
  type: list
  elements: dict
  sample: [{deployment: daily, failed_runs: 1, flow: collect-market-data, success_rate: 0.9677}]
problems:
  description: Why it failed, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.database import connection
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS
from ansible.module_utils.pgprefect.runs.statistics import workflow_statistics


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN_ARGUMENTS,
            "login_user": {"type": "str", "default": "prefect_monitor"},
            "database": {"type": "str", "required": True},
            "schema": {"type": "str", "default": "prefect"},
            "days": {"type": "float", "default": 30},
            "recent": {"type": "int", "default": 20},
            "slowest": {"type": "int", "default": 10},
            "failing": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    numbers = {name: module.params[name] for name in ("days", "recent", "slowest", "failing")}
    with failures(module), connection(module) as opened:
        statistics = workflow_statistics(opened, module.params["schema"], **numbers)
        module.exit_json(changed=False, **statistics.as_dict())


if __name__ == "__main__":
    main()
