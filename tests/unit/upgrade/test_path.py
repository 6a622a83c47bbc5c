"""Migrations between two releases, read from their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pgprefect.core.errors import ProblemError
from pgprefect.upgrade.path import find_path

BODIES = {
    "a1": ("op.create_table('t')", "op.drop_table('t')"),
    "b2": ("pass", "pass"),
    "c3": ("op.execute('UPDATE flow SET name = 1')", "pass"),
    "d4": ("op.drop_column('flow', 'x')", "op.add_column('flow', 'x')"),
    "e5": ("op.create_index('i', 't')", "raise NotImplementedError"),
    "f6": ("op.create_index('i', 't')", "op.drop_index('i')"),
}


@pytest.fixture
def virtualenv(tmp_path: Path) -> str:
    target = tmp_path / "lib/python3.11/site-packages/prefect/server/database/_migrations/versions/postgresql"
    target.mkdir(parents=True)
    before = None
    for revision, (up, down) in BODIES.items():
        (target / f"{revision}.py").write_text(
            f'"""About {revision}\n\nMore."""\nrevision = "{revision}"\ndown_revision = {before!r}\n'
            f'def upgrade():\n    """It does."""\n    {up}\n\ndef downgrade():\n    {down}\n'
        )
        before = revision
    return str(tmp_path)


def test_what_cannot_be_taken_back_is_said(virtualenv: str) -> None:
    path = find_path(["a1"], virtualenv)
    assert (path.current, path.target, path.lossless) == ("a1", "f6", False)
    assert [step.revision for step in path.steps] == ["b2", "c3", "d4", "e5", "f6"]
    assert path.steps[0].title == "About b2"
    losses = ["", "it has no downgrade", "it has drop_column", "it has no downgrade", ""]
    assert [step.loses for step in path.steps] == losses
    assert find_path(["e5"], virtualenv).lossless and find_path(["f6"], virtualenv).steps == ()


@pytest.mark.parametrize("stored", [[], ["zz"], ["a1", "zz"], ["a1", "b2"]])
def test_no_path(virtualenv: str, stored: list[str]) -> None:
    with pytest.raises(ProblemError) as refused:
        find_path(stored, virtualenv)
    assert refused.value.problem.code == "upgrade_no_path"
