"""The package pgprefect on a host: as programs call it, and as a command."""

from __future__ import annotations

import json
import re

import pytest
from testinfra.host import Host

from tests.support.project import ROOT
from tests.support.scenario import PREFECT, Typed

PYTHON = f"{PREFECT}/bin/python"
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/pgprefect.md").read_text(), re.DOTALL)
SHOW = """
import json
print(json.dumps([one, prefect_db.health_check(), prefect_db.verify_schema_separation()], default=str))
"""


@pytest.mark.usefixtures("completed_run")
def test_the_documented_program(host: Host) -> None:
    one, health, verification = json.loads(host.check_output(f"{PYTHON} -c %s", EXAMPLE + SHOW))
    assert one == 1
    assert health["checks"]["app_database"] == health["checks"]["schema_separation"] == "healthy", health
    assert health["pool"]["limit"] == 5
    assert verification["connection_test"] and verification["search_path"] == "public, prefect"
    assert "flow_run" in verification["prefect_schema"]["tables"]
    assert "market_data" in verification["public_schema"]["tables"]


@pytest.mark.usefixtures("completed_run")
def test_a_flow_may_do_all_but_delete(host: Host, workers: list[str], tenants: list[str]) -> None:
    command = f"set -a; . /etc/prefect/worker/%s.env; exec runuser --user prefect-{tenants[0]} -- %s -c %s"
    first, last = EXAMPLE.rsplit("\n", 2)[:2]
    host.check_output(command, workers[0], PYTHON, first)
    result = host.run(command, workers[0], PYTHON, EXAMPLE)
    assert last.startswith("prefect_db.cleanup_old_workflow_data") and result.rc == 1
    assert "prefect_server" in result.stderr.splitlines()[-1], result.stderr


@pytest.mark.usefixtures("tenants")
@pytest.mark.parametrize("command", ["pgprefect verify --json", "prefect config view --show-sources"])
def test_a_command_runs_nothing_of_the_folder_in_which_it_is_typed(host: Host, command: str) -> None:
    """Root types it in a folder that another user has filled, with another user's variables."""
    trap = "open('/tmp/trap/sprung', 'w')"
    host.check_output("rm -rf /tmp/trap && mkdir -p /tmp/trap/pgprefect /tmp/trap/prefect")
    for name in ("sitecustomize", "usercustomize", "pgprefect/__init__", "prefect/__init__", "json"):
        host.check_output("printf %%s %s > /tmp/trap/%s.py", trap, name)
    host.check_output("echo PREFECT_API_URL=http://trap:1/api > /tmp/trap/.env")
    host.check_output("printf '[api]\\nurl = \"http://trap:1/api\"\\n' > /tmp/trap/prefect.toml")
    host.check_output("printf '[tool.prefect.api]\\nurl = \"http://trap:1/api\"\\n' > /tmp/trap/pyproject.toml")
    variables = "PYTHONPATH=. PREFECT_API_URL=http://trap:1/api PREFECT_HOME=. PGHOST=trap HOME=/tmp/trap"
    answer = host.check_output(f"cd /tmp/trap && env {variables} {command}")
    assert "trap" not in answer
    assert not host.file("/tmp/trap/sprung").exists


def test_the_documented_commands(typed: Typed) -> None:
    typed("pgprefect.md", "From a shell")
