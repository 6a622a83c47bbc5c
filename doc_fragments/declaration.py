"""Documentation of the arguments in ``pgprefect.schema.declaration.DECLARATION_ARGUMENTS``."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  database: {description: The database., type: str, required: true}
  app_owner:
    description: The role that owns the database and the schema C(public). An existing one keeps its attributes.
    type: str
    required: true
  app_login: {description: The role that the application logs in as., type: str, required: true}
  tenants:
    description:
      - One dictionary for each Prefect server with C(name), C(schema), C(owner), C(migrator) and C(server), the last
        three being roles. Other keys are ignored.
      - C(relay) is the role that reads the tenant's outbox, and C(database_events) are changes of the application's
        rows that are written into it; see docs/database_events.md.
    type: list
    elements: dict
    required: true
  monitor: {description: The role that monitoring logs in as., type: str, required: true}
  backup: {description: The role that backups log in as., type: str, required: true}
  extensions_schema: {description: The schema for extensions., type: str, default: extensions}
  extensions: {description: The extensions that Prefect needs., type: list, elements: str, default: [pg_trgm]}
  app_schema_tables:
    description: The application's tables, which belong in C(public).
    type: list
    elements: str
    default: []
  app_schemas:
    description:
      - Schemas of the application besides C(public), which belong to the same owner and have the same rights.
      - If it is empty, those that are found are backed up, and nothing else is done with them.
    type: list
    elements: str
    default: []
  events_table:
    description:
      - The table in C(public) that holds the application's events. With it, the view C(public.workflow_runs) shows each
        flow run of every tenant with its events.
      - If it is empty, no view is created; an existing one stays.
    type: str
    default: ""
  events_columns:
    description:
      - The table's columns for the fields C(created_at), C(level), C(event_type), C(workflow_name), C(status),
        C(message), C(flow_run_id) (a uuid) and C(metadata), if their names differ; an empty name for a field that the
        table does not have.
    type: dict
    default: {}
  connection_limits: {description: "Connections that a role may open, by role.", type: dict, default: {}}
  exclusive:
    description:
      - Whether C(PUBLIC) loses what it has in the database and in C(public). Unless given, it keeps that in a database
        that existed before.
    type: bool
  administrator:
    description:
      - The role by which a server of others is managed, where the login is no superuser. It has CREATEROLE, owns the
        database, and becomes a member of each schema's owner; the backup's role then reads by grants alone.
    type: str
    default: ""
  audit:
    description:
      - Whether pgaudit records who changes what, which the server must have loaded. It makes the role
        C(pgprefect_audit), which cannot log in, and settings of the database and of roles in it.
      - Without it what it had made is removed.
    type: bool
    default: false
  audit_tables:
    description: Tables, each as C(SCHEMA.TABLE), whose writes by the services' roles are recorded too.
    type: list
    elements: str
    default: []
"""
