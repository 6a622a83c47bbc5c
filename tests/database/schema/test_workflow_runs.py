"""The view public.workflow_runs: what it shows, who may read it, and that it never bars a migration of Prefect."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pgprefect.events import EventTable, log_workflow_event, read_events
from pgprefect.schema.declaration import DeclarationError, declare
from pgprefect.schema.plan import Blocked

from bench.data import fill
from tests.support.ansible import Result
from tests.support.site import PASSWORD, TRADING_SQL, Site, declaration_of, disposable, migrate
from tests.support.verification import codes, errors, everything, refusal

APP = "mltrading_app"


def with_events(site: Site, **columns: str | None) -> Site:
    site.declaration = replace(site.declaration, events=EventTable(columns=columns))
    return site


def insert_run(site: Site, schema: str = "prefect", flow: str = "collect") -> str:
    [(identifier,)] = site.sql(
        f"WITH f AS (INSERT INTO {schema}.flow (name) VALUES (%s) RETURNING id) INSERT INTO {schema}.flow_run"
        " (flow_id, name, state_type, state_name, start_time, end_time) SELECT id, 'clever-crow', 'FAILED', 'Failed',"
        " now() - interval '9 s', now() FROM f RETURNING id::text",
        flow,
    )
    return str(identifier)


def rows(site: Site) -> list[dict[str, Any]]:
    found = site.sql("SELECT row_to_json(r) FROM workflow_runs r ORDER BY tenant, run_name", role=APP)
    return [row for (row,) in found]


def test_each_run_is_a_row_with_its_events(prefect: Site) -> None:
    assert len(with_events(prefect).apply()) == 1
    assert prefect.apply() == [] and errors(prefect) == set()
    run = insert_run(prefect)
    [row] = rows(prefect)
    assert (row["tenant"], row["flow_run_id"], row["flow_name"]) == ("tenant0", run, "collect")
    assert (row["deployment_name"], row["run_name"], row["state_type"]) == (None, "clever-crow", "FAILED")
    assert row["duration"] == "00:00:09"
    assert (row["events"], row["problems"], row["last_event_at"], row["last_message"]) == (0, 0, None, None)
    with contextlib.closing(prefect.server.connect(prefect.database, APP, PASSWORD)) as connection:
        for level, status in (("INFO", "success"), ("ERROR", "failed"), ("WARNING", "breached")):
            cursor = connection.cursor()
            log_workflow_event("e", "w", status, level=level, message=level, flow_run_id=run, cursor=cursor)
    [row] = rows(prefect)
    assert (row["events"], row["problems"]) == (3, 2)
    assert (row["last_event_type"], row["last_event_status"], row["last_message"]) == ("e", "breached", "WARNING")


def test_who_may_do_what_with_it(prefect: Site) -> None:
    with_events(prefect).apply()
    assert refusal(prefect, APP, "SELECT * FROM workflow_runs") is None
    assert refusal(prefect, APP, "DELETE FROM workflow_runs") == "55000"  # it is not updatable
    for role in ("prefect_monitor", "prefect_server", "prefect_migrator"):
        assert refusal(prefect, role, "SELECT * FROM public.workflow_runs") == "42501"
        assert refusal(prefect, role, "SELECT * FROM public.workflow_runs()") == "42501"
    prefect.sql("REVOKE SELECT ON prefect.flow_run FROM mltrading_app")  # it has its caller's rights, no more
    assert refusal(prefect, APP, "SELECT * FROM workflow_runs") == "42501"
    assert prefect.sql(
        "SELECT pg_get_userbyid(relowner), pg_get_userbyid(proowner) FROM pg_class, pg_proc"
        " WHERE relname = 'workflow_runs' AND proname = 'workflow_runs'"
    ) == [("mltrading_owner", "mltrading_owner")]


def test_a_migration_may_change_every_column(prefect: Site) -> None:
    with_events(prefect).apply()
    insert_run(prefect)
    prefect.sql(
        "ALTER TABLE flow_run ALTER COLUMN name TYPE text, ALTER COLUMN state_name TYPE varchar(90);"
        "ALTER TABLE flow RENAME TO flow_old; CREATE TABLE flow AS SELECT * FROM flow_old; DROP TABLE flow_old CASCADE",
        role="prefect_migrator",
    )
    assert [row["flow_name"] for row in rows(prefect)] == ["collect"]
    prefect.sql("SET ROLE prefect_owner; DROP SCHEMA prefect CASCADE")
    assert refusal(prefect, APP, "SELECT * FROM workflow_runs") == "42P01"


@pytest.mark.thorough
def test_two_tenants_before_and_after_their_migrations(
    run_module: Callable[..., Result], clean: Site, tmp_path: Path
) -> None:
    """As the module makes it; the view is there before Prefect's tables, and in two runs of the same id."""
    declaration = declaration_of(clean.database, f"{clean.database}_", ("prefect", "team b"))
    with disposable(Site(clean.server, declaration), roles=True) as site:
        arguments = {**site.arguments(), "app_schema_sql": TRADING_SQL, "passwords": declaration.passwords}
        arguments["events_table"] = "system_logs"
        planned = run_module("prefect_schema", check=True, **arguments)
        done = run_module("prefect_schema", **arguments)
        assert done["statements"] == planned["statements"] and "workflow_runs" in done["diff"]["after"]
        assert run_module("prefect_schema", **arguments)["changed"] is False
        assert run_module("prefect_schema_verify", **arguments_of_verify(arguments))["public_schema"]["exists"]
        assert refusal(site, declaration.app_login, "SELECT * FROM workflow_runs") == "42P01"
        for tenant in declaration.tenants:
            assert "Migrations succeeded" in migrate(site.environment(tenant), tmp_path).stdout
        run = insert_run(site, flow="first")
        other = insert_run(site, '"team b"', flow="second")
        site.sql('UPDATE "team b".flow_run SET id = %s WHERE id = %s', run, other)
        query = "SELECT tenant, flow_run_id::text, flow_name FROM workflow_runs ORDER BY 1"
        assert site.sql(query, role=declaration.app_login) == [("tenant0", run, "first"), ("tenant1", run, "second")]
        again = run_module("prefect_schema", **arguments)
        assert not any("workflow_runs" in statement for statement in again["statements"])


def arguments_of_verify(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in ("app_schema_sql", "passwords")}


DRIFT = [
    ("workflow_runs_missing", "DROP VIEW workflow_runs"),
    ("workflow_runs_missing", "DROP FUNCTION workflow_runs CASCADE"),
    ("workflow_runs_differs", "ALTER VIEW workflow_runs OWNER TO postgres"),
    ("workflow_runs_differs", "ALTER FUNCTION workflow_runs OWNER TO postgres"),
    ("workflow_runs_differs", "ALTER FUNCTION workflow_runs SECURITY DEFINER"),
    ("workflow_runs_differs", "ALTER FUNCTION workflow_runs SET search_path TO public"),
    ("workflow_runs_differs", "REVOKE EXECUTE ON FUNCTION workflow_runs FROM mltrading_app"),
    ("workflow_runs_differs", "GRANT EXECUTE ON FUNCTION workflow_runs TO PUBLIC"),
    ("workflow_runs_differs", "ALTER VIEW workflow_runs SET (security_barrier)"),
    ("workflow_runs_differs", "ALTER VIEW workflow_runs RENAME COLUMN events TO happenings"),
    ("workflow_runs_differs", "UPDATE pg_proc SET prosrc = prosrc || ' ' WHERE proname = 'workflow_runs'"),
]


@pytest.mark.parametrize(("code", "statement"), DRIFT)
def test_drift_is_found_and_taken_back(prefect: Site, code: str, statement: str) -> None:
    with_events(prefect).apply()
    insert_run(prefect)
    prefect.sql(statement)
    assert code in errors(prefect)
    assert prefect.apply() and prefect.apply() == []
    assert errors(prefect) == set() and len(rows(prefect)) == 1


def test_another_tenant_changes_the_body_alone(prefect: Site) -> None:
    """Rights that others were given on the view stay."""
    with_events(prefect).apply()
    prefect.sql("GRANT SELECT ON workflow_runs TO prefect_backup WITH GRANT OPTION; CREATE ROLE analyst")
    try:
        prefect.sql("REVOKE ALL ON workflow_runs FROM prefect_backup; GRANT SELECT ON workflow_runs TO analyst")
        with_events(prefect, message="")
        [statement] = prefect.apply()
        assert "DROP" not in statement
        assert prefect.sql("SELECT has_table_privilege('analyst', 'workflow_runs', 'SELECT')") == [(True,)]
    finally:
        prefect.sql("DROP OWNED BY analyst; DROP ROLE analyst")


@pytest.mark.parametrize("kind", ["TABLE workflow_runs AS SELECT 1 AS mine", "VIEW workflow_runs AS SELECT 1 AS mine"])
def test_what_is_the_applications_stays(prefect: Site, kind: str) -> None:
    prefect.sql(f"SET ROLE mltrading_owner; CREATE {kind}")
    prefect.apply()
    before = everything(prefect)
    with pytest.raises(Blocked) as blocked:
        with_events(prefect).apply()
    assert [problem.code for problem in blocked.value.problems] == ["workflow_runs_taken"]
    assert "workflow_runs_taken" in codes(prefect)
    assert everything(prefect) == before
    assert prefect.sql("SELECT mine FROM workflow_runs") == [(1,)]


def test_a_table_of_the_applications_own_is_mapped(prefect: Site) -> None:
    """Names that need quotes, fields without a column, and json instead of jsonb."""
    columns = {"event_type": "kind", "created_at": "At %", "level": "select", "workflow_name": "", "status": None}
    columns |= {"flow_run_id": "run", "metadata": "details"}
    prefect.sql(
        'SET ROLE mltrading_owner; CREATE TABLE "App %s log" ("At %" timestamptz, kind varchar(20), "select" text,'
        " run uuid, message text, details json)"
    )
    table = EventTable(table="App %s log", columns=columns)
    prefect.declaration = replace(prefect.declaration, events=table)
    prefect.apply()
    assert prefect.apply() == []
    run = insert_run(prefect)
    with contextlib.closing(prefect.server.connect(prefect.database, APP, PASSWORD)) as connection:
        cursor = connection.cursor()
        metadata = {"status": "mine", "n": 1}
        log_workflow_event("e", "w", "failed", metadata, flow_run_id=run, cursor=cursor, table=table, strict=True)
        [event] = read_events(connection, table)
    assert event["metadata"] == {"status": "mine", "n": 1, "workflow_name": "w", "status (2)": "failed"}
    assert (event["event_type"], event["workflow_name"], event["status"]) == ("e", None, None)
    [row] = rows(prefect)
    assert (row["events"], row["problems"], row["last_event_type"], row["last_event_status"]) == (1, 1, "e", None)


def test_conditions_and_limits_reach_the_indexes(prefect: Site) -> None:
    with_events(prefect).apply()
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 4000, children=False)

    def plan(query: str) -> list[str]:
        [(found,)] = prefect.sql(f"EXPLAIN (FORMAT json, ANALYZE) {query}", role=APP)
        scans = json.dumps(found)
        assert "Function Scan" not in scans
        return [node.split('"')[0] for node in scans.split('"Index Name": "')[1:]]

    [(run,)] = prefect.sql("SELECT max(id::text) FROM prefect.flow_run")
    assert "pk_flow_run" in plan(f"SELECT * FROM workflow_runs WHERE flow_run_id = '{run}'")
    newest = "SELECT * FROM workflow_runs WHERE start_time IS NOT NULL ORDER BY start_time DESC LIMIT 20"
    assert "ix_flow_run__start_time" in plan(newest)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"events_columns": {"flow_run_id": ""}}, "gives flow_run_id no column"),
        ({"events_columns": {"created_at": None}}, "gives created_at no column"),
        ({"events_columns": {"colour": "c"}}, "has no colour"),
        ({"events_columns": {"level": "x" * 64}}, "column .* longer than 63 bytes"),
        ({"events_table": "a\0b"}, "table .* NUL"),
    ],
)
def test_a_wrong_declaration_is_refused(arguments: dict[str, Any], words: str) -> None:
    tenant = {"name": "p", "schema": "p", "owner": "po", "migrator": "pm", "server": "ps"}
    others = {"database": "d", "app_owner": "o", "app_login": "a", "monitor": "m", "backup": "b"}
    with pytest.raises(DeclarationError, match=words):
        declare(**{**others, "tenants": [tenant], "events_table": "t", **arguments})
