"""The questions that health asks, and how it judges the answers. Each question is one statement.

None of them reads a relation's file or waits for a lock longer than the caller's timeout.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

from ..core.errors import ProblemError
from ..core.jobs import Job, RecordBroken, last
from ..core.prefect import SIGNATURE, prefect_tables
from ..core.problems import ERROR, NOTICE, WARNING, Problem
from ..core.sql import Names, Statement, Value, quote
from ..site.configuration import Tenant
from .dead_runs import dead_runs
from .thresholds import Limit, Thresholds

Finding = tuple[list[Problem], dict[str, Any]]
Ask = Callable[[Statement], list[tuple[Any, ...]]]

VERIFY = "Run playbooks/verify.yml, which says what to do about each difference."


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def app_database(ask: Ask) -> Finding:
    """Check that the database answers."""
    template = "SELECT current_setting('server_version'), pg_database_size(current_database()), pg_is_in_recovery()"
    version, size, standby = ask(Statement(template))[0]
    return [], {"server_version": version, "size_bytes": size, "standby": standby}


_SEPARATION = """
WITH declared AS (SELECT unnest({}::text[])::name AS nspname)
SELECT ARRAY(SELECT nspname::text FROM declared WHERE nspname NOT IN (SELECT nspname FROM pg_namespace)),
       (SELECT array_agg(relname::text) FROM pg_class WHERE relnamespace = to_regnamespace('public')) @> {}::text[],
       ARRAY(SELECT nspname || ' ' || privilege_type
             FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
             WHERE grantee = 0
               AND (nspname IN (SELECT nspname FROM declared) OR nspname = 'public' AND privilege_type = 'CREATE')
             ORDER BY 1)
"""


def separation(ask: Ask, schemas: list[str]) -> Finding:
    """Check that the schemas exist and that PUBLIC has no right on them."""
    missing, strays, public = ask(Statement(_SEPARATION, (Value(schemas), Value(list(SIGNATURE)))))[0]
    problems = [
        Problem("schema_missing", f"schema {schema}", f"The schema {schema} does not exist.", VERIFY)
        for schema in missing
    ]
    if strays:
        message = "Prefect's tables are in the schema public, among the application's."
        problems.append(Problem("prefect_in_public", "schema public", message, VERIFY))
    if public:
        message = f"PUBLIC has rights that break the separation of the schemas: {', '.join(public)}."
        problems.append(Problem("right_excess", "schemas", message, VERIFY))
    return problems, {}


# A login without pg_monitor sees whose each session is, but not its kind. This check's own sessions do not count.
_CONNECTIONS = """
WITH sessions AS (
    SELECT usename, datname FROM pg_stat_activity
    WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
      AND (usename <> current_user OR application_name <> current_setting('application_name'))
), limits AS (
    SELECT 'server' AS object, current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true), '0')::int AS allowed,
           (SELECT count(*) FROM sessions) AS used
    UNION ALL SELECT 'database ' || datname, datconnlimit, (SELECT count(*) FROM sessions s WHERE s.datname = d.datname)
    FROM pg_database d WHERE datname = current_database()
    UNION ALL SELECT 'role ' || rolname, rolconnlimit, (SELECT count(*) FROM sessions WHERE usename = rolname)
    FROM pg_roles WHERE NOT rolsuper AND rolcanlogin
)
SELECT object, used, allowed FROM limits WHERE allowed > 0 ORDER BY object DESC
"""


def connections(ask: Ask, limits: Thresholds) -> Finding:
    """Compare connections in use with the limits of the server, the database and the roles."""
    problems, details = [], {}
    for name, used, allowed in ask(Statement(_CONNECTIONS)):
        details[name] = {"used": used, "allowed": allowed}
        severity = limits.connections_percent.severity(100 * used / allowed)
        if severity:
            message = f"{used} of {allowed} connections that the {name} allows are in use."
            remedy = (
                "See who has them: SELECT usename, application_name, state, count(*) FROM pg_stat_activity "
                "GROUP BY 1, 2, 3; then close idle ones, make the clients' pools smaller, or raise the limit."
            )
            problems.append(Problem("connections_near_limit", name, message, remedy, severity))
    return problems, {"limits": details}


_TRANSACTIONS = """
SELECT pg_has_role('pg_read_all_stats', 'USAGE'), pid, usename, application_name, state LIKE 'idle in%',
       extract(epoch FROM clock_timestamp() - xact_start)::float8,
       CASE WHEN state LIKE 'idle in%' THEN extract(epoch FROM clock_timestamp() - state_change)::float8 END
FROM pg_stat_activity
WHERE datname = current_database() AND xact_start IS NOT NULL
  AND (usename <> current_user OR application_name <> current_setting('application_name'))
  AND backend_type = 'client backend'
UNION ALL SELECT pg_has_role('pg_read_all_stats', 'USAGE'), NULL, NULL, NULL, NULL, NULL, NULL
"""


def transactions(ask: Ask, limits: Thresholds) -> Finding:
    """Check the oldest transaction, and those that are idle."""
    *rows, (sees_all, *_rest) = ask(Statement(_TRANSACTIONS))

    def longest(code: str, column: int, limit: Limit, words: str) -> Iterator[Problem]:
        worst = max((row for row in rows if row[column] is not None), key=lambda row: row[column], default=None)
        severity = limit.severity(worst[column]) if worst else None
        if worst and severity:
            _, pid, user, application, *_ages = worst
            who = f"{pid} of {user} ({application or 'no application name'})"
            message = f"The session {who} {words} for {worst[column]:.0f} s."
            remedy = f"Where nobody needs it: SELECT pg_terminate_backend({pid});"
            yield Problem(code, f"session {pid}", message, remedy, severity)

    problems = [
        *longest("transaction_old", 5, limits.transaction_s, "has a transaction open"),
        *longest("idle_in_transaction", 6, limits.idle_in_transaction_s, "is idle within a transaction"),
    ]
    details = {
        "open": len(rows),
        "oldest_s": max((row[5] for row in rows), default=0.0),
        "idle_s": max((row[6] or 0.0 for row in rows), default=0.0),
    }
    if not sees_all:
        problems.append(_unseen("sessions of other roles", "pg_monitor"))
    return problems, details


def _unseen(what: str, right: str) -> Problem:
    message = f"This login cannot see {what}."
    return Problem("not_visible", what, message, f"Ask as a role that is a member of {right}.", NOTICE)


_LOCKS = """
SELECT l.pid, extract(epoch FROM clock_timestamp() - l.waitstart)::float8, pg_blocking_pids(l.pid),
       l.mode, coalesce(quote_ident(n.nspname) || '.' || quote_ident(c.relname), l.locktype)
FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation AND l.database <> 0
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT l.granted AND l.pid IN (
    SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND (usename <> current_user OR application_name <> current_setting('application_name')))
ORDER BY 2 DESC NULLS LAST
"""


def locks(ask: Ask, limits: Thresholds) -> Finding:
    """Check how long sessions have waited for locks."""
    rows = ask(Statement(_LOCKS))
    problems = []
    if rows:
        pid, age, blockers, mode, what = rows[0]
        severity = limits.lock_wait_s.severity(age)
        if severity:
            others = ", ".join(map(str, blockers)) or "no session any more"
            message = (
                f"{_many(len(rows), 'session')} wait for locks; {pid} has waited {age:.0f} s for {mode} on {what}, "
                f"blocked by {others}."
            )
            remedy = (
                f"See what holds it: SELECT pid, usename, state, query FROM pg_stat_activity WHERE pid IN ({others}); "
                "a migration ends by itself; end an idle session with pg_terminate_backend."
            )
            problems.append(Problem("lock_wait", what, message, remedy, severity))
    return problems, {"waiting": len(rows), "longest_s": rows[0][1] if rows else 0.0}


# No pg_relation_size: it would wait for a table's lock. The estimates are as old as the last vacuum or analyze.
_STORAGE = """
SELECT (SELECT max(greatest(age(datfrozenxid), mxid_age(datminmxid))) FROM pg_database),
       (SELECT datname FROM pg_database ORDER BY greatest(age(datfrozenxid), mxid_age(datminmxid)) DESC LIMIT 1),
       (SELECT json_object_agg(nspname, sizes) FROM (
            SELECT nspname, json_build_object('bytes', sum((c.relpages + coalesce(t.relpages, 0)
                       + (SELECT coalesce(sum(x.relpages), 0) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                          WHERE i.indrelid IN (c.oid, t.oid)))::int8 * current_setting('block_size')::int8),
                   'live', sum(s.n_live_tup), 'dead', sum(s.n_dead_tup)) AS sizes
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
            LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
            WHERE c.relkind IN ('r', 'm') AND nspname = ANY ({schemas}::text[]) GROUP BY nspname) per_schema),
       (SELECT json_agg(json_build_array(schemaname, relname, n_live_tup, n_dead_tup) ORDER BY n_dead_tup DESC)
        FROM pg_stat_all_tables WHERE schemaname = ANY ({schemas}::text[]) AND n_dead_tup >= 10000)
"""


def storage(ask: Ask, limits: Thresholds, schemas: list[str]) -> Finding:
    """Check the age of transaction IDs, and dead rows."""
    template = _STORAGE.replace("{schemas}", "{}")
    age, oldest, sizes, tables = ask(Statement(template, (Value(schemas),) * 2))[0]
    problems = []
    severity = limits.xid_age.severity(age)
    if severity:
        message = f"The oldest transaction ID, in the database {oldest}, has an age of {age:,}."
        remedy = (
            f"End old transactions, prepared transactions and replication slots, then in {oldest}: VACUUM (FREEZE);"
        )
        problems.append(Problem("xid_age_high", f"database {oldest}", message, remedy, severity))
    for schema, table, live, dead in tables or []:
        percent = 100 * dead / (live + dead)
        severity = limits.dead_percent.severity(percent)
        if severity:
            name = quote((schema, table))
            message = f"{percent:.0f} % of the rows of {name} are dead ({dead:,})."
            remedy = f"VACUUM ANALYZE {name}; and see whether an old transaction blocks autovacuum."
            problems.append(Problem("dead_rows", f"table {name}", message, remedy, severity))
    return problems, {"xid_age": age, "schemas": sizes or {}}


def disk(limits: Thresholds, paths: Iterable[str]) -> Finding:
    """Check this host's file systems."""
    problems, details = [], {}
    for path in paths:
        try:
            found = os.statvfs(path)
        except OSError as error:
            message = f"The file system of {path} cannot be read: {error.strerror}."
            remedy = "Correct the path, or leave it out where the database is on another host."
            problems.append(Problem("disk_not_visible", path, message, remedy, WARNING))
            continue
        usable = found.f_blocks - found.f_bfree + found.f_bavail
        percent = 100 - 100 * found.f_bavail / usable if usable else 0.0
        free = found.f_bavail * found.f_frsize
        details[path] = {"used_percent": round(percent, 1), "free_bytes": free}
        severity = limits.disk_used_percent.severity(percent)
        if severity:
            message = f"The file system of {path} is {percent:.0f} % full; {free / 2**30:.1f} GiB are free."
            remedy = "Remove old dumps and logs, run the cleanup, or enlarge it. Never delete files of pg_wal by hand."
            problems.append(Problem("disk_nearly_full", path, message, remedy, severity))
    return problems, {"paths": details}


def data_disk(ask: Ask, limits: Thresholds) -> Finding:
    """Check the file system of the data directory, which is on this host if the login is over the unix socket."""
    return disk(limits, [ask(Statement("SELECT current_setting('data_directory')"))[0][0]])


class SchemaDead(ProblemError):
    """The schema has no tables of Prefect, so no further check makes sense."""


def prefect_schema(ask: Ask, _limits: Thresholds, tenant: Tenant) -> Finding:
    """Check that the schema holds Prefect. Raises SchemaDead."""
    table = quote((tenant.schema, "alembic_version"))
    if ask(Statement("SELECT to_regclass({})", (Value(table),))) == [(None,)]:
        message = f"The schema {tenant.schema} does not hold Prefect: there is no {table}."
        remedy = f"systemctl start prefect-migrate@{tenant.name}"
        raise SchemaDead(Problem("prefect_tables_missing", f"schema {tenant.schema}", message, remedy))
    names = [Names(((tenant.schema, name),)) for name in ("alembic_version", "flow_run")]
    template = "SELECT (SELECT max(version_num) FROM {}), EXISTS (SELECT FROM {})"
    revision, used = ask(Statement(template, tuple(names)))[0]
    return [], {"revision": revision, "has_flow_runs": used}


def _in(tenant: Tenant, template: str) -> Statement:
    """Fill in the tenant's tables, which the template names as ``{table}``."""
    return Statement.named(template, prefect_tables(tenant.schema))


# Prefect calls a worker offline after three of its heartbeat intervals without a heartbeat.
_WORKERS = """
SELECT p.name, count(w.id) FILTER (WHERE w.age < 3 * coalesce(w.heartbeat_interval_seconds, 30)), count(w.id),
       min(w.age)
FROM {work_pool} p LEFT JOIN (
    SELECT *, extract(epoch FROM now() - last_heartbeat_time)::float8 AS age FROM {worker}) w ON w.work_pool_id = p.id
GROUP BY p.name
"""


# Of pools that may have no worker while nothing is due.
_UNSERVED = """
SELECT p.name, count(*), extract(epoch FROM now() - min(r.next_scheduled_start_time))::float8
FROM {work_pool} p JOIN {work_queue} q ON q.work_pool_id = p.id JOIN {flow_run} r ON r.work_queue_id = q.id
WHERE p.name = ANY ({pools}::text[]) AND NOT p.is_paused AND NOT q.is_paused
  AND r.state_type = 'SCHEDULED' AND r.next_scheduled_start_time < now()
GROUP BY p.name
"""
_FIRST_WORKER_SECONDS = 120  # until the first worker of a pool without any has started, and takes a run


def _unserved(ask: Ask, tenant: Tenant, online: Mapping[str, int]) -> list[Problem]:
    """Return a problem for each pool whose workers are scaled, that has none, and whose runs wait for one."""
    pools = [pool for pool in tenant.scaled_pools if not online.get(pool) and not tenant.pool_workers.get(pool)]
    if not pools:
        return []
    tables: dict[str, Names | Value] = {**prefect_tables(tenant.schema), "pools": Value(pools)}
    return [
        Problem(
            "worker_not_started",
            f"work pool {pool} of tenant {tenant.name}",
            f"{_many(due, 'run')} of the work pool {pool} of tenant {tenant.name} {'is' if due == 1 else 'are'} due, "
            f"the first for {age:.0f} s, and none of its workers is online.",
            "On the workers' hosts: systemctl status prefect-scale.timer; pgprefect workers scale --dry-run",
        )
        for pool, due, age in ask(Statement.named(_UNSERVED, tables))
        if age >= _FIRST_WORKER_SECONDS
    ]


def workers(ask: Ask, _limits: Thresholds, tenant: Tenant) -> Finding:
    """Compare the workers that are online with those that are declared."""
    rows = ask(_in(tenant, _WORKERS))
    online = {pool: count for pool, count, _known, _age in rows}
    heard = {pool: age for pool, _count, _known, age in rows}
    details = {
        "online": sum(online.values()),
        "known": sum(row[2] for row in rows),
        "expected": tenant.workers,
        "youngest_heartbeat_s": min((row[3] for row in rows if row[3] is not None), default=None),
        "pools": {
            pool: {
                "online": online.get(pool, 0),
                "expected": tenant.pool_workers.get(pool),
                "heartbeat_s": heard.get(pool),
            }
            for pool in sorted({*online, *tenant.pool_workers})
        },
    }
    expected = [
        (f"work pool {pool} of tenant {tenant.name}", online.get(pool, 0), count)
        for pool, count in tenant.pool_workers.items()
    ] or [(f"tenant {tenant.name}", details["online"], tenant.workers)]
    remedy = f"systemctl list-units 'prefect-worker@{tenant.name}-*' on the workers' hosts, and their journal"
    problems = [
        Problem(
            "workers_offline",
            where,
            f"Of {_many(count, 'declared worker')} of the {where} {found} {'is' if found == 1 else 'are'} online.",
            remedy,
            WARNING if found else ERROR,
        )
        for where, found, count in expected
        if found < count
    ]
    return problems + _unserved(ask, tenant, online), details


_POOLS = """
SELECT p.name, p.is_paused, p.concurrency_limit, q.name, q.is_paused, q.concurrency_limit,
       coalesce(r.due, 0), coalesce(r.active, 0), r.oldest
FROM {work_pool} p JOIN {work_queue} q ON q.work_pool_id = p.id LEFT JOIN (
    SELECT work_queue_id, count(*) FILTER (WHERE state_type = 'SCHEDULED') AS due,
           count(*) FILTER (WHERE state_type <> 'SCHEDULED') AS active,
           extract(epoch FROM now() - min(next_scheduled_start_time)
               FILTER (WHERE state_type = 'SCHEDULED'))::float8 AS oldest
    FROM {flow_run} WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
       OR state_type = 'SCHEDULED' AND next_scheduled_start_time < now()
    GROUP BY work_queue_id) r ON r.work_queue_id = q.id
ORDER BY p.name, q.name
"""


def work_pools(ask: Ask, limits: Thresholds, tenant: Tenant) -> Finding:
    """Check backlog, pauses and concurrency limits of work pools and queues."""
    problems: list[Problem] = []
    pools: dict[str, dict[str, Any]] = {}
    for pool, pool_paused, pool_limit, queue, paused, limit, due, active, oldest in ask(_in(tenant, _POOLS)):
        found = pools.setdefault(
            pool, {"paused": pool_paused, "limit": pool_limit, "due": 0, "active": 0, "queues": {}}
        )
        found["due"] += due
        found["active"] += active
        state = {"paused": paused, "limit": limit, "due": due, "active": active, "oldest_s": oldest}
        found["queues"][queue] = state
        severity = limits.backlog.severity(due)
        if severity:
            where = f"work queue {queue} of work pool {pool} of tenant {tenant.name}"
            message = f"{due} runs are due in the {where}."
            remedy = "Start more workers, raise the concurrency limits, or schedule less."
            problems.append(Problem("backlog_high", where, message, remedy, severity))
    for pool, found in pools.items():
        for where, kind, state in [
            (f"work pool {pool}", "pool", found),
            *((f"work queue {queue} of work pool {pool}", "queue", state) for queue, state in found["queues"].items()),
        ]:
            place, waiting = f"{where} of tenant {tenant.name}", _many(state["due"], "due run")
            if state["paused"]:
                resume = f"Resume it in Prefect's UI, or: prefect work-{kind} resume --help"
                severity = WARNING if state["due"] else NOTICE
                message = f"The {place} is paused, with {waiting}."
                problems.append(
                    Problem(
                        "work_pool_paused" if kind == "pool" else "work_queue_paused", place, message, resume, severity
                    )
                )
            elif state["due"] and state["limit"] is not None and state["active"] >= state["limit"]:
                message = f"The {place} is at its limit of {_many(state['limit'], 'run')}, with {waiting}."
                remedy = "Wait, raise its limit, or check that the runs which hold the slots are still alive."
                problems.append(Problem("concurrency_full", place, message, remedy, NOTICE))
    return problems, {"pools": pools}


# A schedule counts if it must have a run within the 100 days that Prefect plans ahead: not one that ends (RRULE), nor a
# cron line for certain months. The lag begins with its last run, or with its own last change. The conditions on
# flow_run match Prefect's partial indexes.
_SERVICES = """
SELECT
    (SELECT json_build_array(count(*), max(lag), min(name)) FROM (
        SELECT d.name, extract(epoch FROM now() - greatest(d.updated, max(s.updated), (
            SELECT max(r.next_scheduled_start_time) FROM {flow_run} r
            WHERE r.deployment_id = d.id AND r.auto_scheduled = true)))::float8 AS lag
        FROM {deployment} d JOIN {deployment_schedule} s ON s.deployment_id = d.id
        WHERE s.active AND NOT d.paused AND coalesce(s.max_scheduled_runs, 1) > 0
          AND (s.schedule->>'cron' ~ '^\\S+\\s+\\S+\\s+\\S+\\s+[*]\\s'
               OR (s.schedule->>'interval')::float8 < 30 * 86400)
          AND NOT EXISTS (SELECT FROM {flow_run} r WHERE r.deployment_id = d.id AND r.auto_scheduled = true
                          AND r.state_type = 'SCHEDULED' AND r.next_scheduled_start_time >= now())
        GROUP BY d.id, d.name) without_run),
    (SELECT json_build_array(count(*), extract(epoch FROM now() - min(next_scheduled_start_time))) FROM {flow_run}
     WHERE state_type = 'SCHEDULED' AND state_name = 'Scheduled' AND next_scheduled_start_time < now()),
    (SELECT extract(epoch FROM now() - greatest(
        (SELECT max(start_time) FROM {flow_run} WHERE start_time <= now()),
        (SELECT max(end_time) FROM {flow_run} WHERE end_time <= now())))::float8),
    (SELECT extract(epoch FROM now() - max(occurred))::float8 FROM {events})
"""
ACTIVITY = 3600  # seconds: what is older may have lost its events to retention
JITTER = 30  # seconds that the clocks of clients and server may differ by


def services(ask: Ask, limits: Thresholds, tenant: Tenant) -> Finding:
    """Check that Prefect's background services schedule runs, mark late ones and store events."""
    (unscheduled, lag, name), (unmarked, unmarked_age), activity_age, event_age = ask(_in(tenant, _SERVICES))[0]
    where = f"services of tenant {tenant.name}"
    unit = f"prefect-{'services' if tenant.redis else 'server'}@{tenant.name}"
    remedy = f"On each host that has it: journalctl -u {unit}; then: systemctl restart {unit}"
    # Without any event, events are switched off, or the runs were imported.
    silent = (
        activity_age is not None
        and event_age is not None
        and activity_age < ACTIVITY
        and event_age > activity_age + JITTER
    )
    events_lag = activity_age if silent else 0.0

    def finding(code: str, severity: str | None, message: str) -> list[Problem]:
        return [Problem(code, where, f"In the {where} {message}.", remedy, severity)] if severity else []

    problems = [
        *finding(
            "scheduler_stalled",
            limits.scheduler_lag_s.severity(lag),
            f"the scheduler is stalled: {name} has an active schedule but no planned run for {lag or 0:.0f} s; "
            f"there {'is' if unscheduled == 1 else 'are'} {_many(unscheduled, 'such deployment')}",
        ),
        *finding(
            "late_marking_stalled",
            limits.late_mark_lag_s.severity(unmarked_age),
            f"due runs are not marked late: {_many(unmarked, 'run')}, due for up to {unmarked_age or 0:.0f} s",
        ),
        *finding(
            "events_stalled",
            limits.events_lag_s.severity(events_lag),
            f"events are not stored: a run began or ended {events_lag:.0f} s ago, and has no event",
        ),
    ]
    details = {
        "deployments_without_run_ahead": unscheduled,
        "scheduler_lag_s": lag or 0.0,
        "due_not_marked_late": unmarked,
        "newest_activity_s": activity_age,
        "newest_event_s": event_age,
        "events_lag_s": events_lag,
    }
    return problems, details


# Runs that wait in a paused pool or queue are not late: the check work_pools reports them.
_RUNS = """
SELECT state_type::text, count(*), max(age)
FROM (SELECT state_type, extract(epoch FROM now() - CASE state_type WHEN 'SCHEDULED' THEN next_scheduled_start_time
                 ELSE coalesce(state_timestamp, r.updated) END)::float8 AS age
      FROM {flow_run} r LEFT JOIN {work_queue} q ON q.id = r.work_queue_id
           LEFT JOIN {work_pool} p ON p.id = q.work_pool_id
      WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
         OR state_type = 'SCHEDULED' AND next_scheduled_start_time < now()
            AND NOT coalesce(q.is_paused OR p.is_paused, false)) open_run
GROUP BY state_type
"""


def runs(ask: Ask, limits: Thresholds, tenant: Tenant) -> Finding:
    """Check for runs that have been in a state for too long."""
    found = {state: (count, age) for state, count, age in ask(_in(tenant, _RUNS))}
    gone = "Check whether their processes still run: prefect flow-run ls --state %s; if not: prefect flow-run cancel ID"
    details: dict[str, Any] = {}

    def oldest(code: str, state: str, limit: Limit, words: str, remedy: str) -> Iterator[Problem]:
        count, age = found.get(state, (0, None))
        details["due" if state == "SCHEDULED" else state.lower()] = {"runs": count, "oldest_s": age}
        severity = limit.severity(age)
        if severity:
            message = f"Of {_many(count, 'run')} {words}, the oldest has been in this state for {age:.0f} s."
            yield Problem(code, f"tenant {tenant.name}", message, remedy, severity)

    late = "See the checks workers and work_pools; prefect flow-run ls --state Late"
    problems = [
        *oldest("runs_late", "SCHEDULED", limits.late_s, "due and not started", late),
        *oldest("runs_pending_long", "PENDING", limits.pending_s, "pending", gone % "Pending"),
        *oldest("runs_running_long", "RUNNING", limits.running_s, "running", gone % "Running"),
        *oldest("runs_cancelling_long", "CANCELLING", limits.cancelling_s, "being cancelled", gone % "Cancelling"),
    ]
    return problems, details


# A lag begins with the last piece that was archived, or with the statistics. A standby leaves the archiving to its
# primary, whatever it did while it was one itself.
_ARCHIVING = """
SELECT current_setting('archive_mode'), last_failed_wal, coalesce(failed > last_archived_time, failed IS NOT NULL),
       extract(epoch FROM clock_timestamp() - coalesce(last_archived_time, stats_reset))::float8, last_archived_time,
       failed, archived_count, failed_count
FROM pg_stat_archiver,
     LATERAL (SELECT CASE WHEN NOT pg_is_in_recovery() OR current_setting('archive_mode') = 'always'
                          THEN last_failed_time END AS failed) own
"""


def archiving(ask: Ask, limits: Thresholds, declared: bool) -> Finding:
    """Judge whether PostgreSQL archives its WAL; ``declared`` where point-in-time recovery is."""
    mode, wal, failing, lag, archived, failed, pieces, failures = ask(Statement(_ARCHIVING))[0]
    details = {
        "archive_mode": mode,
        "last_archived": archived and archived.isoformat(),
        "last_failed": failed and failed.isoformat(),
        "archived": pieces,
        "failed": failures,
    }
    if mode == "off":
        if not declared:
            return [], details
        message = "Point-in-time recovery is declared, but PostgreSQL archives no WAL (archive_mode is off)."
        remedy = "Run playbooks/pgbackrest.yml, which switches it on."
        return [Problem("archiving_off", "archive_mode", message, remedy)], details
    severity = limits.archive_lag_s.severity(lag) if failing else None
    if not severity:
        return [], details
    message = f"Archiving of WAL fails, most recently for {wal}; nothing was archived for {lag / 60:.0f} minutes."
    remedy = (
        "Nothing is lost while the disk has room: the WAL waits in pg_wal. The reason is in PostgreSQL's log "
        "(/var/log/postgresql, or journalctl -u patroni); then, as root on the database's host: pgprefect pitr check"
    )
    return [Problem("archiving_failed", "WAL archive", message, remedy, severity)], details


def scheduled_job(limits: Thresholds, job: Job) -> Finding:
    """Judge the last run of a job that this host schedules."""
    where, command = job.title, job.command
    log = f"journalctl -t {os.path.basename(job.schedule)}"
    again = f"As root on this host: {log}; then, once its reason is gone: {command}"
    details: dict[str, Any] = {"record": job.path}

    def problem(code: str, message: str, remedy: str = again, severity: str = WARNING) -> Problem:
        return Problem(code, where, message, remedy, severity)

    try:
        scheduled = os.stat(job.schedule).st_mtime
    except FileNotFoundError:
        message = f"The {where} is declared, but {job.schedule}, which starts it, is not on this host."
        return [problem("job_not_scheduled", message, "Run site.yml, which writes that file.")], details
    try:
        record = last(job)
    except RecordBroken as broken:
        return [problem("job_record_broken", f"The result of the last {where} is not known: {broken}", again)], details
    problems = []
    if record is None:
        message = f"The {where} has not run on this host yet."
        remedy = f"It starts by itself, as {job.schedule} says; to run it now, as root: {command}"
        problems.append(problem("job_not_run_yet", message, remedy, NOTICE))
    else:
        details.update(record.as_dict())
        if record.ok is False:
            reason, _, own = record.message.partition(" What to do: ")  # what ended it may have said both
            message = f"The last {where} failed at {record.ended:%Y-%m-%d %H:%M:%S %Z}: {reason}"
            retry = "" if command in own else f"As root on this host: {command} "
            remedy = f"{own} {retry}(if cron ran it, {log} has all that it said)".strip()
            problems.append(problem("job_failed", message, remedy))
        elif record.ended is None and not record.running:
            began = f"The {where} began at {record.started:%Y-%m-%d %H:%M:%S %Z}"
            message = f"{began} and never ended: it was killed, or the host went down."
            problems.append(problem("job_never_ended", message))
    # A new or changed schedule starts a new period.
    since = max(scheduled, record.succeeded.timestamp() if record and record.succeeded else 0.0)
    details["age_s"] = age = max(0.0, time.time() - since)
    severity = getattr(limits, f"{job.name}_age_s").severity(age)
    if severity:
        message = f"The {where} has not succeeded for {age / 3600:.0f} hours."
        remedy = f"As root on this host: systemctl status cron; {log}; then: {command}"
        problems.append(problem("job_overdue", message, remedy, severity))
    return problems, details


TENANT_PROBES: Sequence[Callable[[Ask, Thresholds, Tenant], Finding]] = (
    prefect_schema,
    workers,
    work_pools,
    services,
    runs,
    dead_runs,
)
