"""Write the dashboards for Grafana from pgprefect's metrics; with --check only say which are out of date."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Union

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "module_utils"))

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries  # noqa: E402
from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402
from grafana_foundation_sdk.models.dashboard import (  # noqa: E402
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
)
from pgprefect.metrics import collect, database, jobs, runs  # noqa: E402
from pgprefect.metrics.exposition import Metric  # noqa: E402

FOLDER = ROOT / "docs/grafana"
TENANT = 'tenant=~"$tenant"'
SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
Builder = Union[stat.Panel, timeseries.Panel]


@dataclass(frozen=True)
class Panel:
    """Lines over time, or with ``now`` one value of each series; ``names`` is how a series is called."""

    title: str
    expression: str
    unit: str = "short"
    names: str = ""
    now: bool = False


def site(metric: Metric, matchers: str = "", suffix: str = "") -> str:
    """Return a figure of the site, which several hosts may print."""
    return f"max without (instance, job) ({metric.name}{suffix}{{{matchers}}})"


def of(metric: Metric, matchers: str = "") -> str:
    """Return a figure of the chosen tenants."""
    return site(metric, ", ".join(filter(None, (TENANT, matchers))))


def age(metric: Metric) -> str:
    """Return how long ago a moment is."""
    return f"time() - {metric.name}"


FAILED = 'state=~"FAILED|CRASHED"'
RUNNING = 'state="RUNNING"'
FLOW = "tenant, flow, deployment"
POOL = "{{tenant}} {{pool}}"
BUCKETS = site(runs.DURATION, TENANT, "_bucket")
DASHBOARDS: dict[str, list[Panel]] = {
    "overview": [
        Panel("Running", f"sum({of(runs.RUNS, RUNNING)})", now=True),
        Panel("Due and not begun", f"sum({of(runs.DUE)})", now=True),
        Panel("Longest due", f"max({of(runs.DUE_OLDEST)})", "s", now=True),
        Panel("Run by nothing", f"sum({of(runs.DEAD)})", now=True),
        Panel("Flow runs by state", f"sum by (state) ({of(runs.RUNS)})", names="{{state}}"),
        Panel("Ended within the last hour", f"sum by (state) ({of(runs.ENDED)})", names="{{state}}"),
        Panel("Events lag", of(runs.EVENTS_LAG), "s", "{{tenant}}"),
        Panel("Groups that were collected", of(collect.SUCCESS), names="{{group}} {{tenant}}"),
    ],
    "flows": [
        Panel("Under way", f"sum by ({FLOW}) ({of(runs.OPEN)})", names="{{flow}}/{{deployment}}"),
        Panel("Ended within the last hour", f"sum by ({FLOW}) ({of(runs.ENDED)})", names="{{flow}}/{{deployment}}"),
        Panel(
            "Failed share",
            f"sum by ({FLOW}) ({of(runs.ENDED, FAILED)}) / sum by ({FLOW}) ({of(runs.ENDED)})",
            "percentunit",
            "{{flow}}/{{deployment}}",
        ),
        Panel("Duration, p95", f"histogram_quantile(0.95, {BUCKETS})", "s", "{{flow}}/{{deployment}}"),
    ],
    "workers": [
        Panel("Workers online", of(runs.WORKERS_ONLINE), names=POOL),
        Panel("Workers missing", f"{of(runs.WORKERS_DECLARED)} - {of(runs.WORKERS_ONLINE)}", names=POOL),
        Panel("Heard from", of(runs.HEARTBEAT), "s", POOL),
        Panel("Under way", of(runs.POOL_USED), names=POOL),
        Panel("Due, by work queue", of(runs.QUEUE_DUE), names=POOL + " {{queue}}"),
        Panel("Longest due, by work queue", of(runs.QUEUE_OLDEST), "s", POOL + " {{queue}}"),
        Panel("Slots of concurrency limits", of(runs.LIMIT_USED), names="{{tenant}} {{limit}}"),
    ],
    "database": [
        Panel("Size of the schemas", site(database.SCHEMA_SIZE), "bytes", "{{schema}}"),
        Panel("Dead rows", site(database.DEAD), names="{{schema}}"),
        Panel("Connections", site(database.USED), names="{{of}} {{name}}"),
        Panel("Oldest transaction", site(database.OLDEST), "s"),
        Panel("Waits for locks", site(database.WAITING)),
        Panel("Age of transaction IDs", site(database.XID_AGE)),
    ],
    "backups": [
        Panel("Newest backup set", age(jobs.BACKUP), "s", "{{instance}}"),
        Panel("Newest set that passed a drill", age(jobs.VERIFIED), "s", "{{instance}}"),
        Panel("Last success of the jobs", age(jobs.SUCCEEDED), "s", "{{name}} {{tenant}}"),
        Panel("Jobs that failed", jobs.FAILED.name, names="{{name}} {{tenant}}"),
        Panel("Certificates end in", f"{jobs.CERTIFICATE.name} - time()", "s", "{{instance}} {{file}}"),
    ],
}


def panel(declared: Panel) -> Builder:
    """Return a panel as the SDK builds it."""
    builder: Builder = stat.Panel().span(6).height(4) if declared.now else timeseries.Panel().span(12).height(8)
    query = prometheus.Dataquery().expr(declared.expression).legend_format(declared.names or declared.title).ref_id("A")
    return builder.title(declared.title).unit(declared.unit).datasource(SOURCE).min(0).with_target(query)


def text(name: str) -> str:
    """Return a dashboard as Grafana imports it."""
    tenants = f"label_values({collect.API_READY.name}, tenant)"
    built = (
        dashboard.Dashboard(f"Prefect: {name}")
        .uid(f"ansible-prefect-{name}")
        .tags(["ansible-prefect"])
        .refresh("10s")
        .time("now-6h", "now")
        .timezone("browser")
        .readonly()
        .link(
            dashboard.DashboardLink("Prefect")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["ansible-prefect"])
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("tenant")
            .label("Tenant")
            .query(tenants)
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            # Also what is no tenant's.
            .all_value(".*")
        )
    )
    for declared in DASHBOARDS[name]:
        built.with_panel(panel(declared))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def main() -> int:
    """Write what differs, or name it."""
    texts = {FOLDER / f"prefect-{name}.json": text(name) for name in DASHBOARDS}
    outdated = [path for path, content in texts.items() if not path.exists() or path.read_text() != content]
    if "--check" in sys.argv[1:]:
        for path in outdated:
            print(f"{path.relative_to(ROOT)} is out of date: run make doc.")
        return bool(outdated)
    FOLDER.mkdir(exist_ok=True)
    for path in outdated:
        path.write_text(texts[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
