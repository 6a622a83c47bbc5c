"""Measure prefect_schema_verify against the same questions as tasks of community.postgresql's modules.

Both run in one ansible-playbook on this machine, against the same database. It is as declared, so no task may report a
change. Run it with ``PYTHONPATH=module_utils .venv/bin/python -m bench.verify``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pgprefect.schema.declaration import PUBLIC

from bench.support import show
from tests.support.postgresql import running_postgresql
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import Site, migrated_site

Task = dict[str, Any]
ROUNDS = 3

# Facts that no module reads.
QUERIES = {
    "tables and their owners": (
        "SELECT schemaname, tablename, tableowner FROM pg_tables WHERE schemaname IN ('public', 'prefect')"
    ),
    "enums": "SELECT typnamespace::regnamespace, typname, typowner::regrole FROM pg_type WHERE typtype = 'e'",
    "search paths": "SELECT setrole::regrole, setconfig FROM pg_db_role_setting",
    "visibility of pg_trgm": (
        "SELECT rolname FROM pg_roles r, pg_opclass o WHERE opcname = 'gin_trgm_ops' "
        "AND has_schema_privilege(r.oid, opcnamespace, 'USAGE')"
    ),
    "revision": "SELECT version_num FROM prefect.alembic_version",
    "columns": (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'prefect'"
    ),
    "constraints": (
        "SELECT conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'prefect'::regnamespace"
    ),
    "indexes": (
        "SELECT indexrelid::regclass, indisvalid, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c "
        "ON c.oid = indrelid WHERE relnamespace = 'prefect'::regnamespace"
    ),
    "functions with their owner's rights": "SELECT oid::regprocedure FROM pg_proc WHERE prosecdef",
    "access rules": "SELECT * FROM pg_hba_file_rules",
    "stored passwords": "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolpassword !~ '^SCRAM-SHA-256'",
}


def questions(site: Site) -> Iterator[tuple[str, Task]]:
    """Yield the module and arguments of each question: schemas, extension, roles, memberships, owners and rights."""
    declaration = site.declaration
    yield "info", {"filter": ["version", "databases", "roles", "settings"]}
    for schema in declaration.schemas:
        yield "schema", {"name": schema, "owner": declaration.owners.get(schema, "postgres")}
    for extension in declaration.extensions:
        yield "ext", {"name": extension, "schema": declaration.extensions_schema}
    for role in declaration.roles:
        login = "LOGIN" if role in declaration.login_roles else "NOLOGIN"
        yield "user", {"name": role, "role_attr_flags": f"{login},NOSUPERUSER,NOCREATEDB,NOCREATEROLE"}
    for member, group in sorted(declaration.memberships):
        yield "membership", {"target_roles": [member], "groups": [group]}
    yield "owner", {"obj_name": declaration.database, "obj_type": "database", "new_owner": declaration.app_owner}
    yield from rights(site)
    for query in QUERIES.values():
        yield "query", {"query": query}


def rights(site: Site) -> Iterator[tuple[str, Task]]:
    """Yield three tasks for each role and schema: the schema, its tables, and the default privileges."""
    declaration = site.declaration
    for role in declaration.login_roles:
        yield "privs", {"type": "database", "privs": "CONNECT", "roles": role}
    yield "privs", {"type": "database", "privs": "CONNECT,TEMPORARY", "roles": "PUBLIC", "state": "absent"}
    tables = "SELECT,INSERT,UPDATE,DELETE"
    for schema in declaration.schemas:
        for role in (PUBLIC, *declaration.login_roles):
            inherits = role in (declaration.backup, *(tenant.migrator for tenant in declaration.tenants))
            grants = [grant for grant in declaration.grants if (grant.role, grant.schema) == (role, schema)]
            for state, privileges in (("present", grants[:1]), ("absent", [] if inherits or grants else [None])):
                for grant in privileges:
                    who = {"roles": role or "PUBLIC", "state": state}
                    yield "privs", {**who, "type": "schema", "objs": schema, "privs": "USAGE"}
                    if schema in declaration.owners:
                        held = ",".join(sorted(grant.tables)) if grant else tables
                        names = [name for (name,) in site.sql(TABLES_WITHOUT_SECRETS, schema)]
                        of = {**who, "schema": schema, "privs": held}
                        yield "privs", {**of, "type": "table", "objs": ",".join(names)}
                        default_privileges = {
                            "type": "default_privs",
                            "objs": "TABLES",
                            "target_roles": declaration.owners[schema],
                        }
                        yield "privs", {**of, **default_privileges}


TABLES_WITHOUT_SECRETS = """
SELECT tablename FROM pg_tables
WHERE schemaname = %s AND tablename NOT IN ('block_document', 'configuration', 'csrf_token')
"""


def playbook(site: Site) -> list[dict[str, Any]]:
    """Return the plays ours and theirs in turn."""
    login = {**site.server.module_arguments(), "login_user": "postgres"}
    ours: list[Task] = [
        {"prefect_schema_verify": {**site.arguments(), "virtualenv": str(VIRTUALENV), "check_server": True}}
    ]
    theirs: list[Task] = []
    for module, arguments in questions(site):
        database = {} if module in ("membership", "user") else {"login_db": site.database}
        theirs.append(
            {f"community.postgresql.postgresql_{module}": {**login, **database, **arguments}, "check_mode": True}
        )
    plays = [{"name": name, "tasks": tasks} for name, tasks in (("ours", ours), ("theirs", theirs))]
    common = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    return [{**play, **common} for _ in range(ROUNDS) for play in plays]


def seconds(task: dict[str, Any]) -> float:
    start, end = (datetime.fromisoformat(task["task"]["duration"][key].rstrip("Z")) for key in ("start", "end"))
    return (end - start).total_seconds()


def measure(site: Site, folder: Path) -> None:
    """Run both and print the table."""
    (folder / "verify.yml").write_text(json.dumps(playbook(site)))
    run = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "-i",
            "localhost,",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            folder / "verify.yml",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    result = json.loads(run.stdout[run.stdout.index("{") :])
    for play in result["plays"]:
        for task in play["tasks"]:
            answer = task["hosts"]["localhost"]
            if answer.get("failed") or answer["changed"]:
                sys.exit(f"A task failed or changed something: {json.dumps(answer, indent=1)}")
        times[play["play"]["name"]].append(sum(map(seconds, play["tasks"])))
    count = sum(1 for _ in questions(site))
    ours, theirs = (statistics.median(times[name]) for name in ("ours", "theirs"))
    rows: list[tuple[str, float, str, float | None]] = [
        ("prefect_schema_verify, 1 task", ours, f"community.postgresql, {count} tasks", theirs / ours),
        (f"community.postgresql, {count} tasks", theirs, "", None),
    ]
    show(f"Verification, median of {ROUNDS}", rows)


def main() -> None:
    with running_postgresql() as server, tempfile.TemporaryDirectory() as folder:
        measure(migrated_site(server, "mltrading", Path(folder)), Path(folder))


if __name__ == "__main__":
    main()
