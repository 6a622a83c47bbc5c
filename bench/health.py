"""Measure one call of the health module against the same questions asked with Prefect's and PostgreSQL's commands.

    PYTHONPATH=module_utils .venv/bin/python -m bench.health

Both sides use the same PostgreSQL and the same Prefect server on loopback; each command is its own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.data import fill
from bench.support import prefect_database, prefect_server, show
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import PASSWORD

RUNS = 2000  # 184,000 rows with everything that belongs to them
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


def timed(command: list[str | Path], environment: dict[str, str], text: str | None = None) -> tuple[float, str]:
    started = time.monotonic()
    done = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return seconds, done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as home, prefect_database() as site:
        postgresql = site.server
        with contextlib.closing(postgresql.connect(site.database)) as connection:
            fill(connection, site.tenant.schema, RUNS)
        with prefect_server(site) as url:
            quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
            client = {"PATH": os.environ["PATH"], "HOME": home, "PREFECT_HOME": home, "PREFECT_API_URL": url, **quiet}
            arguments = {
                "login_host": "127.0.0.1",
                "login_port": postgresql.port,
                "login_password": PASSWORD,
                "database": site.database,
                "tenants": [{"name": "prefect", "schema": "prefect", "api_url": url}],
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
    what = f"one module call, {len(result['checks'])} checks"
    show(f"Health at {RUNS:,} runs", [(what, ours, against, (prefect + psql) / ours)])


if __name__ == "__main__":
    main()
