"""Each link and each playbook that a page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.project import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def anchors(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https://)([^)]*)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_playbook_exists(page: Path) -> None:
    # A row of the changelog that renames a playbook names the old one first.
    text = re.sub(r"^\| `playbooks/\w+\.yml` (?=\| `playbooks/)", "", page.read_text(), flags=re.MULTILINE)
    assert [name for name in re.findall(r"\bplaybooks/\w+\.yml", text) if not (ROOT / name).exists()] == []
