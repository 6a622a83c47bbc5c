"""Flaky deployments: the same code with the same parameters fails, and then succeeds."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

from ..runs.statistics import WINDOW, Names, Queries, explained

# Once is a fault that went away; twice is a habit.
LEAST_SECOND_TRIES = 2


@dataclass(frozen=True)
class Flaky:
    """A deployment of a flow, or its runs without one. ``share`` is of all its finished runs."""

    flow: str
    deployment: str | None
    runs: int
    after_retries: int  # runs that completed after Prefect had started them again
    after_failures: int  # completed runs right after a failed one of the same code with the same parameters
    share: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


_FLAKY = f"""
SELECT flow_id::text, deployment_id::text, count(*), count(*) FILTER (WHERE good AND retried),
       count(*) FILTER (WHERE good AND NOT retried AND NOT before)
FROM (SELECT flow_id, deployment_id, state_type = 'COMPLETED' AS good, run_count > 1 AS retried,
             lag(state_type = 'COMPLETED') OVER (
                 PARTITION BY flow_id, deployment_id, flow_version, jsonb_hash_extended(parameters, 0)
                 ORDER BY end_time, id) AS before
      FROM {{flow_run}}
      WHERE {WINDOW} AND state_type IN ('COMPLETED', 'FAILED', 'CRASHED') AND end_time IS NOT NULL) AS runs
GROUP BY 1, 2
HAVING count(*) FILTER (WHERE good AND (retried OR NOT before)) >= {{least}}
"""


def flaky_deployments(
    connection: Any, schema: str, days: float = 30, now: datetime.datetime | None = None
) -> list[Flaky]:
    """Return the deployments that succeeded at the second try at least twice in the last days, the worst first.

    Raises InputError and StatisticsUnavailable.
    """
    queries = Queries.of_last(connection, schema, days, now)
    with explained(schema):
        names = Names(queries)
        found = [
            Flaky(*names.of(flow, deployment), runs, retries, failures, round((retries + failures) / runs, 4))
            for flow, deployment, runs, retries, failures in queries.run(_FLAKY, least=LEAST_SECOND_TRIES)
        ]
    return sorted(found, key=lambda one: (-one.share, -one.runs, one.flow, one.deployment or ""))
