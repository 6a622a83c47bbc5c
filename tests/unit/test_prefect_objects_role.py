"""The role's preflight refuses declarations that do not fit together, before anything is asked or changed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_tasks

DEPLOYMENT = {"name": "daily", "flow": "collect", "entrypoint": "collect.py:collect", "work_pool": "default"}
POOL = {"name": "default", "workers": 2, "queues": [{"name": "urgent"}]}


def preflight(folder: Path, **tenant: Any) -> subprocess.CompletedProcess[str]:
    variables = {
        "prefect_objects_tenants": [{"name": "prefect", "api_url": "http://127.0.0.1:9/api", **tenant}],
        "prefect_objects_api_passwords": {"prefect": "h4rd to guess"},
        "prefect_objects_virtualenv": "/nowhere",
    }
    role = {"ansible.builtin.include_role": {"name": "prefect_objects", "tasks_from": "preflight"}, "name": "Preflight"}
    return run_tasks(folder, variables, role, arguments=("-vvv",))


def test_a_sound_declaration_passes_and_shows_no_password(tmp_path: Path) -> None:
    schedules = [{"slug": "close", "cron": "30 22 * * 1-5"}]
    run = preflight(
        tmp_path, work_pools=[POOL], deployments=[{**DEPLOYMENT, "work_queue": "urgent", "schedules": schedules}]
    )
    assert run.returncode == 0, run.stdout
    assert "h4rd to guess" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("deployment", "complaint"),
    [
        ({"work_pool": "lost"}, "name the work pool and queue lost/default"),
        ({"work_queue": "lost"}, "default/lost, which its work_pools do not declare"),
        ({"schedules": [{"slug": "never"}]}, "The schedule never of deployment collect/daily needs exactly one of"),
        ({"schedules": [{"slug": "both", "cron": "* * * * *", "interval": 60}]}, "needs exactly one of"),
        ({"parmeters": {}}, "parmeters"),  # codespell:ignore parmeters
        ({"work_pool": None}, "work_pool"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, deployment: dict[str, Any], complaint: str) -> None:
    run = preflight(tmp_path, work_pools=[POOL], deployments=[{**DEPLOYMENT, **deployment}])
    assert run.returncode != 0
    assert complaint in " ".join(run.stdout.split())
