"""The examples in the modules' documentation, run as they stand."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from tests.support.project import ROOT
from tests.support.scenario import PREFECT, SCENARIO, Playbook

# What an example must find on a host that site.yml has made; the others change things.
EXPECTED = {
    "prefect_schema_verify": "verification.verified and verification.problems | length == 0",
    "prefect_health_check": "health.overall_status == 'healthy' and health.checks.workers == 'healthy'",
    "prefect_workflow_statistics": "statistics.total_flows >= 3 and statistics.successful_runs >= 1",
    "prefect_cleanup": "cleanup.flow_runs_deleted == 0 and 'logs_deleted' in cleanup",
    "prefect_revision": "revision.state == 'current'",
}


@pytest.mark.usefixtures("completed_run")
@pytest.mark.parametrize("module", EXPECTED)
def test_an_example_runs(playbook: Playbook, tmp_path: Path, module: str) -> None:
    source = ast.parse((ROOT / "library" / f"{module}.py").read_text())
    (examples,) = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXAMPLES"
    ]
    tasks = yaml.safe_load(examples)
    if module == "prefect_schema_verify":  # the example's site has no database events
        (tenant,) = yaml.safe_load((SCENARIO / "inventory/group_vars/all.yml").read_text())["prefect_tenants"]
        (declared,) = tasks[0][module]["tenants"]
        declared |= {"relay": "prefect_relay", "database_events": tenant["database_events"]}
    if module == "prefect_revision":  # a virtualenv is called by what is in it
        tasks[0][module]["virtualenv"] = PREFECT
    tasks.append({"name": "See what it says", "ansible.builtin.assert": {"that": EXPECTED[module]}})
    path = tmp_path / "example.yml"
    path.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    result = playbook(str(path))
    assert result.returncode == 0, result.stdout
