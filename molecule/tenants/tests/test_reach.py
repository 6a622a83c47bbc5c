"""What a flow of one tenant can reach: each cell of the table in docs/security.md is attempted as the tenant's user."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from testinfra.host import Host

from tests.support.project import ROOT
from tests.support.scenario import Sql
from tests.support.servers import ask_redis, shown_redis

OWN, OTHER = "research", "prefect"


def process(host: Host, unit: str) -> str:
    return str(host.check_output("systemctl show --property MainPID --value %s", unit))


def reaches(host: Host, command: str) -> bool:
    """Whether the own tenant's user can do this, outside the unit, which allows less."""
    return bool(host.run("runuser --user %s -- sh -c %s", f"prefect-{OWN}", command).rc == 0)


def uses_redis(host: Host, tenant: str) -> bool:
    """Whether the own tenant's user can use a tenant's Redis by the address that its API shows."""
    address = shown_redis(host, tenant)
    assert ask_redis(host, "prefect", address).rc == 0
    return bool(ask_redis(host, f"prefect-{OWN}", address).rc == 0)


def row(host: Host, sql: Sql, secrets: dict[str, str], name: str, tenant: str) -> bool:
    """Attempt what a row of the table is about, of one tenant."""
    schema = {"research": '"Research-2"', "prefect": "prefect"}[tenant]
    worker = f"{tenant}-default-1"

    def api(path: str) -> bool:
        port = {"research": 4300, "prefect": 4200}[tenant]
        login = base64.b64encode(f"admin:{secrets[f'{OWN}_api']}".encode()).decode()
        request = f"""
import sys, urllib.error, urllib.request as r
headers = {{"Authorization": "Basic {login}", "Content-Type": "application/json"}}
try:
    r.urlopen(r.Request("http://127.0.0.1:{port}/api{path}", b"{{}}", headers))
except urllib.error.HTTPError as error:
    sys.exit(77 if error.code == 401 else 1)"""
        done = host.run("runuser --user %s -- python3 -c %s", f"prefect-{OWN}", request)
        assert done.rc in (0, 77), done.stderr
        return bool(done.rc == 0)

    attempts: dict[str, Callable[[], bool]] = {
        "the environment and the API's password": lambda: reaches(
            host, f"grep -q PREFECT_API_AUTH_STRING /proc/{process(host, f'prefect-worker@{worker}')}/environ"
        ),
        "another process's memory and environment (`/proc`)": lambda: reaches(
            host, f"head -c1 /proc/{process(host, f'prefect-worker@{worker}')}/environ >/dev/null"
        ),
        "Prefect's objects over the API (blocks, variables, deployments)": lambda: api("/variables/filter"),
        "the application's tables in `public`": lambda: (
            sql("mltrading_app", "INSERT INTO public.system_logs (event_type) VALUES ('reach')").rc == 0
        ),
        "Prefect's tables by SQL": lambda: (
            sql("mltrading_app", f"SELECT id, parameters FROM {schema}.flow_run LIMIT 1").rc == 0
            and sql("mltrading_app", f"SELECT * FROM {schema}.block_document").rc == 1
            and sql("mltrading_app", f"SELECT job_variables FROM {schema}.flow_run").rc == 1
            and sql("mltrading_app", f"DELETE FROM {schema}.flow_run").rc == 1
        ),
        "the server's and the migrator's password, backup sets": lambda: (
            reaches(host, f"cat /etc/prefect/{tenant}-server.env")
            or reaches(host, f"cat /etc/prefect/{tenant}-migrate.env")
            or reaches(host, f"cat /proc/{process(host, f'prefect-server@{tenant}')}/environ")
            or reaches(host, "ls /var/backups/prefect")
        ),
        "Redis, although the API shows its password": lambda: uses_redis(host, tenant),
    }
    return attempts[name]()


def table() -> list[tuple[str, str, bool]]:
    """The rows of the table, of each tenant, and whether the page says that they can be reached."""
    text = (ROOT / "docs/security.md").read_text().partition("## What a flow can reach")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [
        (name, tenant, not cell.startswith("no"))
        for name, own, other in lines[2:]
        for tenant, cell in ((OWN, own), (OTHER, other))
    ]


@pytest.mark.parametrize(("name", "tenant", "expected"), table())
def test_a_cell_of_the_table(
    host: Host, sql: Sql, secrets: dict[str, str], name: str, tenant: str, expected: bool
) -> None:
    assert row(host, sql, secrets, name, tenant) is expected
