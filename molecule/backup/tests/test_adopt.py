"""A naive installation beside the site's database comes to the design by the playbook."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.scenario import PREFECT, Playbook, Typed

PSQL = "runuser --user postgres -- psql --no-psqlrc -qtA --set ON_ERROR_STOP=1 --dbname %s --command %s"
NAIVE = ("-e", "app_database=naive", "-e", "app_schema=none")
# Prefect's own migration, as its guide has it run: by the superuser, into whatever its search path finds first.
MIGRATE = f"""
cd /tmp && PREFECT_HOME=/tmp/naive DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false \
PREFECT_API_DATABASE_CONNECTION_URL='postgresql+asyncpg://postgres@/naive?host=/var/run/postgresql' \
{PREFECT}/bin/prefect server database upgrade --yes
"""


@pytest.fixture
def naive(host: Host) -> None:
    """A database in which Prefect's tables and an application's are in public, and all is the superuser's."""
    host.check_output(PSQL, "postgres", "CREATE DATABASE naive")
    host.check_output(PSQL, "naive", "CREATE EXTENSION pg_trgm")
    host.check_output("runuser --user postgres -- sh -c %s", MIGRATE)
    host.check_output(
        PSQL,
        "naive",
        "CREATE TABLE orders (id serial PRIMARY KEY); INSERT INTO orders DEFAULT VALUES;"
        " INSERT INTO flow (name) VALUES ('naive'); INSERT INTO flow_run (flow_id, name, state_type)"
        " SELECT id, 'a run', 'COMPLETED' FROM flow",
    )


@pytest.mark.thorough
@pytest.mark.usefixtures("naive")
def test_adopted_as_the_page_says(host: Host, typed: Typed, playbook: Playbook) -> None:
    try:
        adopt = "playbooks/adopt_database.yml"
        planned, _, _ = typed("adopt.md", "Adopt an existing Prefect", **{adopt: f"{adopt} {' '.join(NAIVE)}"})
        assert "ALTER TABLE public.flow_run SET SCHEMA prefect" in planned
        assert changed(planned) == [0]
        tables = "SELECT schemaname || ' ' || tableowner FROM pg_tables WHERE tablename = 'TABLE'"
        where = {
            name: host.check_output(PSQL, "naive", tables.replace("TABLE", name)) for name in ("flow_run", "orders")
        }
        assert where == {"flow_run": "prefect prefect_owner", "orders": "public mltrading_owner"}
        run = "SET ROLE prefect_server; SELECT name, state_type FROM prefect.flow_run"
        assert host.check_output(PSQL, "naive", run) == "a run|COMPLETED"
        again = playbook(adopt, *NAIVE, "-e", "adopt_confirm=true")
        assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout
        (saved,) = host.check_output("ls /var/backups/prefect-adoption/naive-before-adoption-*.dump").split()
        time = saved.removesuffix(".dump").rpartition("-")[2]
        as_postgres = {name: f"runuser --user postgres -- {name}" for name in ("createdb", "pg_restore")}
        typed("adopt.md", "Undo", mltrading="naive", TIME=time, **as_postgres)
        assert host.check_output(PSQL, "naive_before", "SELECT name FROM public.flow_run") == "a run"
    finally:
        for database in ("naive", "naive_before"):
            host.check_output(PSQL, "postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
