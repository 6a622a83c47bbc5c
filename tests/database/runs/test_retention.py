"""Cleanups of Prefect's real tables: what goes, what stays, and what happens when something gets in the way."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgprefect.runs.retention import CLEANED_TABLES, Batch, CleanupResult, Policy, RetentionError, clean_up, plan

from bench.data import fill
from bench.support import prefect_server
from tests.support.ansible import Result as ModuleResult
from tests.support.postgresql import docker, running_postgresql
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import PASSWORD, Site, migrated_site
from tests.support.waiting import wait_for

# Days between those of the generated rows, so that none comes of age while a test runs.
POLICY = Policy(days_to_keep=30.1, logs_days=40.1, artifacts_days=40.1, events_days=30.1, zombie_hours=None)
DAYS = st.integers(0, 120).map(lambda days: days + 0.1)
GENTLE = replace(POLICY, max_transaction_seconds=0.02, batch_size=20)  # many small transactions
# What may never be there after a cleanup.
ORPHANS = """
SELECT (SELECT count(*) FROM prefect.log x WHERE NOT EXISTS (SELECT FROM prefect.flow_run r WHERE r.id = x.flow_run_id))
     + (SELECT count(*) FROM prefect.artifact x
        WHERE NOT EXISTS (SELECT FROM prefect.flow_run r WHERE r.id = x.flow_run_id))
     + (SELECT count(*) FROM prefect.artifact_collection x
        WHERE NOT EXISTS (SELECT FROM prefect.artifact a WHERE a.id = x.latest_id))
     + (SELECT count(*) FROM prefect.task_run x WHERE flow_run_id IS NULL)
     + (SELECT count(*) FROM prefect.task_run_state_cache x
        WHERE NOT EXISTS (SELECT FROM prefect.task_run_state s WHERE s.id = x.task_run_state_id))
     + (SELECT count(*) FROM prefect.flow_run x JOIN prefect.flow f ON f.id = x.flow_id
        WHERE x.name = 'child' AND x.parent_task_run_id IS NULL)
"""


@pytest.fixture
def site(prefect: Site) -> Site:
    """Prefect's tables, empty, and with something that every cleanup leaves alone."""
    prefect.sql("INSERT INTO prefect.flow (name) VALUES ('f')")
    return prefect


@contextlib.contextmanager
def opened(site: Site, role: str | None = None) -> Iterator[Any]:
    """A connection as programs open it; as the tenant's server role unless another is given."""
    role = role or site.tenant.server
    with contextlib.closing(site.server.connect(site.database, role, site.declaration.passwords[role])) as connection:
        yield connection


def filled(site: Site, runs: int = 300) -> None:
    with contextlib.closing(site.server.connect(site.database)) as connection:
        fill(connection, "prefect", runs)


def cleaned(site: Site, policy: Policy = POLICY, progress: Callable[[Batch], None] | None = None) -> CleanupResult:
    with opened(site) as connection:
        return clean_up(connection, "prefect", policy, progress)


def planned(site: Site, policy: Policy) -> dict[str, int]:
    with opened(site) as connection:
        return plan(connection, "prefect", policy).rows


def counts(site: Site) -> dict[str, int]:
    return {table: site.sql(f"SELECT count(*) FROM prefect.{table}")[0][0] for table in CLEANED_TABLES}


def run(
    site: Site, name: str, days: float | None = 100, state: str = "COMPLETED", parent: str | None = None, **columns: Any
) -> str:
    """Make a flow run with a task run, a log and an artifact; ended some days ago, or without an end."""
    values = {"tags": "[]", **columns}
    extra = "".join(f", {column}" for column in values)
    (found,) = site.sql(
        f"""
        WITH r AS (
            INSERT INTO prefect.flow_run (flow_id, name, state_type, state_name, state_timestamp, start_time, end_time,
                                          parent_task_run_id{extra})
            SELECT (SELECT id FROM prefect.flow LIMIT 1), %s, %s::prefect.state_type, 'x', now() - interval '100 days',
                   now() - interval '100 days', now() - make_interval(secs => %s * 86400),
                   (SELECT id FROM prefect.task_run WHERE flow_run_id = %s::uuid LIMIT 1){", %s" * len(values)}
            RETURNING id
        ), t AS (
            INSERT INTO prefect.task_run (flow_run_id, name, task_key, dynamic_key, updated)
            SELECT id, 't', 't', '0', now() - interval '100 days' FROM r
        ), l AS (
            INSERT INTO prefect.log (flow_run_id, name, level, message, timestamp)
            SELECT id, 'l', 20, 'm', now() - interval '100 days' FROM r
        )
        INSERT INTO prefect.artifact (flow_run_id, key, created, updated)
        SELECT id, %s, now() - interval '100 days', now() - interval '100 days' FROM r RETURNING flow_run_id""",
        name,
        state,
        days,
        parent,
        *values.values(),
        f"key-{name}",
    )
    return str(found[0])


def names(site: Site) -> set[str]:
    return {row[0] for row in site.sql("SELECT name FROM prefect.flow_run")}


def test_what_is_planned_is_what_goes(site: Site) -> None:
    filled(site)
    site.sql(
        """INSERT INTO prefect.task_run_state_cache (cache_key, cache_expiration, task_run_state_id)
           SELECT 'k' || row_number() OVER (), now() + (row_number() OVER () - 3000) * interval '1 hour', id
           FROM prefect.task_run_state"""
    )
    site.sql("INSERT INTO prefect.flow_run_input (key, value, flow_run_id) SELECT 'k', 'v', id FROM prefect.flow_run")
    site.sql("UPDATE prefect.flow_run SET end_time = NULL WHERE name LIKE '%%7'")
    before, expected = counts(site), planned(site, POLICY)
    batches: list[Batch] = []
    result = cleaned(site, POLICY, batches.append)
    after = counts(site)
    assert result.rows == expected == {table: before[table] - after[table] for table in CLEANED_TABLES}
    assert 200 < expected["flow_run"] < 240 and all(
        expected[table] for table in CLEANED_TABLES if table != "artifact_collection"
    )
    assert batches[-1].total_rows == sum(expected.values()) and len(batches) == result.batches
    assert {table: sum(batch.deleted.get(table, 0) for batch in batches) for table in CLEANED_TABLES} == expected
    assert site.sql(ORPHANS) == [(0,)]
    old = "SELECT count(*) FROM prefect.flow_run WHERE coalesce(end_time, state_timestamp) < now() - interval '30 days'"
    assert site.sql(old + " AND state_type NOT IN ('RUNNING', 'SCHEDULED')") == [(0,)]
    assert site.sql("SELECT count(*) FROM prefect.flow_run WHERE state_type IN ('RUNNING', 'SCHEDULED')") == [(20,)]
    again = cleaned(site)
    assert sum(again.rows.values()) == again.batches == 0 and again.vacuumed == []


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    policy=st.builds(
        Policy,
        days_to_keep=st.none() | DAYS,
        days_by_state=st.dictionaries(st.sampled_from(["COMPLETED", "FAILED", "CRASHED"]), DAYS),
        keep_newest=st.integers(0, 3),
        protected_tags=st.sampled_from([(), ("trading",)]),
        logs_days=st.none() | DAYS,
        artifacts_days=st.none() | DAYS,
        events_days=st.none() | DAYS,
        unattached_days=st.none() | DAYS,
        orphans=st.booleans(),
        expired_cache=st.booleans(),
        batch_size=st.integers(1, 100),
    )
)
def test_any_plan_comes_true(site: Site, policy: Policy) -> None:
    site.sql("TRUNCATE prefect.flow, prefect.events, prefect.event_resources, prefect.log, prefect.artifact CASCADE")
    site.sql("DELETE FROM prefect.artifact_collection")
    filled(site, 100)
    site.sql("UPDATE prefect.log SET flow_run_id = gen_random_uuid() WHERE message LIKE '%%Line 7%%'")
    site.sql("UPDATE prefect.log SET flow_run_id = NULL, task_run_id = NULL WHERE message LIKE '%%Line 8%%'")
    site.sql("UPDATE prefect.artifact SET flow_run_id = gen_random_uuid() WHERE key LIKE '%%7'")
    expected, live = planned(site, policy), "state_type IN ('RUNNING', 'SCHEDULED')"
    assert cleaned(site, policy).rows == expected
    assert site.sql(f"SELECT count(*) FROM prefect.flow_run WHERE {live}") == [(20,)]
    assert site.sql(f"SELECT count(*) FROM prefect.log JOIN prefect.flow_run r ON r.id = flow_run_id WHERE {live}") == [
        (20 * 18,)
    ]


def test_only_whole_trees_go(site: Site) -> None:
    for name, end, state in [("old", 90, "FAILED"), ("young", 3, "COMPLETED"), ("live", None, "RUNNING")]:
        parent = run(site, f"parent of {name}")
        run(site, "child", parent=parent)
        child = run(site, "child", parent=parent)
        run(site, f"grandchild {name}", end, state, parent=child)
    tagged = run(site, "parent of tagged")
    run(site, "grandchild tagged", parent=run(site, "child", parent=tagged), tags='["audit"]')
    policy = replace(POLICY, protected_tags=("audit", "other"))
    assert planned(site, policy)["flow_run"] == 4
    assert cleaned(site, policy).rows["flow_run"] == 4
    assert {name for name in names(site) if name != "child"} == {
        "parent of young",
        "grandchild young",
        "parent of live",
        "grandchild live",
        "parent of tagged",
        "grandchild tagged",
    }
    assert site.sql(ORPHANS) == [(0,)]


def test_a_tree_and_a_run_that_are_too_large_for_one_transaction(site: Site) -> None:
    parent = run(site, "parent")
    run(site, "child", parent=parent)
    site.sql(
        "INSERT INTO prefect.log (flow_run_id, name, level, message, timestamp) "
        "SELECT id, 'l', 20, 'm', now() FROM prefect.flow_run, generate_series(1, 6000)"
    )
    site.sql(
        "INSERT INTO prefect.task_run (flow_run_id, name, task_key, dynamic_key) "
        "SELECT id, 't', 't', n FROM prefect.flow_run, generate_series(1, 3000) n"
    )
    largest: list[int] = []
    expected = planned(site, GENTLE)
    result = cleaned(site, GENTLE, lambda batch: largest.append(sum(batch.deleted.values())))
    assert result.rows == expected and expected["log"] == 12_002 and expected["task_run"] == 6002
    assert names(site) == set() and max(largest) < 6000 and result.batches > 4


def test_states_have_their_own_time_and_deployments_keep_their_newest(site: Site) -> None:
    site.sql("INSERT INTO prefect.deployment (name, flow_id) SELECT 'd', id FROM prefect.flow")
    deployment = site.sql("SELECT id FROM prefect.deployment")[0][0]
    for days in (50, 60, 70):
        run(site, f"deployed {days}", days, deployment_id=deployment)
        run(site, f"ad hoc {days}", days)
        run(site, f"failed {days}", days, "FAILED")
    cleaned(site, replace(POLICY, keep_newest=2, days_by_state={"FAILED": 65}))
    assert names(site) == {"deployed 50", "deployed 60", "failed 50", "failed 60"}


def test_collections_show_the_newest_artifact_that_is_left(site: Site) -> None:
    kept, gone = run(site, "kept", 3), run(site, "gone")
    site.sql("UPDATE prefect.artifact SET key = 'report', data = to_json(flow_run_id::text), updated = now()")
    site.sql("UPDATE prefect.artifact SET created = now() WHERE flow_run_id = %s", gone)
    site.sql("INSERT INTO prefect.artifact (flow_run_id, key) VALUES (%s, 'only')", gone)
    site.sql("INSERT INTO prefect.artifact_collection (key, latest_id) VALUES ('stale', gen_random_uuid())")
    site.sql(
        "INSERT INTO prefect.artifact_collection (key, latest_id, flow_run_id) "
        "SELECT key, id, flow_run_id FROM prefect.artifact WHERE flow_run_id = %s",
        gone,
    )
    assert planned(site, POLICY)["artifact_collection"] == 2
    result = cleaned(site)
    assert (result.rows["artifact_collection"], result.collections_repointed) == (2, 1)
    assert site.sql("SELECT key, flow_run_id::text, data #>> '{}' FROM prefect.artifact_collection") == [
        ("report", kept, kept)
    ]


def test_what_another_session_holds_is_skipped_with_its_tree(site: Site) -> None:
    parent = run(site, "parent")
    run(site, "child", parent=parent)
    run(site, "other")
    with opened(site) as holder, holder.cursor() as cursor:
        holder.autocommit = False
        cursor.execute("SELECT FROM prefect.flow_run WHERE name = 'child' FOR UPDATE")
        result = cleaned(site)
    assert (result.trees_skipped, names(site)) == (1, {"parent", "child"})
    assert cleaned(site).rows["flow_run"] == 2


def test_a_lock_that_does_not_go_away(site: Site) -> None:
    run(site, "old")
    with opened(site, site.tenant.migrator) as holder, holder.cursor() as cursor:
        holder.autocommit = False
        cursor.execute("LOCK prefect.log IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(RetentionError, match=r"could not read the tables: .*lock timeout"):
            planned(site, POLICY)
        holder.rollback()
        cursor.execute("LOCK prefect.log IN SHARE MODE")
        with pytest.raises(RetentionError, match=r"The cleanup of runs gave up after 8 attempts: .*lock timeout"):
            cleaned(site, GENTLE)
    assert names(site) == {"old"}
    assert cleaned(site).rows["log"] == 1


def test_the_steps_of_a_cleanup_are_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pgprefect")
    run(site, "old")
    with opened(site, site.tenant.migrator) as owner, opened(site) as connection:
        result = clean_up(connection, "prefect", replace(POLICY, crash_zombies=True, zombie_hours=24), None, owner)
    steps = [re.sub(r"\d+\.\d s", "n s", message) for message in caplog.messages]
    rows = sum(result.rows.values())
    assert f"Deleted flow runs of the schema prefect: {rows} rows in 1 transactions, n s." in steps
    assert "Deleted old rows of events of the schema prefect: 0 rows in 0 transactions, n s." in steps
    assert "Found 0 runs without a sign of life; set 0 of them to Crashed." in steps
    assert "Vacuumed prefect.flow_run in n s." in steps


def test_a_second_cleanup_is_refused(site: Site) -> None:
    filled(site, 100)
    messages: list[str] = []

    def second(_batch: Batch) -> None:
        if not messages:
            with pytest.raises(RetentionError, match="Another cleanup of the schema prefect is running") as refused:
                cleaned(site)
            messages.append(str(refused.value))

    cleaned(site, POLICY, second)
    assert "(process " in messages[0]
    with opened(site) as connection:  # a connection comes back as it was, and without the lock
        clean_up(connection, "prefect", POLICY)
        assert connection.autocommit
        with connection.cursor() as cursor:
            cursor.execute("SHOW search_path")
            assert cursor.fetchone() == (site.sql("SHOW search_path", role=site.tenant.server)[0][0],)
        cleaned(site)


def test_a_connection_that_is_cut_in_the_middle(site: Site) -> None:
    filled(site)
    expected = planned(site, GENTLE)
    seen: list[Batch] = []

    def cut(batch: Batch) -> None:
        seen.append(batch)
        if len(seen) == 3:
            site.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND usename = %s",
                site.tenant.server,
            )

    with pytest.raises(RetentionError, match=r"(?s)The connection broke after .* run the cleanup again"):
        cleaned(site, GENTLE, cut)
    first = seen[-1].total_rows
    assert site.sql(ORPHANS) == [(0,)]
    assert first + sum(cleaned(site, GENTLE).rows.values()) == sum(expected.values())


def test_a_process_that_is_killed_in_the_middle(site: Site) -> None:
    filled(site)
    before, expected = counts(site), planned(site, GENTLE)
    program = """
import sys, psycopg2
from pgprefect.runs.retention import Policy, clean_up
connection = psycopg2.connect(sys.argv[1])
policy = Policy(days_to_keep=30.1, events_days=30.1, logs_days=40.1, artifacts_days=40.1,
                max_transaction_seconds=0.02, batch_size=20)
clean_up(connection, "prefect", policy, lambda batch: print(batch.phase, flush=True))
"""
    login = (
        f"host=127.0.0.1 port={site.server.port} dbname={site.database} user=postgres password={site.server.password}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, login],
        env={**os.environ, "PYTHONPATH": str(ROOT / "module_utils")},
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_for(lambda: site.sql("SELECT count(*) FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock'") == [(0,)])
    middle = counts(site)
    assert 0 < before["flow_run"] - middle["flow_run"] < expected["flow_run"]
    assert site.sql(ORPHANS) == [(0,)]
    rest = cleaned(site, GENTLE).rows
    assert {table: before[table] - middle[table] + rest[table] for table in CLEANED_TABLES} == expected


@pytest.mark.thorough
def test_a_server_that_restarts_in_the_middle(tmp_path: Path) -> None:
    with running_postgresql() as server:
        site = migrated_site(server, "restarted", tmp_path)
        filled(site)
        before, expected = counts(site), planned(site, GENTLE)
        seen: list[Batch] = []

        def restart(batch: Batch) -> None:
            seen.append(batch)
            if len(seen) == 3:
                # The database's own crash recovery: one process that dies takes all sessions with it.
                docker("exec", server.container, "pkill", "-9", "-f", "postgres.*checkpointer")

        with pytest.raises(RetentionError, match="run the cleanup again"):
            cleaned(site, GENTLE, restart)
        wait_for(server.answers)
        assert site.sql(ORPHANS) == [(0,)]
        cleaned(site, GENTLE)
        assert {table: before[table] - left for table, left in counts(site).items()} == expected


def test_the_wrong_role_is_told_which_may(site: Site) -> None:
    with opened(site, site.declaration.app_login) as connection, pytest.raises(RetentionError) as refused:
        clean_up(connection, "prefect", POLICY)
    for role in (site.declaration.app_login, site.tenant.server, site.tenant.owner):
        assert role in str(refused.value)
    with opened(site) as connection, pytest.raises(RetentionError, match="The schema public has no artifact, "):
        plan(connection, "public", POLICY)
    with opened(site) as connection:
        connection.autocommit = False
        connection.cursor().execute("SELECT 1")
        with pytest.raises(RetentionError, match="commit or roll back before"):
            plan(connection, "prefect", POLICY)
    site.sql(f"ALTER DATABASE {site.database} SET track_counts = off")
    with opened(site) as connection, pytest.raises(RetentionError, match="track_counts is off"):
        plan(connection, "prefect", POLICY)


def test_the_application_cannot_keep_a_cleanup_out(site: Site) -> None:
    run(site, "old")
    with opened(site, site.declaration.app_login) as hostile, hostile.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext('pgprefect cleanup'), hashtext('prefect'))")
        cursor.execute("BEGIN; LOCK TABLE prefect.alembic_version IN ACCESS SHARE MODE")
        assert cleaned(site).rows["flow_run"] == 1
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("LOCK TABLE prefect.alembic_version IN SHARE UPDATE EXCLUSIVE MODE")


def test_who_may_vacuum_does(site: Site) -> None:
    run(site, "old")
    result = cleaned(site)
    assert result.vacuumed == [] and f"The role {site.tenant.server} does not own the tables" in result.vacuum_message
    run(site, "old")
    with opened(site) as connection, opened(site, site.tenant.migrator) as owner:
        result = clean_up(connection, "prefect", POLICY, vacuum_connection=owner)
    assert {"flow_run", "task_run", "log"} <= set(result.vacuumed) and result.vacuum_message == ""
    vacuumed = "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'prefect' AND vacuum_count > 0"
    assert set(result.vacuumed) <= {row[0] for row in site.sql(vacuumed)}


def test_zombies_are_reported_and_crash_only_when_asked(site: Site) -> None:
    for name in ("zombie", "logs", "tasks", "events", "young"):
        run(site, name, None, "RUNNING")
    run(site, "scheduled", None, "SCHEDULED")
    site.sql("UPDATE prefect.flow_run SET state_timestamp = now() WHERE name = 'young'")
    of = "(SELECT id FROM prefect.flow_run WHERE name = %s)"
    site.sql(f"UPDATE prefect.log SET timestamp = now() WHERE flow_run_id = {of}", "logs")
    site.sql(f"UPDATE prefect.task_run SET updated = now() WHERE flow_run_id = {of}", "tasks")
    site.sql(
        "INSERT INTO prefect.event_resources (occurred, resource_id, resource_role, resource, event_id) "
        f"SELECT now(), 'prefect.flow-run.' || {of}, '', '{{}}', gen_random_uuid()",
        "events",
    )
    policy = replace(POLICY, zombie_hours=24, logs_days=None)
    result = cleaned(site, policy)
    assert ([zombie.name for zombie in result.zombies], result.zombies_crashed) == (["zombie"], 0)
    assert 2399 < result.zombies[0].hours < 2401
    assert cleaned(site, replace(policy, crash_zombies=True)).zombies_crashed == 1
    assert site.sql(
        "SELECT r.name, r.state_name, s.type, r.end_time IS NOT NULL, r.total_run_time > interval '99 days' "
        "FROM prefect.flow_run r JOIN prefect.flow_run_state s ON s.id = r.state_id"
    ) == [("zombie", "Crashed", "CRASHED", True, True)]
    assert cleaned(site, policy).zombies == []


def test_it_pauses_while_the_database_is_busy(site: Site) -> None:
    for number in range(3):
        run(site, f"old {number}")
    lock = "SELECT pg_advisory_lock(1)"
    with opened(site) as holder, opened(site) as busy, holder.cursor() as held, busy.cursor() as cursor:
        held.execute(lock)
        waiter = threading.Thread(target=cursor.execute, args=(lock,))
        waiter.start()
        try:
            wait_for(lambda: site.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
            policy = replace(POLICY, max_active_sessions=0)
            with pytest.raises(
                RetentionError, match=f"max_active_sessions: the role {site.tenant.server} sees neither"
            ):
                cleaned(site, policy)
            site.sql(f"GRANT pg_read_all_stats TO {site.tenant.server}")
            with pytest.raises(RetentionError, match=r"paused for .* because of 1 active sessions"):
                cleaned(site, replace(policy, pause_timeout=0.1))
            threading.Timer(1, holder.close).start()
            result = cleaned(site, policy)
        finally:
            holder.close()
            site.sql(f"REVOKE pg_read_all_stats FROM {site.tenant.server}")
            waiter.join()
    assert 0.2 < result.paused_seconds < 5


def test_beside_a_running_server_nothing_live_is_touched(site: Site) -> None:
    """A real Prefect schedules and finishes runs while everything that has ended is deleted, again and again."""
    with prefect_server(site) as url:
        program = """
import asyncio
from prefect.client.orchestration import get_client
from prefect import flow
from prefect.states import Completed, Running
@flow
def one(): pass
async def main():
    async with get_client() as client:
        for number in range(20):
            run = await client.create_flow_run(one, name=f"run-{number}")
            await client.set_flow_run_state(run.id, Running())
            if number % 2:
                await client.set_flow_run_state(run.id, Completed())
asyncio.run(main())
"""
        environment = {"PATH": os.environ["PATH"], "PREFECT_API_URL": url, "DO_NOT_TRACK": "1"}
        process = subprocess.Popen([VIRTUALENV / "bin/python", "-c", program], env=environment)
        policy = replace(POLICY, days_to_keep=0, logs_days=None, artifacts_days=None, allow_zero_days=True)
        deleted = 0
        while process.poll() is None:
            deleted += cleaned(site, policy).rows["flow_run"]
            time.sleep(0.02)
        deleted += cleaned(site, policy).rows["flow_run"]
    assert process.returncode == 0
    assert deleted == 10
    assert site.sql("SELECT state_type, count(*) FROM prefect.flow_run GROUP BY 1") == [("RUNNING", 10)]
    assert site.sql("SELECT count(*) FROM prefect.flow_run r JOIN prefect.flow_run_state s ON s.id = r.state_id") == [
        (10,)
    ]


def test_the_module(site: Site, run_module: Callable[..., ModuleResult]) -> None:
    run(site, "old")
    run(site, "zombie", None, "RUNNING")
    arguments = {
        **site.server.module_arguments(),
        "login_user": site.tenant.server,
        "login_password": PASSWORD,
        "vacuum_login_user": site.tenant.migrator,
        "vacuum_login_password": PASSWORD,
        "database": site.database,
        "schema": "prefect",
        "policy": {"days_to_keep": 30, "crash_zombies": True},
    }
    check = run_module("prefect_cleanup", check=True, **arguments)
    assert check["changed"] and check["flow_runs_deleted"] == 1 and check["bytes"] >= 0
    assert "flow_run: 1\n" in check["diff"]["before"] and check["diff"]["after"] == ""
    done = run_module("prefect_cleanup", **arguments)
    assert done["rows"] == check["rows"] and done["zombies_crashed"] == 1 and "log" in done["vacuumed"]
    again = run_module("prefect_cleanup", **arguments)
    assert not again["changed"] and again["flow_runs_deleted"] == 0
    refused = run_module("prefect_cleanup", **{**arguments, "login_user": site.declaration.app_login})
    assert refused["failed"] and "may not delete" in refused["msg"]


def test_a_module_that_fails_in_the_middle_says_what_it_deleted(
    site: Site, run_module: Callable[..., ModuleResult]
) -> None:
    """Flow runs go first; then something of the database's refuses the orphaned artifacts."""
    run(site, "old")
    site.sql("INSERT INTO prefect.artifact (id, key, flow_run_id) SELECT gen_random_uuid(), 'x', gen_random_uuid()")
    site.sql(
        "CREATE FUNCTION prefect.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF OLD.key = 'x' THEN RAISE 'not this one'; END IF; RETURN OLD; END $$;"
        " CREATE TRIGGER refuse BEFORE DELETE ON prefect.artifact FOR EACH ROW EXECUTE FUNCTION prefect.refuse()"
    )
    arguments = {
        "login_host": "127.0.0.1",
        "login_port": site.server.port,
        "login_user": site.tenant.server,
        "login_password": PASSWORD,
        "database": site.database,
        "schema": "prefect",
        "policy": {"days_to_keep": 30},
    }
    failed = run_module("prefect_cleanup", **arguments)
    assert failed["failed"] and failed["changed"] and "not this one" in failed["msg"], failed
    assert "1 rows of flow_run" in failed["changes"]
    assert site.sql("SELECT count(*) FROM prefect.flow_run") == [(0,)]
