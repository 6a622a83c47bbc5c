"""Which migration a database is at, and the commands that the units of Prefect run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.ansible import Result
from tests.support.project import VIRTUALENV
from tests.support.site import PASSWORD, Site, pgprefect
from tests.support.verification import codes, refusal


def arguments(site: Site) -> dict[str, object]:
    return {
        **site.server.module_arguments(),
        "database": site.database,
        "schema": site.tenant.schema,
        "virtualenv": str(VIRTUALENV),
        "login_user": site.tenant.migrator,
        "login_password": PASSWORD,
    }


STATES = [
    ("", "current", 0),
    ("UPDATE prefect.alembic_version SET version_num = 'e7f54680bce3'", "behind", 1),
    ("UPDATE prefect.alembic_version SET version_num = 'fffffffffff1'", "unknown", 0),
    ("DELETE FROM prefect.alembic_version", "empty", None),
    ("DROP TABLE prefect.alembic_version", "empty", None),
    ("DROP SCHEMA prefect CASCADE", "empty", None),
]


@pytest.mark.parametrize(("statement", "state", "pending"), STATES)
def test_states(
    run_module: Callable[..., Result], prefect: Site, statement: str, state: str, pending: int | None
) -> None:
    if statement:
        prefect.sql(statement)
    found = run_module("prefect_revision", **arguments(prefect))
    assert (found["state"], found["changed"]) == (state, False)
    assert found["pending"] == pending if pending is not None else found["pending"] > 100
    # The unit of the server starts only where all is current.
    started = pgprefect("revision", "--require-current", environment=prefect.environment(role="prefect_server"))
    assert started.returncode == (0 if state == "current" else 2)
    assert (started.stdout + started.stderr).strip() == found["message"]
    # Where several hosts get a release one after the other, also on a newer schema.
    shared = pgprefect(
        "revision", "--require-current", "--or-newer", environment=prefect.environment(role="prefect_server")
    )
    assert shared.returncode == (0 if state in ("current", "unknown") else 2)
    assert pgprefect("revision", environment=prefect.environment()).returncode == 0


def test_nothing_is_there_yet_in_check_mode(run_module: Callable[..., Result], prefect: Site) -> None:
    for change in ({"virtualenv": "/nowhere"}, {"login_port": 1}, {"database": "nowhere"}):
        found = run_module("prefect_revision", check=True, **{**arguments(prefect), **change})
        assert (found["state"], found["current"], found["pending"]) == ("empty", None, 0)
        assert run_module("prefect_revision", **{**arguments(prefect), **change})["failed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PREFECT_SERVER_DATABASE_PASSWORD": "wrong"}, "refused the login as prefect_migrator"),
        ({"PREFECT_SERVER_DATABASE_PORT": "1"}, "No connection to PostgreSQL at 127.0.0.1:1"),
        ({"PREFECT_SERVER_DATABASE_NAME": "nowhere"}, "The database nowhere does not exist"),
        ({"PREFECT_SERVER_DATABASE_HOST": ""}, "PREFECT_SERVER_DATABASE_HOST is not set"),
        ({"PGPREFECT_SERVER_ROLE": ""}, "PGPREFECT_SERVER_ROLE is not set"),
    ],
)
def test_a_command_that_can_not_work_says_why(prefect: Site, change: dict[str, str], words: str) -> None:
    done = pgprefect("revoke-secrets", environment={**prefect.environment(), **change})
    assert done.returncode == 3 and words in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_revoke_secrets(prefect: Site) -> None:
    prefect.sql(
        "CREATE ROLE analyst; GRANT SELECT ON ALL TABLES IN SCHEMA prefect TO mltrading_app, analyst, PUBLIC;"
        "GRANT SELECT (value) ON prefect.configuration TO prefect_monitor"
    )
    done = pgprefect("revoke-secrets", environment=prefect.environment())
    assert done.returncode == 0 and "REVOKE ALL ON TABLE prefect.configuration FROM analyst" in done.stdout
    assert pgprefect("revoke-secrets", environment=prefect.environment()).stdout == ""
    for table in ("configuration", "block_document", "csrf_token"):
        for role in ("mltrading_app", "prefect_monitor"):
            assert refusal(prefect, role, f"SELECT * FROM prefect.{table}") == "42501"
        assert refusal(prefect, "prefect_server", f"DELETE FROM prefect.{table}") is None
    assert refusal(prefect, "prefect_monitor", "SELECT value FROM prefect.configuration") == "42501"
    assert refusal(prefect, "mltrading_app", "SELECT * FROM prefect.flow_run") is None
    prefect.sql("DROP OWNED BY analyst; DROP ROLE analyst")


@pytest.mark.parametrize(("kind", "code"), [("view", "table_drift"), ("type", "alembic_version_empty")])
def test_what_stands_in_its_place_runs_with_nobodys_rights(prefect: Site, kind: str, code: str) -> None:
    """The administrator compares the schema too, and its owner may have put there what it likes."""
    body = "BEGIN IF current_setting('is_superuser') = 'on' THEN CREATE ROLE taken; END IF; RETURN 'd4a7e1c93f52'; END"
    planted = {
        "view": f"""
            CREATE FUNCTION prefect.take() RETURNS text LANGUAGE plpgsql AS $$ {body} $$;
            CREATE VIEW prefect.alembic_version AS SELECT prefect.take() AS version_num""",
        "type": f"""
            CREATE TYPE prefect.planted AS (a text);
            CREATE FUNCTION prefect.take(prefect.planted) RETURNS text LANGUAGE plpgsql AS $$ {body} $$;
            CREATE CAST (prefect.planted AS text) WITH FUNCTION prefect.take(prefect.planted) AS IMPLICIT;
            CREATE TABLE prefect.alembic_version (version_num prefect.planted);
            INSERT INTO prefect.alembic_version VALUES (ROW('x'))""",
    }
    prefect.sql("DROP TABLE prefect.alembic_version")
    prefect.sql(f"SET ROLE prefect_owner; {planted[kind]}")
    assert code in codes(prefect)
    assert prefect.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'taken'") == [(0,)]
