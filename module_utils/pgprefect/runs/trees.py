"""Finding and deleting trees of flow runs: runs that are not subflow runs, with all their subflow runs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from .artifacts import Artifacts
from .batches import FIRST_ROWS, Batches, BatchSize
from .cleanup_sql import NO_ID, OLD_ENOUGH, PAGES, TREES
from .session import CleanupSession


@dataclass(frozen=True)
class Tree:
    """Flow runs that are deleted together, the deepest first, each with about how many rows go with it."""

    members: dict[str, int]

    @property
    def weight(self) -> int:
        """About how many rows go with the tree."""
        return sum(self.members.values())


def find_trees(
    session: CleanupSession, transaction: Callable[[], AbstractContextManager[None]]
) -> Iterator[list[Tree]]:
    """Yield all trees that are old enough, page by page; each page is read within a ``transaction``."""
    for page in PAGES if session.values["newest"] != "-infinity" else ():
        end, after = "-infinity", NO_ID
        while after:
            with transaction():
                trees, end, after = _read_page(session, end, after, page)
            yield trees


def _read_page(session: CleanupSession, end: Any, after: str, page: str) -> tuple[list[Tree], Any, str]:
    """Return the next trees that are old enough, and the end and id of the last root ("" on the last page)."""
    found: dict[str, dict[str, int]] = {}
    refused, roots = set(), 0
    last: tuple[Any, str] = (end, "")
    for root, ended, member, depth, old, weight in session.ask(TREES.format(page=page), end=end, after=after):
        found.setdefault(root, {})[member] = weight
        roots += depth == 0
        last = (ended, root)
        if not old:
            refused.add(root)
    trees = [Tree(members) for root, members in found.items() if root not in refused]
    return trees, last[0], last[1] if roots == session.policy.batch_size else ""


@dataclass
class TreeDeletion:
    """Deletes trees. ``skipped`` are those that another session held or changed."""

    batches: Batches
    artifacts: Artifacts
    skipped: int = 0

    @property
    def session(self) -> CleanupSession:
        """The session of the batches."""
        return self.batches.session

    def delete_all(self) -> None:
        """Delete all trees that are old enough, as many in a transaction as fit into its time."""
        size = BatchSize()
        for trees in find_trees(self.session, self.batches.measured):
            done = 0
            while done < len(trees):
                if trees[done].weight > max(size.rows, FIRST_ROWS):
                    self._delete_large(trees[done], size)
                    done += 1
                else:
                    done += self.batches.commit("runs", size, functools.partial(self._delete_first, trees[done:]))

    def _delete_first(self, trees: list[Tree], rows: int) -> int:
        """Delete about so many rows with the first trees, at least one tree; return how many trees are done.

        A tree stays where another session holds one of its runs, or has changed it.
        """
        weights = itertools.accumulate(tree.weight for tree in trees)
        trees = trees[: max(1, sum(weight <= rows for weight in weights))]
        ids = [member for tree in trees for member in tree.members]
        lock = f"""SELECT r.id FROM flow_run r WHERE r.id = ANY (%(ids)s::uuid[]) AND {OLD_ENOUGH}
            ORDER BY r.id FOR UPDATE SKIP LOCKED"""
        held = {row[0] for row in self.session.ask(lock, ids=ids)}
        going = [tree for tree in trees if held.issuperset(tree.members)]
        ids = [member for tree in going for member in tree.members]
        self.session.execute("DELETE FROM flow_run WHERE id = ANY (%(ids)s::uuid[])", ids=ids)
        self.session.execute("DELETE FROM log WHERE flow_run_id = ANY (%(ids)s::uuid[])", ids=ids)
        self.artifacts.delete("x.flow_run_id = ANY (%(ids)s::uuid[])", ids=ids)
        self.skipped += len(trees) - len(going)
        return len(trees)

    def _delete_large(self, tree: Tree, size: BatchSize) -> None:
        """Delete a tree that is too large for one transaction, run by run from the leaves to the root."""
        for run, weight in tree.members.items():
            skipped = self.skipped
            if weight > size.rows:
                self._shrink(run, size)
            self.batches.commit("runs", size, functools.partial(self._delete_first, [Tree({run: weight})]))
            if self.skipped > skipped:
                return

    def _shrink(self, run: str, size: BatchSize) -> None:
        """Delete most rows of a run that is too large for one transaction."""
        lock = f"SELECT 1 FROM flow_run r WHERE r.id = %(run)s AND {OLD_ENOUGH} FOR UPDATE SKIP LOCKED"
        no_subflow = "NOT EXISTS (SELECT FROM flow_run r WHERE r.parent_task_run_id = x.id)"
        # A task run takes about five rows with it, its states.
        for table, condition, width in (("log", "true", 1), ("task_run", no_subflow, 5)):
            some = f"""DELETE FROM {table} WHERE id IN (
                SELECT x.id FROM {table} x WHERE x.flow_run_id = %(run)s AND {condition} LIMIT %(rows)s)"""

            def delete(rows: int, some: str = some, width: int = width) -> int:
                held = self.session.ask(lock, run=run)
                return self.session.execute(some, run=run, rows=max(1, rows // width)) if held else 0

            while self.batches.commit("runs", size, delete):
                pass
