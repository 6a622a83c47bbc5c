"""The migrations between a database and another release of Prefect, and whether they can be taken back."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import ProblemError
from ..core.problems import Problem
from ..schema.revision import head_of, installed_migrations, migration_files, with_predecessors


@dataclass(frozen=True)
class Step:
    """One migration; ``loses`` says what its downgrade cannot bring back, and is empty where it brings back all."""

    revision: str
    title: str
    loses: str = ""


@dataclass(frozen=True)
class MigrationPath:
    """The migrations from a revision to the newest one of a virtualenv, the oldest first."""

    current: str
    target: str
    steps: tuple[Step, ...]

    @property
    def lossless(self) -> bool:
        """Whether downgrading brings back all that was there before."""
        return not any(step.loses for step in self.steps)


def find_path(stored: Sequence[str], virtualenv: str) -> MigrationPath:
    """Return the migrations that bring a database to the release in a virtualenv.

    Raises ProblemError where there is no such path, and RevisionError.
    """
    migrations = installed_migrations(virtualenv)
    target = head_of(migrations)
    strangers = [name for name in stored if name not in migrations]
    if len(stored) != 1 or strangers:
        found = f"the revision {', '.join(stored)}" if stored else "no revision"
        raise ProblemError(
            Problem(
                code="upgrade_no_path",
                object="table alembic_version",
                message=f"The database is at {found}, from which {virtualenv} has no migrations to {target}.",
                remedy="Name a later release of Prefect: this one is older than the database.",
            )
        )
    files = migration_files(virtualenv)
    todo = _between(stored[0], target, migrations)
    return MigrationPath(stored[0], target, tuple(_step(name, files[name]) for name in todo))


def _between(current: str, target: str, migrations: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the migrations that are not applied at ``current``, each after those that it follows."""
    applied = with_predecessors([current], migrations)
    order: list[str] = []
    stack = [(target, False)]
    while stack:
        name, ready = stack.pop()
        if ready:
            order.append(name)
        elif name not in applied:
            applied.add(name)
            stack += [(name, True), *((before, False) for before in migrations[name])]
    return order


# What a downgrade creates again without its content, or cannot know.
_LOSES = re.compile(
    r"\b(drop_(?:table|column)|alter_column|DROP (?:TABLE|COLUMN|TYPE)|UPDATE \S+ SET|DELETE FROM|TRUNCATE)\b",
    re.IGNORECASE,
)


_MAKES = re.compile(
    r"\b(create_table|add_column|create_\w+_constraint|CREATE (?:TABLE|TYPE)|ALTER (?:TABLE|TYPE)|UPDATE \S+ SET"
    r"|INSERT INTO)\b",
    re.IGNORECASE,
)


def _raises(function: ast.FunctionDef | None) -> bool:
    return function is None or any(isinstance(node, ast.Raise) for node in function.body)


def _step(revision: str, source: str) -> Step:
    tree = ast.parse(source)
    title = (ast.get_docstring(tree) or "").strip().partition("\n")[0]
    bodies = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    texts = {name: "\n".join(map(ast.unparse, _statements(node))) for name, node in bodies.items()}
    if not texts.get("upgrade"):
        return Step(revision, title)
    # What only makes or mends indexes may stay when the rest is taken back.
    if not texts.get("downgrade") and (_raises(bodies.get("downgrade")) or _MAKES.search(texts["upgrade"])):
        return Step(revision, title, "it has no downgrade")
    found = _LOSES.search(texts["upgrade"])
    return Step(revision, title, f"it has {found.group(1)}" if found else "")


def _statements(function: ast.FunctionDef) -> list[ast.stmt]:
    """Return what a function does, without what does nothing."""
    nothing = (ast.Pass, ast.Raise)
    return [
        node
        for node in function.body
        if not isinstance(node, nothing) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
