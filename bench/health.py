"""Health, all checks in one call of the module, beside the same questions by Prefect's and PostgreSQL's commands.

    PYTHONPATH=module_utils .venv/bin/python -m bench.health

Both sides ask the same PostgreSQL and the same Prefect server on loopback; each command is a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import PASSWORD, ROOT, VIRTUALENV, Site, migrated_site, running_postgresql

from .data import fill

RUNS = 2000  # with all that belongs to them, 184,000 rows
PREFECT = [
    ["work-pool", "ls"],
    ["work-queue", "ls"],
    ["deployment", "ls"],
    *(["flow-run", "ls", "--state", state] for state in ("Late", "Pending", "Running")),
    ["api", "GET", "/health"],
    ["api", "GET", "/ready"],
]
PSQL = [
    "SELECT version(), pg_database_size(current_database())",
    "SELECT nspname, nspacl FROM pg_namespace",
    "SELECT version_num FROM prefect.alembic_version",
    "SELECT usename, count(*) FROM pg_stat_activity GROUP BY 1",
    "SELECT pid, now() - xact_start, state FROM pg_stat_activity WHERE xact_start IS NOT NULL",
    "SELECT * FROM pg_locks WHERE NOT granted",
    "SELECT datname, age(datfrozenxid) FROM pg_database",
    "SELECT schemaname, sum(n_live_tup), sum(n_dead_tup) FROM pg_stat_all_tables GROUP BY 1",
    "SELECT name, last_heartbeat_time FROM prefect.worker",
    "SELECT max(occurred) FROM prefect.events",
]


@contextlib.contextmanager
def prefect_server(site: Site, home: Path) -> Iterator[dict[str, str]]:
    """A real Prefect server; gives the environment of its clients."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_HOME": str(home)}
    client = {"PATH": os.environ["PATH"], "HOME": str(home), **quiet, "PREFECT_API_URL": url}
    environment = {
        **site.environment(role=site.tenant.server),
        **client,
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "3650d",
    }
    command: list[str | Path] = [
        VIRTUALENV / "bin/prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        subprocess.run(
            [VIRTUALENV / "bin/python", "-m", "pgprefect", "wait", url + "/ready"],
            env={**client, "PYTHONPATH": str(ROOT / "module_utils")},
            check=True,
            timeout=120,
        )
        yield client
    finally:
        server.terminate()
        server.wait(30)


def timed(command: list[str | Path], environment: dict[str, str], text: str | None = None) -> tuple[float, str]:
    started = time.monotonic()
    done = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return seconds, done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_postgresql() as postgresql:
        home = Path(folder)
        site = migrated_site(postgresql, "bench_health", home)
        with contextlib.closing(postgresql.connect(site.database)) as connection:
            fill(connection, "prefect", RUNS)
        with prefect_server(site, home) as client:
            arguments = {
                "login_host": "127.0.0.1",
                "login_port": postgresql.port,
                "login_password": PASSWORD,
                "database": site.database,
                "tenants": [{"name": "prefect", "schema": "prefect", "api_url": client["PREFECT_API_URL"]}],
            }
            bridge = (
                "import ansible.module_utils as m, runpy;"
                f"m.__path__.append({str(ROOT / 'module_utils')!r});"
                "runpy.run_module('library.prefect_health_check', run_name='__main__')"
            )
            module: list[str | Path] = [ROOT / ".venv/bin/python", "-c", bridge]
            text = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
            own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
            ours, output = min(timed(module, own, text) for _ in range(3))
            result = json.loads(output)
            if "check_failed" in output or "connection_failed" in output:
                raise RuntimeError(output)
            prefect = sum(timed([VIRTUALENV / "bin/prefect", *words], client)[0] for words in PREFECT)
            inside = ["docker", "exec", postgresql.container, "psql", "--username=postgres", "--dbname", site.database]
            psql = sum(timed([*inside, "--command", query], own)[0] for query in PSQL)
    against = f"{len(PREFECT)} prefect + {len(PSQL)} psql commands, {prefect:.1f} + {psql:.1f} s"
    print(f"{'health at ' + format(RUNS, ',') + ' runs':<44} {'seconds':>8} {'against':>48} {'ratio':>6}")
    what = f"one module call, {len(result['checks'])} checks"
    print(f"{what:<44} {ours:>8.2f} {against:>48} {(prefect + psql) / ours:>6.1f}")


if __name__ == "__main__":
    main()
