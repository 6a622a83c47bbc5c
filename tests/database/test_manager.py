"""The class for programs: its connections, and what it answers."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pgprefect.manager
import psycopg2
import pytest
import sqlalchemy.exc
from pgprefect import get_db_manager, get_prefect_db_manager
from pgprefect.core.connection import Login
from pgprefect.manager import DatabaseManager, PoolExhausted
from pgprefect.runs.retention import PolicyError, RetentionError
from pgprefect.site.configuration import ConfigurationError

from bench.data import fill
from tests.support.site import PASSWORD, Site


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test starts without pools and managers, and closes what it opened."""
    monkeypatch.setenv("PGPREFECT_CONFIG", str(tmp_path / "nothing.json"))
    for name in [name for name in os.environ if name.startswith("PG") and name != "PGPREFECT_CONFIG"]:
        monkeypatch.delenv(name)
    yield
    get_db_manager.cache_clear()
    get_prefect_db_manager.cache_clear()
    for pool in pgprefect.manager._pools.values():
        pool.close()
    pgprefect.manager._pools.clear()


@pytest.fixture
def as_flow(prefect: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that a worker gives to its flows."""
    for name, value in {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(prefect.server.port),
        "PGDATABASE": prefect.database,
        "PGUSER": prefect.declaration.app_login,
        "PGPASSWORD": PASSWORD,
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def as_operator(site_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the roles write on a host of the server."""
    monkeypatch.setenv("PGPREFECT_CONFIG", str(site_file))


def manager(site: Site, pool_size: int = 2) -> DatabaseManager:
    login = Login("127.0.0.1", site.server.port, site.declaration.app_login, PASSWORD)
    return DatabaseManager(login, site.database, pool_size=pool_size)


@pytest.mark.usefixtures("as_flow")
def test_the_applications_tables(prefect: Site) -> None:
    database = get_db_manager()
    with database.get_connection() as connection:
        connection.execute(
            "INSERT INTO stock_info (symbol, name, currency, source) VALUES (%(symbol)s, %(name)s, 'EUR', 'test')",
            {"symbol": "TEST", "name": "100 % 'quoted'"},
        )
        assert connection.execute("SELECT name FROM stock_info WHERE symbol = %s", ["TEST"]).scalar() == (
            "100 % 'quoted'"
        )
    assert prefect.sql("SELECT count(*) FROM public.stock_info") == [(1,)]
    with pytest.raises(ZeroDivisionError), database.get_connection() as connection:
        connection.execute("DELETE FROM stock_info")
        raise ZeroDivisionError
    assert prefect.sql("SELECT count(*) FROM public.stock_info") == [(1,)]


@pytest.mark.usefixtures("as_flow")
def test_prefects_tables_by_their_names() -> None:
    with get_prefect_db_manager().prefect_session() as session:
        assert (
            session.execute("SELECT name FROM flow_run WHERE start_time >= NOW() - INTERVAL '1 hour'").fetchall() == []
        )
        assert session.execute("SELECT 1").scalar() == 1
        with pytest.raises(sqlalchemy.exc.ProgrammingError, match="permission denied"):
            session.execute("DELETE FROM flow_run")


@pytest.mark.usefixtures("as_operator")
def test_the_sites_file(prefect: Site) -> None:
    database = get_prefect_db_manager()
    assert (database.login.user, database.schema) == (prefect.declaration.monitor, "prefect")
    found = database.verify_schema_separation()
    assert found["connection_test"] and found["public_schema"]["exists"] and found["prefect_schema"]["exists"]
    assert found["search_path"] == "public, prefect"


def test_nothing_says_where_to_log_in(prefect: Site) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.json is not on this host"):
        get_db_manager()
    with pytest.raises(ConfigurationError, match="No database is named"):
        DatabaseManager(prefect.server.login)


def test_one_pool_for_a_login_and_a_search_path(prefect: Site) -> None:
    one, two = manager(prefect), manager(prefect)
    assert one.pool is two.pool and PASSWORD not in repr(one.pool)


def test_the_pool_is_bounded_and_says_so(prefect: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgprefect.manager, "POOL_TIMEOUT", 0.2)
    database = manager(prefect, pool_size=1)
    with database.get_connection():
        assert database.pool.as_dict()["used"] == 1
        with pytest.raises(PoolExhausted, match="kept open"), database.get_connection():
            pass
    status = database.pool.as_dict()
    assert (status["used"], status["limit"], status["waits"]) == (0, 1, 1) and status["waited_seconds"] >= 0.2


def test_many_threads_share_few_connections(prefect: Site) -> None:
    database, seen = manager(prefect), set()

    def work() -> None:
        for _ in range(10):
            with database.get_connection() as connection:
                seen.add(connection.execute("SELECT pg_backend_pid() FROM pg_sleep(0.001)").scalar())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(seen) <= 2 and database.pool.used == 0


def test_a_forked_child_opens_its_own(prefect: Site) -> None:
    database = manager(prefect)

    def backend() -> int:
        with database.get_connection() as connection:
            return int(connection.execute("SELECT pg_backend_pid()").scalar() or 0)

    parents = backend()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(backend()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        child_backend = int(file.read())
    assert child_backend != parents and backend() == parents


def test_a_connection_that_the_server_closed_is_replaced(prefect: Site) -> None:
    database = manager(prefect)
    with database.get_connection() as connection:
        first = connection.execute("SELECT pg_backend_pid()").scalar()
    prefect.sql("SELECT pg_terminate_backend(%s)", first)
    with database.get_connection() as connection:
        assert connection.execute("SELECT pg_backend_pid()").scalar() != first


def test_closing_closes(prefect: Site) -> None:
    database = manager(prefect)
    with database.get_connection():
        pass
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename = %s"
    assert prefect.sql(query, prefect.database, prefect.declaration.app_login) == [(1,)]
    database.close()
    assert prefect.sql(query, prefect.database, prefect.declaration.app_login) in ([(0,)], [(1,)])


@pytest.mark.usefixtures("as_flow")
def test_the_driver_is_psycopg2() -> None:
    with get_db_manager().get_connection() as connection:
        assert isinstance(connection.driver, psycopg2.extensions.connection)


@pytest.mark.usefixtures("as_flow")
def test_events_and_statistics(prefect: Site) -> None:
    database = get_prefect_db_manager()
    assert database.log_workflow_event(event_type="one", workflow_name="daily", status="success", metadata={"n": 1})
    with pytest.raises(ZeroDivisionError), database.get_connection() as connection:
        database.log_workflow_event("undone", connection=connection)
        raise ZeroDivisionError
    assert database.log_workflow_event("later", buffered=True)
    database.flush_events()
    assert prefect.sql("SELECT event_type FROM public.system_logs ORDER BY id") == [("one",), ("later",)]
    assert database.get_workflow_statistics()["total_flows"] == 0


@pytest.mark.usefixtures("as_flow")
def test_an_event_that_can_not_be_written(prefect: Site, caplog: pytest.LogCaptureFixture) -> None:
    database = get_prefect_db_manager()
    prefect.sql("DROP TABLE public.system_logs")
    assert not database.log_workflow_event("lost", metadata={"kept": "in the log"})
    assert "in the log" in caplog.text
    with pytest.raises(psycopg2.Error, match="system_logs"):
        database.log_workflow_event("lost", strict=True)


@pytest.mark.usefixtures("as_flow")
def test_a_flow_is_told_who_may_delete(prefect: Site) -> None:
    database = get_prefect_db_manager()
    with pytest.raises(RetentionError, match=prefect.tenant.server):
        database.cleanup_old_workflow_data(days_to_keep=30)
    with pytest.raises(PolicyError, match="days_to_keep"):
        database.cleanup_old_workflow_data(days_to_keep=-1)


@pytest.mark.usefixtures("as_operator")
def test_an_operator_may_delete(prefect: Site) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 100, days=60)
    result = get_prefect_db_manager().cleanup_old_workflow_data(days_to_keep=30, keep_newest=1)
    assert result["flow_runs_deleted"] > 10 and result["logs_deleted"] == 20 * result["flow_runs_deleted"]
    assert "flow_run" in result["vacuumed"]


@pytest.mark.usefixtures("as_flow")
def test_health_without_the_sites_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    found = get_prefect_db_manager().health_check()
    assert found["checks"]["app_database"] == "healthy" and found["checks"]["api"] == "unhealthy"
    assert found["pool"] == {"used": 0, "limit": 5, "waits": 0, "waited_seconds": 0.0}


@pytest.mark.usefixtures("as_operator")
def test_health_of_the_site() -> None:
    found = get_prefect_db_manager().health_check()
    assert found["checks"]["schema_separation"] == "healthy" and "workers" in found["details"]
