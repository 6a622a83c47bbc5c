"""Runs that count as pending, running or cancelling although nothing runs them any more.

They are judged by evidence, not by their age: what became of the worker that took them, of their process where it ran
on this host, and of the heartbeats that each run sends. Health names them, and resolves none.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from ..core.prefect import WORKER_RESOURCE, WORKER_STARTED, prefect_tables
from ..core.problems import WARNING, Problem
from ..core.sql import Names, Statement, Value
from ..site.configuration import Tenant
from .thresholds import Thresholds

# No more are looked at, and no more are named; the details count all.
MOST_RUNS = 2000
MOST_NAMED = 50
# Prefect's own interval of heartbeats, for runs that no worker of the site started.
_DEFAULT_INTERVAL = 180
# A worker reports the end of a process, and then the run's state: time for the second, with its repetitions.
_REPORT = 75

# A subflow runs in the process of its parent. After a start of the server the silence of the time before proves
# nothing, so the age of its oldest session is asked for: NULL where this login does not see it, 0 where it has none.
_OPEN_RUNS = """
WITH open AS (
    SELECT r.id, r.name, r.flow_id, r.deployment_id, r.work_queue_id, r.state_type, r.state_name, r.state_timestamp,
           t.flow_run_id AS parent,
           coalesce(r.labels->>'prefect.worker.name', p.labels->>'prefect.worker.name') AS worker,
           coalesce(r.infrastructure_pid, p.infrastructure_pid) AS pid
    FROM {flow_run} r LEFT JOIN {task_run} t ON t.id = r.parent_task_run_id
    LEFT JOIN {flow_run} p ON p.id = t.flow_run_id
    WHERE r.state_type IN ('PENDING', 'RUNNING', 'CANCELLING') ORDER BY r.state_timestamp LIMIT {most}
), server AS (
    SELECT CASE WHEN {server} = '' OR count(*) > count(backend_start) THEN NULL
                ELSE coalesce(extract(epoch FROM now() - min(backend_start)), 0) END::float8 AS age
    FROM pg_stat_activity WHERE datname = current_database() AND usename = {server}
)
SELECT r.id::text, r.name, f.name, d.name, r.state_type::text, r.state_name, r.pid, r.worker, r.parent::text,
       extract(epoch FROM now() - r.state_timestamp)::float8,
       (SELECT extract(epoch FROM now() - max(occurred))::float8 FROM {events}
        WHERE event = 'prefect.flow-run.heartbeat' AND resource_id = 'prefect.flow-run.' || r.id),
       (SELECT extract(epoch FROM now() - max(timestamp))::float8 FROM {log} WHERE flow_run_id = r.id),
       (SELECT extract(epoch FROM now() - max(e.occurred))::float8
        FROM {event_resources} x JOIN {events} e ON e.id = x.event_id
        WHERE x.resource_id = 'prefect.flow-run.' || r.id AND x.occurred > r.state_timestamp
          AND e.event = 'prefect.worker.executed-flow-run'),
       (SELECT extract(epoch FROM now() - max(occurred))::float8 FROM {events}
        WHERE event = {started} AND resource_id = {started_prefix} || r.worker),
       extract(epoch FROM now() - w.heard)::float8, w.interval,
       (SELECT count(*) FROM {flow_run} o
        WHERE o.state_type = 'SCHEDULED' AND o.state_name = 'AwaitingConcurrencySlot'
          AND (o.deployment_id = r.deployment_id OR o.work_queue_id = r.work_queue_id)),
       r.work_queue_id IS NOT NULL, server.age
FROM open r CROSS JOIN server JOIN {flow} f ON f.id = r.flow_id LEFT JOIN {deployment} d ON d.id = r.deployment_id
LEFT JOIN (SELECT name, max(last_heartbeat_time) AS heard, max(heartbeat_interval_seconds) AS interval
           FROM {worker} GROUP BY name) w ON w.name = r.worker
ORDER BY r.state_timestamp
"""


@dataclass(frozen=True)
class OpenRun:
    """A run that is not scheduled any more and has not ended; ages are in seconds, None where there is nothing."""

    id: str
    name: str
    flow: str
    deployment: str | None
    state_type: str
    state: str
    pid: str | None
    worker: str | None
    parent: str | None
    age: float
    heartbeat_age: float | None
    log_age: float | None
    ended_age: float | None  # since its worker reported that its process ended
    worker_started_age: float | None
    worker_heartbeat_age: float | None
    worker_interval: float | None
    waiting: int  # runs that wait for a concurrency slot of its deployment or queue
    pooled: bool
    server_age: float | None  # of its oldest session

    @property
    def title(self) -> str:
        """The run in words."""
        return f"{self.name} of {self.flow}/{self.deployment}" if self.deployment else f"{self.name} of {self.flow}"

    @property
    def silence(self) -> float:
        """Seconds since its last sign of life: a heartbeat, a line of its log, or its state."""
        return min(age for age in (self.age, self.heartbeat_age, self.log_age) if age is not None)


@dataclass(frozen=True)
class Worker:
    """A worker of this host: the numbers of its processes, and when the first of them started."""

    pids: frozenset[int]
    started: float


Workers = Mapping[str, Worker]


def local_workers(proc: str = "/proc") -> Workers:
    """Return the workers whose units run on this host, by the names that Prefect knows them by."""
    found: dict[str, tuple[set[int], float]] = {}
    host = socket.gethostname()
    booted = _boot_time(proc)
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            with open(f"{proc}/{entry}/cgroup", encoding="utf-8") as file:
                unit = re.search(r"/prefect-worker@([^/]+)\.service", file.read())
            if not unit:
                continue
            with open(f"{proc}/{entry}/stat", encoding="utf-8") as file:
                ticks = int(file.read().rpartition(")")[2].split()[19])
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
        name = f"{host}-{unit.group(1)}"
        pids, started = found.get(name, (set(), time.time()))
        found[name] = (pids | {int(entry)}, min(started, booted + ticks / os.sysconf("SC_CLK_TCK")))
    return {name: Worker(frozenset(pids), started) for name, (pids, started) in found.items()}


def _boot_time(proc: str) -> float:
    with open(f"{proc}/stat", encoding="utf-8") as file:
        return float(next(line.split()[1] for line in file if line.startswith("btime ")))


def declared_workers(folder: str = "/etc/prefect/worker") -> set[str]:
    """Return the names of the workers that this host is to run, as far as this user may see them."""
    try:
        return {
            f"{socket.gethostname()}-{name[: -len('.env')]}" for name in os.listdir(folder) if name.endswith(".env")
        }
    except OSError:
        return set()


def evidence(run: OpenRun, here: Workers, declared: Iterable[str], tenant: Tenant, limits: Thresholds) -> str | None:
    """Return why nothing runs the run any more, or None where nothing says so."""
    if run.worker and (run.worker in here or run.worker in declared):
        return _seen_here(run, here.get(run.worker))
    if run.worker_started_age is not None and run.worker_started_age < run.age - 1:
        return f"its worker {run.worker} started again {_age(run.worker_started_age)} ago, after it had taken the run"
    if run.ended_age is not None and run.ended_age >= _REPORT:
        return f"its worker {run.worker} reported {_age(run.ended_age)} ago that its process ended"
    silent = _silent_for(run, tenant, limits)
    # Nothing could be heard before the server began to listen.
    if silent is None or run.silence < silent or (run.server_age is not None and run.server_age < silent):
        return None
    if run.state_type == "PENDING" and run.pooled and not run.worker:
        return "the worker that took it has not begun it"
    if run.worker and run.worker_heartbeat_age is None:
        return f"its worker {run.worker} is not known any more"
    if run.worker and run.worker_heartbeat_age and run.worker_heartbeat_age >= 3 * (run.worker_interval or 30):
        return f"its worker {run.worker} was last heard from {_age(run.worker_heartbeat_age)} ago"
    if run.state_type != "PENDING" and run.heartbeat_age is not None:
        return f"its last heartbeat came {_age(run.heartbeat_age)} ago"
    return None


def _seen_here(run: OpenRun, worker: Worker | None) -> str | None:
    """Judge a run whose worker is this host's: what is alive here is alive, whatever the server heard."""
    if worker is None:
        return f"its worker {run.worker} does not run on this host"
    if run.pid and run.pid.isdigit() and int(run.pid) in worker.pids:
        return None
    since = time.time() - worker.started
    if since < run.age - 2:
        return f"its worker {run.worker} started again {_age(since)} ago, after it had taken the run"
    if run.pid and run.silence >= _REPORT:
        return f"its process {run.pid} is not on this host any more"
    return None


def _silent_for(run: OpenRun, tenant: Tenant, limits: Thresholds) -> float | None:
    """Return after how many seconds of silence a run counts as dead; runs that others started send fewer heartbeats."""
    limit = limits.silence_s.warning if limits.silence_s.warning is not None else limits.silence_s.critical
    ours = re.search(rf"-{re.escape(tenant.name)}-.+-\d+$", run.worker or "")
    beats = run.state_type != "PENDING" and not ours
    return max(limit, 3 * _DEFAULT_INTERVAL) if beats and limit is not None else limit


def dead_runs(ask: Callable[[Statement], list[tuple[Any, ...]]], limits: Thresholds, tenant: Tenant) -> Any:
    """Name the runs that nothing runs any more."""
    arguments: dict[str, str | Names | Value] = {
        **prefect_tables(tenant.schema),
        "most": Value(MOST_RUNS),
        "server": Value(tenant.server),
        "started": Value(WORKER_STARTED),
        "started_prefix": Value(WORKER_RESOURCE),
    }
    runs = [OpenRun(*row) for row in ask(Statement.named(_OPEN_RUNS, arguments))]
    here, declared = local_workers(), declared_workers()
    reasons: dict[str, str] = {}
    for run in runs:
        reason = evidence(run, here, declared, tenant, limits)
        if reason:
            reasons[run.id] = reason
    for run in runs:  # a subflow dies with its parent
        if run.parent in reasons and run.id not in reasons:
            reasons[run.id] = f"its parent run is dead: {reasons[run.parent]}"
    dead = [run for run in runs if run.id in reasons]
    problems = [_named(run, reasons[run.id], limits) for run in dead[:MOST_NAMED]]
    if len(dead) > MOST_NAMED:
        message = f"There are {len(dead) - MOST_NAMED} more dead runs of tenant {tenant.name}."
        remedy = "pgprefect health --json lists the ID of each."
        problems.append(Problem("runs_dead", f"tenant {tenant.name}", message, remedy, WARNING))
    details = {"open": len(runs), "dead": {run.id: reasons[run.id] for run in dead}}
    return problems, details


def _named(run: OpenRun, reason: str, limits: Thresholds) -> Problem:
    many = f"{run.waiting} runs wait" if run.waiting > 1 else "1 run waits"
    waiting = f" {many} for a slot that it may hold." if run.waiting else ""
    state = '{"state": {"type": "CRASHED", "name": "Crashed"}}'
    return Problem(
        code="run_dead",
        object=f"flow run {run.id}",
        message=f"The flow run {run.title} counts as {run.state} for {_age(run.age)}, but {reason}.{waiting}",
        remedy=f"End it, which frees its slots: prefect api POST /flow_runs/{run.id}/set_state --data '{state}'; "
        f"then, if it is still needed: prefect flow-run retry {run.id}",
        severity=limits.silence_s.severity(run.silence) or WARNING,
    )


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} minutes"
