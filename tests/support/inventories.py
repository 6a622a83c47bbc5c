"""The check of an inventory, as a playbook runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.project import ROOT

CHECK = "playbooks/check_inventory.yml"


def run(
    folder: Path, hosts: dict[str, Any], *arguments: str, default: bool = False, playbook: str = CHECK
) -> tuple[int, str]:
    """Run a playbook with an inventory of these groups, and return the exit status and what was said."""
    inventory = folder / "hosts.yml"
    inventory.write_text(json.dumps(hosts))
    chosen = [] if default else ["--inventory", str(inventory)]
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), *chosen, playbook, *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_INVENTORY": str(inventory)},
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, " ".join(done.stdout.split())
