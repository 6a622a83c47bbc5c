"""Flow runs that count as running but have shown no sign of life for long."""

from __future__ import annotations

from dataclasses import dataclass

from .cleanup_sql import CRASH_RUNS, ZOMBIES
from .session import CleanupSession


@dataclass(frozen=True)
class Zombie:
    """A run that counts as running and has shown no sign of life since then."""

    id: str
    name: str
    state: str
    since: str
    hours: float


def find_zombies(session: CleanupSession) -> list[Zombie]:
    """Return the runs without a sign of life for the policy's hours, the oldest first."""
    return [Zombie(*row) for row in session.ask(ZOMBIES)]


def crash_zombies(session: CleanupSession, zombies: list[Zombie]) -> int:
    """Set runs to Crashed that are still running, and return how many these were."""
    return session.execute(CRASH_RUNS, ids=[zombie.id for zombie in zombies])
