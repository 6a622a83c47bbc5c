"""Comparison of a window with the one before it: slower, failing more, later, and whether that is more than noise."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..runs.statistics import SECONDS, WHEN, WINDOW, Names, Queries, explained
from .significance import adjust, proportion_test, rank_test

# A change counts when noise would show one like it in less than one of twenty such comparisons.
SIGNIFICANT = 0.05
WORSE, BETTER, NOISE, TOO_FEW = VERDICTS = ("worse", "better", "no change", "too few runs")
MEASURES = ("success", "duration", "lateness")


@dataclass(frozen=True)
class Comparison:
    """One measure of a deployment, or of a flow's runs without one, in both windows.

    ``measure`` is ``success`` (the share of completed runs among the completed and the failed), ``duration`` (the
    median seconds of completed runs) or ``lateness`` (the median seconds between the time at which a run should have
    started and its start). ``p_value`` is adjusted for the number of comparisons.
    """

    flow: str
    deployment: str | None
    measure: str
    before: float | None
    after: float | None
    runs_before: int
    runs_after: int
    p_value: float | None
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


_OUTCOMES = f"""
SELECT flow_id::text, deployment_id::text,
       count(*) FILTER (WHERE good AND NOT later), count(*) FILTER (WHERE NOT good AND NOT later),
       count(*) FILTER (WHERE good AND later), count(*) FILTER (WHERE NOT good AND later)
FROM (SELECT flow_id, deployment_id, state_type = 'COMPLETED' AS good, {WHEN} >= {{middle}} AS later
      FROM {{flow_run}} WHERE {WINDOW} AND state_type IN ('COMPLETED', 'FAILED', 'CRASHED')) AS runs
GROUP BY 1, 2
"""


def _ranks(value: str, condition: str) -> str:
    """Return the query of a rank test for each deployment.

    Equal values are counted together, in milliseconds. Of each, ``lower`` is the number of values before that are less,
    with a half for those that are equal: times the values after, that is Mann and Whitney's U.
    """
    return f"""
WITH runs AS (
    SELECT flow_id, deployment_id, {WHEN} >= {{middle}} AS later, floor(1000 * ({value})) AS value
    FROM {{flow_run}} WHERE {WINDOW} AND {condition}
), counted AS (
    SELECT flow_id, deployment_id, value,
           count(*) FILTER (WHERE NOT later)::float8 AS before, count(*) FILTER (WHERE later)::float8 AS after
    FROM runs GROUP BY 1, 2, 3
), ranked AS (
    SELECT *, sum(before) OVER (PARTITION BY flow_id, deployment_id ORDER BY value) - before / 2 AS lower FROM counted
), tested AS (
    SELECT flow_id, deployment_id, sum(before) AS before, sum(after) AS after, sum(after * lower) AS u,
           sum((before + after) ^ 3 - (before + after)) AS ties
    FROM ranked GROUP BY 1, 2
), medians AS (
    SELECT flow_id, deployment_id,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY value) FILTER (WHERE NOT later) AS before,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY value) FILTER (WHERE later) AS after
    FROM runs GROUP BY 1, 2
)
SELECT t.flow_id::text, t.deployment_id::text, t.before, t.after, t.u, t.ties, m.before / 1000, m.after / 1000
FROM tested t JOIN medians m ON m.flow_id = t.flow_id AND m.deployment_id IS NOT DISTINCT FROM t.deployment_id
"""


_RANKED = {
    "duration": _ranks(SECONDS, "state_type = 'COMPLETED' AND start_time IS NOT NULL AND end_time IS NOT NULL"),
    "lateness": _ranks(
        "greatest(date_part('epoch', start_time) - date_part('epoch', expected_start_time), 0)",
        "start_time IS NOT NULL AND expected_start_time IS NOT NULL",
    ),
}


def compare_windows(
    connection: Any, schema: str, days: float = 7, now: datetime.datetime | None = None
) -> list[Comparison]:
    """Compare the runs of the last days with those of as many days before, by deployment.

    A verdict is ``worse``, ``better``, ``no change``, or ``too few runs`` in one of the windows. The changes come
    first, those for the worse before all, each kind by flow. The tests are Fisher's exact one for the share, and Mann
    and Whitney's for durations and lateness; they take the runs as independent of each other. Raises InputError and
    StatisticsUnavailable.
    """
    queries = Queries.of_last(connection, schema, 2 * days, now)
    middle = queries.until - datetime.timedelta(days=days)
    with explained(schema):
        names = Names(queries)
        found = [*_outcomes(queries, middle), *_values(queries, middle)]
    tested = [p_value for *_, p_value in found if p_value is not None]
    adjusted = iter(adjust(tested))
    changes = [
        Comparison(
            *names.of(flow, deployment),
            measure=measure,
            before=before,
            after=after,
            runs_before=runs_before,
            runs_after=runs_after,
            p_value=None if p_value is None else (least := next(adjusted)),
            verdict=TOO_FEW if p_value is None else _verdict(measure, before, after, least),
        )
        for flow, deployment, measure, before, after, runs_before, runs_after, p_value in found
    ]
    return sorted(
        changes,
        key=lambda one: (
            VERDICTS.index(one.verdict),
            one.flow,
            one.deployment or "",
            MEASURES.index(one.measure),
        ),
    )


def _outcomes(queries: Queries, middle: datetime.datetime) -> Iterator[tuple[Any, ...]]:
    for flow, deployment, *counts in queries.run(_OUTCOMES, middle=middle):
        good_before, bad_before, good_after, bad_after = counts
        before, after = good_before + bad_before, good_after + bad_after
        shares = _share(good_before, before), _share(good_after, after)
        yield flow, deployment, "success", *shares, before, after, proportion_test(*counts)


def _share(good: int, total: int) -> float | None:
    return round(good / total, 4) if total else None


def _values(queries: Queries, middle: datetime.datetime) -> Iterator[tuple[Any, ...]]:
    for measure, query in _RANKED.items():
        for flow, deployment, before, after, u, ties, *medians in queries.run(query, middle=middle):
            counts = int(before), int(after)
            yield flow, deployment, measure, *medians, *counts, rank_test(*counts, u, ties)


def _verdict(measure: str, before: float, after: float, p_value: float) -> str:
    if p_value >= SIGNIFICANT or before == after:
        return NOISE
    return BETTER if (after > before) == (measure == "success") else WORSE
