"""The commands and the SQL that the pages tell people to type."""

from __future__ import annotations

import re

from tests.support.project import ROOT

PAGES = {path.name: path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
Commands = list[tuple[str, str]]


def sections(page: str) -> dict[str, Commands]:
    """Return what each heading of a page has below it: (console, one command), (sql, a block) or (sh, a block)."""
    # A heading, or a block; what looks like a heading within a block is a comment.
    parts = re.finditer(r"^#+ (.*)\n|^```(\w*)\n((?:.*\n)*?)```$", PAGES[page].read_text(), re.MULTILINE)
    found: dict[str, Commands] = {}
    heading = ""
    for part in parts:
        title, kind, block = part.groups()
        heading = title or heading
        if kind == "console":
            lines = block.replace("\\\n", "").splitlines()
            found.setdefault(heading, []).extend((kind, line.partition("  #")[0].rstrip()) for line in lines)
        elif kind in ("sql", "sh"):
            found.setdefault(heading, []).append((kind, block))
    return found
