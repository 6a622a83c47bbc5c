"""Alerting rules for Prometheus, made of the metrics and of health's thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..health.thresholds import Limit, Thresholds
from . import collect, database, jobs, runs, shared
from .exposition import Metric

WARNING, CRITICAL = "warning", "critical"
JOB = "prefect"  # of the exporters, in Prometheus' configuration
TIMER = "prefect-metrics.timer"
RUNBOOK = "docs/alerts.md#"
# A deployment fails where so many of its runs failed within the hour, and this share of those that ended.
FAILED_RUNS = 3
FAILED_SHARE = 0.5
# A standby or a replication slot is behind.
REPLICATION_SECONDS = 60
SLOT_BYTES = 2**30
# File systems without a disk, or that are full by their nature.
_NO_DISKS = "tmpfs|ramfs|squashfs|iso9660|autofs"
_STALE_SECONDS = 300

# What Prometheus puts into the texts.
_TENANT = "the tenant {{ $labels.tenant }}"
_HOST = "{{ $labels.instance }}"
_VALUE = '{{ $value | printf "%.0f" }}'
_SECONDS = "{{ $value | humanizeDuration }}"


@dataclass(frozen=True)
class Alert:
    """A rule: it fires where ``expression`` has had a value for ``wait``."""

    name: str
    expression: str
    summary: str
    wait: str = "2m"
    severity: str = WARNING

    def as_dict(self) -> dict[str, Any]:
        """Return it as a file of rules has it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.wait,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": RUNBOOK + self.name.lower()},
        }


def rules(limits: Thresholds) -> dict[str, Any]:
    """Return the content of a file of rules. Of two hosts that print a figure of the database, the worse one counts."""
    alerts = [
        *_services(limits),
        *_flow_runs(limits),
        *_outbox(limits),
        *_database(limits),
        *_replication(limits),
        *_shared(limits),
        *_jobs(limits),
        *_hosts(limits),
    ]
    return {"groups": [{"name": "prefect", "rules": [alert.as_dict() for alert in alerts]}]}


def _site(metric: Metric, matchers: str = "") -> str:
    """Return a figure that is the site's and not a host's: several hosts may print it."""
    selector = f"{metric.name}{{{matchers}}}" if matchers else metric.name
    return f"max without (instance, job) ({selector})"


def _limited(name: str, figure: str, limit: Limit, summary: str, also: str = "") -> Iterator[Alert]:
    """Yield the alerts of a threshold, one for each of its limits; with ``also`` that must hold, too."""
    yield from _all_limited(name, {figure: limit}, summary, also)


def _all_limited(name: str, figures: Mapping[str, Limit], summary: str, also: str = "") -> Iterator[Alert]:
    """Yield the alerts of several figures, each with a threshold: one rule for all that are warnings, and one more."""
    for severity in (WARNING, CRITICAL):
        reached = [
            f"{figure} {limit.sign} {value:g}"
            for figure, limit in figures.items()
            if (value := getattr(limit, severity)) is not None
        ]
        if reached:
            expression = " or ".join(reached)
            yield Alert(name, f"{expression} and {also}" if also else expression, summary, severity=severity)


def _services(limits: Thresholds) -> Iterator[Alert]:
    ready = _site(collect.API_READY)
    yield Alert(
        "PrefectServerDown", f"{ready} == 0", f"The Prefect server of {_TENANT} is not ready.", severity=CRITICAL
    )
    online, declared = _site(runs.WORKERS_ONLINE), _site(runs.WORKERS_DECLARED)
    of_pool = f"of the work pool {{{{ $labels.pool }}}} of {_TENANT}"
    yield Alert("PrefectWorkersMissing", f"{declared} - {online} > 0", f"{_VALUE} workers {of_pool} are missing.")
    yield Alert(
        "PrefectWorkersDown", f"{online} == 0 and {declared} > 0", f"No worker {of_pool} is online.", severity=CRITICAL
    )
    yield Alert(
        "PrefectUnitFailed",
        'node_systemd_unit_state{state="failed", name=~"(prefect|postgresql).*"} == 1',
        "The unit {{ $labels.name }} of {{ $labels.instance }} has failed.",
    )
    yield from _limited(
        "PrefectEventsLag",
        _site(runs.EVENTS_LAG),
        limits.events_lag_s,
        f"The events of {_TENANT} are {_SECONDS} behind its runs.",
    )
    yield from _limited(
        "PrefectSchedulerLag",
        _site(runs.SCHEDULER_LAG),
        limits.scheduler_lag_s,
        f"An active schedule of {_TENANT} has had no planned run for {_SECONDS}.",
    )


def _flow_runs(limits: Thresholds) -> Iterator[Alert]:
    yield from _limited(
        "PrefectRunsLate", _site(runs.DUE_OLDEST), limits.late_s, f"A run of {_TENANT} has been due for {_SECONDS}."
    )
    of_queue = f"the work queue {{{{ $labels.queue }}}} of the pool {{{{ $labels.pool }}}} of {_TENANT}"
    due = _site(runs.QUEUE_DUE)
    yield from _limited("PrefectBacklog", due, limits.backlog, f"{_VALUE} runs of {of_queue} are due.")
    yield Alert(
        "PrefectBacklogGrowing",
        f"min_over_time(({due})[30m:1m]) > 0 and deriv(({due})[30m:1m]) > 0",
        f"For half an hour {of_queue} has had runs that are due, and they become more.",
        wait="30m",
    )
    ended = f"sum by (tenant, flow, deployment) ({_site(runs.ENDED)})"
    lost = _site(runs.ENDED, 'state=~"FAILED|CRASHED"')
    failed = f"sum by (tenant, flow, deployment) ({lost})"
    yield Alert(
        "PrefectRunsFail",
        f"{failed} / {ended} >= {FAILED_SHARE} and {failed} >= {FAILED_RUNS}",
        "{{ $value | humanizePercentage }} of the runs of {{ $labels.flow }}/{{ $labels.deployment }} of "
        f"{_TENANT} failed within {runs.WINDOW_HOURS} h.",
    )
    yield Alert(
        "PrefectRunsDead", f"{_site(runs.DEAD)} > 0", f"{_VALUE} runs of {_TENANT} are run by nothing any more."
    )
    oldest = {
        _site(runs.OLDEST, f'state="{state}"'): getattr(limits, f"{state.lower()}_s")
        for state in ("RUNNING", "PENDING", "CANCELLING")
    }
    yield from _all_limited(
        "PrefectRunsStuck", oldest, f"A run of {_TENANT} has been {{{{ $labels.state }}}} for {_SECONDS}."
    )


def _outbox(limits: Thresholds) -> Iterator[Alert]:
    of_whom = f"the outbox of {_TENANT}"
    yield from _limited(
        "PrefectOutboxWaits",
        _site(runs.OUTBOX_LAG),
        limits.database_events_lag_s,
        f"A row of {of_whom} has waited to be sent for {_SECONDS}.",
    )
    yield from _limited(
        "PrefectDeadLetters", _site(runs.OUTBOX_DEAD), limits.dead_letters, f"{_VALUE} rows of {of_whom} were given up."
    )
    yield Alert(
        "PrefectOutboxRefuses",
        f"increase({runs.OUTBOX_REFUSED.name}[10m]) > 0",
        f"{_VALUE} changes of rows were not written to {of_whom}, which is full.",
    )


def _database(limits: Thresholds) -> Iterator[Alert]:
    collected = _site(collect.SUCCESS, 'group="database"')
    yield Alert(
        "PrefectDatabaseDown",
        f"{collected} == 0 unless on () {database.POSTGRESQL_INFO.name}",
        "The database does not answer.",
        severity=CRITICAL,
    )
    share = f"100 * {_site(database.USED)} / {_site(database.ALLOWED)}"
    of_whom = "the {{ $labels.of }} {{ $labels.name }}"
    yield from _limited(
        "PrefectConnectionsNearLimit",
        share,
        limits.connections_percent,
        f"{_VALUE} % of the connections that {of_whom} allows are in use.",
    )
    for name, metric, limit, what in (
        ("PrefectTransactionOld", database.OLDEST, limits.transaction_s, "A transaction has been open"),
        ("PrefectTransactionIdle", database.IDLE, limits.idle_in_transaction_s, "A session is idle in a transaction"),
        ("PrefectLockWait", database.LONGEST, limits.lock_wait_s, "A session has waited for a lock"),
    ):
        yield from _limited(name, _site(metric), limit, f"{what} for {_SECONDS}.")
    yield from _limited(
        "PrefectTransactionIdsRunOut",
        _site(database.XID_AGE),
        limits.xid_age,
        "The oldest transaction ID is {{ $value | humanize }} transactions old; at 2.1 G PostgreSQL refuses to write.",
    )
    live, dead = _site(database.LIVE), _site(database.DEAD)
    yield from _limited(
        "PrefectDeadRows",
        f"100 * {dead} / ({live} + {dead})",
        limits.dead_percent,
        f"{_VALUE} % of the rows of the schema {{{{ $labels.schema }}}} are dead.",
        also=f"{dead} >= 10000",
    )


def _replication(limits: Thresholds) -> Iterator[Alert]:
    archived, failed = _site(database.LAST_ARCHIVED), _site(database.LAST_FAILED)
    # Where nothing was archived yet, the first failure is what is known.
    yield from _limited(
        "PrefectArchivingFails",
        f"time() - ({archived} or {failed})",
        limits.archive_lag_s,
        f"Archiving of WAL fails, and nothing has been archived for {_SECONDS}.",
        also=f"({failed} > {archived} or {failed} unless {archived})",
    )
    yield Alert(
        "PrefectReplicationLag",
        f"{_site(database.LAG_SECONDS)} > {REPLICATION_SECONDS}",
        f"The standby {{{{ $labels.standby }}}} is {_SECONDS} behind.",
        wait="5m",
    )
    # A standby whose connection is cut is not behind: nothing is known of it.
    behind, collected = database.LAG_BYTES.name, _site(collect.SUCCESS, 'group="database"')
    yield Alert(
        "PrefectStandbyGone",
        f"max without (instance, job) (max_over_time({behind}[60m])) unless {_site(database.LAG_BYTES)} "
        f"and on () {collected} == 1",
        "The standby {{ $labels.standby }}, which was there within the last hour, takes no WAL any more.",
        wait="5m",
    )
    yield Alert(
        "PrefectSlotKeepsWal",
        f"{_site(database.SLOT_BYTES)} > {SLOT_BYTES} and {_site(database.SLOT_ACTIVE)} == 0",
        "The replication slot {{ $labels.slot }}, which nobody uses, keeps {{ $value | humanize1024 }}B of WAL.",
        wait="5m",
    )


def _shared(limits: Thresholds) -> Iterator[Alert]:
    of_whom = f"The Redis of {_TENANT}"
    yield Alert(
        "PrefectRedisDown",
        f"{_site(shared.WRITABLE)} == 0",
        f"{of_whom} takes no writes, so that no run changes its state.",
        severity=CRITICAL,
    )
    yield from _limited(
        "PrefectRedisNearlyFull",
        f"100 * {_site(shared.USED)} / {_site(shared.ALLOWED)}",
        limits.redis_memory_percent,
        f"{of_whom} uses {_VALUE} % of its memory.",
    )
    yield Alert(
        "PrefectPrimaryMissing",
        f"{_site(shared.PRIMARIES)} != 1",
        f"The PostgreSQL cluster has {_VALUE} primaries.",
        severity=CRITICAL,
    )
    yield Alert(
        "PrefectMemberAway",
        # A member that is cut off from the others still counts itself.
        f"min without (instance, job) ({shared.READY.name}) == 0",
        "The member {{ $labels.member }} of the PostgreSQL cluster cannot take over.",
        wait="5m",
    )
    yield Alert(
        "PrefectEtcdSilent",
        f"{shared.ETCD_REACHED.name} == 0",
        f"etcd of {_HOST} does not answer, or has no majority.",
        severity=CRITICAL,
    )


def _jobs(limits: Thresholds) -> Iterator[Alert]:
    title = "The job {{ $labels.name }} {{ $labels.tenant }} of {{ $labels.instance }}"
    yield Alert("PrefectJobFailed", f"{jobs.FAILED.name} == 1", f"{title} failed.")
    # A new or changed schedule starts a new period.
    since = f'{{__name__=~"{jobs.SCHEDULED.name}|{jobs.SUCCEEDED.name}", name="%s"}}'
    ages = {
        f"time() - max by (instance, tenant, name) ({since % name})": getattr(limits, f"{name}_age_s")
        for name in ("backup", "copy", "drill", "pitr", "cleanup")
    }
    yield from _all_limited("PrefectJobOverdue", ages, f"{title} has not succeeded for {_SECONDS}.")
    yield Alert(
        "PrefectBackupMissing",
        f'{jobs.SUCCEEDED.name}{{name="backup"}} unless on (instance) {jobs.BACKUP.name}',
        "{{ $labels.instance }} has no backup set, although its job succeeded.",
    )
    yield from _limited(
        "PrefectBackupOld",
        f"time() - {jobs.BACKUP.name}",
        limits.backup_age_s,
        f"The newest backup set of {_HOST} is {_SECONDS} old.",
    )


def _hosts(limits: Thresholds) -> Iterator[Alert]:
    yield from _limited(
        "PrefectCertificateEnds",
        f"({jobs.CERTIFICATE.name} - time()) / 86400",
        limits.certificate_days,
        f"The certificate {{{{ $labels.file }}}} of {_HOST} ends in {_VALUE} days.",
    )
    disk = f'{{fstype!~"{_NO_DISKS}"}}'
    yield from _limited(
        "PrefectDiskFull",
        f"100 - 100 * node_filesystem_avail_bytes{disk} / (node_filesystem_size_bytes{disk} > 0)",
        limits.disk_used_percent,
        f"{_VALUE} % of {{{{ $labels.mountpoint }}}} of {_HOST} are used.",
    )
    written = collect.TIMESTAMP.name
    yield Alert(
        "PrefectMetricsSilent",
        f'up{{job="{JOB}"}} == 0 or time() - {written} > {_STALE_SECONDS} '
        f'or node_systemd_unit_state{{name="{TIMER}", state="active"}} == 1 unless on (instance) {written}',
        "{{ $labels.instance }} gives no new figures: what happens there is not known.",
        severity=CRITICAL,
    )
    yield Alert(
        "PrefectMetricsIncomplete",
        f"{collect.SUCCESS.name} == 0",
        "The figures {{ $labels.group }} {{ $labels.tenant }} of {{ $labels.instance }} cannot be collected.",
        wait="5m",
    )
