#!/usr/bin/python
"""Delete old flow runs and everything that belongs to them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_cleanup
short_description: Delete old flow runs and everything that belongs to them
description:
  - Deletes flow runs that have ended, in whole trees - a parent with its subflow runs - and with their task runs,
    states, inputs, logs and artifacts; and the logs, artifacts, events and leftovers that O(policy) names.
  - Works in transactions of less than half a second, never waits long for a lock, and can be interrupted at any time;
    the next cleanup continues. A second cleanup of the same schema refuses to run at the same time.
  - Never touches runs that have not ended, deployments, flows or work pools.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode: {support: full, description: "Counts exactly the rows that would be deleted, and estimates their size."}
  diff_mode: {support: full, description: Shows the number of rows by table.}
  idempotent: {support: full, description: A second run finds only what has become old in between.}
extends_documentation_fragment: [attributes.changes, login]
options:
  database: {description: The database., type: str, required: true}
  schema: {description: The schema of the Prefect server., type: str, required: true}
  policy:
    description:
      - What is kept, by name. C(days_to_keep) (default 30) for flow runs since they ended, C(days_by_state) instead for
        C(COMPLETED), C(FAILED), C(CRASHED), C(CANCELLED), C(keep_newest) ended runs of each deployment,
        C(protected_tags).
      - C(logs_days) and C(artifacts_days) for those of runs that stay, C(events_days), and C(unattached_days) for logs
        and artifacts that never had a run. What is not set is left alone.
      - C(orphans) (default true) deletes what belongs to a run that is gone, C(expired_cache) (default true) the
        expired entries of the task runs' cache.
      - C(zombie_hours) (default 24) reports runs that have been running for longer without a sign of life;
        C(crash_zombies) sets them to Crashed.
      - 0 days are refused without C(allow_zero_days).
      - C(batch_size), C(max_transaction_seconds), C(max_replication_lag_bytes), C(max_replication_lag_seconds),
        C(max_active_sessions) and C(pause_timeout) say how gently it is done.
    type: dict
    default: {}
  login_user:
    description: A role that may delete, such as the tenant's server role, or a superuser.
    type: str
    default: postgres
  vacuum_login_user:
    description:
      - A role that owns the tables or becomes their owner, such as the tenant's migrator; it vacuums the tables that
        lost rows.
      - Not needed if O(login_user) may do it, as a superuser may. If neither may, it is left to autovacuum.
    type: str
  vacuum_login_password: {description: Its password., type: str}
"""

EXAMPLES = r"""
- name: Keep a month of runs, three months of failed ones, and a week of logs
  prefect_cleanup:
    database: mltrading
    schema: prefect
    policy:
      days_to_keep: 30
      days_by_state: {FAILED: 90, CRASHED: 90}
      keep_newest: 5
      protected_tags: [audit]
      logs_days: 7
  register: cleanup
"""

RETURN = r"""
rows:
  description: The number of rows that were deleted (in check mode would be), by table.
  returned: success
  type: dict
  sample: {flow_run: 1498, flow_run_state: 5992, task_run: 7490, task_run_state: 29960, log: 29960, artifact: 1498}
flow_runs_deleted: {description: The number of flow runs among them., returned: success, type: int}
flow_run_states_deleted: {description: The same of their states., returned: success, type: int}
flow_run_inputs_deleted: {description: The same of their inputs., returned: success, type: int}
task_runs_deleted: {description: The same of task runs., returned: success, type: int}
task_run_states_deleted: {description: The same of their states., returned: success, type: int}
task_run_state_caches_deleted: {description: The same of their cache's entries., returned: success, type: int}
logs_deleted: {description: The same of log lines., returned: success, type: int}
artifacts_deleted: {description: The same of artifacts., returned: success, type: int}
artifact_collections_deleted: {description: The same of keys that have no artifact left., returned: success, type: int}
events_deleted: {description: The same of events., returned: success, type: int}
event_resources_deleted: {description: The same of the resources that events name., returned: success, type: int}
bytes:
  description: About how many bytes the rows take, with their indexes.
  returned: in check mode
  type: int
zombies:
  description: Runs that show no sign of life, each with C(id), C(name), C(state), C(since) and C(hours).
  returned: success
  type: list
  elements: dict
zombies_crashed: {description: How many of them were set to Crashed., returned: not in check mode, type: int}
collections_repointed:
  description: Artifact keys that now show an older artifact.
  returned: not in check mode
  type: int
trees_skipped:
  description: Runs that stayed with their subflow runs, because another session held or changed one of them.
  returned: not in check mode
  type: int
batches: {description: The number of transactions that deleted something., returned: not in check mode, type: int}
longest_transaction_seconds: {description: The longest of them., returned: not in check mode, type: float}
seconds: {description: The duration of the cleanup without vacuuming., returned: not in check mode, type: float}
paused_seconds: {description: "Of these, waiting for replicas or others.", returned: not in check mode, type: float}
vacuumed:
  description: The tables that were vacuumed and analyzed.
  returned: not in check mode
  type: list
  elements: str
vacuum_message: {description: "Why tables were not vacuumed, if so.", returned: not in check mode, type: str}
problems:
  description: Why it failed, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
changes:
  description: What had been done before it failed, in order.
  type: list
  elements: str
  returned: failure
"""

import contextlib
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.database import connection
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, Login, connect
from ansible.module_utils.pgprefect.runs.batches import Batch, Progress
from ansible.module_utils.pgprefect.runs.retention import CLEANED_TABLES, Policy, clean_up, plan


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN_ARGUMENTS,
            "database": {"type": "str", "required": True},
            "schema": {"type": "str", "required": True},
            "policy": {"type": "dict", "default": {}},
            "vacuum_login_user": {"type": "str"},
            "vacuum_login_password": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    schema = module.params["schema"]
    with failures(module) as done:
        policy = Policy.from_arguments(module.params["policy"])
        with connection(module) as opened, vacuum_connection(module) as vacuuming:
            if module.check_mode:
                result = plan(opened, schema, policy).as_dict()
            else:
                progress = record(done)
                result = clean_up(opened, schema, policy, progress, vacuum_connection=vacuuming).as_dict()
        rows = [f"{table}: {result['rows'][table]}\n" for table in CLEANED_TABLES if result["rows"][table]]
        header = dict.fromkeys(("before_header", "after_header"), "rows to delete")
        changed = bool(rows) or bool(policy.crash_zombies and result["zombies"])
        module.exit_json(changed=changed, diff={**header, "before": "".join(rows), "after": ""}, **result)


def record(done: list[str]) -> Progress:
    """Return what keeps in a list how many rows of each table have been deleted."""
    rows: dict[str, int] = {}

    def add(batch: Batch) -> None:
        for table, count in batch.deleted.items():
            rows[table] = rows.get(table, 0) + count
        done[:] = [f"{count} rows of {table}" for table, count in rows.items()]

    return add


def vacuum_connection(module: AnsibleModule) -> contextlib.AbstractContextManager[Any]:
    """Open a connection by the login that vacuums; there is none in check mode, and none without such a login."""
    given = module.params
    if module.check_mode or not given["vacuum_login_user"]:
        return contextlib.nullcontext()
    login = replace(
        Login.from_arguments(given), user=given["vacuum_login_user"], password=given["vacuum_login_password"]
    )
    return contextlib.closing(connect(login, given["database"]))


if __name__ == "__main__":
    main()
