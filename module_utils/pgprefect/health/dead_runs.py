"""Dead runs: those that count as pending, running or cancelling although nothing runs them any more.

Health names them with the evidence, and resolves none.
"""

from __future__ import annotations

from typing import Any

from ..core.problems import WARNING, Problem
from ..site.configuration import Tenant
from ..site.open_runs import Ask, OpenRun, age_in_words, find_dead_runs, find_open_runs
from .thresholds import Thresholds

# No more are named; the details count all.
MOST_NAMED = 50


def dead_runs(ask: Ask, limits: Thresholds, tenant: Tenant) -> Any:
    """Name the runs that nothing runs any more."""
    limit = limits.silence_s.warning if limits.silence_s.warning is not None else limits.silence_s.critical
    runs = find_open_runs(ask, tenant)
    reasons = {run: evidence.reason for run, evidence in find_dead_runs(runs, tenant, limit).items()}
    dead = [run for run in runs if run.id in reasons]
    problems = [_named(run, reasons[run.id], limits, tenant) for run in dead[:MOST_NAMED]]
    if len(dead) > MOST_NAMED:
        message = f"There are {len(dead) - MOST_NAMED} more dead runs of tenant {tenant.name}."
        remedy = "pgprefect health --json lists the ID of each."
        problems.append(Problem("runs_dead", f"tenant {tenant.name}", message, remedy, WARNING))
    details = {"open": len(runs), "dead": {run.id: reasons[run.id] for run in dead}}
    return problems, details


def _named(run: OpenRun, reason: str, limits: Thresholds, tenant: Tenant) -> Problem:
    many = f"{run.waiting} runs wait" if run.waiting > 1 else "1 run waits"
    waiting = f" {many} for a slot that it may hold." if run.waiting else ""
    return Problem(
        code="run_dead",
        object=f"flow run {run.id}",
        message=f"The flow run {run.title} counts as {run.state} for {age_in_words(run.age)}, but {reason}.{waiting}",
        remedy="Resolve it, which frees its slots, on a host of the servers: "
        f"pgprefect --tenant {tenant.name} runs recover",
        severity=limits.silence_s.severity(run.silence) or WARNING,
    )
