"""A real Prefect server, the flows in Prefect's own environment, and the application's tables in a real PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.support.ansible import Result
from tests.support.ports import free_port
from tests.support.project import ROOT, VIRTUALENV
from tests.support.waiting import wait_for

FLOWS = ROOT / "flows"
AUTH_STRING = 'admin:p@ss/w#rd %:"x'


@pytest.fixture(scope="session")
def prefect_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server on SQLite that asks for a password and for CSRF tokens; the environment of its clients."""
    if not VIRTUALENV.exists():
        pytest.fail(f"{VIRTUALENV} is missing: box/controller prefect makes it.")
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "module_utils"),
        "HOME": str(home),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": AUTH_STRING,
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [VIRTUALENV / "bin/prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={
                **environment,
                "PREFECT_SERVER_API_AUTH_STRING": AUTH_STRING,
                "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
                # Scheduled runs appear soon, and nothing else of the background matters here.
                "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: server.poll() is not None or listens(port), log.read_text, 180)
        assert server.poll() is None, log.read_text()
        yield environment
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def virtualenv() -> Path:
    return VIRTUALENV


@pytest.fixture(scope="session")
def api_arguments(prefect_environment: dict[str, str]) -> dict[str, str]:
    return {"api_url": prefect_environment["PREFECT_API_URL"], "api_auth_string": AUTH_STRING}


@pytest.fixture(scope="session")
def api(api_arguments: dict[str, str]) -> Callable[..., Any]:
    """One request to the server: method, path, body."""
    from pgprefect.core.http import PrefectApi

    return PrefectApi(api_arguments["api_url"], api_arguments["api_auth_string"]).call


@pytest.fixture
def database(trading_database: dict[str, str]) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Run SQL as the application, in its database, whose tables are empty."""
    connection = psycopg2.connect(
        host=trading_database["PGHOST"],
        port=trading_database["PGPORT"],
        user=trading_database["PGUSER"],
        password=trading_database["PGPASSWORD"],
        dbname=trading_database["PGDATABASE"],
    )
    connection.autocommit = True

    def query(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    for table in ("trading_signals", "market_data", "orders", "portfolios", "stock_info", "system_logs"):
        query(f"DELETE FROM {table}")
    yield query
    connection.close()


@pytest.fixture(scope="session")
def flow_runner(
    prefect_environment: dict[str, str], trading_database: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **prefect_environment,
        **trading_database,
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1",
    }
    runner = subprocess.Popen(
        [VIRTUALENV / "bin/python", ROOT / "tests/api/flows/runner.py"],
        cwd=FLOWS,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield runner
    runner.communicate()


@pytest.fixture
def run_flow(flow_runner: subprocess.Popen[str]) -> Callable[..., Result]:
    """Run a flow to its end, with module attributes replaced for its time: state, message, result, logs."""

    def run(flow: str, replace: dict[str, Any] | None = None, **parameters: Any) -> Result:
        assert flow_runner.stdin and flow_runner.stdout
        print(json.dumps({"flow": flow, "parameters": parameters, "replace": replace or {}}), file=flow_runner.stdin)
        flow_runner.stdin.flush()
        result: Result = json.loads(flow_runner.stdout.readline())
        return result

    return run
