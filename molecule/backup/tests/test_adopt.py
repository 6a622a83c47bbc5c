"""A naive installation beside the site's database comes to the design by the playbook."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from tests.support.scenario import Playbook, changed

PSQL = "runuser --user postgres -- psql --no-psqlrc -qtA --set ON_ERROR_STOP=1 --dbname %s --command %s"
NAIVE = ("--extra-vars", "app_database=naive app_schema=none")
# Prefect's own migration, as its guide has it run: by the superuser, into whatever its search path finds first.
MIGRATE = """
cd /tmp && PREFECT_HOME=/tmp/naive DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false \
PREFECT_API_DATABASE_CONNECTION_URL='postgresql+asyncpg://postgres@/naive?host=/var/run/postgresql' \
/opt/prefect/3.8.8/bin/prefect server database upgrade --yes
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


@pytest.mark.usefixtures("naive")
def test_adopted_by_the_playbook(host: Host, playbook: Playbook) -> None:
    try:
        planned = playbook("playbooks/adopt_database.yml", *NAIVE)
        assert planned.returncode == 0, planned.stdout
        assert "ALTER TABLE public.flow_run SET SCHEMA prefect" in planned.stdout
        assert changed(planned.stdout) == [0]
        done = playbook("playbooks/adopt_database.yml", *NAIVE, "--extra-vars", "adopt_confirm=true")
        assert done.returncode == 0, done.stdout
        tables = "SELECT schemaname || ' ' || tableowner FROM pg_tables WHERE tablename = 'TABLE'"
        where = {
            name: host.check_output(PSQL, "naive", tables.replace("TABLE", name)) for name in ("flow_run", "orders")
        }
        assert where == {"flow_run": "prefect prefect_owner", "orders": "public mltrading_owner"}
        run = "SET ROLE prefect_server; SELECT name, state_type FROM prefect.flow_run"
        assert host.check_output(PSQL, "naive", run) == "a run|COMPLETED"
        saved = "ls /var/backups/prefect-adoption/naive-before-adoption-*.dump"
        assert len(host.check_output(saved).split()) == 1
        again = playbook("playbooks/adopt_database.yml", *NAIVE, "--extra-vars", "adopt_confirm=true")
        assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout
    finally:
        host.check_output(PSQL, "postgres", "DROP DATABASE naive WITH (FORCE)")
