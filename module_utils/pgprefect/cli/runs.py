"""The commands that end or delete flow runs: ``pgprefect cleanup`` and ``pgprefect runs``."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import InputError
from ..core.formats import counted, duration, size
from ..core.http import PrefectApi
from ..core.jobs import record
from ..runs.recovery import CONFIRM_SECONDS, Lost, confirm, find_lost, recover
from ..runs.retention import CleanupPlan, CleanupResult, Policy, clean_up, named, plan
from ..site.configuration import Site, Tenant
from . import output
from .common import (
    MOST_DAYS,
    add_command,
    add_group,
    clear_remains,
    confirmed,
    load_site,
    number,
    open_connection,
    require_writes,
    tenant_api,
)
from .output import FINE, refuse


def add_to(commands: Any) -> None:
    """Add the commands to what argparse's ``add_subparsers`` returned."""
    summary = "delete old flow runs with all that belongs to them"
    command = add_command(commands, "cleanup", _cleanup, summary, tenant=True, json=True, dry_run=True, confirmed=True)
    command.add_argument(
        "--days", type=number(0, MOST_DAYS), help="keep the runs of so many days; else the site's policy says how many"
    )
    command.add_argument("--allow-zero-days", action="store_true", help="let --days 0 delete every run that has ended")

    actions = add_group(commands, "runs", "resolve the flow runs that are lost", default="recover")
    summary = "name the runs that nothing runs any more, with the evidence; end them, or schedule them again"
    command = add_command(actions, "recover", _recover, summary, tenant=True, json=True, dry_run=True, confirmed=True)
    command.add_argument("--quiet", action="store_true", help="say nothing where no run is lost")


def _cleanup(options: argparse.Namespace) -> int:
    site = load_site(options)
    tenant = site.tenant(options.tenant)
    given = _given_policy(options, site)
    if given:  # a slip of the hand is no failed job
        Policy.from_arguments({**site.retention, **given})
    require_writes(site)
    if options.dry_run or not options.yes:
        logins = (site.login_as(tenant.server), site.observer)
        with contextlib.ExitStack() as connections:
            server, observer = (connections.enter_context(open_connection(login, site.database)) for login in logins)
            expected = plan(server, tenant.schema, Policy.from_arguments({**site.retention, **given}), observer)
        _print_plan(options, expected)
        if options.dry_run or not any(expected.rows.values()):
            return FINE
        if not confirmed(options, f"This deletes them for good from the schema {tenant.schema}."):
            return refuse("Nothing was deleted: say --yes to delete it.")
    clear_remains(site)
    with record(site.job("cleanup", tenant.name)) as figures:
        result = _clean_up(site, tenant, Policy.from_arguments({**site.retention, **given}))
        figures.update(named(result.rows), seconds=result.seconds)
    if options.json:
        output.as_json(result.as_dict())
        return FINE
    took = f"in {duration(result.seconds)}, the longest transaction {duration(result.longest_transaction_seconds)}"
    _print_rows(result.rows, f"Deleted {_what(result.rows)} {took}.", result.zombies)
    return FINE


def _given_policy(options: argparse.Namespace, site: Site) -> dict[str, Any]:
    """Return what the options say instead of the site's policy."""
    if options.days is None:
        return {}
    if options.days == 0 and not (options.allow_zero_days or site.retention.get("allow_zero_days")):
        raise InputError("--days 0 deletes every run that has ended. Where that is meant, say --allow-zero-days too.")
    allowed = {"allow_zero_days": True} if options.allow_zero_days else {}
    return {"days_to_keep": options.days, **allowed}


def _clean_up(site: Site, tenant: Tenant, policy: Policy) -> CleanupResult:
    with contextlib.ExitStack() as connections:
        server, owner, observer = (
            connections.enter_context(open_connection(login, site.database))
            for login in (site.login_as(tenant.server), site.login_as(tenant.migrator), site.observer)
        )
        expected = plan(server, tenant.schema, policy, observer)
        progress = output.Progress(sum(expected.rows.values()))
        return clean_up(server, tenant.schema, policy, progress, owner, observer)


def _print_plan(options: argparse.Namespace, expected: CleanupPlan) -> None:
    if options.json and options.dry_run:
        output.as_json(expected.as_dict())
        return
    headline = f"Would delete {_what(expected.rows)}, about {size(expected.bytes)}."
    _print_rows(expected.rows, headline, expected.zombies)


def _what(rows: Mapping[str, int]) -> str:
    return f"{counted(rows['flow_run'], 'flow run')}, {counted(sum(rows.values()), 'row')} in all"


def _print_rows(rows: Mapping[str, int], headline: str, zombies: Any) -> None:
    lost = [(table, count) for table, count in rows.items() if count]
    output.verdict(headline if lost else "Nothing is old enough to be deleted.")
    output.table(["table", "rows"], lost)
    found = [(run.name, run.state, duration(run.hours * 3600)) for run in zombies]
    output.table(["run", "state", "silent for"], found, "Runs without a sign of life, left alone")


def _recover(options: argparse.Namespace) -> int:
    site = load_site(options)
    tenants = [site.tenant(options.tenant)] if options.tenant else list(site.tenants)
    apis = {} if options.dry_run else {tenant.name: tenant_api(options, tenant) for tenant in tenants}
    done: dict[str, Any] = {}
    with open_connection(site.observer, site.database) as connection:
        lost = {tenant.name: find_lost(connection, tenant) for tenant in tenants}
        many = sum(map(len, lost.values()))
        if not options.json and not (options.quiet and not many):
            _print_lost(lost)
        if many and not options.dry_run:
            if not confirmed(options, "This ends them, or schedules them again."):
                return refuse("Nothing was changed: say --yes to resolve them.")
            for tenant in tenants:
                done[tenant.name] = _resolve(options, connection, apis[tenant.name], tenant, lost[tenant.name])
    if options.json:
        found = {name: [one.as_dict() for one in runs] for name, runs in lost.items()}
        output.as_json({"lost": found, "resolved": done})
    return FINE


def _resolve(
    options: argparse.Namespace, connection: Any, api: PrefectApi, tenant: Tenant, lost: Sequence[Lost]
) -> list[dict[str, Any]]:
    if not options.json and any(one.silence for one in lost):
        print(f"Only silence says so of some of them: looking again in {CONFIRM_SECONDS} s.", flush=True)
    resolved = recover(api, confirm(connection, api, tenant, lost))
    if not options.json:
        rows = [(run.name, run.id, run.state) for run in resolved]
        output.table(["run", "ID", "is now"], rows, f"{counted(len(resolved), 'run')} of tenant {tenant.name} resolved")
    return [vars(run) for run in resolved]


def _print_lost(lost: Mapping[str, Sequence[Lost]]) -> None:
    many = sum(map(len, lost.values()))
    output.verdict(f"{counted(many, 'run')} lost." if many else "No run is lost.")
    for name, runs in lost.items():
        rows = [(one.run.id, one.run.title, one.run.state, one.reason) for one in runs]
        output.table(["ID", "run", "state", "evidence"], rows, f"Tenant {name}")
