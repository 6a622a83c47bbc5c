"""Alerting rules, as Prometheus itself judges them: each fires for what it is for, and not for what is near it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pgprefect.health.thresholds import Limit, Thresholds
from pgprefect.metrics.alerts import CRITICAL, WARNING, rules

from tests.support.project import PROMTOOL, ROOT

PAGE = ROOT / "docs/alerts.md"
# Prometheus' tests begin at the time 0: what was an hour before has the time -3600.
HOST = 'instance="server-1", job="prefect"'
TENANT = f'{HOST}, tenant="prefect"'
POOL = f'{TENANT}, pool="default"'
QUEUE = f'{POOL}, queue="default"'
DAY, HOUR = 86_400, 3_600

Series = dict[str, float | str]


@dataclass(frozen=True)
class Case:
    """Series by which an alert fires, and series by which it does not; a number is a value that does not change."""

    alert: str
    fires: Series
    quiet: Series
    severity: str = WARNING
    minutes: int = 15


def metric(name: str, labels: str = HOST) -> str:
    return f"{name}{{{labels}}}"


def ended(count: int, state: str, deployment: str = "d") -> Series:
    return {
        metric("pgprefect_flow_runs_ended", f'{TENANT}, flow="f", deployment="{deployment}", state="{state}"'): count
    }


def workers(online: int, declared: int) -> Series:
    return {metric("pgprefect_workers_online", POOL): online, metric("pgprefect_workers_declared", POOL): declared}


def of(name: str, labels: str, fires: float, quiet: float) -> tuple[Series, Series]:
    return {metric(name, labels): fires}, {metric(name, labels): quiet}


def connections(used: int) -> Series:
    labels = f'{HOST}, of="role", name="prefect_server"'
    return {metric("pgprefect_connections_used", labels): used, metric("pgprefect_connections_allowed", labels): 20}


def rows(live: int, dead: int) -> Series:
    labels = f'{TENANT}, schema="prefect"'
    return {metric("pgprefect_schema_live_tuples", labels): live, metric("pgprefect_schema_dead_tuples", labels): dead}


def archive(success: float | None, failure: float) -> Series:
    found: Series = {metric("pgprefect_archive_last_failure_timestamp_seconds"): failure}
    return found if success is None else {**found, metric("pgprefect_archive_last_success_timestamp_seconds"): success}


def standby(behind: str) -> Series:
    return {metric("pgprefect_replication_lag_bytes", f'{HOST}, standby="b"'): behind, DATABASE: 1}


def slot(size: float, active: int) -> Series:
    labels = f'{HOST}, slot="another"'
    return {
        metric("pgprefect_replication_slot_retained_bytes", labels): size,
        metric("pgprefect_replication_slot_active", labels): active,
    }


def redis(used: int) -> Series:
    return {metric("pgprefect_redis_used_bytes", TENANT): used, metric("pgprefect_redis_allowed_bytes", TENANT): 100}


def member(ready: int, seen_by: str = "server-1") -> Series:
    return {
        metric("pgprefect_cluster_member_ready", f'instance="{seen_by}", job="prefect", member="database-3"'): ready
    }


def job(name: str, scheduled: float, succeeded: float | None = None) -> Series:
    labels = f'{HOST}, name="{name}"'
    found: Series = {metric("pgprefect_job_scheduled_timestamp_seconds", labels): scheduled}
    return (
        found
        if succeeded is None
        else {**found, metric("pgprefect_job_last_success_timestamp_seconds", labels): succeeded}
    )


def disk(used: float, kind: str = "ext4") -> Series:
    labels = f'{HOST}, mountpoint="/var/lib/postgresql", fstype="{kind}"'
    return {
        metric("node_filesystem_size_bytes", labels): 100,
        metric("node_filesystem_avail_bytes", labels): 100 - used,
    }


def unit(name: str, state: str) -> Series:
    states = ("active", "failed", "inactive")
    return {
        metric("node_systemd_unit_state", f'{HOST}, name="{name}", state="{one}"'): int(one == state) for one in states
    }


NOW = "0+60x200"  # the time, each minute
COLLECTED = metric("pgprefect_collect_timestamp_seconds")
DATABASE = metric("pgprefect_collect_success", f'{HOST}, group="database"')
STATE = "pgprefect_flow_runs_oldest_seconds"
CERTIFICATE = metric("pgprefect_certificate_end_timestamp_seconds", f'{HOST}, file="/etc/prefect/tls/postgresql.pem"')
JOB_FAILED = metric("pgprefect_job_failed", f'{HOST}, name="drill"')
BACKUP = metric("pgprefect_backup_set_timestamp_seconds")
TIMER = unit("prefect-metrics.timer", "active")

CASES = [
    Case("PrefectServerDown", *of("pgprefect_api_ready", TENANT, 0, 1), severity=CRITICAL),
    Case("PrefectDatabaseDown", {DATABASE: 0}, {DATABASE: 0, metric("pgprefect_postgresql_info"): 1}, CRITICAL),
    Case("PrefectWorkersMissing", workers(2, 3), workers(3, 3)),
    Case("PrefectWorkersDown", workers(0, 1), workers(1, 2), CRITICAL),
    # A pool that is scaled to nothing has no workers, and needs none.
    Case("PrefectWorkersDown", workers(0, 1), workers(0, 0), CRITICAL),
    Case("PrefectUnitFailed", unit("prefect-worker@a.service", "failed"), unit("prefect-worker@a.service", "inactive")),
    Case("PrefectUnitFailed", unit("postgresql@15-main.service", "failed"), unit("cron.service", "failed")),
    Case("PrefectEventsLag", *of("pgprefect_events_lag_seconds", TENANT, 120, 119)),
    Case("PrefectEventsLag", *of("pgprefect_events_lag_seconds", TENANT, 900, 899), severity=CRITICAL),
    Case("PrefectSchedulerLag", *of("pgprefect_scheduler_lag_seconds", TENANT, 180, 179)),
    Case("PrefectSchedulerLag", *of("pgprefect_scheduler_lag_seconds", TENANT, 900, 899), severity=CRITICAL),
    Case("PrefectRunsLate", *of("pgprefect_flow_runs_due_oldest_seconds", TENANT, 300, 299)),
    Case("PrefectRunsLate", *of("pgprefect_flow_runs_due_oldest_seconds", TENANT, 3600, 3599), severity=CRITICAL),
    Case("PrefectBacklog", *of("pgprefect_work_queue_runs_due", QUEUE, 100, 99)),
    Case("PrefectBacklog", *of("pgprefect_work_queue_runs_due", QUEUE, 1000, 999), severity=CRITICAL),
    Case(
        "PrefectBacklogGrowing",
        {metric("pgprefect_work_queue_runs_due", QUEUE): "1+1x100"},
        {metric("pgprefect_work_queue_runs_due", QUEUE): "90-1x100"},
        minutes=70,
    ),
    Case(
        "PrefectBacklogGrowing",
        {metric("pgprefect_work_queue_runs_due", QUEUE): "1+1x100"},
        # Each half an hour a batch, which is done.
        {metric("pgprefect_work_queue_runs_due", QUEUE): "0+1x20 0x10 0+1x20 0x10 0+1x20 0x10"},
        minutes=70,
    ),
    Case(
        "PrefectRunsFail",
        {**ended(3, "FAILED"), **ended(3, "COMPLETED")},
        {**ended(3, "FAILED"), **ended(4, "COMPLETED")},
    ),
    Case("PrefectRunsFail", ended(3, "CRASHED"), ended(2, "CRASHED")),
    Case("PrefectRunsFail", ended(9, "FAILED"), {**ended(9, "CANCELLED"), **ended(2, "FAILED", "e")}),
    Case("PrefectRunsDead", *of("pgprefect_flow_runs_dead", TENANT, 1, 0)),
    Case("PrefectRunsStuck", *of(STATE, f'{TENANT}, state="RUNNING"', DAY, DAY - 1)),
    Case("PrefectRunsStuck", *of(STATE, f'{TENANT}, state="PENDING"', 900, 899)),
    Case("PrefectRunsStuck", *of(STATE, f'{TENANT}, state="CANCELLING"', 900, 899)),
    Case("PrefectOutboxWaits", *of("pgprefect_outbox_lag_seconds", TENANT, 300, 299)),
    Case("PrefectOutboxWaits", *of("pgprefect_outbox_lag_seconds", TENANT, 3600, 3599), severity=CRITICAL),
    Case("PrefectDeadLetters", *of("pgprefect_outbox_dead_letters", TENANT, 1, 0)),
    Case(
        "PrefectOutboxRefuses",
        {metric("pgprefect_outbox_refused_total", TENANT): "0+1x200"},
        {metric("pgprefect_outbox_refused_total", TENANT): 100},
    ),
    Case("PrefectConnectionsNearLimit", connections(16), connections(15)),
    Case("PrefectConnectionsNearLimit", connections(19), connections(18), CRITICAL),
    Case("PrefectTransactionOld", *of("pgprefect_transaction_oldest_seconds", HOST, 900, 899)),
    Case("PrefectTransactionOld", *of("pgprefect_transaction_oldest_seconds", HOST, 7200, 7199), severity=CRITICAL),
    Case("PrefectTransactionIdle", *of("pgprefect_transaction_idle_seconds", HOST, 60, 59)),
    Case("PrefectTransactionIdle", *of("pgprefect_transaction_idle_seconds", HOST, 900, 899), severity=CRITICAL),
    Case("PrefectLockWait", *of("pgprefect_lock_wait_longest_seconds", HOST, 10, 9)),
    Case("PrefectLockWait", *of("pgprefect_lock_wait_longest_seconds", HOST, 60, 59), severity=CRITICAL),
    Case("PrefectTransactionIdsRunOut", *of("pgprefect_xid_age", HOST, 500e6, 499e6)),
    Case("PrefectTransactionIdsRunOut", *of("pgprefect_xid_age", HOST, 1200e6, 1199e6), severity=CRITICAL),
    Case("PrefectDeadRows", rows(8000, 12_000), rows(8001, 12_000)),
    Case("PrefectDeadRows", rows(8000, 12_000), rows(0, 9999)),
    Case("PrefectArchivingFails", archive(-HOUR, -60), archive(-60, -HOUR)),
    Case("PrefectArchivingFails", archive(None, -HOUR), archive(880, 890)),
    Case("PrefectArchivingFails", archive(-2 * HOUR, -60), archive(-2000, -60), CRITICAL),
    Case("PrefectReplicationLag", *of("pgprefect_replication_lag_seconds", f'{HOST}, standby="b"', 61, 60)),
    Case("PrefectStandbyGone", standby("9+0x5"), standby("9+0x5 _x9 9+0x200"), minutes=25),
    Case("PrefectStandbyGone", standby("9+0x5"), {**standby("9+0x5"), DATABASE: 0}, minutes=25),
    Case("PrefectSlotKeepsWal", slot(2e9, 0), slot(2e9, 1)),
    Case("PrefectSlotKeepsWal", slot(2e9, 0), slot(1e9, 0)),
    Case("PrefectRedisDown", *of("pgprefect_redis_writable", TENANT, 0, 1), severity=CRITICAL),
    Case("PrefectRedisNearlyFull", redis(70), redis(69)),
    Case("PrefectRedisNearlyFull", redis(90), redis(89), CRITICAL),
    Case("PrefectPrimaryMissing", *of("pgprefect_cluster_primaries", HOST, 0, 1), severity=CRITICAL),
    Case("PrefectPrimaryMissing", *of("pgprefect_cluster_primaries", HOST, 2, 1), severity=CRITICAL),
    Case("PrefectMemberAway", {**member(0), **member(1, "database-3")}, member(1)),
    Case("PrefectEtcdSilent", *of("pgprefect_cluster_etcd_reached", HOST, 0, 1), severity=CRITICAL),
    Case("PrefectJobFailed", {JOB_FAILED: 1}, {JOB_FAILED: 0}),
    Case("PrefectJobOverdue", job("backup", -9 * DAY, -1.5 * DAY), job("backup", -9 * DAY, -1.4 * DAY)),
    Case("PrefectJobOverdue", job("backup", -9 * DAY, -3 * DAY), job("backup", -9 * DAY, -2.9 * DAY), CRITICAL),
    # One that never succeeded counts from its schedule on.
    Case("PrefectJobOverdue", job("drill", -9 * DAY), job("drill", -8 * DAY)),
    Case("PrefectJobOverdue", job("copy", -2 * DAY), job("copy", -1 * DAY)),
    Case("PrefectJobOverdue", job("pitr", -2 * DAY), job("pitr", -1 * DAY)),
    Case("PrefectJobOverdue", job("cleanup", -9 * DAY, -2 * DAY), job("cleanup", -1 * DAY, -9 * DAY)),
    Case("PrefectBackupMissing", job("backup", -9 * DAY, 0), {**job("backup", -9 * DAY, 0), BACKUP: 0}),
    Case("PrefectBackupMissing", job("backup", -9 * DAY, 0), job("backup", 0)),
    Case("PrefectBackupOld", {BACKUP: -1.5 * DAY}, {BACKUP: -1.4 * DAY}),
    Case("PrefectBackupOld", {BACKUP: -3 * DAY}, {BACKUP: -2.9 * DAY}, CRITICAL),
    Case("PrefectCertificateEnds", {CERTIFICATE: 30 * DAY}, {CERTIFICATE: 31 * DAY}),
    Case("PrefectCertificateEnds", {CERTIFICATE: 7 * DAY}, {CERTIFICATE: 8 * DAY}, CRITICAL),
    Case("PrefectDiskFull", disk(85), disk(84)),
    Case("PrefectDiskFull", disk(95), disk(94), CRITICAL),
    Case("PrefectDiskFull", disk(85), disk(100, "squashfs")),
    Case("PrefectMetricsSilent", {metric("up"): 0}, {metric("up"): 1}, CRITICAL),
    Case("PrefectMetricsSilent", {COLLECTED: 0}, {COLLECTED: NOW}, CRITICAL),
    Case("PrefectMetricsSilent", TIMER, {**TIMER, COLLECTED: NOW}, CRITICAL),
    Case("PrefectMetricsIncomplete", {DATABASE: 0}, {DATABASE: 1}),
]


def rule_test(name: str, series: Series, minutes: int, alert: str, severity: str, fires: bool) -> dict[str, Any]:
    """Return a test of Prometheus': how many alerts fire."""
    selector = f'ALERTS{{alertname="{alert}", severity="{severity}", alertstate="firing"}}'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "name": name,
        "interval": "1m",
        "input_series": [
            {"series": one, "values": value if isinstance(value, str) else f"{value!r}+0x200"}
            for one, value in series.items()
        ],
        "promql_expr_test": [{"expr": f"count({selector})", "eval_time": f"{minutes}m", "exp_samples": samples}],
    }


def promtool(*arguments: str, directory: Path) -> str:
    done = subprocess.run([PROMTOOL, *arguments], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(name="folder")
def folder_with_rules(tmp_path: Path) -> Path:
    (tmp_path / "rules.json").write_text(json.dumps(rules(Thresholds())))
    return tmp_path


def test_prometheus_takes_the_rules(folder: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", "rules.json", directory=folder)


def test_each_alert_fires_for_its_reason_alone(folder: Path) -> None:
    tests = []
    for number, case in enumerate(CASES):
        name = f"{number} {case.alert} {case.severity}"
        tests += [
            rule_test(f"{name} fires", case.fires, case.minutes, case.alert, case.severity, fires=True),
            rule_test(f"{name} is quiet", case.quiet, case.minutes, case.alert, case.severity, fires=False),
        ]
    (folder / "tests.json").write_text(json.dumps({"rule_files": ["rules.json"], "tests": tests}))
    promtool("test", "rules", "tests.json", directory=folder)


def test_all_alerts_have_cases() -> None:
    found = {(rule["alert"], rule["labels"]["severity"]) for rule in declared()}
    # Of a figure that has one threshold alone, one rule is enough.
    assert {(case.alert, case.severity) for case in CASES} == found


def declared(limits: Thresholds | None = None) -> list[dict[str, Any]]:
    (group,) = rules(limits or Thresholds())["groups"]
    return list(group["rules"])


def test_the_words_of_an_alert(folder: Path) -> None:
    alert = {
        "exp_labels": {"severity": "critical", "tenant": "prefect", "pool": "default"},
        "exp_annotations": {
            "summary": "No worker of the work pool default of the tenant prefect is online.",
            "runbook": "docs/alerts.md#prefectworkersdown",
        },
    }
    case = rule_test("words", workers(0, 2), 15, "PrefectWorkersDown", CRITICAL, fires=True)
    case["alert_rule_test"] = [{"eval_time": "15m", "alertname": "PrefectWorkersDown", "exp_alerts": [alert]}]
    (folder / "tests.json").write_text(json.dumps({"rule_files": ["rules.json"], "tests": [case]}))
    promtool("test", "rules", "tests.json", directory=folder)


def test_two_hosts_that_say_the_same_are_one_alert(folder: Path) -> None:
    series = workers(0, 2)
    series.update({name.replace("server-1", "database-1"): value for name, value in workers(0, 2).items()})
    case = rule_test("two hosts", series, 15, "PrefectWorkersDown", CRITICAL, fires=True)
    (folder / "tests.json").write_text(json.dumps({"rule_files": ["rules.json"], "tests": [case]}))
    promtool("test", "rules", "tests.json", directory=folder)


def test_the_sites_thresholds_are_the_rules() -> None:
    limits = Thresholds(late_s=Limit(60, None), xid_age=Limit(None, None))
    found = [rule for rule in declared(limits) if rule["alert"] in ("PrefectRunsLate", "PrefectTransactionIdsRunOut")]
    assert [(rule["alert"], rule["labels"]["severity"]) for rule in found] == [("PrefectRunsLate", WARNING)]
    assert found[0]["expr"].endswith(">= 60")


def test_each_alert_has_its_part_of_the_page() -> None:
    headings = [line.removeprefix("## ").lower() for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    names = dict.fromkeys(rule["alert"] for rule in declared())
    assert [heading for heading in headings if heading.startswith("prefect")] == [name.lower() for name in names]
    for rule in declared():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
