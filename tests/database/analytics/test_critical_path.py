"""The critical path of runs: of rows written by hand, and of a flow that Prefect ran."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from pgprefect.analytics.critical_path import CriticalPath, critical_path
from pgprefect.core.errors import InputError
from pgprefect.runs.statistics import StatisticsUnavailable

from tests.support.history import NOW, insert, insert_run, reader
from tests.support.site import Site


def path_of(site: Site, run: str) -> CriticalPath:
    with reader(site) as connection:
        return critical_path(connection, "prefect", run)


def task(site: Site, run: str, name: str, start: float, end: float, **inputs: list[str]) -> str:
    listed = {key: [{"id": one, "input_type": "task_run"} for one in ids] for key, ids in inputs.items()}
    return insert(
        site,
        "task_run",
        name=name,
        task_key=name,
        dynamic_key=name,
        flow_run_id=run,
        state_name="Completed",
        start_time=NOW + datetime.timedelta(seconds=start),
        end_time=NOW + datetime.timedelta(seconds=end),
        task_inputs=json.dumps({**listed, "constant": [{"input_type": "constant", "type": "int"}], "odd": "text"}),
    )


def test_the_path_follows_inputs_and_else_the_order(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="f")
    run = insert_run(prefect, flow, NOW, "COMPLETED", seconds=30)
    first = task(prefect, run, "first", 1, 5)
    task(prefect, run, "short", 1, 2)
    left, right = task(prefect, run, "left", 6, 9, x=[first]), task(prefect, run, "right", 6, 15, x=[first])
    task(prefect, run, "side", 15, 15.5)
    join = task(prefect, run, "join", 16, 20, x=[left], wait_for=[right])
    parent = task(prefect, run, "parent", 21, 28)
    task(prefect, run, "within", 22, 27, __parents__=[parent])
    task(prefect, insert_run(prefect, flow, NOW, "COMPLETED", seconds=99), "other", 0, 99)
    child = insert_run(prefect, flow, NOW, "COMPLETED", seconds=9, parent_task_run_id=join)
    found = path_of(prefect, run.upper())
    assert [(one.name, one.follows, one.waited, one.seconds) for one in found.steps] == [
        ("first", None, 1, 4),
        ("right", "input", 1, 9),
        ("join", "input", 1, 4),
        ("parent", "order", 1, 7),
    ]
    assert [one.child_run_id for one in found.steps] == [None, None, child, None]
    assert (found.task_runs, found.seconds, found.rest) == (8, 30, 2)
    assert sum(one.waited + one.seconds for one in found.steps) + found.rest == found.seconds


def test_odd_rows_end_the_path(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="f")
    run = insert_run(prefect, flow, NOW, "FAILED", seconds=5)
    assert path_of(prefect, run).steps == [] and path_of(prefect, run).rest == 5
    one = task(prefect, run, "one", 1, 1)
    other = task(prefect, run, "other", 1, 1, x=[one])
    inputs = json.dumps({"x": [{"id": other, "input_type": "task_run"}, {"id": None, "input_type": "task_run"}]})
    prefect.sql("UPDATE prefect.task_run SET task_inputs = %s WHERE id = %s", inputs, one)
    assert len(path_of(prefect, run).steps) == 2


@pytest.mark.parametrize("text", ["", "x", "1; DROP TABLE prefect.flow_run"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no id of a flow run"):
        critical_path(None, "prefect", text)


def test_a_run_that_is_not_there_or_goes_on(prefect: Site) -> None:
    with pytest.raises(StatisticsUnavailable) as missing:
        path_of(prefect, "00000000-0000-0000-0000-000000000000")
    assert missing.value.problem.code == "flow_run_missing"
    values: dict[str, Any] = {"start_time": NOW}
    run = insert_run(prefect, insert(prefect, "flow", name="f"), NOW, "RUNNING", **values)
    with pytest.raises(InputError, match="is Running; a critical path needs"):
        path_of(prefect, run)
