"""Workers that run another release of Prefect than the server is, or will be, of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..core.prefect import prefect_tables
from ..core.problems import NOTICE, WARNING, Problem
from ..core.sql import Statement

# Each worker names its release when it starts. Prefect calls one offline after three intervals without a heartbeat.
_WORKERS = """
SELECT p.name, w.name,
       (SELECT resource ->> 'prefect.version' FROM {events} WHERE event = 'prefect.worker.started'
        AND resource ->> 'prefect.resource.name' = w.name ORDER BY occurred DESC LIMIT 1)
FROM {worker} w JOIN {work_pool} p ON p.id = w.work_pool_id
WHERE w.last_heartbeat_time > now() - make_interval(secs => 3 * coalesce(w.heartbeat_interval_seconds, 30))
ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Worker:
    """A worker that is online; ``release`` is None where it was not recorded, or its record has expired."""

    pool: str
    name: str
    release: str | None

    def __str__(self) -> str:
        return f"{self.name} of {self.pool} ({self.release or 'its release is not known'})"


def read_workers(cursor: Any, schema: str) -> list[Worker]:
    """Return the workers that are online, whichever host they run on."""
    Statement.named(_WORKERS, prefect_tables(schema)).execute(cursor)
    return [Worker(*row) for row in cursor.fetchall()]


def other_releases(workers: list[Worker], release: str) -> Iterator[Problem]:
    """Yield what is to be known of workers that will not be of the server's release by themselves."""
    older = [worker for worker in workers if not worker.release or _numbers(worker.release) < _numbers(release)]
    newer = [worker for worker in workers if worker.release and _numbers(worker.release) > _numbers(release)]
    if older:
        yield Problem(
            code="upgrade_older_workers",
            object="workers",
            message=f"Online are workers of a release before {release}: {', '.join(map(str, older))}. They go on with "
            "a server of that release.",
            remedy="Nothing for those of the inventory, which the playbook upgrades; upgrade all others yourself.",
            severity=NOTICE,
        )
    if newer:
        yield Problem(
            code="upgrade_newer_workers",
            object="workers",
            message=f"Online are workers of a release after {release}: {', '.join(map(str, newer))}. What they send "
            "may be more than a server of that release knows.",
            remedy="Upgrade to the newest of these releases, or install an older one there.",
            severity=WARNING,
        )


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)[:3]]
