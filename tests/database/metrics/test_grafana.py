"""The dashboards for Grafana: a real Prometheus answers each panel's question with what pgprefect really collected."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pgprefect.backup import sets
from pgprefect.core.jobs import Job, record
from pgprefect.metrics.collect import collect
from pgprefect.metrics.exposition import render
from pgprefect.site.configuration import Backups, Certificate, Keep

from tests.support.certificates import Authority
from tests.support.project import ROOT
from tests.support.run_rows import add_flow, add_runs, configured
from tests.support.site import Site
from tests.support.waiting import wait_for
from tests.support.watched import asked, watched

DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs/grafana").glob("*.json")}
EXPRESSIONS = {
    f"{name}: {panel['title']}": target["expr"]
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
}


def fill(site: Site) -> None:
    """Give the site all that a panel shows."""
    flow = add_flow(site, "collect", "nightly")
    add_runs(site, flow, 3, seconds=3)
    add_runs(site, flow, 1, state="FAILED", seconds=3)
    add_runs(site, flow, 1, state="RUNNING")
    site.sql(
        "INSERT INTO prefect.work_pool (name, type, concurrency_limit) VALUES ('default', 'process', 5);"
        "INSERT INTO prefect.work_queue (name, work_pool_id) SELECT 'default', id FROM prefect.work_pool;"
        "INSERT INTO prefect.worker (name, work_pool_id, last_heartbeat_time, heartbeat_interval_seconds) "
        "SELECT 'w', id, now(), 30 FROM prefect.work_pool;"
        'INSERT INTO prefect.concurrency_limit_v2 (name, "limit", active_slots, active, denied_slots, '
        "slot_decay_per_second, avg_slot_occupancy_seconds) VALUES ('db', 5, 1, true, 0, 0, 2)"
    )


@pytest.fixture(name="prometheus")
def prometheus_of_a_site(prefect: Site, tmp_path: Path) -> Iterator[str]:
    fill(prefect)
    done = [Job("backup", "/x", folder=str(tmp_path / "jobs")), Job("cleanup", "/x", "tenant0", str(tmp_path / "jobs"))]
    for job in done:
        with record(job):
            pass
    newest = tmp_path / "sets" / sets.name_of(datetime.now(UTC))
    newest.mkdir(parents=True)
    (newest / sets.MANIFEST).touch()
    sets.mark_verified(newest, {})
    certificate = tmp_path / "database.pem"
    certificate.write_text(Authority(days=30).certificate)
    site = configured(
        prefect,
        tenants=(replace(prefect.tenant, api_url="http://127.0.0.1:1/api", pool_workers={"default": 1}),),
        jobs=tuple(done),
        backups=Backups(str(tmp_path / "sets"), ("app",), Keep()),
        certificates=(Certificate(str(certificate)),),
    )
    folder = tmp_path / "prometheus"
    folder.mkdir()
    limited = f"ALTER ROLE {prefect.declaration.monitor} CONNECTION LIMIT %s"
    prefect.sql(limited % 10)
    with watched(lambda: render(collect(site, 10).samples), {}, folder) as page:
        yield page.removesuffix("/user/")
    prefect.sql(limited % -1)


def test_each_panel_shows_something(prometheus: str) -> None:
    wait_for(lambda: asked(prometheus, "pgprefect_info"))
    assert len(EXPRESSIONS) > 25
    for tenant in (".*", "tenant0"):
        asking = {name: expression.replace("$tenant", tenant) for name, expression in EXPRESSIONS.items()}
        assert {name: expression for name, expression in asking.items() if not asked(prometheus, expression)} == {}


def test_a_series_is_called_by_labels_that_it_has(prometheus: str) -> None:
    wait_for(lambda: asked(prometheus, "pgprefect_info"))
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            (target,) = panel["targets"]
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            series = asked(prometheus, target["expr"].replace("$tenant", ".*"))
            assert labels <= {label for one in series for label in one["metric"]}, (name, panel["title"])
