"""The documented commands can be typed as they stand, and a test types those of the pages about backups."""

from __future__ import annotations

import re

import pytest

from tests.support.project import ROOT

TESTS = "".join(path.read_text() for path in (ROOT / "molecule").glob("*/tests/*.py"))


@pytest.mark.parametrize("page", ["backup.md", "restore.md", "point_in_time.md", "disaster.md"])
def test_each_section_with_commands_is_typed(page: str) -> None:
    sections = re.split(r"^#+ ", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)[1:]
    headings = [section.partition("\n")[0] for section in sections if re.search("^```(console|sql)$", section, re.M)]
    assert headings
    assert [heading for heading in headings if f'typed("{page}", "{heading}"' not in TESTS] == []


def test_each_playbook_is_documented_with_its_inventory() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    commands = [command for page in pages for command in re.findall(r"\S*ansible-playbook .*", page.read_text())]
    assert commands
    assert [one for one in commands if ".venv/bin/ansible-playbook -i inventory/mine " not in one] == []
