"""Modules and tasks, run as Ansible runs them."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import ansible.module_utils
import pytest
from ansible.module_utils.testing import patch_module_args

from tests.support.project import ROOT

Result = dict[str, Any]

ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


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


def run_tasks(
    folder: Path, variables: dict[str, Any], *tasks: dict[str, Any], arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine as a playbook of the folder does."""
    content = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}
    playbook = folder / "play.yml"
    playbook.write_text(json.dumps([content]))
    python = "ansible_python_interpreter=/usr/bin/python3"  # a path without spaces, wherever the checkout is
    return subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", "-c", "local", "-e", python, *arguments, playbook],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
