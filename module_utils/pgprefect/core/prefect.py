"""Names in Prefect's schema: tables, enums, states, and the tables that hold secrets."""

from __future__ import annotations

# All tables of Prefect 3.8 and 3.9, and those of them that the older one lacks.
_NAMES = """
    agent alembic_version artifact artifact_collection automation automation_bucket automation_event_follower
    automation_held_event automation_related_resource block_document block_document_reference block_schema
    block_schema_reference block_type composite_trigger_child_firing concurrency_limit concurrency_limit_v2
    configuration csrf_token deployment deployment_schedule deployment_version event_resources events flow flow_run
    flow_run_input flow_run_state log saved_search task_run task_run_state task_run_state_cache variable work_pool
    work_queue worker
"""
TABLES = frozenset(_NAMES.split())

NEWER = frozenset({"automation_held_event"})

# Tables of the first migration that no other application has by accident: where all are, Prefect was installed.
SIGNATURE = ("flow_run", "flow_run_state", "task_run_state")

# The states that end a run, and the same as an operand of SQL's IN.
TERMINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
TERMINAL_STATES_SQL = str(TERMINAL_STATES)

ENUMS = ("deployment_status", "state_type", "work_pool_status", "work_queue_status", "worker_status")

# The key that encrypts blocks, the blocks, and the tokens of browsers: only the server may read them.
SECRETS = ("block_document", "configuration", "csrf_token")
