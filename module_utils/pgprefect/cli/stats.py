"""``pgprefect stats``: what the history of the flow runs says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from ..analytics.comparison import BETTER, WORSE, compare_windows
from ..analytics.costs import tag_costs
from ..analytics.critical_path import critical_path
from ..analytics.flaky import flaky_deployments
from ..analytics.report import (
    CHANGE_COLUMNS,
    COST_COLUMNS,
    FLAKY_COLUMNS,
    change_row,
    cost_row,
    flaky_row,
    make_report,
    percent,
    to_html,
    to_markdown,
)
from ..core.formats import ago, counted, duration
from ..runs.statistics import Figures, Statistics, to_csv, workflow_statistics
from ..site.configuration import Tenant
from . import output
from .common import add_command, add_group, days, load_site, open_connection
from .output import FINE


def add_to(commands: Any) -> None:
    """Add the commands to what argparse's ``add_subparsers`` returned."""
    actions = add_group(commands, "stats", "count, time and compare the flow runs", default="show")
    command = _add(actions, "show", _show, "count and time the flow runs", 30, json=False)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--csv", action="store_true", help="print one line for each flow and deployment")
    summary = "compare the window with the one before it: what got slower, fails more, starts later"
    command = _add(actions, "compare", _compare, summary, 7)
    command.add_argument("--all", action="store_true", help="show also what did not change")
    _add(actions, "flaky", _flaky, "list the deployments that succeed at the second try", 30)
    _add(actions, "costs", _costs, "add up the hours of the runs by tag", 30)
    summary = "print what the window shows as one document in Markdown"
    command = _add(actions, "report", _report, summary, 7, json=False)
    command.add_argument("--html", action="store_true", help="print HTML instead")
    summary = "show the chain of task runs that the end of a flow run waited for"
    command = add_command(actions, "path", _path, summary, tenant=True, json=True)
    command.add_argument("flow_run", metavar="ID", help="the id of a flow run that has ended")


def _add(actions: Any, name: str, run: Any, summary: str, window: float, *, json: bool = True) -> Any:
    command = add_command(actions, name, run, summary, tenant=True, json=json)
    command.add_argument("--days", type=days, default=float(window), help="the window, up to now (%(default)g)")
    return command


def _read(options: argparse.Namespace, read: Callable[..., Any], *arguments: Any) -> tuple[Any, Tenant]:
    """Return what a function reads of the tenant's schema, and the tenant."""
    site = load_site(options)
    tenant = site.tenant(options.tenant)
    with open_connection(site.observer, site.database) as connection:
        return read(connection, tenant.schema, *arguments), tenant


def _print(options: argparse.Namespace, found: Sequence[Any], headline: str, columns: Any, row: Any) -> int:
    """Print a list of figures as JSON, or as a table below its headline."""
    if options.json:
        output.as_json([one.as_dict() for one in found])
        return FINE
    output.verdict(headline)
    output.table(columns, map(row, found))
    return FINE


def _compare(options: argparse.Namespace) -> int:
    changes, tenant = _read(options, compare_windows, options.days)
    window = f"the last {counted(options.days, 'day')} compared with those before"
    worse, better = (sum(one.verdict == verdict for one in changes) for verdict in (WORSE, BETTER))
    if not changes:
        headline = f"Tenant {tenant.name}: nothing to compare, no run in {window}."
    else:
        headline = f"Tenant {tenant.name}, {window}: {worse} worse, {better} better; the rest may be noise."
    shown = [one for one in changes if options.all or options.json or one.verdict in (WORSE, BETTER)]
    return _print(options, shown, headline, CHANGE_COLUMNS, change_row)


def _flaky(options: argparse.Namespace) -> int:
    found, tenant = _read(options, flaky_deployments, options.days)
    many = f"{counted(len(found), 'deployment')} succeeded at the second try more than once"
    headline = f"Tenant {tenant.name}: {many} in the last {counted(options.days, 'day')}."
    return _print(options, found, headline, FLAKY_COLUMNS, flaky_row)


def _costs(options: argparse.Namespace) -> int:
    found, tenant = _read(options, tag_costs, options.days)
    headline = (
        f"Tenant {tenant.name}: hours by tag of the runs that started in the last {counted(options.days, 'day')}."
    )
    return _print(options, found, headline, COST_COLUMNS, cost_row)


def _report(options: argparse.Namespace) -> int:
    report, _ = _read(options, make_report, options.days)
    print(to_html(report) if options.html else to_markdown(report), end="")
    return FINE


def _path(options: argparse.Namespace) -> int:
    found, _ = _read(options, critical_path, options.flow_run)
    if options.json:
        output.as_json(found.as_dict())
        return FINE
    took = sum(step.seconds for step in found.steps)
    share = f" ({percent(took / found.seconds)})" if found.seconds else ""
    output.verdict(
        f"{found.name} of {found.flow}, {found.state}: {duration(found.seconds)}, of which {duration(took)}{share} in "
        f"{len(found.steps)} of {counted(found.task_runs, 'task run')}."
    )
    rows = [
        (step.name, step.state, step.follows, duration(step.waited), duration(step.seconds), step.child_run_id)
        for step in found.steps
    ]
    output.table(["task run", "state", "after its", "waited", "took", "subflow's run"], rows)
    print(f"\nThe flow itself took {duration(found.rest)} after the last of them.")
    return FINE


def _show(options: argparse.Namespace) -> int:
    found, tenant = _read(options, workflow_statistics, options.days)
    if options.json:
        output.as_json(found.as_dict())
    elif options.csv:
        print(to_csv(found), end="")
    else:
        _print_statistics(found, tenant)
    return FINE


def _print_statistics(found: Statistics, tenant: Tenant) -> None:
    runs, completed = sum(group.begun for group in found.flows), sum(group.completed for group in found.flows)
    failed = sum(group.failed for group in found.flows)
    window = f"in the last {counted(found.days, 'day')}"
    if runs:
        output.verdict(
            f"Tenant {tenant.name}: {counted(runs, 'run')} {window}, {completed} completed, {failed} failed."
        )
    else:
        output.verdict(f"Tenant {tenant.name}: nothing to show, no run {window}.")
    total = found.total_runs - found.scheduled_runs
    print(
        f"Of all time: {counted(found.total_flows, 'flow')}, {counted(total, 'run')}, {found.successful_runs:,} "
        f"completed, {found.failed_runs:,} failed; {found.scheduled_runs:,} scheduled."
    )
    columns = ["flow", "deployment", "runs", "success", "p50", "p95", "p99", "late by", "retries"]
    output.table(columns, [_row(group) for group in _groups(found) if group.begun], "By flow and deployment")
    trend = [
        (f"{day.day:%F}", runs, day.successful_runs, day.failed_runs, duration(day.average_duration))
        for day in found.trend
        if (runs := day.runs - day.scheduled_runs)
    ]
    output.table(["day", "runs", "completed", "failed", "average"], trend, "By day, in UTC")
    tasks = [(task.task_key, task.runs, task.failed_runs, duration(task.p95_duration)) for task in found.slowest_tasks]
    output.table(["task", "runs", "failed", "p95"], tasks, "Slowest tasks")
    newest = [
        (run.name, run.flow, run.state_name, ago(run.end_time), duration(run.duration)) for run in found.recent_activity
    ]
    output.table(["run", "flow", "state", "ended", "took"], newest, "Newest runs")


def _groups(found: Statistics) -> list[Figures]:
    """Return the deployments, and the whole of each flow that has more than one."""
    parts = [group.flow for group in found.deployments]
    return [*(group for group in found.flows if parts.count(group.flow) > 1), *found.deployments]


def _row(group: Figures) -> tuple[Any, ...]:
    times = (group.p50_duration, group.p95_duration, group.p99_duration, group.average_lateness)
    return (
        group.flow,
        group.deployment,
        group.begun,
        percent(group.success_rate),
        *map(duration, times),
        group.retries,
    )
