"""Modules and tasks, run as Ansible runs them."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible.module_utils
import pytest
from ansible.module_utils.testing import patch_module_args

from tests.support.project import ROOT

Result = dict[str, Any]
Variables = dict[str, Any]

# What a role's preflight finds where the inventory has been checked.
CHECKED: Variables = {"__site_checked": {"later": []}}

ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


@dataclass(frozen=True)
class Outcome:
    """What became of one case, and what Ansible said of its failures."""

    failed: bool
    changed: bool
    text: str


def run_module(name: str, *, check: bool = False, **arguments: Any) -> Result:
    """Run a module of library/ with its arguments, as Ansible would, and return its result."""
    module = importlib.import_module(f"library.{name}")
    output = io.StringIO()
    with (
        patch_module_args({**arguments, "_ansible_check_mode": check, "_ansible_diff": True}),
        contextlib.redirect_stdout(output),
        pytest.raises(SystemExit),
    ):
        module.main()
    result: Result = json.loads(output.getvalue())
    return result


def run_tasks(folder: Path, variables: Variables, *tasks: Variables) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine as a playbook of the folder does."""
    return _play(folder, {"localhost": variables}, tasks)


def run_cases(folder: Path, cases: Sequence[Variables], *tasks: Variables) -> list[Outcome]:
    """Run the same tasks with each of some sets of variables, all in one run of Ansible: a host is a case."""
    names = [f"case{number}" for number in range(len(cases))]
    done = _play(folder, dict(zip(names, cases, strict=True)), tasks)
    failures: dict[str, str] = dict.fromkeys(names, "")
    said: list[str] = []  # of the next result: what no_log hides there stands above it
    for line in done.stdout.splitlines():
        said.append(line)
        if result := re.match(r"(\w+): \[(\w+)\]", line):
            if result[1] in ("fatal", "failed"):
                failures[result[2]] += " ".join(" ".join(said).split())
            said = []
    counts = dict(re.findall(r"^(\w+) +: (.*)$", done.stdout, re.MULTILINE))
    return [Outcome("failed=0" not in counts[name], "changed=0" not in counts[name], failures[name]) for name in names]


def _play(folder: Path, hosts: dict[str, Variables], tasks: Sequence[Variables]) -> subprocess.CompletedProcess[str]:
    playbook, inventory = folder / "play.yml", folder / "hosts.json"
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    # A path without spaces, wherever the checkout is.
    common = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
    one_line = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_CALLBACK_FORMAT_PRETTY": "false"}
    return subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", inventory, playbook],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **one_line},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
