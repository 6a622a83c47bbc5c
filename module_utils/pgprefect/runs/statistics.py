"""Statistics of the flow runs of one Prefect server: of all time, and of a window by flow, by deployment and by day.

Each query is one round trip, and uses the indexes that Prefect creates.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..core.errors import InputError, ProblemError
from ..core.prefect import TERMINAL_STATES_SQL, prefect_tables
from ..core.problems import Problem
from ..core.sql import Statement, Value

# Prefect's enum state_type. Runs without a state, or with one of a later Prefect, are counted but have no CSV column.
STATES = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
MOST_DAYS = 36500
MOST_ROWS = 1000
# A busy server has millions of task runs in a window; the newest ones show the slow tasks in a bounded time.
MOST_TASK_RUNS = 100_000


class StatisticsUnavailable(ProblemError):
    """The tables cannot be read; ``problem`` says why and what to do."""


@dataclass(frozen=True)
class Figures:
    """The runs of one flow, or of one deployment of it, in the window. Durations and lateness are in seconds.

    The success rate is the share of completed runs among the completed and the failed; cancelled ones do not count.
    """

    flow: str
    deployment: str | None
    runs: int
    states: dict[str, int]
    success_rate: float | None
    average_duration: float | None
    p50_duration: float | None
    p95_duration: float | None
    p99_duration: float | None
    average_lateness: float | None
    max_lateness: float | None
    retries: int

    @property
    def begun(self) -> int:
        """The number of runs that are not only scheduled."""
        return self.runs - self.states["SCHEDULED"]

    @property
    def completed(self) -> int:
        """The number of completed runs."""
        return self.states["COMPLETED"]

    @property
    def failed(self) -> int:
        """The number of failed and crashed runs."""
        return self.states["FAILED"] + self.states["CRASHED"]


@dataclass(frozen=True)
class Day:
    """The runs of one day, in UTC. The first day of a window begins at the time of day at which the window begins."""

    day: datetime.date
    runs: int
    successful_runs: int
    failed_runs: int
    average_duration: float | None
    scheduled_runs: int = 0  # of the runs: these have not begun


@dataclass(frozen=True)
class Run:
    """One finished flow run."""

    flow_run_id: str
    flow: str
    deployment: str | None
    name: str
    state_type: str
    state_name: str
    start_time: datetime.datetime | None
    end_time: datetime.datetime
    duration: float | None


@dataclass(frozen=True)
class SlowTask:
    """The finished runs of one task in the window, of the newest MOST_TASK_RUNS of all tasks."""

    task_key: str
    runs: int
    failed_runs: int
    average_duration: float
    p95_duration: float
    max_duration: float


@dataclass(frozen=True)
class Failing:
    """A deployment of a flow with failed runs in the window."""

    flow: str
    deployment: str | None
    failed_runs: int
    success_rate: float | None


@dataclass
class Statistics:
    """The statistics: ``total_flows`` to ``recent_activity`` are of all time, the rest of the runs since ``since``.

    A run belongs to the time at which it started or should have started.
    """

    days: float
    since: datetime.datetime
    total_flows: int = 0
    total_runs: int = 0
    successful_runs: int = 0
    failed_runs: int = 0
    scheduled_runs: int = 0  # of the total: these have not begun
    average_duration: float | None = None
    recent_activity: list[Run] = field(default_factory=list)
    flows: list[Figures] = field(default_factory=list)
    deployments: list[Figures] = field(default_factory=list)
    trend: list[Day] = field(default_factory=list)
    slowest_tasks: list[SlowTask] = field(default_factory=list)
    most_failing: list[Failing] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date) else value


WHEN = "coalesce(start_time, expected_start_time)"  # the expression of Prefect's own index
WINDOW = f"{WHEN} >= {{since}} AND {WHEN} <= {{until}}"
# Subtracting epochs takes half the time of taking the epoch of an interval.
SECONDS = "date_part('epoch', end_time) - date_part('epoch', start_time)"
# As Prefect computes it: a run that should have started is late until now, or a dead worker would look prompt.
_UNFINISHED = f"state_type NOT IN {TERMINAL_STATES_SQL}"
_LATENESS = f"""CASE WHEN start_time IS NOT NULL
                       THEN greatest(date_part('epoch', start_time) - date_part('epoch', expected_start_time), 0)
                       WHEN {_UNFINISHED}
                       THEN date_part('epoch', {{until}}::timestamptz) - date_part('epoch', expected_start_time) END"""

# Compiling takes longer than these queries. The sorts fit into memory at two million runs in four months. Where the
# groups are of an expression, the planner expects as many as there are rows, and would not use a parallel scan.
_SETTINGS = (
    "SET LOCAL jit = off; SET LOCAL work_mem = '64MB'; "
    "SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0;"
)

_TOTALS = f"""
SELECT (SELECT count(*) FROM {{flow}}), count(*), count(*) FILTER (WHERE state_type = 'COMPLETED'),
       count(*) FILTER (WHERE state_type IN ('FAILED', 'CRASHED')), avg({SECONDS}),
       count(*) FILTER (WHERE state_type = 'SCHEDULED')
FROM {{flow_run}}
"""

# The condition lets the index answer where no run has an end, instead of sorting all runs.
_RECENT = f"""
SELECT r.id::text, f.name, d.name, r.name, r.state_type::text, r.state_name, r.start_time, r.end_time,
       round(r.seconds::numeric, 3)::float8
FROM (SELECT id, flow_id, deployment_id, name, state_type, state_name, start_time, end_time, {SECONDS} AS seconds
      FROM {{flow_run}} WHERE end_time IS NOT NULL ORDER BY end_time DESC LIMIT {{limit}}) AS r
     JOIN {{flow}} f ON f.id = r.flow_id LEFT JOIN {{deployment}} d ON d.id = r.deployment_id
ORDER BY r.end_time DESC
"""

# One parallel pass with few enough groups to add them up in Python, by flow, by deployment and by day. Expressions of
# times are most of the work, so what can be counted without them is.
_COUNTS = f"""
SELECT flow_id::text, deployment_id::text, coalesce(state_type::text, 'NONE'), date '1970-01-01' + day, runs, retries,
       ended, seconds, due, lateness, most
FROM (SELECT flow_id, deployment_id, state_type, floor(date_part('epoch', {WHEN}) / 86400)::int AS day,
             count(*) AS runs, coalesce(sum(run_count - 1) FILTER (WHERE run_count > 1), 0) AS retries,
             count(*) FILTER (WHERE start_time IS NOT NULL AND end_time IS NOT NULL) AS ended,
             sum({SECONDS}) AS seconds,
             count(*) FILTER (WHERE start_time IS NOT NULL OR {_UNFINISHED} AND expected_start_time IS NOT NULL) AS due,
             sum({_LATENESS}) AS lateness, max({_LATENESS}) AS most
      FROM {{flow_run}} WHERE {WINDOW} GROUP BY 1, 2, 3, 4) AS groups
"""

# One sort of the narrowest rows serves both grouping sets.
_PERCENTILES = f"""
SELECT flow_id::text, deployment_id::text, whole_flow, percentiles
FROM (SELECT flow_id, deployment_id, grouping(deployment_id) = 1 AS whole_flow,
             percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY {SECONDS}) AS percentiles
      FROM {{flow_run}} WHERE {WINDOW} AND end_time IS NOT NULL AND start_time IS NOT NULL
      GROUP BY GROUPING SETS ((flow_id, deployment_id), (flow_id))) AS groups
"""

_NAMES = """
SELECT id::text, name FROM {flow} UNION ALL SELECT id::text, name FROM {deployment}
"""

_SLOWEST = f"""
SELECT task_key, count(*), count(*) FILTER (WHERE state_type IN ('FAILED', 'CRASHED')), avg(seconds),
       percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) AS p95, max(seconds)
FROM (SELECT task_key, state_type, {SECONDS} AS seconds FROM {{task_run}}
      WHERE start_time >= {{since}} AND start_time <= {{until}} AND end_time IS NOT NULL
      ORDER BY start_time DESC LIMIT {{newest}}) AS runs
GROUP BY task_key ORDER BY p95 DESC, task_key LIMIT {{limit}}
"""


def workflow_statistics(
    connection: Any,
    schema: str,
    days: float = 30,
    recent: int = 20,
    slowest: int = 10,
    failing: int = 10,
    now: datetime.datetime | None = None,
) -> Statistics:
    """Read the statistics of the Prefect server whose tables are in the schema.

    ``days`` is the length of the window up to now; ``recent``, ``slowest`` and ``failing`` limit the lists of runs,
    tasks and deployments. The connection keeps larger sort memory until the end of its transaction. Raises InputError
    for a number that is not allowed, and StatisticsUnavailable.
    """
    queries = Queries.of_last(connection, schema, days, now)
    _check_counts(recent=recent, slowest=slowest, failing=failing)
    statistics = Statistics(days, queries.since)
    with explained(schema):
        [(flows, runs, successful, failed, seconds, statistics.scheduled_runs)] = queries.run(_TOTALS)
        statistics.total_flows, statistics.total_runs = flows, runs
        statistics.successful_runs, statistics.failed_runs = successful, failed
        statistics.average_duration = rounded(seconds)
        statistics.recent_activity = [Run(*row) for row in queries.run(_RECENT, recent)]
        _add_window(statistics, queries)
        statistics.slowest_tasks = [
            SlowTask(key, count, failed, *(round(seconds, 3) for seconds in durations))
            for key, count, failed, *durations in queries.run(_SLOWEST, slowest)
        ]
    worst = sorted(
        (group for group in statistics.deployments if group.failed),
        key=lambda group: (-group.failed, group.success_rate, group.flow, group.deployment or ""),
    )
    statistics.most_failing = [
        Failing(group.flow, group.deployment, group.failed, group.success_rate) for group in worst[:failing]
    ]
    return statistics


def to_csv(statistics: Statistics) -> str:
    """Return CSV with one line for each flow and for each deployment, and one column for each state."""
    output = io.StringIO()
    names = [column.name for column in fields(Figures) if column.name != "states"]
    header = ["kind", *names[:3], *(state.lower() for state in STATES), *names[3:]]
    writer = csv.DictWriter(output, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for kind, groups in (("flow", statistics.flows), ("deployment", statistics.deployments)):
        for group in groups:
            row = asdict(group)
            states = {state.lower(): count for state, count in row.pop("states").items()}
            writer.writerow({"kind": kind, **row, **states})
    return output.getvalue()


@dataclass
class _Sum:
    """Runs that are counted together."""

    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    runs: int = 0
    retries: int = 0
    ended: int = 0
    seconds: float = 0
    due: int = 0
    lateness: float = 0
    most: float | None = None

    def add(self, state: str, runs: int, retries: int, ended: int, seconds: float | None, *late: Any) -> None:
        """Add one group of runs, as _COUNTS has it."""
        due, lateness, most = late
        self.states[state] = self.states.get(state, 0) + runs
        self.runs += runs
        self.retries += retries
        self.ended += ended
        self.seconds += seconds or 0
        self.due += due
        self.lateness += lateness or 0
        if most is not None:
            self.most = max(most, self.most or 0)

    @property
    def failed(self) -> int:
        """The number of failed and crashed runs."""
        return self.states["FAILED"] + self.states["CRASHED"]

    @property
    def average_duration(self) -> float | None:
        """The average seconds of the runs that have a start and an end."""
        return round(self.seconds / self.ended, 3) if self.ended else None

    def figures(self, flow: str, deployment: str | None, percentiles: list[float] | None) -> Figures:
        """Return the figures of a flow, or of a deployment of it."""
        completed = self.states["COMPLETED"]
        p50, p95, p99 = percentiles or (None, None, None)
        return Figures(
            flow=flow,
            deployment=deployment,
            runs=self.runs,
            states=self.states,
            success_rate=round(completed / (completed + self.failed), 4) if completed + self.failed else None,
            average_duration=self.average_duration,
            p50_duration=rounded(p50),
            p95_duration=rounded(p95),
            p99_duration=rounded(p99),
            average_lateness=round(self.lateness / self.due, 3) if self.due else None,
            max_lateness=rounded(self.most),
            retries=self.retries,
        )


def _add_window(statistics: Statistics, queries: Queries) -> None:
    """Fill in the window by flow, by deployment (a run may have none) and by day, from one pass over the runs."""
    names = Names(queries)
    flows: dict[str, _Sum] = defaultdict(_Sum)
    deployments: dict[tuple[str, str | None], _Sum] = defaultdict(_Sum)
    days: dict[datetime.date, _Sum] = defaultdict(_Sum)
    for flow, deployment, state, day, *counts in queries.run(_COUNTS):
        for group in (flows[flow], deployments[flow, deployment], days[day]):
            group.add(state, *counts)
    percentiles = {
        (flow, None if whole_flow else (deployment,)): values
        for flow, deployment, whole_flow, values in queries.run(_PERCENTILES)
    }
    statistics.flows = _most_first(
        group.figures(*names.of(flow), percentiles.get((flow, None))) for flow, group in flows.items()
    )
    statistics.deployments = _most_first(
        group.figures(*names.of(flow, deployment), percentiles.get((flow, (deployment,))))
        for (flow, deployment), group in deployments.items()
    )
    day, last = (time.astimezone(datetime.timezone.utc).date() for time in (queries.since, queries.until))
    while day <= last:  # a day without a run is a day with 0 runs
        group = days[day]
        statistics.trend.append(
            Day(
                day=day,
                runs=group.runs,
                successful_runs=group.states["COMPLETED"],
                failed_runs=group.failed,
                average_duration=group.average_duration,
                scheduled_runs=group.states["SCHEDULED"],
            )
        )
        day += datetime.timedelta(days=1)


def _most_first(groups: Iterable[Figures]) -> list[Figures]:
    return sorted(groups, key=lambda group: (-group.runs, group.flow, group.deployment or ""))


@dataclass(frozen=True)
class Queries:
    """Queries of Prefect's tables, with the window as parameters."""

    connection: Any
    schema: str
    since: datetime.datetime
    until: datetime.datetime

    @classmethod
    def of_last(cls, connection: Any, schema: str, days: float, now: datetime.datetime | None = None) -> Queries:
        """Return those of the last days, up to now. Raises InputError for days that are not allowed."""
        if not isinstance(days, (int, float)) or isinstance(days, bool) or not 0 < days <= MOST_DAYS:
            raise InputError(f"days is {days!r}; it must be a number above 0, and {MOST_DAYS} at most.")
        until = now or datetime.datetime.now(datetime.timezone.utc)
        return cls(connection, schema, until - datetime.timedelta(days=days), until)

    def run(self, query: str, limit: int = 0, **more: Any) -> list[tuple[Any, ...]]:
        """Run a query on the schema's tables and return its rows. It may name the window and further values."""
        given = {"since": self.since, "until": self.until, "limit": limit, "newest": MOST_TASK_RUNS, **more}
        values = {name: Value(value) for name, value in given.items()}
        text = f"{_SETTINGS} {query}"
        with self.connection.cursor() as cursor:
            Statement.named(text, {**prefect_tables(self.schema), **values}).execute(cursor)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


class Names:
    """The names of one server's flows and deployments. Of one that was deleted only the id is left."""

    def __init__(self, queries: Queries) -> None:
        self._names: dict[str, str] = dict(queries.run(_NAMES))

    def of(self, flow: str, deployment: str | None = None) -> tuple[str, str | None]:
        """Return the names of a flow and of a deployment of it, if one is given."""
        return self._names.get(flow, flow), deployment and self._names.get(deployment, deployment)


def rounded(seconds: float | None) -> float | None:
    """Round seconds to milliseconds."""
    return None if seconds is None else round(seconds, 3)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_ROWS:
            raise InputError(f"{name} is {count!r}; it must be a whole number from 0 to {MOST_ROWS}.")


@contextmanager
def explained(schema: str) -> Iterator[None]:
    """Raise StatisticsUnavailable where the schema's tables are missing or may not be read."""
    from psycopg2 import errors

    try:
        yield
    except errors.UndefinedTable as error:
        message = f"The schema {schema} has no tables of Prefect."
        remedy = "Correct the name of the schema, or migrate it: systemctl start prefect-migrate@TENANT"
        raise StatisticsUnavailable(Problem("statistics_no_tables", f"schema {schema}", message, remedy)) from error
    except errors.InsufficientPrivilege as error:
        message = f"This login may not read Prefect's tables in the schema {schema}: {str(error).strip()}."
        remedy = "Log in as the application, as monitoring, or as the server of that schema."
        raise StatisticsUnavailable(Problem("statistics_denied", f"schema {schema}", message, remedy)) from error
