"""The rows of an outbox: those to send, what became of them, and how long they stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..core.sql import Statement, Value
from ..schema.outbox_sql import STATUS, names

TRIES = 8  # a row that was refused so often is dead
_LONGEST_PAUSE = 3600
UNCONFIRMED_SECONDS = 15  # so long after it was posted, an event that Prefect has not stored is posted again
DEAD_DAYS = 90
MOST_SENT = 1_000_000  # rows that were sent and are still kept
_BATCH = 5000


DEAD_LETTER = ("id", "name", "occurred", "dead", "attempts", "error", "payload")


@dataclass(frozen=True)
class Row:
    """A change that is to be sent."""

    seq: int
    id: str
    name: str
    payload: Mapping[str, Any]
    rows: int
    occurred: datetime


@dataclass(frozen=True)
class Refusal:
    """A row that was refused, and why; ``final`` if another attempt would not help."""

    row: Row
    reason: str
    final: bool = False


class Outbox:
    """The outbox of a tenant over an open connection, whose transaction is the caller's."""

    def __init__(self, connection: Any, schema: str) -> None:
        self._connection, self._schema = connection, schema

    def _execute(self, template: str, **values: Any) -> Any:
        arguments = {name: Value(value) for name, value in values.items()}
        cursor = self._connection.cursor()
        Statement.named(template, {**names(self._schema), **arguments}).execute(cursor)
        return cursor

    def claim(self, most: int) -> list[Row]:
        """Lock and return rows that are due and were not posted, the oldest first; none that another relay has."""
        return self._rows(_CLAIM, most=most)

    def posted(self, most: int) -> list[Row]:
        """Lock and return rows that were posted as events a second ago or more, and are not confirmed."""
        return self._rows(_POSTED, most=most)

    def _rows(self, template: str, most: int) -> list[Row]:
        return [Row(*found) for found in self._execute(template, most=most).fetchall()]

    def in_flight(self) -> int:
        """Return how many events were posted and are not confirmed."""
        return int(
            self._execute("SELECT count(*) FROM {event} WHERE sent IS NULL AND posted IS NOT NULL").fetchone()[0]
        )

    def mark_sent(self, runs: Mapping[int, str | None]) -> None:
        """Mark rows as sent, by number, each with the flow run that it started, if it is known."""
        if runs:
            self._execute(_SENT, seqs=list(runs), runs=list(runs.values()))

    def mark_posted(self, rows: Sequence[Row]) -> None:
        """Mark rows as posted, and not yet confirmed."""
        if rows:
            self._execute(_MARK_POSTED, seqs=[row.seq for row in rows])

    def mark_lost(self) -> None:
        """Have events posted again that were not confirmed in time; those that were posted often enough are dead."""
        reason = f"Prefect did not store it within {UNCONFIRMED_SECONDS} s"
        self._execute(_LOST, seconds=UNCONFIRMED_SECONDS, reason=reason, tries=TRIES, pause=_LONGEST_PAUSE)

    def refuse(self, refusals: Sequence[Refusal]) -> list[Refusal]:
        """Put rows off that were refused; return those that are dead now."""
        dead = []
        for refusal in refusals:
            values = {"seq": refusal.row.seq, "reason": refusal.reason[:2000], "final": refusal.final}
            cursor = self._execute(_REFUSE, **values, tries=TRIES, pause=_LONGEST_PAUSE)
            if cursor.fetchone()[0]:
                dead.append(refusal)
        return dead

    def prune(self, keep_days: float) -> int:
        """Delete rows that were sent before so many days, and dead ones much later; return how many of a batch."""
        return int(self._execute(_PRUNE, days=keep_days, dead=DEAD_DAYS, most=MOST_SENT, batch=_BATCH).rowcount)

    def status(self) -> Status:
        """Count what waits, what is dead, and what the triggers refused or lost."""
        return Status(*self._execute(STATUS).fetchone())

    def dead_letters(self, most: int) -> list[dict[str, Any]]:
        """Return the newest dead letters."""
        rows = self._execute(_DEAD, most=most).fetchall()
        return [dict(zip(DEAD_LETTER, row)) for row in rows]

    def retry(self, identifiers: Sequence[str]) -> int:
        """Have dead letters sent again, all without identifiers; return their number."""
        return int(self._execute(_RETRY, ids=list(identifiers)).rowcount)


@dataclass(frozen=True)
class Status:
    """What an outbox holds. ``lag_s`` is the age of the oldest row that is due; counts end at the outbox's bound.

    ``refused`` is how many changes the full outbox has ever refused, ``failed`` how many a trigger could not record.
    """

    waiting: int
    lag_s: float
    dead: int
    refused: int
    failed: int


_COLUMNS = "seq, id::text, name, payload, rows, occurred"
_CLAIM = f"""
SELECT {_COLUMNS} FROM {{event}} WHERE sent IS NULL AND dead IS NULL AND posted IS NULL AND due <= clock_timestamp()
ORDER BY seq LIMIT {{most}} FOR UPDATE SKIP LOCKED
"""
_POSTED = f"""
SELECT {_COLUMNS} FROM {{event}} WHERE sent IS NULL AND dead IS NULL AND posted < clock_timestamp() - interval '1 s'
ORDER BY seq LIMIT {{most}} FOR UPDATE SKIP LOCKED
"""
_SENT = """
UPDATE {event} e SET sent = clock_timestamp(), run_id = found.run, posted = NULL, error = NULL, attempts = attempts + 1
FROM unnest({seqs}::bigint[], {runs}::uuid[]) AS found(seq, run) WHERE e.seq = found.seq
"""
_MARK_POSTED = "UPDATE {event} SET posted = clock_timestamp() WHERE seq = ANY({seqs}::bigint[])"
_PAUSE = "clock_timestamp() + least(2 ^ (attempts + 1), {pause}) * interval '1 s'"
_LOST = f"""
UPDATE {{event}} SET posted = NULL, attempts = attempts + 1, error = {{reason}}, due = {_PAUSE},
    dead = CASE WHEN attempts + 1 >= {{tries}} THEN clock_timestamp() END
WHERE sent IS NULL AND posted < clock_timestamp() - {{seconds}} * interval '1 s'
"""
_REFUSE = f"""
UPDATE {{event}} SET attempts = attempts + 1, error = {{reason}}, due = {_PAUSE},
    dead = CASE WHEN {{final}} OR attempts + 1 >= {{tries}} THEN clock_timestamp() END
WHERE seq = {{seq}} RETURNING dead IS NOT NULL
"""
_PRUNE = """
DELETE FROM {event} WHERE seq IN (
    (SELECT seq FROM {event} WHERE sent < clock_timestamp() - {days} * interval '1 day' LIMIT {batch})
    UNION ALL
    (SELECT seq FROM {event} WHERE sent IS NULL AND dead < clock_timestamp() - {dead} * interval '1 day' LIMIT {batch})
    UNION ALL
    (SELECT seq FROM {event} WHERE sent IS NOT NULL AND seq < (SELECT max(seq) FROM {event}) - {most} LIMIT {batch}))
"""
_DEAD = f"""
SELECT id::text, {", ".join(DEAD_LETTER[1:])} FROM {{event}}
WHERE sent IS NULL AND dead IS NOT NULL ORDER BY seq DESC LIMIT {{most}}
"""
_RETRY = """
UPDATE {event} SET dead = NULL, attempts = 0, due = clock_timestamp(), error = NULL
WHERE sent IS NULL AND dead IS NOT NULL AND ({ids}::text[] = '{{}}' OR id::text = ANY({ids}::text[]))
"""
