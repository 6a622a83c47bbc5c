"""What the pages tell people to type on a finished site, typed there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.scenario import Typed


def test_the_site_again(typed: Typed, tmp_path: Path) -> None:
    words = {" --ask-become-pass": "", "example inventory/mine": f"example {tmp_path}/mine"}
    *_, check, run = typed("README.md", "Use it on your hosts", **words)
    assert changed(check) == changed(run) == [0], check + run
    assert (tmp_path / "mine/hosts.yml").exists()


@pytest.mark.usefixtures("completed_run")
def test_a_look_at_the_site(typed: Typed) -> None:
    typed("operate.md", "Check the site", **{"TENANT=research": "TENANT=prefect"})


@pytest.mark.thorough
def test_a_part_of_the_site(typed: Typed) -> None:
    runs = typed("operate.md", "Run a part of the site", **{"worker-1": "prefect-debian12"})
    assert [changed(run) for run in runs] == [[0]] * len(runs), "".join(runs)


@pytest.mark.thorough
def test_objects(typed: Typed) -> None:
    runs = typed("objects.md", "Prefect's objects as code", **{" --ask-become-pass": ""})
    assert [changed(run) for run in runs] == [[0], [0]], "".join(runs)
    drift, said = typed("objects.md", "Drift", **{" --ask-become-pass": ""})
    assert changed(drift) == [0] and said.startswith("Objects of prefect: "), said
    runs = typed("objects.md", "Delete what is not declared any more", **{" --ask-become-pass": ""})
    assert [changed(run) for run in runs] == [[0], [0]], "".join(runs)
    (text,) = typed("objects.md", "Begin with what is there")
    assert "flow: collect-market-data" in text and "work_pool: default" in text


def test_old_runs(host: Host, typed: Typed) -> None:
    host.check_output("pgprefect cleanup --tenant prefect --yes")  # so that there is a record
    check, run, _, _, record, _ = typed("operate.md", "Delete old runs")
    assert changed(check) == changed(run) == [0], check + run
    assert json.loads(record)["ok"]


@pytest.mark.thorough
def test_runs(typed: Typed) -> None:
    drained = typed("runs.md", "Drain")
    assert "drains: it takes no new runs" in drained[-1]
    *_, check, run, timers, _ = typed("runs.md", "Runs that are lost")
    assert changed(check) == changed(run) == [0] and "prefect-recover.timer" in timers


@pytest.mark.thorough
def test_the_flows_of_the_box(typed: Typed) -> None:
    inside = {"docker exec --user postgres prefect-box ": "runuser --user postgres -- ", "docker exec prefect-box ": ""}
    *runs, events = typed("flows.md", "Flows", **inside)
    assert all("finished successfully" in run for run in runs)
    assert "risk" in events
    (rows,) = typed("flows.md", "Events")
    assert "check-risk-limits" in rows


def test_pgprefect(typed: Typed) -> None:
    typed("pgprefect.md", "Events")
    assert "prefect_cleanup" in typed("pgprefect.md", "From Ansible")[0].lower()


def test_metrics(typed: Typed) -> None:
    (printed,) = typed("monitoring.md", "What it prints")
    for group in ('group="runs",tenant="prefect"', 'group="database"', 'group="jobs"'):
        assert f"pgprefect_collect_success{{{group}}} 1\n" in printed, printed
    (alerts,) = typed("monitoring.md", "Give it to your Prometheus")
    assert "PrefectServerDown" in {rule["alert"] for rule in json.loads(alerts)["groups"][0]["rules"]}
