"""Each alert fires in a real Prometheus for a real fault of a site that lacked nothing, and for as long as it lasts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pgprefect.backup import sets
from pgprefect.core.connection import connect
from pgprefect.core.http import is_ready
from pgprefect.core.jobs import record
from pgprefect.core.prefect import WORKER_RESOURCE, WORKER_STARTED
from pgprefect.database_events.outbox import Outbox, Refusal
from pgprefect.health.thresholds import Limit, Thresholds
from pgprefect.metrics.alerts import rules

from tests.support.certificates import Authority
from tests.support.database_events import order
from tests.support.ports import free_port
from tests.support.postgresql import docker
from tests.support.project import NODE_EXPORTER, ROOT
from tests.support.run_rows import add_runs
from tests.support.site import PASSWORD
from tests.support.waiting import wait_for
from tests.support.watched import asked, running_prometheus
from tests.support.watched_site import ARCHIVE, JOBS, XIDS, WatchedSite, in_seconds, watched_site

Make = Callable[[WatchedSite], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """An alert, what makes its fault and ends it, and how many series it then fires for."""

    alert: str
    make: Make
    series: int = 1
    ends: bool = True


@pytest.fixture(name="site", scope="module")
def one_watched_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedSite]:
    with watched_site(tmp_path_factory.mktemp("watched")) as site:
        wait_for(lambda: asked(site.prometheus, "pgprefect_info"))
        yield site


def ended_anyway(make: Callable[[WatchedSite], Iterator[None]]) -> Make:
    """Have what makes a fault, yields and ends it end it also where a test fails meanwhile."""

    @contextlib.contextmanager
    def managed(site: WatchedSite) -> Iterator[None]:
        steps = make(site)
        next(steps)
        try:
            yield
        finally:
            next(steps, None)

    return managed


# Services, and flow runs as Prefect writes them


@ended_anyway
def server_killed(site: WatchedSite) -> Iterator[None]:
    site.server.kill()
    yield
    site.server.start()


@ended_anyway
def worker_gone(site: WatchedSite) -> Iterator[None]:
    hear_from(site, "worker-1", ago=timedelta(days=1))
    yield
    hear_from(site, "worker-1", ago=timedelta())


@ended_anyway
def all_workers_gone(site: WatchedSite) -> Iterator[None]:
    hear_from(site, "worker-%", ago=timedelta(days=1))
    yield
    hear_from(site, "worker-%", ago=timedelta())


def hear_from(site: WatchedSite, workers: str, ago: timedelta) -> None:
    site.sql("UPDATE prefect.worker SET last_heartbeat_time = now() - %s WHERE name LIKE %s", ago, workers)


@ended_anyway
def events_stopped(site: WatchedSite) -> Iterator[None]:
    """Have runs end after the last event."""
    add_event(site, "prefect.flow-run.Completed", "x", ago=900)
    add_runs(site.site, site.flow, seconds=5, ago=200)
    yield
    forget(site)


@ended_anyway
def scheduler_stopped(site: WatchedSite) -> Iterator[None]:
    """Have an active schedule, which nothing plans runs of."""
    site.sql(
        "INSERT INTO prefect.deployment_schedule (deployment_id, active, schedule, updated) "
        """SELECT id, true, '{"interval": 3600}', now() - interval '10 min' FROM prefect.deployment"""
    )
    site.sql("UPDATE prefect.deployment SET updated = now() - interval '10 min'")
    yield
    site.sql("DELETE FROM prefect.deployment_schedule")


def add_event(site: WatchedSite, event: str, resource: str, ago: float) -> None:
    site.sql(
        "INSERT INTO prefect.events (id, occurred, event, resource_id, resource, payload, received, recorded) "
        "SELECT gen_random_uuid(), t, %s, %s, '{}', '{}', t, t FROM (SELECT now() - make_interval(secs => %s) AS t) x",
        *(event, resource, ago),
    )


def add_due(site: WatchedSite, count: int, ago: float) -> None:
    """Add runs of the queue that have been due for some time."""
    site.sql(
        "INSERT INTO prefect.flow_run (name, flow_id, state_type, state_name, state_timestamp, work_queue_id, "
        "                              next_scheduled_start_time) "
        "SELECT 'run', %s, 'SCHEDULED', 'Late', at, q.id, at FROM prefect.work_queue q, generate_series(1, %s), "
        "       (SELECT now() - make_interval(secs => %s) AS at) x",
        *(site.flow[0], count, ago),
    )


def forget(site: WatchedSite) -> None:
    site.sql("DELETE FROM prefect.flow_run; DELETE FROM prefect.events")


@ended_anyway
def run_late(site: WatchedSite) -> Iterator[None]:
    add_due(site, 1, ago=600)
    yield
    forget(site)


@ended_anyway
def backlog(site: WatchedSite) -> Iterator[None]:
    add_due(site, 5, ago=1)
    yield
    forget(site)


@ended_anyway
def backlog_growing(site: WatchedSite) -> Iterator[None]:
    ended = threading.Event()

    def grow() -> None:
        while not ended.wait(0.5):
            add_due(site, 1, ago=1)

    thread = threading.Thread(target=grow)
    thread.start()
    yield
    ended.set()
    thread.join()
    forget(site)


@ended_anyway
def runs_failed(site: WatchedSite) -> Iterator[None]:
    add_runs(site.site, site.flow, 3, state="COMPLETED", seconds=5)
    add_runs(site.site, site.flow, 2, state="FAILED", seconds=5)
    add_runs(site.site, site.flow, 1, state="CRASHED", seconds=5)
    yield
    forget(site)


@ended_anyway
def run_dead(site: WatchedSite) -> Iterator[None]:
    """Have a worker start again after it had taken a run."""
    add_runs(site.site, site.flow, state="RUNNING", ago=600)
    site.sql("""UPDATE prefect.flow_run SET labels = '{"prefect.worker.name": "elsewhere-1"}'""")
    add_event(site, WORKER_STARTED, f"{WORKER_RESOURCE}elsewhere-1", ago=60)
    yield
    forget(site)


@ended_anyway
def runs_stuck(site: WatchedSite) -> Iterator[None]:
    for state in ("RUNNING", "PENDING", "CANCELLING"):
        add_runs(site.site, site.flow, state=state, ago=90_000)
    yield
    forget(site)


# The outbox, of which no relay sends


@ended_anyway
def relay_stopped(site: WatchedSite) -> Iterator[None]:
    order(site.site, "waits")
    yield
    empty_outbox(site)


@ended_anyway
def row_given_up(site: WatchedSite) -> Iterator[None]:
    """Have the relay give a row up that Prefect refused."""
    order(site.site, "refused")
    with contextlib.closing(connect(site.site.server.login, site.site.database)) as connection:
        outbox = Outbox(connection, site.site.tenant.outbox)
        (row,) = outbox.claim(1)
        assert outbox.refuse([Refusal(row, "HTTP 404", final=True)])
        connection.commit()
    yield
    empty_outbox(site)


@ended_anyway
def outbox_full(site: WatchedSite) -> Iterator[None]:
    """Change rows until the outbox, whose rows are counted every other second, refuses one."""
    for number in range(100):
        order(site.site, f"many-{number}")
        [(refused,)] = site.sql("SELECT is_called FROM prefect_outbox.refused")
        if refused:
            break
        time.sleep(0.3)
    yield
    empty_outbox(site)


def empty_outbox(site: WatchedSite) -> None:
    site.sql("DELETE FROM prefect_outbox.event")


# The database


@ended_anyway
def database_frozen(site: WatchedSite) -> Iterator[None]:
    docker("pause", site.site.server.container)
    yield
    docker("unpause", site.site.server.container)


@contextlib.contextmanager
def session(site: WatchedSite) -> Iterator[Any]:
    """Give the cursor of a session of the application, which has begun a transaction."""
    connection = site.site.server.connect(site.site.database, site.site.declaration.app_login, PASSWORD)
    connection.autocommit = False
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT")
        yield cursor


@contextlib.contextmanager
def at_work(site: WatchedSite, statement: str) -> Iterator[None]:
    """Have a session execute a statement that does not end by itself."""
    with session(site) as cursor:

        def execute() -> None:
            with contextlib.suppress(psycopg2.errors.QueryCanceled):
                cursor.execute(statement)

        thread = threading.Thread(target=execute)
        thread.start()
        try:
            yield
        finally:
            cursor.connection.cancel()
            thread.join()


@ended_anyway
def connections_taken(site: WatchedSite) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(session(site)).connection.rollback()
        yield


def transaction_open(site: WatchedSite) -> contextlib.AbstractContextManager[None]:
    return at_work(site, "SELECT pg_sleep(600)")


@ended_anyway
def transaction_idle(site: WatchedSite) -> Iterator[None]:
    with session(site):
        yield


@ended_anyway
def lock_waited_for(site: WatchedSite) -> Iterator[None]:
    with session(site) as cursor:
        cursor.execute("LOCK TABLE orders")
        with at_work(site, "LOCK TABLE orders"):
            yield


@ended_anyway
def transaction_ids_used(site: WatchedSite) -> Iterator[None]:
    """Use up transaction IDs. No vacuum by hand reaches template0, so they stay old."""
    site.sql(f"DO $$ BEGIN FOR n IN 1..{XIDS} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    yield


@ended_anyway
def rows_dead(site: WatchedSite) -> Iterator[None]:
    """Have a schema that nothing vacuums consist of dead rows."""
    site.sql("CREATE TABLE public.dead AS SELECT n FROM generate_series(1, 30000) n")
    site.sql("DELETE FROM public.dead")
    yield
    site.sql("DROP TABLE public.dead")


# Archiving and replication


@ended_anyway
def archive_gone(site: WatchedSite) -> Iterator[None]:
    site.shell(f"mv {ARCHIVE} {ARCHIVE}.away")
    switch_wal(site)
    yield
    site.shell(f"mv {ARCHIVE}.away {ARCHIVE}")
    switch_wal(site)


def switch_wal(site: WatchedSite) -> None:
    site.sql("CREATE TABLE written (); DROP TABLE written")
    site.sql("SELECT pg_switch_wal()")


@ended_anyway
def slot_left_behind(site: WatchedSite) -> Iterator[None]:
    site.sql("SELECT pg_create_physical_replication_slot('left_behind', true)")
    switch_wal(site)
    yield
    site.sql("SELECT pg_drop_replication_slot('left_behind')")


STANDBY = """
set -e
bin=$(echo /usr/lib/postgresql/*/bin) data=/var/lib/postgresql/standby
grep -q replication /var/lib/postgresql/data/pg_hba.conf ||
    echo 'local replication all peer' >>/var/lib/postgresql/data/pg_hba.conf
psql -qc 'SELECT pg_reload_conf()'
pg_basebackup --pgdata $data --checkpoint fast --write-recovery-conf
$bin/pg_ctl start --pgdata $data --log /tmp/standby.log --wait --options \
    "-c port=5433 -c cluster_name=standby -c unix_socket_directories=/var/run/postgresql \
     -c max_connections=200 -c shared_buffers=16MB -c archive_mode=off" >/dev/null
"""


@contextlib.contextmanager
def with_standby(site: WatchedSite) -> Iterator[None]:
    site.shell(STANDBY)
    try:
        switch_wal(site)
        wait_for(lambda: asked(site.prometheus, "pgprefect_replication_lag_bytes"))
        yield
    finally:
        site.shell("/usr/lib/postgresql/*/bin/pg_ctl stop --pgdata /var/lib/postgresql/standby --mode fast")
        site.shell("rm -r /var/lib/postgresql/standby")


@ended_anyway
def standby_held_up(site: WatchedSite) -> Iterator[None]:
    """Have a standby that takes WAL and does not replay it."""
    with with_standby(site):
        site.shell("psql -p 5433 -qc 'SELECT pg_wal_replay_pause()'")
        switch_wal(site)
        yield


@ended_anyway
def standby_stopped(site: WatchedSite) -> Iterator[None]:
    with with_standby(site):
        pass
    yield


# Jobs and hosts


@ended_anyway
def job_failed(site: WatchedSite) -> Iterator[None]:
    job = site.jobs["drill"]
    with contextlib.suppress(OSError), record(job):
        raise OSError("The set is damaged.")
    yield
    with record(job):
        pass


@ended_anyway
def jobs_overdue(site: WatchedSite) -> Iterator[None]:
    """Have all jobs have succeeded last, and been scheduled, a month ago."""
    before = datetime.now(UTC) - timedelta(days=30)
    for job in site.jobs.values():
        os.utime(job.schedule, (before.timestamp(),) * 2)
        content = json.loads(Path(job.path).read_text())
        moments = dict.fromkeys(("started", "ended", "succeeded"), before.isoformat())
        Path(job.path).write_text(json.dumps({**content, **moments}))
    yield
    for job in site.jobs.values():
        with record(job):
            pass


@ended_anyway
def sets_gone(site: WatchedSite) -> Iterator[None]:
    """Have an empty folder where the sets were, as where their disk is not mounted."""
    away = site.sets.rename(site.folder / "away")
    site.sets.mkdir()
    yield
    site.sets.rmdir()
    away.rename(site.sets)


@ended_anyway
def set_old(site: WatchedSite) -> Iterator[None]:
    (newest,) = sets.list_sets(site.sets)
    old = newest.rename(newest.with_name(sets.name_of(datetime.now(UTC) - timedelta(days=2))))
    yield
    old.rename(newest)


@ended_anyway
def redis_frozen(site: WatchedSite) -> Iterator[None]:
    """Have it answer nothing, as a host that is cut off."""
    process = site.redis.info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    yield
    os.kill(process, signal.SIGCONT)


@ended_anyway
def redis_filled(site: WatchedSite) -> Iterator[None]:
    for number in range(4):
        site.redis.set(f"filled:{number}", b"x" * 1_300_000)
    yield
    site.redis.flushdb()


@ended_anyway
def certificate_ends(site: WatchedSite) -> Iterator[None]:
    good = site.certificate.read_text()
    site.certificate.write_text(Authority(days=20).certificate)
    yield
    site.certificate.write_text(good)


def figures_old(site: WatchedSite) -> contextlib.AbstractContextManager[None]:
    return site.collector.stopped()


@ended_anyway
def table_locked(site: WatchedSite) -> Iterator[None]:
    connection = site.site.server.connect(site.site.database)
    connection.autocommit = False
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE prefect.worker")
        yield


FAULTS = [
    Fault("PrefectServerDown", server_killed),
    Fault("PrefectWorkersMissing", worker_gone),
    Fault("PrefectWorkersDown", all_workers_gone),
    Fault("PrefectEventsLag", events_stopped),
    Fault("PrefectSchedulerLag", scheduler_stopped),
    Fault("PrefectRunsLate", run_late),
    Fault("PrefectBacklog", backlog),
    Fault("PrefectBacklogGrowing", backlog_growing),
    Fault("PrefectRunsFail", runs_failed),
    Fault("PrefectRunsDead", run_dead),
    Fault("PrefectRunsStuck", runs_stuck, series=3),
    Fault("PrefectOutboxWaits", relay_stopped),
    Fault("PrefectDeadLetters", row_given_up),
    Fault("PrefectOutboxRefuses", outbox_full),
    Fault("PrefectDatabaseDown", database_frozen),
    Fault("PrefectConnectionsNearLimit", connections_taken),
    Fault("PrefectTransactionOld", transaction_open),
    Fault("PrefectTransactionIdle", transaction_idle),
    Fault("PrefectLockWait", lock_waited_for),
    Fault("PrefectTransactionIdsRunOut", transaction_ids_used, ends=False),
    Fault("PrefectDeadRows", rows_dead),
    Fault("PrefectArchivingFails", archive_gone),
    Fault("PrefectReplicationLag", standby_held_up),
    Fault("PrefectStandbyGone", standby_stopped),
    Fault("PrefectSlotKeepsWal", slot_left_behind),
    Fault("PrefectRedisDown", redis_frozen),
    Fault("PrefectRedisNearlyFull", redis_filled),
    Fault("PrefectJobFailed", job_failed),
    Fault("PrefectJobOverdue", jobs_overdue, series=len(JOBS)),
    Fault("PrefectBackupMissing", sets_gone),
    Fault("PrefectBackupOld", set_old),
    Fault("PrefectCertificateEnds", certificate_ends),
    Fault("PrefectMetricsSilent", figures_old),
    Fault("PrefectMetricsIncomplete", table_locked),
]
# Those whose faults need a host's disk, systemd, or several hosts.
ELSEWHERE = {
    "PrefectPrimaryMissing": "molecule/patroni/tests/test_alerts.py::test_alerts",
    "PrefectMemberAway": "molecule/patroni/tests/test_alerts.py::test_alerts",
    "PrefectEtcdSilent": "molecule/patroni/tests/test_alerts.py::test_alerts",
    "PrefectDiskFull": "tests/database/metrics/test_faults.py::test_a_disk_that_fills_up",
    "PrefectUnitFailed": "molecule/hosts/tests/test_monitoring.py::test_a_unit_that_failed",
}


def test_a_site_that_lacks_nothing_is_quiet(site: WatchedSite) -> None:
    time.sleep(3)
    assert asked(site.prometheus, "pgprefect_collect_success == 0") == []
    assert site.firing(".*") == []


def each_fault() -> Iterator[Any]:
    """Yield all faults; those in which the figures come from different places are not left to the long run."""
    kept = (
        "PrefectServerDown",
        "PrefectWorkersDown",
        "PrefectRunsFail",
        "PrefectConnectionsNearLimit",
        "PrefectBackupOld",
    )
    for fault in FAULTS:
        marks = () if fault.alert in kept else pytest.mark.thorough
        yield pytest.param(fault, marks=marks, id=fault.alert)


@pytest.mark.parametrize("fault", [*each_fault()])
def test_an_alert_fires_for_its_fault(site: WatchedSite, fault: Fault) -> None:
    def firing() -> set[tuple[tuple[str, str], ...]]:
        """Return the series for which it fires, as a warning or as critical."""
        found = [{**labels, "severity": ""} for labels in site.firing(fault.alert)]
        return {tuple(sorted(labels.items())) for labels in found}

    wait_for(lambda: not firing())  # what the fault before it brought about is over
    with fault.make(site):
        wait_for(lambda: len(firing()) == fault.series, lambda: site.collector.text)
    if fault.ends:
        wait_for(lambda: not firing(), lambda: site.collector.text, seconds=90)


@pytest.mark.thorough
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """By a file on this machine's own disk, whose real use is just below the threshold."""
    disk = next(path for path in ROOT.parents if path.is_mount())
    size = os.statvfs(disk)
    capacity = size.f_blocks * size.f_frsize
    used = 100 - 100 * size.f_bavail / size.f_blocks
    content = in_seconds(rules(Thresholds(disk_used_percent=Limit(used + 0.2, None))))
    with exporting_node() as exporter, running_prometheus(exporter, tmp_path, content, "500ms") as prometheus:

        def firing() -> list[Any]:
            selector = f'alertname="PrefectDiskFull", alertstate="firing", mountpoint="{disk}"'
            return asked(prometheus, f"ALERTS{{{selector}}}")

        wait_for(lambda: asked(prometheus, f'node_filesystem_avail_bytes{{mountpoint="{disk}"}}'))
        time.sleep(3)
        assert firing() == []
        with tempfile.TemporaryFile(dir=ROOT / ".cache") as file:
            os.posix_fallocate(file.fileno(), 0, int(capacity * 0.006))
            wait_for(firing)
        wait_for(lambda: not firing())


@contextlib.contextmanager
def exporting_node() -> Iterator[int]:
    """Run a real node exporter, which tells of this machine's file systems, and yield its port."""
    port = free_port()
    command = [str(NODE_EXPORTER), "--collector.disable-defaults", "--collector.filesystem"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]) as exporter:
        try:
            wait_for(lambda: is_ready(f"http://127.0.0.1:{port}/metrics"))
            yield port
        finally:
            exporter.terminate()


def test_all_alerts_have_faults() -> None:
    (group,) = rules(Thresholds())["groups"]
    assert {fault.alert for fault in FAULTS} | set(ELSEWHERE) == {rule["alert"] for rule in group["rules"]}
    for path, name in (where.split("::") for where in ELSEWHERE.values()):
        assert f"def {name}(" in (ROOT / path).read_text()
