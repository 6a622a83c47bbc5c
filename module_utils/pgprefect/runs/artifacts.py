"""Deleting artifacts, and keeping their collections true: each shows the newest artifact of its key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cleanup_sql import DELETE_EMPTY_COLLECTIONS, REPOINT_COLLECTIONS
from .session import CleanupSession


@dataclass
class Artifacts:
    """Deletes artifacts. ``repointed`` counts the collections that show an older artifact now."""

    session: CleanupSession
    repointed: int = 0

    def delete(self, condition: str, **values: Any) -> int:
        """Delete the artifacts ``x`` of a condition, correct their collections, and return how many went."""
        gone = self.session.ask(f"DELETE FROM artifact x WHERE {condition} RETURNING x.key", **values)
        keys = sorted({row[0] for row in gone if row[0]})
        if keys:
            self.correct_collections(keys)
        return len(gone)

    def correct_collections(self, keys: list[str] | None = None) -> int:
        """Point collections whose newest artifact is gone to the newest that is left; delete those without any.

        Without keys this looks at all collections. Returns how many were pointed elsewhere.
        """
        count = self.session.execute(REPOINT_COLLECTIONS, keys=keys)
        self.repointed += count
        self.session.execute(DELETE_EMPTY_COLLECTIONS, keys=keys)
        return count
