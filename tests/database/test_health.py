"""Health against real parts, and against parts that are dead, silent or slow."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from pgprefect.connection import Login
from pgprefect.health import Health, Part, check_health

from tests.conftest import PASSWORD, Result, Site, docker

LIMIT = 5.0
ALL = {"app_database", "prefect_schema", "schema_separation", "api", "workers"}


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


def check(site: Site, api_url: str, workers: int = 0, port: int | None = None) -> Health:
    login = Login("127.0.0.1", port or site.server.port, site.declaration.monitor, PASSWORD)
    parts = [Part(tenant.name, tenant.schema, api_url, workers) for tenant in site.declaration.tenants]
    started = time.monotonic()
    health = check_health(login, site.database, parts)
    assert time.monotonic() - started < LIMIT
    return health


def unhealthy(health: Health) -> set[str]:
    return {name for name, check in health.checks.items() if check.status != "healthy"}


def codes(health: Health) -> set[str]:
    return {problem["code"] for problem in health.as_dict()["problems"]}


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
    assert result["overall_status"] == "healthy" and result["problems"] == []
    assert result["checks"] == dict.fromkeys(ALL, "healthy")
    assert list(result["checks"])[:3] == ["app_database", "prefect_schema", "schema_separation"]
    assert all(details["latency_ms"] > 0 for details in result["details"].values())
    assert result["details"]["workers"]["online"] == 1
    assert not result["changed"]


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


def test_a_locked_table_harms_its_own_check_alone(prefect: Site, api_url: str) -> None:
    holder = prefect.server.connect(prefect.database)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE prefect.worker")
    try:
        health = check(prefect, api_url, workers=1)
    finally:
        holder.close()
    assert unhealthy(health) == {"workers"} and codes(health) == {"check_failed"}


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
    ("DROP SCHEMA prefect CASCADE", {"prefect_schema", "schema_separation", "workers"}, "schema_missing"),
    ("DROP TABLE prefect.alembic_version", {"prefect_schema"}, "prefect_tables_missing"),
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
    parts = [Part("prefect", "prefect", api_url), Part("research", "research", "http://127.0.0.1:1/api")]
    health = check_health(login, prefect.database, parts)
    assert set(health.checks) == ALL | {"prefect_schema:research", "api:research", "workers:research"}
    assert unhealthy(health) == {"schema_separation", "prefect_schema:research", "api:research", "workers:research"}
