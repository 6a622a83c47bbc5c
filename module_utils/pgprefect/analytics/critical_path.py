"""Critical path of a flow run: the chain of task runs that its end waited for."""

from __future__ import annotations

import bisect
import datetime
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.errors import InputError
from ..core.prefect import prefect_tables
from ..core.problems import Problem
from ..core.sql import Statement, Value
from ..runs.statistics import StatisticsUnavailable, explained


@dataclass(frozen=True)
class Step:
    """One task run of the path, with times in seconds.

    ``waited`` is from the end of the step before, or from the start of the flow run, until its start: the flow's own
    code, and waiting for a slot or a thread. ``follows`` says why it comes after that step: ``input`` for a task run
    that gets its result or waits for it, else ``order``, the last one that had ended.
    """

    task_run_id: str
    name: str
    state: str
    follows: str | None
    waited: float
    seconds: float
    child_run_id: str | None  # of a subflow


@dataclass(frozen=True)
class CriticalPath:
    """The path of one flow run that has ended: ``steps`` in their order, and what the flow did after the last one."""

    flow_run_id: str
    name: str
    flow: str
    state: str
    seconds: float
    task_runs: int
    steps: list[Step]
    rest: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


_RUN = """
SELECT r.name, f.name, r.state_name, r.start_time, r.end_time
FROM {flow_run} r JOIN {flow} f ON f.id = r.flow_id WHERE r.id = {run}
"""

_TASKS = """
SELECT t.id::text, t.name, t.state_name, t.start_time, t.end_time, c.id::text,
       ARRAY(SELECT DISTINCT input ->> 'id' FROM jsonb_each(t.task_inputs) AS inputs (key, list),
                    jsonb_array_elements(CASE jsonb_typeof(list) WHEN 'array' THEN list ELSE '[]' END) AS input
             WHERE key <> '__parents__' AND input ->> 'input_type' = 'task_run')
FROM {task_run} t LEFT JOIN {flow_run} c ON c.parent_task_run_id = t.id
WHERE t.flow_run_id = {run} AND t.start_time IS NOT NULL AND t.end_time IS NOT NULL
"""


@dataclass(frozen=True)
class _Task:
    identifier: str
    name: str
    state: str
    start: datetime.datetime
    end: datetime.datetime
    child: str | None
    inputs: list[str]


def critical_path(connection: Any, schema: str, flow_run_id: str) -> CriticalPath:
    """Return the critical path of a flow run by its id.

    From the task run that ended last it goes back: to the input that ended last, or, where Prefect recorded none, to
    the task run that had ended last before it started. Raises InputError for what is no id, no run, or a run that has
    not ended, and StatisticsUnavailable.
    """
    try:
        run = str(uuid.UUID(flow_run_id))
    except ValueError:
        raise InputError(f"{flow_run_id!r} is no id of a flow run; an id has the form {uuid.UUID(int=0)}.") from None
    with explained(schema), connection.cursor() as cursor:
        names: dict[str, Any] = {**prefect_tables(schema), "run": Value(run)}
        Statement.named(_RUN, names).execute(cursor)
        row = cursor.fetchone()
        if row is None:
            raise StatisticsUnavailable(
                Problem(
                    "flow_run_missing",
                    f"flow run {run}",
                    f"The schema {schema} has no flow run {run}.",
                    "Correct the id, name the tenant by --tenant, or see whether the cleanup has deleted the run.",
                )
            )
        name, flow, state, start, end = row
        if start is None or end is None:
            raise InputError(f"The flow run {name} ({run}) is {state}; a critical path needs a start and an end.")
        Statement.named(_TASKS, names).execute(cursor)
        tasks = [_Task(*task) for task in cursor.fetchall()]
    steps, last = _walk({task.identifier: task for task in tasks}, start)
    seconds = (end - start).total_seconds()
    return CriticalPath(run, name, flow, state, seconds, len(tasks), steps, max((end - last).total_seconds(), 0))


def _walk(tasks: Mapping[str, _Task], start: datetime.datetime) -> tuple[list[Step], datetime.datetime]:
    """Return the steps, and the end of the last one."""
    steps: list[Step] = []
    task = max(tasks.values(), key=lambda one: one.end, default=None)
    last = task.end if task else start
    ordered = sorted(tasks.values(), key=lambda one: one.end)
    ends = [one.end for one in ordered]
    left = set(tasks)
    while task:
        left.discard(task.identifier)
        inputs = [tasks[one] for one in task.inputs if one in left]
        earlier = (ordered[place] for place in range(bisect.bisect_right(ends, task.start) - 1, -1, -1))
        before = max(inputs, key=lambda one: one.end, default=None) or next(
            (one for one in earlier if one.identifier in left), None
        )
        steps.append(
            Step(
                task_run_id=task.identifier,
                name=task.name,
                state=task.state,
                follows=None if before is None else "input" if inputs else "order",
                waited=round(max((task.start - (before.end if before else start)).total_seconds(), 0), 3),
                seconds=round((task.end - task.start).total_seconds(), 3),
                child_run_id=task.child,
            )
        )
        task = before
    return steps[::-1], last
