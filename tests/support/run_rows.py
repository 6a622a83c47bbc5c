"""Rows of flows and runs in Prefect's real tables, and the site as pgprefect's file describes it."""

from __future__ import annotations

from typing import Any

from pgprefect.core.connection import Login
from pgprefect.site.configuration import Site as Configured

from tests.support.site import PASSWORD, Site


def configured(site: Site, **changes: Any) -> Configured:
    monitor = site.declaration.monitor
    login = Login("127.0.0.1", site.server.port, monitor, PASSWORD)
    declared = {"database": site.database, "monitor": monitor}
    return Configured(**{"login": login, "declared": declared, "tenants": site.declaration.tenants, **changes})


def add_flow(site: Site, name: str, deployment: str | None = None) -> tuple[str, str | None]:
    """Add a flow, with a deployment of it, and return their IDs."""
    [(flow,)] = site.sql("INSERT INTO prefect.flow (name) VALUES (%s) RETURNING id::text", name)
    if deployment is None:
        return flow, None
    statement = "INSERT INTO prefect.deployment (name, flow_id) VALUES (%s, %s) RETURNING id::text"
    return flow, site.sql(statement, deployment, flow)[0][0]


def add_runs(
    site: Site,
    flow: tuple[str, str | None],
    count: int = 1,
    state: str = "COMPLETED",
    seconds: float | None = None,
    ago: float = 600,
) -> None:
    """Add runs that ended some time ago and took so many seconds; without these they have neither start nor end."""
    site.sql(
        "INSERT INTO prefect.flow_run (name, flow_id, deployment_id, state_type, state_name, start_time, end_time, "
        "                              state_timestamp) "
        "SELECT 'run', %s, %s, %s, initcap(%s), ended - seconds, CASE WHEN seconds IS NOT NULL THEN ended END, ended "
        "FROM (SELECT now() - make_interval(secs => %s) AS ended, make_interval(secs => %s) AS seconds) x, "
        "     generate_series(1, %s)",
        *(*flow, state, state, ago, seconds, count),
    )
