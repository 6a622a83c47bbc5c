"""The head that the installed commands share: they run in / and know next to nothing of who types them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.project import ROOT


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A command that says where it runs and what it knows."""
    show = """isolated sh -c 'pwd; env; echo "$@"' "$@" """
    script = tmp_path / "command"
    script.write_text(f"#!/bin/sh\n{(ROOT / 'templates/command.sh').read_text()}\n{show}\n")
    script.chmod(0o755)
    return script


def test_an_isolated_command(command: Path, tmp_path: Path) -> None:
    known = {"TERM": "dumb", "LANG": "C.UTF-8", "PGPREFECT_EVENTS_TABLE": "app log"}
    unknown = ("PYTHONPATH", "PREFECT_API_URL", "PGHOST", "PGPREFECT_CONFIG", "LD_LIBRARY_PATH", "BASH_FUNC_id%%")
    given = {
        **known,
        **dict.fromkeys(unknown, "of-the-caller"),
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = subprocess.run([command, "a b", "c"], cwd=tmp_path, env=given, capture_output=True, text=True, check=True)
    folder, *lines, arguments = done.stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert folder == "/" and arguments == "c"  # sh takes the first as its name
    assert known.items() <= found.items()
    assert "of-the-caller" not in found.values() and str(tmp_path) not in done.stdout
    assert set(found) - set(known) <= {"PATH", "HOME", "LOGNAME", "PWD", "OLDPWD", "SHLVL", "_"}
