"""Runs that have begun and not ended, and the evidence that nothing runs one of them any more.

They are judged by evidence, not by their age: what became of the worker that took them, of their process where it ran
on this host, of their container where it ran in one, and of the heartbeats that each run sends. Health names the dead
ones, and a recovery resolves them.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable

from ..core.containers import RunContainers, run_containers
from ..core.prefect import TERMINAL_STATES, WORKER_RESOURCE, WORKER_STARTED, prefect_tables
from ..core.sql import Names, Statement, Value
from ..core.units import worker_processes
from .configuration import Tenant

Ask = Callable[[Statement], list[tuple[Any, ...]]]

# No more are looked at.
MOST_RUNS = 2000
# Prefect's own interval of heartbeats, for runs that no worker of the site started.
_DEFAULT_INTERVAL = 180
# How long a run must be silent whose worker is heard: it would tell of the run's end, so that only events are missing.
_HEARD_SECONDS = 300
# A worker reports the end of a process, and then the run's state: time for the second, with its repetitions.
_REPORT = 75
# A subflow runs in the process of the run that called it, at whatever depth; a run of a deployment has its own. NOW and
# the times are those of Prefect's server, for a worker's clock may be wrong. After a start of the server the silence of
# the time before proves nothing, so the age of its oldest session is asked for: NULL where this login does not see it,
# 0 where it has none.
_OPEN_RUNS = """
WITH RECURSIVE open AS (
    SELECT id, state_id, name, flow_id, deployment_id, work_queue_id, state_type, state_name, state_timestamp, labels,
           infrastructure_pid, parent_task_run_id
    FROM {flow_run} WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
    ORDER BY state_timestamp LIMIT {most}
), callers AS (
    SELECT id AS run, id AS caller, deployment_id, parent_task_run_id, 0 AS depth FROM open
    UNION ALL
    SELECT c.run, p.id, p.deployment_id, p.parent_task_run_id, c.depth + 1
    FROM callers c JOIN {task_run} t ON t.id = c.parent_task_run_id JOIN {flow_run} p ON p.id = t.flow_run_id
    WHERE c.deployment_id IS NULL AND c.depth < 20
), root AS (
    SELECT DISTINCT ON (run) run, caller FROM callers ORDER BY run, depth DESC
), server AS (
    SELECT CASE WHEN {server} = '' OR count(*) > count(backend_start) THEN NULL
                ELSE coalesce(extract(epoch FROM now() - min(backend_start)), 0) END::float8 AS age
    FROM pg_stat_activity WHERE datname = current_database() AND usename = {server}
), heard AS (
    SELECT extract(epoch FROM NOW - max(received))::float8 AS age FROM {events}
    WHERE occurred > NOW - interval '10 minutes'
)
SELECT r.id::text, r.state_id::text, r.name, f.name, d.name, r.state_type::text, r.state_name,
       coalesce(r.infrastructure_pid, p.infrastructure_pid), w.name, c.caller::text, q.state_type::text,
       extract(epoch FROM NOW - r.state_timestamp)::float8,
       (SELECT extract(epoch FROM NOW - max(received))::float8 FROM {events}
        WHERE event = 'prefect.flow-run.heartbeat' AND resource_id = 'prefect.flow-run.' || r.id),
       (SELECT extract(epoch FROM NOW - created)::float8 FROM {log} WHERE flow_run_id = r.id
        ORDER BY timestamp DESC LIMIT 1),
       (SELECT extract(epoch FROM NOW - max(e.received))::float8
        FROM {event_resources} x JOIN {events} e ON e.id = x.event_id
        WHERE x.resource_id = 'prefect.flow-run.' || r.id AND e.received > r.state_timestamp
          AND e.event = 'prefect.worker.executed-flow-run'),
       (SELECT extract(epoch FROM NOW - max(received))::float8 FROM {events}
        WHERE event = {started} AND resource_id = {started_prefix} || w.name),
       extract(epoch FROM NOW - w.heard)::float8, w.interval,
       (SELECT count(*) FROM {flow_run} o
        WHERE o.state_type = 'SCHEDULED' AND o.state_name = 'AwaitingConcurrencySlot'
          AND (o.deployment_id = r.deployment_id OR o.work_queue_id = r.work_queue_id)),
       g.type, server.age, heard.age
FROM open r CROSS JOIN server CROSS JOIN heard JOIN root ON root.run = r.id JOIN {flow_run} p ON p.id = root.caller
JOIN {flow} f ON f.id = r.flow_id LEFT JOIN {deployment} d ON d.id = r.deployment_id
LEFT JOIN {work_queue} h ON h.id = p.work_queue_id LEFT JOIN {work_pool} g ON g.id = h.work_pool_id
LEFT JOIN callers c ON c.run = r.id AND c.depth = 1 LEFT JOIN {flow_run} q ON q.id = c.caller
LEFT JOIN LATERAL (
    SELECT n.name, max(k.last_heartbeat_time) AS heard, max(k.heartbeat_interval_seconds) AS interval
    FROM (SELECT coalesce(r.labels->>'prefect.worker.name', p.labels->>'prefect.worker.name') AS name) n
    LEFT JOIN {worker} k ON k.name = n.name GROUP BY n.name
) w ON true
ORDER BY r.state_timestamp
""".replace("NOW", "(now() + {skew} * interval '1 second')")


@dataclass(frozen=True)
class OpenRun:
    """A run that is not scheduled any more and has not ended; ages are in seconds, None where there is nothing."""

    id: str
    state_id: str | None
    name: str
    flow: str
    deployment: str | None
    state_type: str
    state: str
    pid: str | None
    worker: str | None
    parent: str | None  # the run that called it as a function, and its state
    parent_state: str | None
    age: float
    heartbeat_age: float | None
    log_age: float | None
    ended_age: float | None  # since its worker reported that its process ended
    worker_started_age: float | None
    worker_heartbeat_age: float | None
    worker_interval: float | None
    waiting: int  # runs that wait for a concurrency slot of its deployment or queue
    pool_type: str | None
    server_age: float | None  # of its oldest session
    heard_age: float | None  # since the server recorded an event of anything

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


@dataclass(frozen=True)
class Evidence:
    """Why a run is dead. Silence may also have been a network's or a server's: it proves something when it lasts."""

    reason: str
    silence: bool


def local_workers(proc: str = "/proc") -> Workers:
    """Return the workers whose units run on this host, by the names that Prefect knows them by."""
    found: dict[str, tuple[set[int], float]] = {}
    host = socket.gethostname()
    booted = _boot_time(proc)
    for pid, instance in worker_processes(proc):
        try:
            with open(f"{proc}/{pid}/stat", encoding="utf-8") as file:
                ticks = int(file.read().rpartition(")")[2].split()[19])
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
        name = f"{host}-{instance}"
        pids, started = found.get(name, (set(), time.time()))
        found[name] = (pids | {pid}, min(started, booted + ticks / os.sysconf("SC_CLK_TCK")))
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


def evidence(
    run: OpenRun,
    here: Workers,
    declared: Iterable[str],
    tenant: Tenant,
    limit: float | None,
    containers: RunContainers | None = None,
) -> Evidence | None:
    """Return why nothing runs the run any more, or None where nothing says so.

    ``limit`` is how many seconds of silence prove something; None, and no silence does. ``containers`` are those of
    this host, if its engine could be asked.
    """
    if run.pool_type == "kubernetes" and _is_ours(run, tenant):
        return None  # the cluster knows it, which the pool's workers watch, and ask when they start
    if run.pool_type == "docker" and run.worker:
        return _in_container(run, here, declared, tenant, limit, containers)
    by_itself = run.pool_type not in (None, "process") and run.state_type != "PENDING"  # as in a container
    if not by_itself and run.worker and (run.worker in here or run.worker in declared):
        # What is alive here is alive, whatever the server heard.
        seen = _seen_here(run, here.get(run.worker))
        return Evidence(seen, silence=False) if seen else None
    told = None if by_itself else _told(run)
    if told:
        return Evidence(told, silence=False)
    silent = _silent(replace(run, worker=None) if by_itself else run, tenant, limit)
    return Evidence(silent, silence=True) if silent else None


def _in_container(
    run: OpenRun,
    here: Workers,
    declared: Iterable[str],
    tenant: Tenant,
    limit: float | None,
    containers: RunContainers | None,
) -> Evidence | None:
    """Judge a run in a container, which outlives its worker; a worker of the site watches it again when it starts."""
    container = containers.get(run.id) if containers is not None else None
    if container and container.alive:
        return None
    worker = run.worker or ""
    local = worker in here or worker in declared
    if local and containers is not None and (container or not run.parent):
        if run.state_type == "PENDING" and container is None:  # it is still to be made
            seen = _seen_here(replace(run, pid=None), here.get(worker))
            return Evidence(seen, silence=False) if seen else None
        if run.silence < _REPORT:  # its worker may be about to report it
            return None
        ended = f"has ended ({container.status})" if container else "is not on this host any more"
        return Evidence(f"its container {ended}", silence=False)
    if _is_heard(run) and not run.parent and _is_ours(run, tenant):
        return None
    silent = _silent(run if run.state_type == "PENDING" else replace(run, worker=None), tenant, limit)
    return Evidence(silent, silence=True) if silent else None


def _told(run: OpenRun) -> str | None:
    """Return what the run's worker has told of its end."""
    if run.worker_started_age is not None and run.worker_started_age < run.age - 1:
        since = age_in_words(run.worker_started_age)
        return f"its worker {run.worker} started again {since} ago, after it had taken the run"
    if run.ended_age is not None and run.ended_age >= _REPORT:
        return f"its worker {run.worker} reported {age_in_words(run.ended_age)} ago that its process ended"
    return None


def _silent(run: OpenRun, tenant: Tenant, limit: float | None) -> str | None:
    """Return what the silence about a run proves, if it has lasted long enough."""
    silent = _silent_for(run, tenant, limit)
    # Nothing could be heard before the server began to listen.
    if silent is None or run.silence < silent or (run.server_age is not None and run.server_age < silent):
        return None
    if run.state_type == "PENDING" and run.pool_type and not run.worker:
        return "the worker that took it has not begun it"
    if run.worker and run.worker_heartbeat_age is None:
        return f"its worker {run.worker} is not known any more"
    if run.worker and run.worker_heartbeat_age and not _is_heard(run):
        return f"its worker {run.worker} was last heard from {age_in_words(run.worker_heartbeat_age)} ago"
    if run.parent_state in TERMINAL_STATES:
        return "the run that called it has ended"
    would_be_told = _is_heard(run) and run.silence < _HEARD_SECONDS
    if run.state_type != "PENDING" and run.heartbeat_age is not None and not would_be_told:
        return f"its last heartbeat came {age_in_words(run.heartbeat_age)} ago"
    return None


def _seen_here(run: OpenRun, worker: Worker | None) -> str | None:
    """Judge a run whose worker is this host's."""
    if worker is None:
        return f"its worker {run.worker} does not run on this host"
    if run.pid and run.pid.isdigit() and int(run.pid) in worker.pids:
        return None
    since = time.time() - worker.started
    if since < run.age - 2:
        return f"its worker {run.worker} started again {age_in_words(since)} ago, after it had taken the run"
    if run.pid and run.silence >= _REPORT:
        return f"its process {run.pid} is not on this host any more"
    return None


def _is_ours(run: OpenRun, tenant: Tenant) -> bool:
    return re.search(rf"-{re.escape(tenant.name)}-.+-\d+$", run.worker or "") is not None


def _is_heard(run: OpenRun) -> bool:
    """Return whether its worker is heard, which asks the API, and so also while events are not passed on."""
    return run.worker_heartbeat_age is not None and run.worker_heartbeat_age < 3 * (run.worker_interval or 30)


def _silent_for(run: OpenRun, tenant: Tenant, limit: float | None) -> float | None:
    """Return after how many seconds of silence a run counts as dead; runs that others started send fewer heartbeats."""
    beats = run.state_type != "PENDING" and not _is_ours(run, tenant)
    return max(limit, 3 * _DEFAULT_INTERVAL) if beats and limit is not None else limit


def find_open_runs(ask: Ask, tenant: Tenant, skew: float = 0) -> list[OpenRun]:
    """Return the tenant's open runs, the oldest first, at most MOST_RUNS; ``ask`` puts a statement to the database.

    ``skew`` is by how many seconds the clock of Prefect's server is ahead of the database's.
    """
    arguments: dict[str, str | Names | Value] = {
        **prefect_tables(tenant.schema),
        "most": Value(MOST_RUNS),
        "skew": Value(skew),
        "server": Value(tenant.server),
        "started": Value(WORKER_STARTED),
        "started_prefix": Value(WORKER_RESOURCE),
    }
    return [OpenRun(*row) for row in ask(Statement.named(_OPEN_RUNS, arguments))]


def find_dead_runs(runs: Sequence[OpenRun], tenant: Tenant, limit: float | None) -> dict[str, Evidence]:
    """Return why each of the runs is dead that is, by its ID.

    A subflow shares the process of the run that called it: both live, or both are dead.
    """
    here, declared = local_workers(), declared_workers()
    containers = _containers_of(runs)
    found = {run.id: known for run in runs if (known := evidence(run, here, declared, tenant, limit, containers))}
    by_id = {run.id: run for run in runs}
    for run in runs:
        caller = by_id.get(run.parent or "")
        while run.id not in found and caller and caller.id in found and found[caller.id].silence:
            del found[caller.id]
            caller = by_id.get(caller.parent or "")
    for run in runs:  # the oldest first, so that what is found for a run goes down to the last of its subflows
        if run.parent in found and run.id not in found:
            parent = found[run.parent]
            found[run.id] = Evidence(f"its parent run is dead: {parent.reason}", parent.silence)
    return found


def _containers_of(runs: Sequence[OpenRun]) -> RunContainers | None:
    """Return this host's containers by run, a subflow's being that of the run that called it; None if unknown."""
    asked = run_containers() if any(run.pool_type == "docker" for run in runs) else None
    if asked is None:
        return None
    found = dict(asked)
    for run in runs:  # the oldest first: a run comes before its subflows
        if run.parent in found and run.id not in found:
            found[run.id] = found[run.parent]
    return found


def age_in_words(seconds: float) -> str:
    """Return an age for a message."""
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} minutes"
