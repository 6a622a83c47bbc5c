"""Health against real parts, and against parts that are dead, silent or slow."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from pgprefect.core.connection import Login
from pgprefect.core.jobs import Job
from pgprefect.core.problems import Problem
from pgprefect.health import load
from pgprefect.health.check import Health, check_health
from pgprefect.health.thresholds import Limit, ThresholdError, Thresholds
from pgprefect.site.configuration import Tenant

from tests.support.ansible import Result
from tests.support.postgresql import docker, running_postgresql
from tests.support.site import PASSWORD, Site
from tests.support.waiting import wait_for

LIMIT = 5.0
SERVER = {"app_database", "schema_separation", "connections", "transactions", "locks", "storage", "archiving"}
OF_SCHEMA = {"prefect_schema", "workers", "work_pools", "services", "runs", "dead_runs"}
ALL = SERVER | OF_SCHEMA | {"api"}


class Api(http.server.BaseHTTPRequestHandler):
    """The two addresses that Prefect's server answers without a login."""

    ready = 200

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else self.ready)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving(ready: int = 200) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Api", (Api,), {"ready": ready})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/api"
        finally:
            server.shutdown()


@pytest.fixture
def api_url() -> Iterator[str]:
    with serving() as url:
        yield url


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def check(
    site: Site, api_url: str, workers: int = 0, port: int | None = None, user: str | None = None, **limits: Limit
) -> Health:
    login = Login("127.0.0.1", port or site.server.port, user or site.declaration.monitor, PASSWORD)
    parts = [
        Tenant(tenant.name, tenant.schema, api_url=api_url, workers=workers) for tenant in site.declaration.tenants
    ]
    started = time.monotonic()
    health = check_health(login, site.database, parts, thresholds=Thresholds(**limits))
    assert time.monotonic() - started < LIMIT
    return health


def unhealthy(health: Health) -> set[str]:
    return {name for name, check in health.checks.items() if check.status != "healthy"}


def codes(health: Health) -> set[str]:
    """The codes of the problems, but that this machine is busy."""
    return {problem["code"] for problem in health.as_dict()["problems"]} - {"host_busy"}


def add_worker(site: Site, name: str, seconds_ago: int) -> None:
    site.sql(
        "INSERT INTO prefect.work_pool (name, type) VALUES ('pool', 'process') ON CONFLICT DO NOTHING;"
        "INSERT INTO prefect.worker (name, work_pool_id, last_heartbeat_time, heartbeat_interval_seconds) "
        "SELECT %s, id, now() - make_interval(secs => %s), 30 FROM prefect.work_pool",
        name,
        seconds_ago,
    )


def test_all_is_well(run_module: Callable[..., Result], prefect: Site, api_url: str) -> None:
    add_worker(prefect, "one", 20)
    result = run_module(
        "prefect_health_check",
        check=True,
        login_host="127.0.0.1",
        login_port=prefect.server.port,
        login_password=PASSWORD,
        database=prefect.database,
        tenants=[{"name": "prefect", "schema": "prefect", "api_url": api_url, "workers": 1, "port": 4200}],
    )
    assert result["problems"] == [] and result["overall_status"] == "healthy"
    assert result["checks"] == dict.fromkeys(ALL, "healthy")
    assert list(result["checks"])[:3] == ["app_database", "prefect_schema", "schema_separation"]
    assert all(details["latency_ms"] > 0 for details in result["details"].values())
    assert result["details"]["workers"]["online"] == 1
    assert not result["changed"]


def test_a_host_without_a_server(prefect: Site) -> None:
    """A database's host asks for itself and its jobs."""
    health = check_health(prefect.server.login, prefect.database, [])
    assert (health.overall_status, health.problems) == ("healthy", [])
    assert set(health.checks) == SERVER


def test_tenants_that_are_no_tenants(run_module: Callable[..., Result]) -> None:
    result = run_module("prefect_health_check", database="x", tenants=[{"name": "prefect"}])
    assert result["failed"] and "schema" in result["msg"]


def test_workers(prefect: Site, api_url: str) -> None:
    add_worker(prefect, "dead", 100)
    assert check(prefect, api_url, workers=0).overall_status == "healthy"
    health = check(prefect, api_url, workers=2)
    assert (health.overall_status, unhealthy(health), codes(health)) == ("unhealthy", {"workers"}, {"workers_offline"})
    add_worker(prefect, "alive", 80)
    health = check(prefect, api_url, workers=2)
    assert (health.overall_status, health.checks["workers"].details["online"]) == ("degraded", 1)
    add_worker(prefect, "alive too", 1)
    assert check(prefect, api_url, workers=2).overall_status == "healthy"


def test_database_stopped(prefect: Site, api_url: str) -> None:
    health = check(prefect, api_url, port=1)
    assert unhealthy(health) == ALL - {"api"} and codes(health) == {"connection_failed"}


def test_database_silent(prefect: Site, api_url: str) -> None:
    with silent() as port:
        health = check(prefect, api_url, port=port)
    assert unhealthy(health) == ALL - {"api"} and codes(health) <= {"connection_failed", "no_answer"}


def test_database_frozen(prefect: Site, api_url: str) -> None:
    docker("pause", prefect.server.container)
    try:
        health = check(prefect, api_url)
    finally:
        docker("unpause", prefect.server.container)
    assert unhealthy(health) == ALL - {"api"} and codes(health) <= {"connection_failed", "no_answer"}


def test_a_locked_table_harms_its_own_checks_alone(prefect: Site, api_url: str) -> None:
    holder = prefect.server.connect(prefect.database)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE prefect.worker")
    try:
        health = check(prefect, api_url, workers=1)
    finally:
        holder.close()
    assert unhealthy(health) == {"workers", "dead_runs"} and codes(health) == {"table_locked"}


@pytest.mark.parametrize("ready", [503, 500])
def test_api_without_its_database(prefect: Site, ready: int) -> None:
    with serving(ready) as url:
        health = check(prefect, url)
    assert unhealthy(health) == {"api"} and codes(health) == {"api_not_ready"}
    assert "/ready" in health.as_dict()["problems"][0]["message"]


def test_api_stopped(prefect: Site) -> None:
    health = check(prefect, "http://127.0.0.1:1/api")
    assert unhealthy(health) == {"api"} and codes(health) == {"api_not_ready"}


def test_api_hangs(prefect: Site) -> None:
    with silent() as port:
        health = check(prefect, f"http://127.0.0.1:{port}/api")
    assert unhealthy(health) == {"api"} and codes(health) <= {"api_not_ready", "no_answer"}


LOOP = "import time; end = time.time() + 20\nwhile time.time() < end: pass"


def test_a_busy_host_is_degraded_and_says_why(prefect: Site) -> None:
    """A part that answers too late is not blamed where this host can not even run its own programs."""
    wanted = 15 * len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(wanted)]
    try:
        with silent() as port:
            wait_for(lambda: load.busy())
            login = Login("127.0.0.1", prefect.server.port, prefect.declaration.monitor, PASSWORD)
            part = Tenant("prefect", "prefect", api_url=f"http://127.0.0.1:{port}/api")
            health = check_health(login, prefect.database, [part], timeout=3)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert health.overall_status == "degraded" and health.checks["api"].status == "degraded"
    assert "host_busy" in [problem.code for problem in health.problems]
    assert "processors" in health.checks["api"].problems[0].message


def test_api_drips(prefect: Site) -> None:
    """A byte now and then defeats a timeout of the socket, but not that of the check."""

    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        with listener.accept()[0] as connection, contextlib.suppress(OSError):
            while not over.wait(0.5):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        health = check(prefect, f"http://127.0.0.1:{listener.getsockname()[1]}/api")
        assert unhealthy(health) == {"api"} and codes(health) == {"no_answer"}
        over.set()
        thread.join()


BROKEN = [
    ("DROP SCHEMA prefect CASCADE", OF_SCHEMA | {"schema_separation"}, "schema_missing"),
    ("DROP TABLE prefect.alembic_version", OF_SCHEMA, "prefect_tables_missing"),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", {"schema_separation"}, "right_excess"),
    ("GRANT USAGE ON SCHEMA prefect TO PUBLIC", {"schema_separation"}, "right_excess"),
    (
        "CREATE TABLE flow_run (); CREATE TABLE flow_run_state (); CREATE TABLE task_run_state ()",
        {"schema_separation"},
        "prefect_in_public",
    ),
]


@pytest.mark.parametrize(("statement", "checks", "code"), BROKEN)
def test_schemas(prefect: Site, api_url: str, statement: str, checks: set[str], code: str) -> None:
    prefect.sql(statement)
    health = check(prefect, api_url)
    assert unhealthy(health) == checks and code in codes(health)


def test_two_tenants(prefect: Site, api_url: str) -> None:
    login = Login("127.0.0.1", prefect.server.port, "prefect_monitor", PASSWORD)
    parts = [
        Tenant("prefect", "prefect", api_url=api_url),
        Tenant("research", "research", api_url="http://127.0.0.1:1/api"),
    ]
    health = check_health(login, prefect.database, parts)
    research = {f"{name}:research" for name in OF_SCHEMA | {"api"}}
    assert set(health.checks) == ALL | research
    assert unhealthy(health) == {"schema_separation"} | research


@contextlib.contextmanager
def session(site: Site, statement: str) -> Iterator[None]:
    """A session that has run a statement and leaves its transaction open."""
    connection = site.server.connect(site.database)
    connection.autocommit = False
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        yield
    finally:
        connection.close()


RUN = """
WITH f AS (INSERT INTO prefect.flow (name) VALUES (md5(random()::text)) RETURNING id)
INSERT INTO prefect.flow_run (name, flow_id, state_type, state_name, work_queue_id, next_scheduled_start_time,
                              start_time, end_time, state_timestamp)
SELECT 'run', f.id, %s::prefect.state_type, %s, (SELECT min(id::text)::uuid FROM prefect.work_queue),
       CASE WHEN due THEN at END, CASE WHEN NOT due THEN at END, CASE WHEN %s THEN at END, at
FROM f, (SELECT now() - make_interval(secs => %s) AS at, %s AS due) x
"""


def add_run(site: Site, state: str, seconds_ago: int, name: str | None = None) -> None:
    ended, due = state in ("COMPLETED", "FAILED"), state == "SCHEDULED"
    site.sql(RUN, state, name or state.title(), ended, seconds_ago, due)


def add_event(site: Site, seconds_ago: int) -> None:
    site.sql(
        "INSERT INTO prefect.events (id, occurred, event, resource_id, resource, payload, received, recorded) SELECT "
        "gen_random_uuid(), t, 'prefect.flow-run.Completed', 'x', '{}', '{}', t, t "
        "FROM (SELECT now() - make_interval(secs => %s) AS t) x",
        seconds_ago,
    )


def add_pool(site: Site, limit: int | None = None, paused: bool = False) -> None:
    site.sql(
        "INSERT INTO prefect.work_pool (name, type, concurrency_limit, is_paused) VALUES ('pool', 'process', %s, %s)",
        limit,
        paused,
    )
    site.sql("INSERT INTO prefect.work_queue (name, work_pool_id) SELECT 'default', id FROM prefect.work_pool")


def add_deployment(site: Site, schedule: str, active: bool = True, seconds_ago: int = 3600) -> None:
    site.sql(
        "WITH f AS (INSERT INTO prefect.flow (name) VALUES (md5(random()::text)) RETURNING id), "
        "d AS (INSERT INTO prefect.deployment (name, flow_id, updated) "
        "      SELECT 'deployment', id, now() - make_interval(secs => %s) FROM f RETURNING id, updated) "
        "INSERT INTO prefect.deployment_schedule (deployment_id, updated, schedule, active) "
        "SELECT id, updated, %s, %s FROM d",
        seconds_ago,
        schedule,
        active,
    )


HOURLY = '{"interval": 3600.0, "anchor_date": "2020-01-01T00:00:00Z", "timezone": "UTC"}'


def test_a_quiet_site_is_healthy(prefect: Site, api_url: str) -> None:
    """Schedules that are inactive, new, rare or over, a run that has ended long ago and one that has just been due."""
    add_pool(prefect)
    add_run(prefect, "COMPLETED", 7200)
    add_run(prefect, "SCHEDULED", 5)
    add_run(prefect, "RUNNING", 5)
    add_deployment(prefect, HOURLY, active=False)
    add_deployment(prefect, HOURLY, seconds_ago=30)
    add_deployment(prefect, '{"cron": "0 0 1 1 *", "timezone": "UTC"}')
    add_deployment(prefect, '{"rrule": "FREQ=DAILY;COUNT=1", "timezone": "UTC"}')
    health = check(prefect, api_url)
    assert health.problems == [] and health.overall_status == "healthy"
    runs = health.checks["runs"].details
    assert (runs["due"]["runs"], runs["running"]["runs"], runs["pending"]["runs"]) == (1, 1, 0)
    assert health.checks["work_pools"].details["pools"]["pool"]["queues"]["default"]["due"] == 1


@pytest.mark.parametrize(
    ("state", "name", "seconds", "code", "status"),
    [
        ("SCHEDULED", "Late", 301, "runs_late", "degraded"),
        ("SCHEDULED", "Late", 3601, "runs_late", "unhealthy"),
        ("PENDING", None, 901, "runs_pending_long", "degraded"),
        ("RUNNING", None, 86401, "runs_running_long", "degraded"),
        ("CANCELLING", None, 901, "runs_cancelling_long", "degraded"),
    ],
)
def test_runs(prefect: Site, api_url: str, state: str, name: str | None, seconds: int, code: str, status: str) -> None:
    add_event(prefect, 0)
    add_run(prefect, state, seconds - 20, name)
    assert check(prefect, api_url).overall_status != status
    add_run(prefect, state, seconds, name)
    health = check(prefect, api_url)
    assert (unhealthy(health), codes(health), health.overall_status) == ({"runs"}, {code}, status)


def test_scheduler(prefect: Site, api_url: str) -> None:
    add_deployment(prefect, '{"cron": "0 5 * * 1-5", "timezone": "UTC"}', seconds_ago=200)
    health = check(prefect, api_url)
    assert (health.overall_status, unhealthy(health)) == ("degraded", {"services"})
    assert codes(health) == {"scheduler_stalled"} and "1 such deployment" in health.problems[0].message
    add_deployment(prefect, HOURLY, seconds_ago=1000)
    assert check(prefect, api_url).overall_status == "unhealthy"
    prefect.sql("UPDATE prefect.deployment SET paused = true")
    assert check(prefect, api_url).problems == []


def test_late_runs_are_not_marked(prefect: Site, api_url: str) -> None:
    add_run(prefect, "SCHEDULED", 70)
    assert check(prefect, api_url).problems == []  # the server may have started a minute ago
    add_run(prefect, "SCHEDULED", 130)
    assert codes(check(prefect, api_url)) == {"late_marking_stalled"}


def test_events(prefect: Site, api_url: str) -> None:
    add_run(prefect, "COMPLETED", 200)
    assert check(prefect, api_url).problems == []  # no event at all: they are turned off
    add_event(prefect, 500)
    health = check(prefect, api_url)
    assert codes(health) == {"events_stalled"} and 195 < health.checks["services"].details["events_lag_s"] < 260
    add_event(prefect, 190)
    assert check(prefect, api_url).problems == []


def test_pools(prefect: Site, api_url: str) -> None:
    add_pool(prefect, limit=1, paused=True)
    prefect.sql("UPDATE prefect.work_queue SET is_paused = true")
    health = check(prefect, api_url)
    assert health.overall_status == "healthy" and codes(health) == {"work_pool_paused", "work_queue_paused"}
    add_run(prefect, "SCHEDULED", 30)
    add_run(prefect, "RUNNING", 30)
    health = check(prefect, api_url, backlog=Limit(1, 2))
    assert (health.overall_status, unhealthy(health)) == ("degraded", {"work_pools"})
    assert codes(health) == {"work_pool_paused", "work_queue_paused", "backlog_high"}
    queue = "(SELECT id FROM prefect.work_queue)"
    late = "next_scheduled_start_time = now() - interval '2 hours', state_name = 'Late'"
    prefect.sql(f"UPDATE prefect.flow_run SET work_queue_id = {queue}, {late} WHERE state_type = 'SCHEDULED'")
    assert codes(check(prefect, api_url)) == {"work_pool_paused", "work_queue_paused"}  # it is not late by accident
    prefect.sql("UPDATE prefect.flow_run SET next_scheduled_start_time = now() WHERE state_type = 'SCHEDULED'")
    prefect.sql("UPDATE prefect.work_pool SET is_paused = false; UPDATE prefect.work_queue SET is_paused = false")
    health = check(prefect, api_url)
    assert health.overall_status == "healthy" and codes(health) == {"concurrency_full"}


def test_workers_by_pool(prefect: Site, api_url: str) -> None:
    add_worker(prefect, "one", 1)
    tenant = {"name": "prefect", "schema": "prefect", "api_url": api_url, "pool_workers": {"pool": 2, "reports": 1}}
    login = Login("127.0.0.1", prefect.server.port, "prefect_monitor", PASSWORD)
    part = Tenant.from_arguments(tenant)
    assert part.workers == 3
    health = check_health(login, prefect.database, [part])
    found = {problem.object.split()[2]: problem.severity for problem in health.problems}
    assert codes(health) == {"workers_offline"} and found == {"pool": "warning", "reports": "error"}
    assert health.checks["workers"].details["pools"]["reports"] == {
        "online": 0,
        "expected": 1,
        "heartbeat_s": None,
    }


def test_a_pool_without_workers_is_well_until_its_runs_wait(prefect: Site, api_url: str) -> None:
    scaled = {"pool_workers": {"pool": 0}, "scaled_pools": ["pool"]}
    part = Tenant.from_arguments({"name": "prefect", "schema": "prefect", "api_url": api_url, **scaled})
    login = Login("127.0.0.1", prefect.server.port, "prefect_monitor", PASSWORD)

    def found() -> list[Problem]:
        return list(check_health(login, prefect.database, [part]).checks["workers"].problems)

    add_pool(prefect)
    assert found() == []
    add_run(prefect, "SCHEDULED", 60)
    assert found() == []  # its first worker starts
    add_run(prefect, "SCHEDULED", 130)
    (problem,) = found()
    assert problem.code == "worker_not_started" and "none of its workers is online" in problem.message
    add_worker(prefect, "one", 1)
    assert found() == []
    prefect.sql("DELETE FROM prefect.worker; UPDATE prefect.work_pool SET is_paused = true")
    assert found() == []


def test_connections(prefect: Site, api_url: str) -> None:
    monitor, app = prefect.declaration.monitor, prefect.declaration.app_login
    prefect.sql(f"ALTER ROLE {app} CONNECTION LIMIT 1; ALTER ROLE {monitor} CONNECTION LIMIT 2")
    try:
        assert check(prefect, api_url).problems == []
        with contextlib.closing(prefect.server.connect(prefect.database, app, PASSWORD)):
            health = check(prefect, api_url)
    finally:
        prefect.sql(f"ALTER ROLE {app} CONNECTION LIMIT -1; ALTER ROLE {monitor} CONNECTION LIMIT -1")
    assert (unhealthy(health), codes(health)) == ({"connections"}, {"connections_near_limit"})
    assert health.problems[0].object == f"role {app}"
    assert health.checks["connections"].details["limits"]["server"]["allowed"] > 50


def test_transactions(prefect: Site, api_url: str) -> None:
    with session(prefect, "SELECT 1"):
        assert check(prefect, api_url).problems == []
        limits: dict[str, Any] = {"transaction_s": Limit(0.01, None), "idle_in_transaction_s": Limit(None, 0.01)}
        time.sleep(0.02)
        health = check(prefect, api_url, **limits)
        assert (unhealthy(health), codes(health)) == ({"transactions"}, {"transaction_old", "idle_in_transaction"})
        blind = check(prefect, api_url, user=prefect.declaration.app_login, **limits)
    assert blind.overall_status == "healthy" and codes(blind) == {"not_visible"}


def test_locks(prefect: Site, api_url: str) -> None:
    waiting = prefect.server.connect(prefect.database)

    def wait() -> None:
        with waiting.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM public.orders")

    thread = threading.Thread(target=wait)
    with session(prefect, "LOCK TABLE public.orders"):
        thread.start()
        wait_for(lambda: prefect.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        time.sleep(0.1)
        health = check(prefect, api_url, lock_wait_s=Limit(0.1, None))
    thread.join()
    waiting.close()
    assert (unhealthy(health), codes(health)) == ({"locks"}, {"lock_wait"})
    assert health.problems[0].object == "public.orders" and "blocked by" in health.problems[0].message


def test_a_migration_holds_the_runs(prefect: Site, api_url: str) -> None:
    with session(prefect, "LOCK TABLE prefect.flow_run IN ACCESS EXCLUSIVE MODE"):
        health = check(prefect, api_url)
    assert unhealthy(health) == OF_SCHEMA - {"workers"} and codes(health) == {"table_locked"}


def test_storage(prefect: Site, api_url: str) -> None:
    prefect.sql(
        "ALTER TABLE prefect.variable SET (autovacuum_enabled = false);"
        "INSERT INTO prefect.variable (name, value) SELECT n::text, '1' FROM generate_series(1, 12000) n"
    )
    prefect.sql("DELETE FROM prefect.variable WHERE name <> '1'")
    prefect.sql("ANALYZE prefect.variable")
    health = check(prefect, api_url, xid_age=Limit(1, None))
    assert (unhealthy(health), codes(health)) == ({"storage"}, {"dead_rows", "xid_age_high"})
    assert health.checks["storage"].details["schemas"]["prefect"]["dead"] >= 11999
    assert health.checks["storage"].details["schemas"]["prefect"]["bytes"] > 500_000


def test_disk(prefect: Site, api_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Tenant("prefect", "prefect", api_url=api_url)
    login = Login("127.0.0.1", prefect.server.port, "prefect_monitor", PASSWORD)
    full = Thresholds(disk_used_percent=Limit(None, 0))
    health = check_health(login, prefect.database, [part], 4, full, ["/"])
    assert (unhealthy(health), codes(health)) == ({"disk"}, {"disk_nearly_full"})
    assert health.checks["disk"].details["paths"]["/"]["free_bytes"] > 0
    health = check_health(login, prefect.database, [part], 4, full, ["/nowhere"])
    assert (health.overall_status, codes(health)) == ("degraded", {"disk_not_visible"})
    # Without a host libpq goes where PGHOST says, which stands for the unix socket here.
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    local = Login("", prefect.server.port, "prefect_monitor", PASSWORD)
    assert "disk" in check_health(local, prefect.database, [part]).checks
    app = Login("", prefect.server.port, prefect.declaration.app_login, PASSWORD)
    health = check_health(app, prefect.database, [part])
    assert health.overall_status == "unknown" and codes(health) == {"not_visible", "check_not_permitted"}


def test_slow_answers(prefect: Site, api_url: str) -> None:
    assert codes(check(prefect, api_url, latency_ms=Limit(0, None))) == {"database_slow"}
    prefect.sql(
        "ALTER TABLE prefect.worker RENAME TO worker_table;"
        "CREATE VIEW prefect.worker AS SELECT w.* FROM pg_sleep(9), prefect.worker_table w;"
        f"GRANT SELECT ON prefect.worker TO {prefect.declaration.monitor}"
    )
    add = "INSERT INTO prefect.work_pool (name, type) VALUES ('pool', 'process')"
    prefect.sql(add)
    health = check(prefect, api_url, latency_ms=Limit(None, None))
    assert (unhealthy(health), codes(health)) == ({"workers"}, {"answer_too_late"})


def test_a_check_that_fails_names_itself(prefect: Site, api_url: str) -> None:
    prefect.sql("DROP TABLE prefect.worker CASCADE")
    health = check(prefect, api_url)
    assert (unhealthy(health), codes(health)) == ({"workers", "dead_runs"}, {"check_failed"})


def test_network_cut(api_url: str) -> None:
    """A server that was reachable a moment ago."""
    with running_postgresql() as server:
        docker("network", "disconnect", "bridge", server.container)
        started = time.monotonic()
        health = check_health(server.login, "postgres", [Tenant("prefect", "prefect", api_url=api_url)])
        assert time.monotonic() - started < LIMIT
    assert unhealthy(health) == ALL - {"api"} and codes(health) <= {"connection_failed", "no_answer"}


def test_thresholds() -> None:
    found = Thresholds.from_arguments({"late_s": {"warning": "60"}, "running_s": {"warning": None, "critical": 5}})
    assert found.late_s == Limit(60, 3600) and found.running_s == Limit(None, 5)
    assert found.backlog == Thresholds().backlog == Thresholds.from_arguments(None).backlog


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"late": {}}, "There is no threshold 'late'; there are: latency_ms"),
        ({"late_s": 5}, "takes warning and critical"),
        ({"late_s": {"warn": 5}}, "takes warning and critical"),
        ({"late_s": {"warning": "soon"}}, "'soon', which is not a number"),
        ({"late_s": {"warning": -1}}, "-1, which is not a number"),
        ({"late_s": {"warning": True}}, "True, which is not a number"),
        ({"late_s": {"warning": 5000}}, "warns at 5000, beyond its critical 3600"),
    ],
)
def test_thresholds_that_make_no_sense(
    run_module: Callable[..., Result], arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ThresholdError, match=words):
        Thresholds.from_arguments(arguments)
    result = run_module("prefect_health_check", database="x", tenants=[], thresholds=arguments)
    assert result["failed"] and words in result["msg"]


def test_over_the_socket_one_connects_at_a_time(api_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root becomes another user for a connection, and that is the whole process: two at a time would mix them up."""
    at_once: list[int] = []
    active = 0

    def refuse(**_arguments: object) -> None:
        nonlocal active
        active += 1
        at_once.append(active)
        time.sleep(0.05)
        active -= 1
        raise psycopg2.OperationalError("No.")

    monkeypatch.setattr("psycopg2.connect", refuse)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.seteuid", lambda _user: None)
    check_health(
        Login(user="nobody"), "x", [Tenant("one", "one", api_url=api_url), Tenant("two", "two", api_url=api_url)]
    )
    assert at_once == [1, 1, 1]


def test_wal_that_is_not_archived(prefect: Site) -> None:
    """Nobody is told of one failure, but of some minutes without a success."""
    jobs = (Job("pitr", "/nowhere"),)
    limits = Thresholds.from_arguments({"archive_lag_s": {"warning": 0}})
    off = check_health(prefect.server.login, prefect.database, [], jobs=jobs)
    assert "archiving_off" in codes(off) and off.checks["archiving"].status == "unhealthy"
    assert check_health(prefect.server.login, prefect.database, []).checks["archiving"].status == "healthy"
    options = "POSTGRES_OPTIONS=-c wal_level=replica -c archive_mode=on"
    with running_postgresql("--env", options) as server:

        def archive_by(command: str, column: str) -> None:
            """Archive by another command, until the column has a time."""

            def archived() -> bool:
                # Again and again: the archiver takes up another command when it comes to it.
                server.sql("postgres", "SELECT pg_create_restore_point('x'), pg_switch_wal()")
                return bool(server.sql("postgres", f"SELECT {column} FROM pg_stat_archiver")[0][0])

            server.sql("postgres", f"ALTER SYSTEM SET archive_command = '{command}'")
            server.sql("postgres", "SELECT pg_reload_conf()")
            wait_for(archived)

        def asked(thresholds: Thresholds) -> tuple[str, list[str]]:
            check = check_health(server.login, "postgres", [], thresholds=thresholds).checks["archiving"]
            return check.status, [problem.code for problem in check.problems]

        archive_by("true", "last_archived_time")
        assert asked(limits) == ("healthy", [])
        archive_by("false", "last_failed_time")
        assert asked(limits) == ("degraded", ["archiving_failed"])
        assert (
            "Archiving of WAL fails"
            in check_health(server.login, "postgres", [], thresholds=limits).problems[0].message
        )
        assert asked(Thresholds()) == ("healthy", [])
