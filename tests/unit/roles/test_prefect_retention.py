"""When the role lets cron begin, and which times it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.ansible import CHECKED, run_cases
from tests.support.project import ROOT

ROLE = ROOT / "roles/prefect_retention"
LOGIN = {"login_host": "127.0.0.1", "login_port": 5432, "database": "mltrading"}


def tenants(*names: str) -> list[dict[str, str]]:
    return [
        {"name": name, "schema": name, "server": f"{name}_server", "migrator": f"{name}_migrator"} for name in names
    ]


PREFLIGHT = {"ansible.builtin.include_role": {"name": "prefect_retention", "tasks_from": "preflight"}}
TIMES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["30 3", "45 3", "0 4"]),
    ({"hour": "23", "minute": "50", "stagger_minutes": "8"}, ["50 23", "58 23", "6 0"]),
    ({"hour": 0, "minute": 0, "stagger_minutes": 480}, ["0 0", "0 8", "0 16"]),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stagger_minutes": 721}, "prefect_retention_stagger_minutes is 721, but it must be from 1 to 720, so that"),
]


def given(*names: str, **variables: Any) -> dict[str, Any]:
    wired = {"login": LOGIN, "passwords": {}, "schedule_file": "/etc/cron.d/prefect-retention"}
    values = {**wired, "tenants": tenants(*names), **variables}
    return {**CHECKED, **{f"prefect_retention_{name}": value for name, value in values.items()}}


def test_the_times(tmp_path: Path) -> None:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    cases = [{**defaults, **given("prefect", "research", "third", **variables)} for variables, _ in TIMES]
    files = [tmp_path / str(number) for number in range(len(cases))]
    template = {"src": str(ROLE / "templates/prefect-retention.j2"), "dest": "{{ file }}"}
    outcomes = run_cases(
        tmp_path,
        [{**case, "file": str(file)} for case, file in zip(cases, files, strict=True)],
        {"ansible.builtin.template": template},
    )
    assert [outcome.text for outcome in outcomes if outcome.failed] == []
    for (_, times), file in zip(TIMES, files, strict=True):
        text = file.read_text()
        jobs = [line.split(maxsplit=6) for line in text.splitlines() if line[:1].isdigit()]
        assert [" ".join(job[:2]) for job in jobs] == times
        assert all(job[2:6] == ["*", "*", "*", "root"] for job in jobs)
        assert [job[6].split()[-3] for job in jobs] == ["prefect", "research", "third"]
        # cron takes no last line without an end, and makes a new line of each percent sign.
        assert text.endswith("cleanup --yes\n") and "%" not in text


def test_times_that_are_well(tmp_path: Path) -> None:
    cases = [given("prefect"), given(hour=0, minute=59, stagger_minutes=1440)]
    assert [outcome.text for outcome in run_cases(tmp_path, cases, PREFLIGHT) if outcome.failed] == []


def test_times_that_no_day_has(tmp_path: Path) -> None:
    outcomes = run_cases(tmp_path, [given("prefect", "research", **variables) for variables, _ in REFUSED], PREFLIGHT)
    for (_, words), outcome in zip(REFUSED, outcomes, strict=True):
        assert outcome.failed and words in outcome.text, (words, outcome)
