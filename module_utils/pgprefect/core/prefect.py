"""Prefect 3: its tables, states and enums, and the environment that its server reads."""

from __future__ import annotations

from collections.abc import Sequence

from .connection import Login
from .sql import Names, quote

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

# The states of a run that a worker has taken, or that runs: something must be there that brings it to its end.
OPEN_STATES = ("PENDING", "RUNNING", "CANCELLING")

# The tag by which a deployment says that its lost runs are scheduled again. Each run has its deployment's tags.
RESCHEDULE_TAG = "on_lost:reschedule"

ENUMS = ("deployment_status", "state_type", "work_pool_status", "work_queue_status", "worker_status")

# What only the server may read: the key that encrypts blocks, the blocks, browsers' tokens, and what people enter as
# variables, as input of waiting runs and as bodies of automations' requests.
SECRETS = ("automation", "block_document", "configuration", "csrf_token", "flow_run_input", "variable")

# Columns of tables that others may read, which hold jobs' environments and the access to code.
SECRET_COLUMNS = {
    "deployment": ("infra_overrides", "pull_steps"),
    "deployment_version": ("infra_overrides", "pull_steps"),
    "flow_run": ("job_variables",),
    "work_pool": ("base_job_template", "storage_configuration"),
}

# The comment by which a database is known that was made for the declared roles alone.
MADE_HERE = "Made by ansible-prefect"
# How the replication slots of the site's own standbys begin.
STANDBY_SLOT = "prefect_standby_"

# The event by which a worker of the site says that it starts, and with it that nothing runs what it had taken before;
# the resource's name follows the prefix.
WORKER_STARTED = "pgprefect.worker.started"
WORKER_RESOURCE = "pgprefect.worker."


def prefect_tables(schema: str) -> dict[str, Names]:
    """Return Prefect's tables by their names, as arguments of a statement on a schema."""
    return {table: Names(((schema, table),)) for table in TABLES}


def server_environment(login: Login, database: str, search_path: Sequence[str], home: str) -> dict[str, str]:
    """Return the environment of a Prefect server on a database that the migrator has migrated.

    The role prefect_server writes the same for the servers of a site, in its vars/main.yml.
    """
    return {
        "HOME": home,
        "PREFECT_HOME": home,
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": login.host,
        "PREFECT_SERVER_DATABASE_PORT": str(login.port),
        "PREFECT_SERVER_DATABASE_NAME": database,
        "PREFECT_SERVER_DATABASE_USER": login.user,
        "PREFECT_SERVER_DATABASE_PASSWORD": login.password or "",
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH": ", ".join(map(quote, search_path)),
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
