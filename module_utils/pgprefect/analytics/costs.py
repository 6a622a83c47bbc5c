"""Time that workers spent on runs, by tag."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any

from ..runs.statistics import WINDOW, Queries, explained


@dataclass(frozen=True)
class TagCost:
    """The runs with one tag, or with none. A run with several tags counts for each.

    ``hours`` is the time in the state Running, of all tries together. ``lost_hours`` is that of runs that failed or
    crashed in the end.
    """

    tag: str | None
    runs: int
    hours: float
    lost_hours: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


# A subflow runs in its parent's process and time, unless it was started by a deployment. Prefect adds the time of a try
# when the try ends.
_COSTS = f"""
SELECT tag, count(*), sum(seconds) / 3600, coalesce(sum(seconds) FILTER (WHERE lost), 0) / 3600
FROM (SELECT tags, state_type IN ('FAILED', 'CRASHED') AS lost,
             date_part('epoch', total_run_time)
             + CASE WHEN state_type = 'RUNNING' AND state_timestamp < {{until}}
                    THEN date_part('epoch', {{until}}::timestamptz) - date_part('epoch', state_timestamp)
                    ELSE 0 END AS seconds
      FROM {{flow_run}}
      WHERE {WINDOW} AND start_time IS NOT NULL AND (parent_task_run_id IS NULL OR deployment_id IS NOT NULL)) AS runs
     LEFT JOIN LATERAL (
         SELECT DISTINCT tag FROM jsonb_array_elements_text(
             CASE jsonb_typeof(tags) WHEN 'array' THEN tags ELSE '[]' END) AS tag) AS own ON true
GROUP BY tag ORDER BY 3 DESC, tag
"""


def tag_costs(connection: Any, schema: str, days: float = 30, now: datetime.datetime | None = None) -> list[TagCost]:
    """Return the hours of the runs that started in the last days, by tag, the dearest first.

    Raises InputError and StatisticsUnavailable.
    """
    queries = Queries.of_last(connection, schema, days, now)
    with explained(schema):
        return [TagCost(tag, runs, round(hours, 4), round(lost, 4)) for tag, runs, hours, lost in queries.run(_COSTS)]
