"""The documented commands can be typed as they stand, and a test types them."""

from __future__ import annotations

import ast
import re

from tests.support.pages import PAGES, sections
from tests.support.project import ROOT

# How commands begin that no test types, and why.
NOT_TYPED = {
    "make": "box/test calls the targets one by one",
    ".venv/bin/ansible-vault": "it asks for a password",
    ".venv/bin/ansible-playbook -i inventory/mine site.yml --ask-vault-pass": "it asks for a password",
    "rsync -a backup@vault": "molecule/backup/tests/test_copy.py copies by rsync, with a key of its own",
    "rclone copy store:": "tests/database/backup/test_copy.py copies by rclone, to a store of its own",
    "patronictl -c": "molecule/patroni asks for the list in JSON, and for a switchover by its candidate",
    "ssh -N -L": "it goes on until it is interrupted",
    "cd NAME\nfor file in": "molecule/backup/tests/test_copy.py takes it from the page",
}


def typed() -> set[str]:
    """Return the commands of all sections that tests type."""
    found = set()
    for path in (*(ROOT / "molecule").glob("*/tests/*.py"), *(ROOT / "tests/kubernetes").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "typed":
                page, heading = (ast.literal_eval(argument) for argument in call.args)
                found |= {command for kind, command in sections(page)[heading] if kind != "sh"}
    return found


def test_each_command_is_typed() -> None:
    documented = {command for page in PAGES for part in sections(page).values() for _, command in part}
    assert len(documented) > 60
    left = documented - typed()
    assert {command for command in left if not command.startswith(tuple(NOT_TYPED))} == set()
    assert {begin for begin in NOT_TYPED if not any(command.startswith(begin) for command in left)} == set()


def test_each_playbook_is_documented_with_its_inventory() -> None:
    commands = [
        command for page in PAGES.values() for command in re.findall(r"\S*ansible-playbook .*", page.read_text())
    ]
    assert commands
    assert [one for one in commands if ".venv/bin/ansible-playbook -i inventory/mine " not in one] == []
