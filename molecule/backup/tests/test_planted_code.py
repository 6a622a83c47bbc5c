"""What others have planted in the tables never runs with more rights than the tables' owners and users have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from testinfra.host import Host

AS = "psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname mltrading --username %s --command %s"
ADMINISTRATOR = "runuser --user postgres -- psql --no-psqlrc --quiet --command %s"
TAKE = """
    CREATE FUNCTION {schema}.take() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('is_superuser') = 'on' AND current_setting('port') = '5432' THEN
            ALTER ROLE prefect_monitor SUPERUSER;
        END IF;
        RETURN true;
    END $$;
    CREATE FUNCTION {schema}.take_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM {schema}.take(); RETURN coalesce(NEW, OLD);
    END $$;
"""
# The administrator would execute what this says.
RECORD = """{"set": "x", "database": "mltrading", "created": false, "started": "2026-01-01T00:00:00+00:00",
 "committed": true, "roles": [], "afterwards": ["ALTER ROLE prefect_monitor SUPERUSER"]}"""
STATE = "stat --format '%a %U %G %Y %n' /etc/passwd /etc/cron.d /etc/cron.d/*"
PLANTED = {
    "prefect_migrator": """
        CREATE TRIGGER take BEFORE DELETE OR UPDATE ON prefect.flow_run
            FOR EACH ROW EXECUTE FUNCTION prefect.take_trigger();
        CREATE TRIGGER take BEFORE DELETE ON prefect.log FOR EACH STATEMENT EXECUTE FUNCTION prefect.take_trigger();
        """,
    "mltrading_owner": """
        CREATE POLICY take ON public.system_logs USING (public.take());
        ALTER TABLE public.system_logs ENABLE ROW LEVEL SECURITY;
        ALTER TABLE public.orders ADD CONSTRAINT take CHECK (public.take());
        """,
}
SCHEMAS = {"prefect_migrator": "prefect", "mltrading_owner": "public"}
COMMANDS = (
    "pgprefect verify",
    "pgprefect health",
    "pgprefect stats",
    "pgprefect events --limit 1",
    "pgprefect cleanup --days 0.001 --yes",
    "pgprefect backup",
    "pgprefect restore --dry-run",
    "pgprefect restore --yes",
    "pgprefect restore --into planted_copy",
    "pgprefect drill",
)


def superusers(host: Host) -> str:
    question = "SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolsuper"
    return str(host.check_output("psql -At --dbname mltrading --username prefect_monitor --command %s", question))


@pytest.fixture
def planted(host: Host) -> Iterator[None]:
    """Functions in triggers, checks and policies, by those who may define them."""
    host.check_output(ADMINISTRATOR, "ALTER ROLE mltrading_owner LOGIN")
    for role, statements in PLANTED.items():
        host.check_output(AS, role, TAKE.format(schema=SCHEMAS[role]) + statements)
    yield
    host.check_output(ADMINISTRATOR, "ALTER ROLE mltrading_owner LOGIN")
    host.check_output(AS, "mltrading_owner", "ALTER TABLE public.system_logs DISABLE ROW LEVEL SECURITY")
    for role, schema in SCHEMAS.items():
        for function in ("take_trigger", "take"):
            host.check_output(AS, role, f"DROP FUNCTION IF EXISTS {schema}.{function}() CASCADE")
    host.check_output(ADMINISTRATOR, "ALTER ROLE mltrading_owner NOLOGIN")
    host.check_output(ADMINISTRATOR, "DROP DATABASE IF EXISTS planted_copy")
    # What was planted is in the newest set, and its drill failed for that: leave a good one.
    host.check_output("pgprefect backup && pgprefect drill")


@pytest.fixture
def folder_of_the_sets(host: Host) -> Iterator[None]:
    """What the user of the backups can leave in its folder, which the jobs of root read and clear."""
    plant = f"""cd /var/backups/prefect
        echo '{RECORD}' > .restore.json; cp .restore.json restore.json
        ln -s /etc/passwd .restore.json.new; ln -s /etc/passwd .lock-restore
        ln -s /etc/cron.d .partial-20260101T000000Z; ln -s /etc/cron.d .removed-20260101T000000Z"""
    as_owner = "runuser --user prefect_backup -- sh -c %s"
    before = host.check_output("sh -c %s", STATE)
    host.check_output(as_owner, plant)
    assert host.run(as_owner, "touch /var/lib/pgprefect/restores/restore.json").rc != 0
    yield
    assert host.check_output("sh -c %s", STATE) == before
    assert not host.file("/var/backups/prefect/.partial-20260101T000000Z").exists
    host.check_output("cd /var/backups/prefect && rm .restore.json* restore.json .lock-restore")


@pytest.mark.usefixtures("planted", "folder_of_the_sets")
def test_no_job_runs_planted_code_as_a_superuser(host: Host) -> None:
    assert superusers(host) == "postgres"
    for command in COMMANDS:
        done = host.run(command)
        assert done.rc in (0, 1, 2), (command, done.stderr)  # what it found is not the matter here
        assert superusers(host) == "postgres", command
