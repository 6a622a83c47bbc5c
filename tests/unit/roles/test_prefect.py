"""Which folders of flows the role refuses: what is not in the right one would be removed from the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.ansible import run_cases
from tests.support.project import ROOT

PREFLIGHT = {"ansible.builtin.include_role": {"name": "prefect", "tasks_from": "preflight"}}


def given(flows: Path) -> dict[str, Any]:
    locks = [str(ROOT / f"requirements/{name}-3.8.8.txt") for name in ("prefect", "flows")]
    values = {"release": "3.8.8", "requirements": locks, "virtualenv": "/opt/prefect/3.8.8", "flows": f"{flows}/"}
    return {f"prefect_{name}": value for name, value in values.items()}


def test_a_folder_without_flows_is_refused(tmp_path: Path) -> None:
    empty, pictures, flows = (tmp_path / name for name in ("empty", "pictures", "flows"))
    for folder in (empty, pictures, flows):
        folder.mkdir()
    (pictures / "flow.png").touch()
    (flows / "flow.py").touch()
    folders = (tmp_path / "nowhere", empty, pictures, flows)
    outcomes = run_cases(tmp_path, [given(folder) for folder in folders], PREFLIGHT)
    for folder, outcome in zip(folders, outcomes, strict=True):
        assert outcome.failed == (folder != flows), outcome.text
        assert not outcome.failed or f"prefect_flows is {folder}/, but that is no folder" in outcome.text
