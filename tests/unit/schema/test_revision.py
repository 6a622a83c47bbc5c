"""Revisions of a database against the migrations of an installed Prefect."""

from __future__ import annotations

from pathlib import Path

import pytest
from pgprefect.schema import revision


def migrations(folder: Path, *files: str) -> str:
    target = folder / "lib/python3.11/site-packages/prefect/server/database/_migrations/versions/postgresql"
    target.mkdir(parents=True)
    for number, text in enumerate(files):
        (target / f"{number}.py").write_text(text)
    return str(folder)


FIRST = '"""Add a table\n\nRevision ID: a1\nrevision = nonsense\n"""\nrevision = "a1"\ndown_revision = None\n'
SECOND = "revision: str = 'b2'\ndown_revision: str | None = 'a1'\n"
BRANCH = 'revision = "c3"\ndown_revision = "a1"\n'
MERGE = 'revision = "d4"\ndown_revision = (\n    "b2",\n    "c3",\n)\n'


@pytest.mark.parametrize(
    ("stored", "state", "pending"),
    [
        ([], "empty", 4),
        (["a1"], "behind", 3),
        (["b2"], "behind", 2),
        (["b2", "c3"], "behind", 1),
        (["d4"], "current", 0),
        (["e5"], "unknown", 0),
        (["d4", "e5"], "unknown", 0),
    ],
)
def test_revisions(tmp_path: Path, stored: list[str], state: str, pending: int) -> None:
    found = revision.compare(stored, revision.installed_migrations(migrations(tmp_path, FIRST, SECOND, BRANCH, MERGE)))
    assert (found.state, found.pending, found.head) == (state, pending, "d4")
    assert found.current == (", ".join(stored) or None)


@pytest.mark.parametrize(
    ("files", "words"),
    [((), "no Prefect server"), (("x = 1",), "not a migration"), ((FIRST, SECOND, BRANCH), "2 newest migrations")],
)
def test_migrations_that_can_not_be_read(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    with pytest.raises(revision.RevisionError, match=words):
        revision.compare([], revision.installed_migrations(migrations(tmp_path, *files)))
