"""When the role lets cron begin, and which times it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible import run_tasks
from tests.support.project import ROOT

ROLE = ROOT / "roles/prefect_retention"
LOGIN = {"login_host": "127.0.0.1", "login_port": 5432, "database": "mltrading"}


def play(folder: Path, *tasks: dict[str, Any], **variables: Any) -> subprocess.CompletedProcess[str]:
    values = {f"prefect_retention_{name}": value for name, value in variables.items()}
    return run_tasks(folder, values, *tasks)


def tenants(*names: str) -> list[dict[str, str]]:
    return [
        {"name": name, "schema": name, "server": f"{name}_server", "migrator": f"{name}_migrator"} for name in names
    ]


def preflight(folder: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    role = {"ansible.builtin.include_role": {"name": "prefect_retention", "tasks_from": "preflight"}}
    variables = {"login": LOGIN, "passwords": {}, "schedule_file": "/etc/cron.d/prefect-retention", **variables}
    return play(folder, role, **variables)


@pytest.mark.parametrize(
    ("variables", "times"),
    [
        ({}, ["30 3", "45 3", "0 4"]),
        ({"hour": "23", "minute": "50", "stagger_minutes": "8"}, ["50 23", "58 23", "6 0"]),
        ({"hour": 0, "minute": 0, "stagger_minutes": 480}, ["0 0", "0 8", "0 16"]),
    ],
)
def test_the_times(tmp_path: Path, variables: dict[str, Any], times: list[str]) -> None:
    defaults = {"ansible.builtin.include_vars": str(ROLE / "defaults/main.yml")}
    given = {"ansible.builtin.set_fact": {f"prefect_retention_{name}": value for name, value in variables.items()}}
    file = tmp_path / "prefect-retention"
    template = {"ansible.builtin.template": {"src": str(ROLE / "templates/prefect-retention.j2"), "dest": str(file)}}
    tasks: list[dict[str, Any]] = [defaults, *([given] if variables else []), template]
    done = play(tmp_path, *tasks, tenants=tenants("prefect", "research", "third"))
    assert done.returncode == 0, done.stdout
    text = file.read_text()
    jobs = [line.split(maxsplit=6) for line in text.splitlines() if line[:1].isdigit()]
    assert [" ".join(job[:2]) for job in jobs] == times
    assert all(job[2:6] == ["*", "*", "*", "root"] for job in jobs)
    assert [job[6].split()[-2] for job in jobs] == ["prefect", "research", "third"]
    # cron takes no last line without an end, and makes a new line of each percent sign.
    assert text.endswith("cleanup\n") and "%" not in text


def test_times_that_are_well(tmp_path: Path) -> None:
    assert preflight(tmp_path, tenants=tenants("prefect")).returncode == 0
    assert preflight(tmp_path, tenants=[], hour=0, minute=59, stagger_minutes=1440).returncode == 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"hour": 24}, "prefect_retention_hour is 24, but it must be from 0 to 23:"),
        ({"hour": -1}, "prefect_retention_hour is -1, but it must be from 0 to 23:"),
        ({"hour": "half past three"}, "prefect_retention_hour"),
        ({"minute": 60}, "prefect_retention_minute is 60, but it must be from 0 to 59:"),
        ({"stagger_minutes": 0}, "prefect_retention_stagger_minutes is 0, but it must be from 1 to 720, so that"),
        ({"stagger_minutes": 721}, "prefect_retention_stagger_minutes is 721, but it must be from 1 to 720, so that"),
    ],
)
def test_times_that_no_day_has(tmp_path: Path, variables: dict[str, Any], words: str) -> None:
    refused = preflight(tmp_path, tenants=tenants("prefect", "research"), **variables)
    assert refused.returncode != 0 and words in refused.stdout, refused.stdout
