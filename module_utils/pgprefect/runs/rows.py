"""Deleting rows for reasons of their own: their age, a flow run that is gone, or an expired cache entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .artifacts import Artifacts
from .batches import Batches, BatchSize
from .cleanup_sql import AGED_ROWS, CUTOFFS, NO_ID, ORPHANED_ROWS, REFERENCED_RUNS, STALE_CACHE
from .session import CleanupSession


@dataclass
class RowDeletion:
    """Deletes rows of logs, artifacts, events and the task runs' cache."""

    batches: Batches
    artifacts: Artifacts

    @property
    def session(self) -> CleanupSession:
        """The session of the batches."""
        return self.batches.session

    def delete_aged(self, table: str) -> None:
        """Delete the rows of a table by their age, in windows that move forward in time."""
        column, condition = AGED_ROWS[table]
        points = [self.session.values[name] for name in CUTOFFS[table]]
        high = max((point for point in points if point != "-infinity"), default=None)
        low: Any = "-infinity" if high else None
        size = BatchSize()
        window = f"x.{column} >= %(low)s::timestamptz AND x.{column} < %(high)s::timestamptz"
        ends: list[Any] = []

        def delete(rows: int) -> int:
            bounds = {"low": low, "high": high}
            next_row = f"SELECT x.{column} FROM {table} x WHERE {window} ORDER BY 1 OFFSET %(rows)s LIMIT 1"
            end = self.session.ask(next_row, rows=rows, **bounds)
            where = f"{window} AND x.{column} <= %(upto)s::timestamptz AND {condition}"
            self._delete(table, where, upto=end[0][0] if end else high, **bounds)
            ends.append(end[0][0] if end else None)
            return 0

        while low is not None:
            self.batches.commit(table, size, delete)
            low = ends[-1]

    def delete_orphans(self) -> None:
        """Delete logs and artifacts of flow runs that are gone, and correct all collections."""
        for table in ("log", "artifact"):
            after = NO_ID
            while after:
                with self.batches.measured():
                    page = self.session.ask(REFERENCED_RUNS.format(table=table), after=after)
                after = page[-1][0] if page else ""
                gone = [run for run, exists in page if not exists]
                if gone:
                    condition = f"x.flow_run_id = ANY (%(ids)s::uuid[]) AND {ORPHANED_ROWS}"
                    self._delete_slices("orphans", table, condition, ids=gone)
        self.batches.commit("orphans", BatchSize(), lambda _rows: self.artifacts.correct_collections())

    def delete_expired_cache(self) -> None:
        """Delete entries of the task runs' cache that have expired or lost their task run."""
        self._delete_slices("cache", "task_run_state_cache", STALE_CACHE)

    def _delete_slices(self, phase: str, table: str, condition: str, **values: Any) -> None:
        """Delete the rows of a condition, slice by slice until none is left."""
        some = f"x.id IN (SELECT x.id FROM {table} x WHERE {condition} LIMIT %(rows)s)"
        size = BatchSize()
        while self.batches.commit(phase, size, lambda rows: self._delete(table, some, rows=rows, **values)):
            pass

    def _delete(self, table: str, condition: str, **values: Any) -> int:
        if table == "artifact":
            return self.artifacts.delete(condition, **values)
        return self.session.execute(f"DELETE FROM {table} x WHERE {condition}", **values)
