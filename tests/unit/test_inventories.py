"""The shipped inventories."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT

HOSTS = {
    "box": {"box"},
    "cluster": {"database-1", "database-2", "database-3", "server-1", "server-2", "redis-1"},
    "example": {"database-1", "server-1", "worker-1"},
    "localhost": {"localhost"},
}


@pytest.mark.parametrize("name", HOSTS)
def test_passwords_beside_an_inventory_are_no_hosts(name: str, tmp_path: Path) -> None:
    inventory = tmp_path / name
    shutil.copytree(ROOT / "inventory" / name, inventory, ignore=shutil.ignore_patterns(".secrets"))
    (inventory / ".secrets").mkdir()
    (inventory / ".secrets/prefect_api").write_text("s3cret\n")
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "--inventory", str(inventory), "--list"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    result = subprocess.run(command, env=environment, check=True, text=True, capture_output=True)
    listed = json.loads(result.stdout)
    groups = [name for name in listed if name != "_meta"]
    assert {host for group in groups for host in listed[group].get("hosts", [])} == HOSTS[name]
    assert "s3cret" not in result.stdout + result.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git has to be asked")
def test_git_ignores_a_copy_and_no_shipped_inventory() -> None:
    vault = "group_vars/all/vault.yml"
    names = ["mine", "example2", *HOSTS]
    command = ["git", "check-ignore", "--no-index", *(f"inventory/{name}/{vault}" for name in names)]
    ignored = subprocess.run(command, cwd=ROOT, text=True, check=False, stdout=subprocess.PIPE).stdout.split()
    assert ignored == [f"inventory/{name}/{vault}" for name in ("mine", "example2")]


def test_no_list_of_the_wiring_loses_its_order() -> None:
    """Ansible's operations on sets go through one: a file made of their result would differ from run to run."""
    files = [path for folder in ("playbooks", "roles") for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix in (".yml", ".j2") and "| union" in path.read_text()] == []
    wiring = {path: path.read_text() for path in (ROOT / "playbooks").rglob("*.yml")}
    assert wiring and [path for path, text in wiring.items() if re.search(r"\| *(difference|intersect)\b", text)] == []
