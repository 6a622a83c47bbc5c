"""Statistics of runs, computed by hand and compared; and the module over them."""

from __future__ import annotations

import contextlib
import csv
import datetime
import importlib
import io
import json
import random
import uuid
from collections.abc import Callable
from statistics import mean
from typing import Any

import pytest
import yaml
from pgprefect.runs.statistics import STATES, Statistics, StatisticsUnavailable, to_csv, workflow_statistics

from bench.data import fill
from tests.support.ansible import Result
from tests.support.history import NOW, ago, insert, insert_run, reader
from tests.support.site import PASSWORD, Site


def statistics_of(site: Site, **arguments: Any) -> Statistics:
    with reader(site) as connection:
        return workflow_statistics(connection, "prefect", **{"now": NOW, **arguments})


def test_an_empty_server(prefect: Site) -> None:
    found = statistics_of(prefect, days=2)
    assert (found.total_flows, found.total_runs, found.average_duration) == (0, 0, None)
    assert (found.flows, found.deployments, found.recent_activity, found.slowest_tasks) == ([], [], [], [])
    assert [(day.day.isoformat(), day.runs) for day in found.trend] == [
        ("2026-03-29", 0),
        ("2026-03-30", 0),
        ("2026-03-31", 0),
    ]
    assert to_csv(found).count("\n") == 1


def test_totals_are_of_all_time_and_the_rest_of_the_window(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="collect")
    idle = insert(prefect, "flow", name="idle")
    deployment = insert(prefect, "deployment", name="daily", flow_id=flow)
    insert_run(prefect, flow, ago(40), "COMPLETED", seconds=100)
    insert_run(prefect, flow, ago(40), "CRASHED", seconds=2)
    insert_run(prefect, flow, ago(2), "COMPLETED", deployment_id=deployment, seconds=10, late=4, run_count=3)
    insert_run(prefect, flow, ago(2), "FAILED", deployment_id=deployment, seconds=20, late=-5, run_count=1)
    newest = insert_run(prefect, flow, ago(1), "COMPLETED", seconds=30, run_count=1)
    insert_run(prefect, flow, ago(1), "CANCELLED")
    insert_run(prefect, flow, ago(-1), "SCHEDULED")  # tomorrow's
    insert_run(prefect, idle, ago(1), "PENDING")

    found = statistics_of(prefect, recent=2)
    assert (found.total_flows, found.total_runs, found.successful_runs, found.failed_runs) == (2, 8, 3, 2)
    assert found.average_duration == mean([100, 2, 10, 20, 30])
    assert (found.recent_activity[0].flow_run_id, found.recent_activity[0].duration) == (newest, 30)
    assert len(found.recent_activity) == 2

    collect, other = found.flows
    assert (collect.flow, collect.deployment, collect.runs) == ("collect", None, 4)
    counts = {state: count for state, count in collect.states.items() if count}
    assert counts == {"COMPLETED": 2, "FAILED": 1, "CANCELLED": 1}
    assert (collect.success_rate, collect.average_duration, collect.p50_duration) == (0.6667, 20, 20)
    assert (collect.p95_duration, collect.p99_duration) == (29.0, 29.8)
    assert (collect.average_lateness, collect.max_lateness, collect.retries) == (round(4 / 3, 3), 4, 2)
    assert (other.flow, other.success_rate, other.p50_duration, other.max_lateness) == ("idle", None, None, 86400)

    by_deployment = {(group.flow, group.deployment): group for group in found.deployments}
    assert set(by_deployment) == {("collect", None), ("collect", "daily"), ("idle", None)}
    daily = by_deployment["collect", "daily"]
    assert (daily.runs, daily.p50_duration, daily.success_rate, daily.retries) == (2, 15, 0.5, 2)
    assert by_deployment["collect", None].p50_duration == 30
    assert [vars(group) for group in found.most_failing] == [
        {"flow": "collect", "deployment": "daily", "failed_runs": 1, "success_rate": 0.5}
    ]
    days = {day.day.isoformat(): day for day in found.trend}
    assert len(days) == 31
    assert (days["2026-03-29"].runs, days["2026-03-29"].failed_runs, days["2026-03-29"].average_duration) == (2, 1, 15)
    assert (days["2026-03-28"].runs, days["2026-03-28"].average_duration) == (0, None)

    assert statistics_of(prefect, days=41).flows[0].runs == 6
    assert statistics_of(prefect, failing=0, recent=0).most_failing == []


def test_a_deleted_deployment_is_known_by_its_id(prefect: Site) -> None:
    flow, gone = insert(prefect, "flow", name="f"), str(uuid.uuid4())
    insert_run(prefect, flow, ago(1), "COMPLETED", seconds=1, deployment_id=gone)
    assert [group.deployment for group in statistics_of(prefect).deployments] == [gone]


def test_the_slowest_tasks_come_first(prefect: Site) -> None:
    for key, seconds, state in (("slow-1", 9, "FAILED"), ("slow-1", 5, "COMPLETED"), ("quick-1", 1, "COMPLETED")):
        start = ago(1)
        end = start + datetime.timedelta(seconds=seconds)
        values = {"name": "t", "dynamic_key": str(seconds), "start_time": start, "end_time": end, "state_type": state}
        insert(prefect, "task_run", task_key=key, **values)
    slow, quick = statistics_of(prefect).slowest_tasks
    assert vars(slow) == {
        "task_key": "slow-1",
        "runs": 2,
        "failed_runs": 1,
        "average_duration": 7.0,
        "p95_duration": 8.8,
        "max_duration": 9.0,
    }
    assert quick.task_key == "quick-1"
    assert len(statistics_of(prefect, slowest=1).slowest_tasks) == 1


def test_slow_tasks_are_looked_for_among_the_newest_runs_alone(prefect: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, days in (("old", 3), ("newer", 2), ("newest", 1)):
        times = {"start_time": ago(days), "end_time": ago(days - 0.5)}
        insert(prefect, "task_run", name="t", task_key=key, dynamic_key="0", **times)
    monkeypatch.setattr("pgprefect.runs.statistics.MOST_TASK_RUNS", 2)
    assert {task.task_key for task in statistics_of(prefect).slowest_tasks} == {"newer", "newest"}


def test_what_has_not_started_is_late_by_now(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="f")
    insert_run(prefect, flow, ago(1), "COMPLETED", seconds=1)
    insert_run(prefect, flow, ago(0.5), "SCHEDULED")
    insert_run(prefect, flow, ago(2), "CANCELLED")
    insert_run(prefect, flow, ago(-1), "SCHEDULED")
    [found] = statistics_of(prefect).flows
    assert (found.runs, found.average_lateness, found.max_lateness) == (3, 21600, 43200)


def test_a_run_without_a_state_is_counted(prefect: Site) -> None:
    flow = insert(prefect, "flow", name="f")
    insert(prefect, "flow_run", name="r", flow_id=flow, expected_start_time=ago(1))
    found = statistics_of(prefect)
    assert found.flows[0].runs == 1
    assert json.loads(json.dumps(found.as_dict()))["flows"][0]["states"] == {**dict.fromkeys(STATES, 0), "NONE": 1}
    assert to_csv(found).count("\n") == 3


def test_generated_data_as_python_counts_it(prefect: Site) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 500, days=60, children=False)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT f.name, d.name, state_type::text, date_part('epoch', end_time - start_time), run_count"
                " FROM prefect.flow_run r JOIN prefect.flow f ON f.id = flow_id"
                " LEFT JOIN prefect.deployment d ON d.id = deployment_id"
                " WHERE coalesce(start_time, expected_start_time) BETWEEN now() - interval '30 days' AND now()"
            )
            rows = cursor.fetchall()
    found = statistics_of(prefect, now=None)
    assert found.total_runs == 500 and 0 < len(rows) < 500
    assert sum(day.runs for day in found.trend) == len(rows)
    for group in [*found.flows, *found.deployments]:
        of_flow = group in found.flows
        mine = [row for row in rows if row[0] == group.flow and (of_flow or row[1] == group.deployment)]
        assert group.runs == len(mine)
        assert group.states == {state: sum(row[2] == state for row in mine) for state in STATES}
        assert group.retries == sum(max(row[4] - 1, 0) for row in mine)
        seconds = sorted(row[3] for row in mine if row[3] is not None)
        if seconds:
            assert group.average_duration == pytest.approx(mean(seconds), abs=0.002)
            place = 0.95 * (len(seconds) - 1)
            low, high = seconds[int(place)], seconds[min(int(place) + 1, len(seconds) - 1)]
            assert group.p95_duration == pytest.approx(low + (high - low) * (place % 1), abs=0.002)


def test_as_json_and_as_csv(prefect: Site) -> None:
    flow = insert(prefect, "flow", name='a "flow", with\na line')
    insert_run(prefect, flow, ago(1), "COMPLETED", seconds=2)
    found = statistics_of(prefect)
    document = json.loads(json.dumps(found.as_dict()))
    assert document["since"] == "2026-03-01T12:00:00+00:00"
    assert document["trend"][0]["day"] == "2026-03-01"
    assert document["recent_activity"][0]["end_time"].startswith("2026-03-30T12:00:02")
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [(row["kind"], row["flow"], row["deployment"], row["completed"], row["p50_duration"]) for row in rows] == [
        ("flow", 'a "flow", with\na line', "", "1", "2.0"),
        ("deployment", 'a "flow", with\na line', "", "1", "2.0"),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"days": 0}, "days is 0"),
        ({"days": -1}, "above 0"),
        ({"days": float("nan")}, "days is nan"),
        ({"days": 40000}, "36500 at most"),
        ({"days": True}, "days is True"),
        ({"recent": -1}, "recent is -1"),
        ({"slowest": 1001}, "slowest is 1001"),
        ({"failing": 1.5}, "failing is 1.5"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        workflow_statistics(None, "prefect", **arguments)


def test_what_can_not_be_read_is_explained(prefect: Site) -> None:
    with reader(prefect) as connection, pytest.raises(StatisticsUnavailable) as absent:
        workflow_statistics(connection, 'no"where')
    assert absent.value.problem.code == "statistics_no_tables"
    assert 'no"where' in str(absent.value)
    with reader(prefect, "prefect_backup") as connection:
        assert workflow_statistics(connection, "prefect").total_runs == 0
    prefect.sql("REVOKE SELECT ON prefect.task_run FROM mltrading_app")
    with reader(prefect) as connection, pytest.raises(StatisticsUnavailable) as denied:
        workflow_statistics(connection, "prefect")
    assert denied.value.problem.code == "statistics_denied"
    assert "task_run" in str(denied.value)


def test_a_transaction_of_the_caller_goes_on(prefect: Site) -> None:
    with reader(prefect) as connection:
        connection.autocommit = False
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO public.system_logs (event_type) VALUES ('before')")
            workflow_statistics(connection, "prefect")
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('jit'), (SELECT count(*) FROM public.system_logs)")
            assert cursor.fetchone() == ("on", 1)


def test_the_module(run_module: Callable[..., Result], prefect: Site) -> None:
    flow = insert(prefect, "flow", name="collect")
    now = datetime.datetime.now(datetime.UTC)
    for _ in range(random.Random(1).randint(2, 5)):
        insert_run(prefect, flow, now - datetime.timedelta(hours=1), "COMPLETED", seconds=3)
    login = {**prefect.server.module_arguments(), "login_user": "prefect_monitor", "login_password": PASSWORD}
    arguments = {**login, "database": prefect.database, "schema": "prefect"}
    result = run_module("prefect_workflow_statistics", **arguments, check=True)
    assert not result.get("failed") and not result["changed"]
    documented = yaml.safe_load(importlib.import_module("library.prefect_workflow_statistics").RETURN)
    assert set(result) - {"changed", "invocation"} == set(documented) - {"problems"}
    assert result["total_flows"] == 1 and result["successful_runs"] == len(result["recent_activity"])
    assert result["flows"][0]["p50_duration"] == 3
    assert "days is 0.0" in run_module("prefect_workflow_statistics", **arguments, days=0)["msg"]
    refused = run_module("prefect_workflow_statistics", **{**arguments, "login_password": "wrong"})
    assert refused["failed"] and [problem["code"] for problem in refused["problems"]] == ["login_refused"]
    absent = run_module("prefect_workflow_statistics", **{**arguments, "schema": "none"})
    assert [problem["code"] for problem in absent["problems"]] == ["statistics_no_tables"]
