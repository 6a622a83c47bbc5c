"""Two windows compared, flaky deployments, and costs by tag."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from pgprefect.analytics.comparison import Comparison, compare_windows
from pgprefect.analytics.costs import TagCost, tag_costs
from pgprefect.analytics.flaky import Flaky, flaky_deployments
from pgprefect.core.errors import InputError
from pgprefect.runs.statistics import StatisticsUnavailable

from tests.support.history import NOW, ago, insert, insert_run, reader
from tests.support.site import Site


def read(site: Site, question: Callable[..., list[Any]], days: float = 7) -> list[Any]:
    with reader(site) as connection:
        return question(connection, "prefect", days, NOW)


def changes(site: Site) -> dict[tuple[str, str | None, str], Comparison]:
    return {(one.flow, one.deployment, one.measure): one for one in read(site, compare_windows)}


def fill_windows(
    site: Site, flow: str, deployment: str | None, seconds: tuple[float, float], **more: tuple[float, float]
) -> None:
    """Write 20 runs a window, with a median duration, lateness, and number of failed ones in each."""
    draw = random.Random(1)
    for window, middle in enumerate((10.5, 3.5)):
        for place in range(20):
            failed = place < more.get("failed", (0, 0))[window]
            insert_run(
                site,
                flow,
                ago(middle + place / 10),
                "FAILED" if failed else "COMPLETED",
                late=more.get("late", (0, 0))[window] + draw.random(),
                seconds=seconds[window] + draw.random(),
                deployment_id=deployment,
            )


def test_what_changed_is_told_from_noise(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="collect")
    for name, seconds, more in (
        ("slower", (10, 12), {}),
        ("quicker", (12, 10), {}),
        ("failing", (10, 10), {"failed": (0, 12)}),
        ("later", (10, 10), {"late": (0, 60)}),
        ("same", (10, 10), {}),
    ):
        deployment = insert(prefect, "deployment", name=name, flow_id=flow)
        fill_windows(prefect, flow, deployment, seconds, **more)
    fill_windows(prefect, flow, None, (5, 9))
    found = changes(prefect)
    verdicts = {key[1:]: one.verdict for key, one in found.items() if one.verdict != "no change"}
    assert verdicts == {
        ("slower", "duration"): "worse",
        ("quicker", "duration"): "better",
        ("failing", "success"): "worse",
        ("later", "lateness"): "worse",
        (None, "duration"): "worse",
    }
    slower, failing = found["collect", "slower", "duration"], found["collect", "failing", "success"]
    assert 10 < slower.before < 11 and 12 < slower.after < 13  # type: ignore[operator]
    assert (slower.runs_before, slower.runs_after) == (20, 20) and slower.p_value < 0.001  # type: ignore[operator]
    assert (failing.before, failing.after) == (1, 0.4)
    assert found["collect", "failing", "duration"].runs_after == 8
    assert [one.verdict for one in read(prefect, compare_windows)][:6] == ["worse"] * 4 + ["better", "no change"]
    json.dumps([one.as_dict() for one in found.values()])


def test_too_few_runs_are_no_change(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="f")
    assert read(prefect, compare_windows) == []
    for place in range(7):
        insert_run(prefect, flow, ago(8 + place / 10), "COMPLETED", seconds=1)
        insert_run(prefect, flow, ago(1 + place / 10), "COMPLETED", seconds=100)
    found = changes(prefect)
    assert found["f", None, "duration"].verdict == "too few runs" and found["f", None, "duration"].p_value is None
    assert found["f", None, "success"].verdict == "no change"


def test_a_deployment_is_flaky_that_succeeds_at_the_second_try(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="f")

    def runs(name: str, states: str, **values: Any) -> None:
        deployment = insert(prefect, "deployment", name=name, flow_id=flow)
        for place, state in enumerate(states):
            insert_run(
                prefect,
                flow,
                ago(5 - place / 10),
                "COMPLETED" if state == "+" else "CRASHED" if state == "x" else "FAILED",
                seconds=1,
                deployment_id=deployment,
                **{key: value(place) if callable(value) else value for key, value in values.items()},
            )

    runs("flips", "+-+x+++", flow_version="1")
    runs("retries", "++++", run_count=2)
    runs("once", "++-+++")
    runs("down", "------")
    runs("repaired", "-+-+", flow_version=lambda place: str(place))
    runs("inputs", "-+-+", parameters=lambda place: json.dumps({"place": place}))
    assert read(prefect, flaky_deployments) == [
        Flaky("f", "retries", 4, 4, 0, 1.0),
        Flaky("f", "flips", 7, 0, 2, 0.2857),
    ]


def test_costs(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="f")

    def run(hours: float, tags: str, state: str = "COMPLETED", **values: Any) -> str:
        spent = datetime.timedelta(hours=hours)
        return insert_run(prefect, flow, ago(1), state, seconds=9999, tags=tags, total_run_time=spent, **values)

    run(2, '["trading", "nightly", "nightly"]')
    parent = run(3, '["trading"]', "FAILED", run_count=3)
    run(1, "[]")
    task = insert(prefect, "task_run", name="t", task_key="t", dynamic_key="0", flow_run_id=parent)
    run(1, '["trading"]', parent_task_run_id=task)  # in its parent's process
    deployment = insert(prefect, "deployment", name="d", flow_id=flow)
    run(4, '["own process"]', parent_task_run_id=task, deployment_id=deployment)
    run(1, '["nightly"]', "RUNNING", state_timestamp=NOW - datetime.timedelta(minutes=30))
    insert_run(prefect, flow, ago(1), "SCHEDULED", tags='["trading"]')
    insert_run(prefect, flow, ago(9), "COMPLETED", seconds=1, tags='["trading"]', total_run_time=datetime.timedelta(1))
    assert read(prefect, tag_costs) == [
        TagCost("trading", 2, 5, 3),
        TagCost("own process", 1, 4, 0),
        TagCost("nightly", 2, 3.5, 0),
        TagCost(None, 1, 1, 0),
    ]


@pytest.mark.parametrize("question", [compare_windows, flaky_deployments, tag_costs])
def test_what_cannot_be_read_is_explained(prefect: Site, question: Callable[..., list[Any]]) -> None:
    with reader(prefect) as connection, pytest.raises(StatisticsUnavailable, match="no tables of Prefect"):
        question(connection, "none")
    with pytest.raises(InputError, match="days is"):
        question(None, "prefect", 0)
