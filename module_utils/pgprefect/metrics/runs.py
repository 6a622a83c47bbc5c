"""Metrics of one Prefect server, from its tables: runs, durations, queues, limits, workers and services."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..core.prefect import TERMINAL_STATES_SQL, prefect_tables
from ..core.sql import Statement, Value
from ..health import probes
from ..health.dead_runs import dead_runs
from ..health.outbox import database_events
from ..health.probes import Ask, Finding
from ..health.thresholds import Thresholds
from ..runs.statistics import STATES
from ..site.configuration import Tenant
from .exposition import COUNTER, HISTOGRAM, Metric, Number, Sample

WINDOW_HOURS = 1
# A flow or deployment more is a time series for each state and bucket; the rest are counted together.
MOST_DEPLOYMENTS = 50
MOST_LIMITS = 50
REST = "other"
BUCKETS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)

SCHEMA_INFO = Metric("pgprefect_schema_info", "Revision of the tables of a Prefect server.")
RUNS = Metric("pgprefect_flow_runs", "Flow runs that are in the database, by the type of their state.")
OPEN = Metric("pgprefect_flow_runs_open", "Flow runs that have begun, or been taken by a worker, and have not ended.")
ENDED = Metric("pgprefect_flow_runs_ended", f"Flow runs that ended within the last {WINDOW_HOURS} h.")
DEPLOYMENT_INFO = Metric("pgprefect_deployment_info", "Identifier of a deployment whose flow runs are counted by name.")
DURATION = Metric(
    "pgprefect_flow_run_duration_seconds",
    f"Seconds from start to end of the flow runs that ended within the last {WINDOW_HOURS} h; no counter, so without "
    "rate().",
    HISTOGRAM,
)
DUE = Metric("pgprefect_flow_runs_due", "Flow runs that are due, have not begun, and are held back by no pause.")
DUE_OLDEST = Metric("pgprefect_flow_runs_due_oldest_seconds", "Seconds since the longest due of them was due.")
OLDEST = Metric(
    "pgprefect_flow_runs_oldest_seconds", "Seconds for which the oldest flow run in a state has been in it."
)
DEAD = Metric("pgprefect_flow_runs_dead", "Flow runs that count as under way although nothing runs them any more.")
QUEUE_DUE = Metric("pgprefect_work_queue_runs_due", "Flow runs of a work queue that are due and have not begun.")
QUEUE_OLDEST = Metric("pgprefect_work_queue_due_oldest_seconds", "Seconds since the longest due of them was due.")
QUEUE_USED = Metric("pgprefect_work_queue_slots_used", "Flow runs of a work queue that are under way.")
QUEUE_SLOTS = Metric("pgprefect_work_queue_slots", "Flow runs of a work queue that may be under way, where limited.")
QUEUE_PAUSED = Metric("pgprefect_work_queue_paused", "1 where the work queue is paused.")
POOL_USED = Metric("pgprefect_work_pool_slots_used", "Flow runs of a work pool that are under way.")
POOL_SLOTS = Metric("pgprefect_work_pool_slots", "Flow runs of a work pool that may be under way, where limited.")
POOL_PAUSED = Metric("pgprefect_work_pool_paused", "1 where the work pool is paused.")
LIMIT_USED = Metric("pgprefect_concurrency_limit_slots_used", "Slots of an active concurrency limit that are taken.")
LIMIT_SLOTS = Metric("pgprefect_concurrency_limit_slots", "Slots of an active concurrency limit.")
WORKERS_ONLINE = Metric("pgprefect_workers_online", "Workers of a work pool that were heard from lately.")
WORKERS_DECLARED = Metric("pgprefect_workers_declared", "Workers of a work pool that the site declares.")
HEARTBEAT = Metric("pgprefect_worker_heartbeat_age_seconds", "Seconds since any worker of a work pool was heard from.")
EVENTS_LAG = Metric("pgprefect_events_lag_seconds", "Seconds by which stored events lag behind the flow runs.")
SCHEDULER_LAG = Metric(
    "pgprefect_scheduler_lag_seconds", "Seconds for which an active schedule has had no planned run."
)
OUTBOX_WAITING = Metric("pgprefect_outbox_waiting", "Rows of an outbox of database events that wait to be sent.")
OUTBOX_LAG = Metric("pgprefect_outbox_lag_seconds", "Seconds for which the oldest of them has waited since it was due.")
OUTBOX_DEAD = Metric("pgprefect_outbox_dead_letters", "Rows of an outbox that the relay gave up.")
OUTBOX_REFUSED = Metric("pgprefect_outbox_refused_total", "Changes of rows that a full outbox refused.", COUNTER)
OUTBOX_FAILED = Metric("pgprefect_outbox_failed_total", "Changes of rows at which a trigger failed.", COUNTER)

Question = Callable[[Ask], Iterator[Sample]]
Probe = Callable[[Ask, Thresholds, Tenant], Finding]


def questions(tenant: Tenant, limits: Thresholds) -> dict[str, Question]:
    """Return the questions about a tenant by their names, each of one round trip; ``limits`` are health's."""
    # Those that take longest stand last: they have what the others left of the time.
    return {
        "revision": partial(_probed, probes.prefect_schema, _revision, tenant, limits),
        "runs": partial(_probed, probes.runs, _ages, tenant, limits),
        "work_pools": partial(_probed, probes.work_pools, _work_pools, tenant, limits),
        "workers": partial(_probed, probes.workers, _workers, tenant, limits),
        "services": partial(_probed, probes.services, _services, tenant, limits),
        "concurrency": partial(concurrency_limits, tenant=tenant),
        "dead_runs": partial(_probed, dead_runs, _dead, tenant, limits),
        "deployments": partial(deployments, tenant=tenant),
        "states": partial(states, tenant=tenant),
        **({"outbox": partial(_probed, database_events, _outbox, tenant, limits)} if tenant.relay else {}),
    }


def _probed(
    probe: Probe,
    samples: Callable[[Mapping[str, Any], str], Iterator[Sample]],
    tenant: Tenant,
    limits: Thresholds,
    ask: Ask,
) -> Iterator[Sample]:
    """Return what health asks as samples."""
    _problems, details = probe(ask, limits, tenant)
    return samples(details, tenant.name)


# The index on state_type has all that this needs.
_STATES = "SELECT state_type::text, count(*) FROM {flow_run} GROUP BY state_type"


def states(ask: Ask, tenant: Tenant) -> Iterator[Sample]:
    """Count all runs by state; a state without runs has 0."""
    counted = dict.fromkeys(STATES, 0)
    counted.update({state or "NONE": count for state, count in ask(_in(tenant, _STATES))})
    for state, count in counted.items():
        yield from RUNS(count, tenant=tenant.name, state=state)


# Each half has an index of Prefect's. The flows and deployments with the most runs keep their names.
_DEPLOYMENTS = f"""
SELECT CASE WHEN place <= {{most}} THEN f.name ELSE {{rest}} END,
       CASE WHEN place <= {{most}} THEN coalesce(d.name, c.deployment_id::text, '') ELSE {{rest}} END,
       c.state_type::text, bool_and(c.ended), sum(c.runs)::int8, sum(c.timed)::int8,
       coalesce(sum(c.seconds), 0)::float8,
       ARRAY[{", ".join(f"sum(b{limit})::int8" for limit in BUCKETS)}],
       min(c.deployment_id::text) FILTER (WHERE place <= {{most}})
FROM (SELECT *, dense_rank() OVER (ORDER BY whole DESC, flow_id, deployment_id) AS place
      FROM (SELECT flow_id, deployment_id, state_type, ended, count(*) AS runs, count(seconds) AS timed,
                   sum(seconds) AS seconds, sum(count(*)) OVER (PARTITION BY flow_id, deployment_id) AS whole,
                   {", ".join(f"count(*) FILTER (WHERE seconds <= {limit}) AS b{limit}" for limit in BUCKETS)}
            FROM (SELECT flow_id, deployment_id, state_type, false AS ended, NULL::float8 AS seconds
                  FROM {{flow_run}} WHERE state_type IN ('PENDING', 'RUNNING', 'PAUSED', 'CANCELLING')
                  UNION ALL
                  SELECT flow_id, deployment_id, state_type, true, extract(epoch FROM end_time - start_time)::float8
                  FROM {{flow_run}}
                  WHERE end_time > now() - interval '{WINDOW_HOURS} h' AND end_time <= now()
                    AND state_type IN {TERMINAL_STATES_SQL}) runs
            GROUP BY flow_id, deployment_id, state_type, ended) counted) c
LEFT JOIN {{flow}} f ON f.id = c.flow_id LEFT JOIN {{deployment}} d ON d.id = c.deployment_id
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def deployments(ask: Ask, tenant: Tenant, most: int = MOST_DEPLOYMENTS) -> Iterator[Sample]:
    """Count the runs that are under way or ended lately by flow and deployment, and time those that ended.

    The deployments with the most runs have names, ``most`` of them; the others are one. Runs without a deployment count
    as those of one more.
    """
    times: dict[tuple[str, str], list[Number]] = defaultdict(lambda: [0] * (2 + len(BUCKETS)))
    rows = ask(_in(tenant, _DEPLOYMENTS, most=Value(most), rest=Value(REST)))
    identifiers: dict[tuple[str, str], str | None] = {}
    for flow, deployment, state, ended, count, timed, seconds, below, identifier in rows:
        labels = {"tenant": tenant.name, "flow": flow, "deployment": deployment}
        identifiers[flow, deployment] = identifier
        yield from (ENDED if ended else OPEN)(count, **labels, state=state)
        before = times[flow, deployment]
        times[flow, deployment] = [one + more for one, more in zip(before, (timed, seconds, *below))]
    for (flow, deployment), identifier in identifiers.items():
        if identifier:
            yield from DEPLOYMENT_INFO(1, tenant=tenant.name, flow=flow, deployment=deployment, id=identifier)
    for (flow, deployment), (timed, seconds, *below) in times.items():
        if timed:
            labels = {"tenant": tenant.name, "flow": flow, "deployment": deployment}
            yield from DURATION.buckets(BUCKETS, below, timed, seconds, **labels)


_LIMITS = """
SELECT CASE WHEN place <= {most} THEN name ELSE {rest} END, sum(active_slots)::int8, sum("limit")::int8
FROM (SELECT coalesce('deployment:' || f.name || '/' || d.name, l.name) AS name, active_slots, "limit",
             row_number() OVER (ORDER BY active_slots DESC, l.name) AS place
      FROM {concurrency_limit_v2} l LEFT JOIN {deployment} d ON d.concurrency_limit_id = l.id
      LEFT JOIN {flow} f ON f.id = d.flow_id
      WHERE l.active) limits
GROUP BY 1 ORDER BY 1
"""


def concurrency_limits(ask: Ask, tenant: Tenant, most: int = MOST_LIMITS) -> Iterator[Sample]:
    """Count the slots of Prefect's concurrency limits: global ones, and those of tags and deployments."""
    for name, used, slots in ask(_in(tenant, _LIMITS, most=Value(most), rest=Value(REST))):
        yield from LIMIT_USED(used, tenant=tenant.name, limit=name)
        yield from LIMIT_SLOTS(slots, tenant=tenant.name, limit=name)


def _in(tenant: Tenant, template: str, **values: Value) -> Statement:
    return Statement.named(template, {**prefect_tables(tenant.schema), **values})


def _revision(details: Mapping[str, Any], tenant: str) -> Iterator[Sample]:
    yield from SCHEMA_INFO(1, tenant=tenant, revision=details["revision"])


def _ages(details: Mapping[str, Any], tenant: str) -> Iterator[Sample]:
    for state, found in details.items():
        oldest = found["oldest_s"] or 0
        if state == "due":
            yield from (*DUE(found["runs"], tenant=tenant), *DUE_OLDEST(oldest, tenant=tenant))
        else:
            yield from OLDEST(oldest, tenant=tenant, state=state.upper())


def _work_pools(details: Mapping[str, Any], tenant: str) -> Iterator[Sample]:
    for pool, found in details["pools"].items():
        of_pool = {"tenant": tenant, "pool": pool}
        yield from POOL_USED(found["active"], **of_pool)
        yield from POOL_SLOTS(found["limit"], **of_pool)
        yield from POOL_PAUSED(found["paused"], **of_pool)
        for queue, state in found["queues"].items():
            of_queue = {**of_pool, "queue": queue}
            yield from QUEUE_DUE(state["due"], **of_queue)
            yield from QUEUE_OLDEST(state["oldest_s"] or 0, **of_queue)
            yield from QUEUE_USED(state["active"], **of_queue)
            yield from QUEUE_SLOTS(state["limit"], **of_queue)
            yield from QUEUE_PAUSED(state["paused"], **of_queue)


def _workers(details: Mapping[str, Any], tenant: str) -> Iterator[Sample]:
    for pool, found in details["pools"].items():
        yield from WORKERS_ONLINE(found["online"], tenant=tenant, pool=pool)
        yield from WORKERS_DECLARED(found["expected"], tenant=tenant, pool=pool)
        yield from HEARTBEAT(found["heartbeat_s"], tenant=tenant, pool=pool)


def _services(details: Mapping[str, Any], tenant: str) -> Iterator[Sample]:
    yield from EVENTS_LAG(details["events_lag_s"], tenant=tenant)
    yield from SCHEDULER_LAG(details["scheduler_lag_s"], tenant=tenant)


def _dead(details: Mapping[str, Any], tenant: str) -> Iterator[Sample]:
    yield from DEAD(len(details["dead"]), tenant=tenant)


def _outbox(details: Mapping[str, Any], tenant: str) -> Iterator[Sample]:
    for metric, name in (
        (OUTBOX_WAITING, "waiting"),
        (OUTBOX_LAG, "lag_s"),
        (OUTBOX_DEAD, "dead"),
        (OUTBOX_REFUSED, "refused"),
        (OUTBOX_FAILED, "failed"),
    ):
        yield from metric(details[name], tenant=tenant)
