#!/usr/bin/python
"""Delete what is old in a Prefect server's schema."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_cleanup
short_description: Delete what is old in a Prefect server's schema
description:
  - Deletes flow runs that have ended, in whole trees - a parent with its subflow runs - and with their task runs,
    states, inputs, logs and artifacts; further what O(policy) says about logs, artifacts, events and leftovers.
  - Works in transactions of less than half a second, waits for nothing for long and can be interrupted at any time; the
    next one goes on. Two cleanups of one schema refuse to run at the same time.
  - Never touches runs that have not ended, deployments, flows or work pools.
version_added: "1.0.0"
author: The ansible-prefect authors
requirements: ["psycopg2 on the host (Debian's python3-psycopg2)"]
attributes:
  check_mode:
    support: full
    description: Counts exactly what would go, and estimates its size.
  diff_mode:
    support: full
    description: Shows the number of rows by table.
  idempotent:
    support: full
    description: A second one finds only what has become old in between.
extends_documentation_fragment: [login]
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
      - C(orphans) (default true) for what names a run that is gone, C(expired_cache) (default true) for the task runs'
        cache.
      - C(zombie_hours) (default 24) reports runs that run for longer without a sign of life; C(crash_zombies) sets them
        to Crashed.
      - 0 days are refused without C(allow_zero_days).
      - C(batch_size), C(max_transaction_seconds), C(max_replication_lag_bytes), C(max_replication_lag_seconds),
        C(max_active_sessions) and C(pause_timeout) say how gently it is done.
    type: dict
    default: {}
  login_user:
    description: A role that may delete, as the tenant's server role, or a superuser.
    type: str
    default: postgres
  vacuum_login_user:
    description:
      - A role that owns the tables or becomes their owner, as the tenant's migrator; it vacuums what lost rows.
      - Not needed where O(login_user) may, as a superuser may. Without one that may, it is left to autovacuum.
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
  description: The number of rows that went, or would go, by table.
  returned: success
  type: dict
  sample: {flow_run: 1498, flow_run_state: 5992, task_run: 7490, task_run_state: 29960, log: 29960, artifact: 1498}
flow_runs_deleted: {description: The number of flow runs that went or would go., returned: success, type: int}
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
  description: Parents with their subflow runs that stayed, because another session held or changed one of them.
  returned: not in check mode
  type: int
batches: {description: The number of transactions that deleted something., returned: not in check mode, type: int}
longest_transaction_seconds: {description: The longest of them., returned: not in check mode, type: float}
seconds: {description: The whole without vacuuming., returned: not in check mode, type: float}
paused_seconds: {description: "Of these, waiting for replicas or others.", returned: not in check mode, type: float}
vacuumed:
  description: The tables that were vacuumed and analyzed.
  returned: not in check mode
  type: list
  elements: str
vacuum_message: {description: Why not, where that was not allowed., returned: not in check mode, type: str}
"""

import contextlib
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, ConnectionFailed, Login, connect
from ansible.module_utils.pgprefect.core.problems import format_problems
from ansible.module_utils.pgprefect.runs.retention import (
    CLEANED_TABLES,
    Policy,
    PolicyError,
    RetentionError,
    clean_up,
    plan,
)


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
    given = module.params
    login = Login.from_arguments(given)
    try:
        policy = Policy.from_arguments(given["policy"])
        with contextlib.ExitStack() as stack:

            def opened(login: Login) -> object:
                return stack.enter_context(contextlib.closing(connect(login, given["database"])))

            connection = opened(login)
            if module.check_mode:
                result = plan(connection, given["schema"], policy).as_dict()
            else:
                vacuuming = None
                if given["vacuum_login_user"]:
                    password = given["vacuum_login_password"]
                    vacuuming = opened(replace(login, user=given["vacuum_login_user"], password=password))
                result = clean_up(connection, given["schema"], policy, vacuum_connection=vacuuming).as_dict()
    except ConnectionFailed as error:
        module.fail_json(msg=format_problems([error.problem]))
    except (PolicyError, RetentionError) as error:
        module.fail_json(msg=str(error))
    lost = [f"{table}: {result['rows'][table]}\n" for table in CLEANED_TABLES if result["rows"][table]]
    diff = {"before_header": "rows to delete", "after_header": "rows to delete", "before": "".join(lost), "after": ""}
    changed = bool(lost) or bool(policy.crash_zombies and result["zombies"])
    module.exit_json(changed=changed, diff=diff, **result)


if __name__ == "__main__":
    main()
