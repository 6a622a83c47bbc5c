"""What the pages about backups tell people to type at night is typed by a test."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

TESTS = "".join(path.read_text() for path in (ROOT / "molecule").glob("*/tests/*.py"))


@pytest.mark.parametrize("page", ["backup.md", "restore.md", "point_in_time.md", "disaster.md"])
def test_each_section_with_commands_is_typed(page: str) -> None:
    sections = re.split(r"^#+ ", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)[1:]
    headings = [section.partition("\n")[0] for section in sections if re.search("^```(console|sql)$", section, re.M)]
    assert headings
    assert [heading for heading in headings if f'typed("{page}", "{heading}"' not in TESTS] == []
