"""Metrics of a real PostgreSQL with Prefect's real tables: the numbers, hostile names, and parts that are dead."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.connection import Login
from pgprefect.core.jobs import Job, record
from pgprefect.core.questions import ask_within, connect_to_ask
from pgprefect.metrics import collect as collecting
from pgprefect.metrics import runs
from pgprefect.metrics.collect import Collection, collect
from pgprefect.metrics.exposition import Sample, render
from pgprefect.runs.statistics import STATES
from pgprefect.site.configuration import Site as Configured
from pgprefect.site.configuration import Tenant
from prometheus_client.parser import text_string_to_metric_families

from bench.data import fill
from tests.support.postgresql import docker, running_postgresql
from tests.support.project import PROMTOOL, RELEASES
from tests.support.run_rows import add_flow, add_runs, configured
from tests.support.site import PASSWORD, Site
from tests.support.waiting import wait_for

HOSTILE = 'a "name", a \\ and\na line # HELP {x="1"} é'
Labels = frozenset[tuple[str, str]]


class Metrics:
    """What was collected, as Prometheus's own library reads it."""

    def __init__(self, collection: Collection) -> None:
        self.text = render(collection.samples)
        self.errors = collection.errors
        self.values: dict[tuple[str, Labels], float] = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                key = sample.name.removeprefix("pgprefect_"), frozenset(sample.labels.items())
                assert key not in self.values, f"{key} is there twice, which Prometheus refuses"
                self.values[key] = sample.value

    def of(self, name: str, /, **labels: str) -> float:
        return self.values[name, frozenset(labels.items())]

    def has(self, name: str, /, **labels: str) -> bool:
        return (name, frozenset(labels.items())) in self.values

    def all(self, name: str) -> dict[Labels, float]:
        return {labels: value for (found, labels), value in self.values.items() if found == name}


def metrics(site: Site, timeout: float = 10, **changes: Any) -> Metrics:
    started = time.monotonic()
    found = Metrics(collect(configured(site, **changes), timeout))
    assert time.monotonic() - started < timeout + 1
    return found


def deployments(site: Site, most: int) -> Metrics:
    """The runs by flow and deployment, of which so many have names."""
    login = configured(site).login
    with contextlib.closing(connect_to_ask(login, site.database, 10)) as connection:
        ask = partial(ask_within, connection, seconds=5)
        samples: list[Sample] = list(runs.deployments(ask, site.tenant, most))
    return Metrics(Collection(samples, [], True))


def add_limit(site: Site, name: str, slots: int, used: int = 0, active: bool = True) -> str:
    """Add a concurrency limit, and return its ID."""
    [(limit,)] = site.sql(
        'INSERT INTO prefect.concurrency_limit_v2 (name, "limit", active_slots, active, denied_slots, '
        "                                          slot_decay_per_second, avg_slot_occupancy_seconds) "
        "VALUES (%s, %s, %s, %s, 0, 0, 2) RETURNING id::text",
        *(name, slots, used, active),
    )
    return str(limit)


@pytest.mark.parametrize("release", [pytest.param(RELEASES[-2], marks=pytest.mark.thorough), RELEASES[-1]])
def test_the_numbers_are_those_of_the_database(released: Site) -> None:
    """Counted once more in Python, from the rows."""
    with contextlib.closing(released.server.connect(released.database)) as connection:
        fill(connection, "prefect", 4000, days=0.15, children=False)
    # Runs whose end is about to pass a border of the window.
    released.sql(
        "DELETE FROM prefect.flow_run WHERE abs(extract(epoch FROM now() - end_time)) < 120 "
        "OR abs(extract(epoch FROM now() - end_time) - 3600) < 120"
    )
    found = metrics(released)
    assert found.errors == []
    rows = released.sql(
        "SELECT f.name, d.name, state_type::text, start_time, end_time, now() FROM prefect.flow_run r "
        "JOIN prefect.flow f ON f.id = flow_id LEFT JOIN prefect.deployment d ON d.id = deployment_id"
    )
    states = Counter(row[2] for row in rows)
    assert len(states) > 5
    assert found.all("flow_runs") == {
        frozenset({("tenant", "tenant0"), ("state", state)}): states[state] for state in STATES
    }
    counts: dict[str, Counter[Labels]] = {"flow_runs_open": Counter(), "flow_runs_ended": Counter()}
    times: dict[Labels, list[float]] = defaultdict(list)
    for flow, deployment, state, start, end, now in rows:
        labels = {("tenant", "tenant0"), ("flow", flow)} | ({("deployment", deployment)} if deployment else set())
        if end is None and state != "SCHEDULED":
            counts["flow_runs_open"][frozenset(labels | {("state", state)})] += 1
        if end is not None and timedelta() <= now - end < timedelta(hours=1):
            counts["flow_runs_ended"][frozenset(labels | {("state", state)})] += 1
            times[frozenset(labels)].append((end - start).total_seconds())
    assert len(counts["flow_runs_ended"]) > 100 and len(counts["flow_runs_open"]) == 10
    # 40 deployments and a flow without one; fewer than have names.
    assert len(times) <= runs.MOST_DEPLOYMENTS
    for name, expected in counts.items():
        assert found.all(name) == expected
    assert found.all("flow_run_duration_seconds_count") == {labels: len(took) for labels, took in times.items()}
    assert found.all("flow_run_duration_seconds_sum") == pytest.approx({of: sum(took) for of, took in times.items()})
    assert found.all("flow_run_duration_seconds_bucket") == {
        labels | {("le", str(limit).removesuffix(".0"))}: sum(seconds <= limit for seconds in took)
        for labels, took in times.items()
        for limit in runs.BUCKETS
    } | {labels | {("le", "+Inf")}: len(took) for labels, took in times.items()}


def test_a_duration_is_in_the_bucket_of_its_limit(prefect: Site) -> None:
    flow = add_flow(prefect, "collect")
    for seconds in (10.0, 10.000001, 9.999999):
        add_runs(prefect, flow, seconds=seconds, ago=600.123457)
    add_runs(prefect, flow, state="CANCELLED", ago=5)  # it never began
    labels = {"tenant": "tenant0", "flow": "collect"}
    found = metrics(prefect)
    assert found.of("flow_run_duration_seconds_bucket", **labels, le="10") == 2
    assert found.of("flow_run_duration_seconds_bucket", **labels, le="30") == 3
    assert found.of("flow_run_duration_seconds_count", **labels) == 3
    assert not found.has("flow_runs_ended", **labels, state="CANCELLED")


def test_any_name_is_a_label_and_no_parameter_is(prefect: Site) -> None:
    add_runs(prefect, add_flow(prefect, HOSTILE, HOSTILE), 2, seconds=1)
    prefect.sql(
        "WITH p AS (INSERT INTO prefect.work_pool (name, type) VALUES (%s, 'process') RETURNING id, name) "
        "INSERT INTO prefect.work_queue (name, work_pool_id) SELECT name, id FROM p",
        HOSTILE,
    )
    add_limit(prefect, HOSTILE, 1)
    prefect.sql("""UPDATE prefect.flow_run SET parameters = '{"a": "a parameter"}', tags = '["a tag"]'""")
    prefect.sql("UPDATE prefect.flow_run SET name = 'a run'")
    found = metrics(prefect)
    names = {"flow": HOSTILE, "deployment": HOSTILE}
    assert found.of("flow_runs_ended", tenant="tenant0", **names, state="COMPLETED") == 2
    assert found.of("work_pool_paused", tenant="tenant0", pool=HOSTILE) == 0
    assert found.of("work_queue_paused", tenant="tenant0", pool=HOSTILE, queue=HOSTILE) == 0
    assert found.of("concurrency_limit_slots", tenant="tenant0", limit=HOSTILE) == 1
    assert not [word for word in (PASSWORD, "a parameter", "a tag", "a run") if word in found.text]


def test_the_deployments_with_the_most_runs_have_names(prefect: Site) -> None:
    for number in range(1, 8):
        add_runs(prefect, add_flow(prefect, f"flow-{number}", "daily"), number, seconds=number)
    add_runs(prefect, add_flow(prefect, "flow-8"), 20, state="RUNNING")
    found = deployments(prefect, 3)
    running = {"tenant": "tenant0", "flow": "flow-8", "state": "RUNNING"}
    ended = {dict(labels)["flow"]: value for labels, value in found.all("flow_runs_ended").items()}
    assert ended == {"flow-7": 7, "flow-6": 6, "other": 1 + 2 + 3 + 4 + 5}
    assert list(found.all("flow_runs_open").values()) == [found.of("flow_runs_open", **running)] == [20]
    rest = {"tenant": "tenant0", "flow": "other", "deployment": "other"}
    assert found.of("flow_run_duration_seconds_count", **rest) == 15
    assert found.of("flow_run_duration_seconds_sum", **rest) == 1 + 4 + 9 + 16 + 25
    assert found.of("flow_run_duration_seconds_bucket", **rest, le="1") == 1
    assert found.of("flow_run_duration_seconds_bucket", **rest, le="5") == 15
    assert len(deployments(prefect, 8).all("flow_runs_ended")) == 7


def test_a_flow_of_the_name_of_the_rest(prefect: Site) -> None:
    for number, name in enumerate((runs.REST, "one", "two")):
        add_runs(prefect, add_flow(prefect, name, name), 3 - number, seconds=1)
    found = deployments(prefect, 1)
    assert list(found.all("flow_runs_ended").values()) == [3 + 2 + 1]


def test_a_deployment_that_was_deleted(prefect: Site) -> None:
    flow = add_flow(prefect, "collect", "daily")
    add_runs(prefect, flow, seconds=1)
    prefect.sql("DELETE FROM prefect.deployment")
    labels = {"tenant": "tenant0", "flow": "collect", "deployment": str(flow[1])}
    assert metrics(prefect).of("flow_runs_ended", **labels, state="COMPLETED") == 1


def test_queues_workers_and_limits(prefect: Site) -> None:
    prefect.sql(
        "INSERT INTO prefect.work_pool (name, type, concurrency_limit) VALUES ('default', 'process', 5);"
        "INSERT INTO prefect.work_queue (name, work_pool_id, concurrency_limit, is_paused) "
        "SELECT q.name, p.id, q.most, q.name = 'night' FROM prefect.work_pool p, (VALUES ('day', 3), ('night', NULL)) "
        "q (name, most);"
        "INSERT INTO prefect.worker (name, work_pool_id, last_heartbeat_time, heartbeat_interval_seconds) "
        "SELECT 'w' || s, id, now() - make_interval(secs => s), 30 FROM prefect.work_pool, (VALUES (20), (500)) a (s)"
    )
    add_limit(prefect, "database", 4, used=3)
    add_limit(prefect, "tag:heavy", 2)
    add_limit(prefect, "off", 1, used=1, active=False)
    flow = add_flow(prefect, "collect", "daily")
    limit = add_limit(prefect, f"deployment:{flow[1]}", 1, used=1)
    prefect.sql("UPDATE prefect.deployment SET concurrency_limit_id = %s", limit)
    for queue, state, count, ago in (
        ("day", "SCHEDULED", 2, 100),
        ("day", "SCHEDULED", 1, -600),
        ("day", "RUNNING", 2, 50),
        ("night", "SCHEDULED", 4, 300),
    ):
        prefect.sql(
            "INSERT INTO prefect.flow_run (name, flow_id, state_type, state_name, state_timestamp, work_queue_id, "
            "                              next_scheduled_start_time) "
            "SELECT 'run', %s, %s, initcap(%s), at, q.id, at FROM prefect.work_queue q, generate_series(1, %s), "
            "       (SELECT now() - make_interval(secs => %s) AS at) x WHERE q.name = %s",
            *(flow[0], state, state, count, ago, queue),
        )
    tenant = Tenant("research", "prefect", pool_workers={"default": 2})
    found = metrics(prefect, tenants=(tenant,))
    of = {"tenant": "research"}
    pool = {**of, "pool": "default"}
    day, night = {**pool, "queue": "day"}, {**pool, "queue": "night"}
    assert found.errors == []
    assert (found.of("work_pool_slots_used", **pool), found.of("work_pool_slots", **pool)) == (2, 5)
    assert (found.of("work_queue_slots_used", **day), found.of("work_queue_slots", **day)) == (2, 3)
    assert (found.of("work_queue_runs_due", **day), found.of("work_queue_runs_due", **night)) == (2, 4)
    assert found.of("work_queue_due_oldest_seconds", **day) == pytest.approx(100, abs=10)
    assert found.of("work_queue_due_oldest_seconds", **night) == pytest.approx(300, abs=10)
    assert not found.has("work_queue_slots", **night) and found.of("work_queue_paused", **night) == 1
    # A paused queue's runs are not late.
    assert found.of("flow_runs_due", **of) == 2
    assert found.of("flow_runs_due_oldest_seconds", **of) == pytest.approx(100, abs=10)
    assert found.of("flow_runs_oldest_seconds", **of, state="RUNNING") == pytest.approx(50, abs=10)
    assert found.of("flow_runs_oldest_seconds", **of, state="PENDING") == 0
    assert (found.of("workers_online", **pool), found.of("workers_declared", **pool)) == (1, 2)
    assert found.of("worker_heartbeat_age_seconds", **pool) == pytest.approx(20, abs=10)
    limits = {dict(labels)["limit"]: value for labels, value in found.all("concurrency_limit_slots").items()}
    used = {dict(labels)["limit"]: value for labels, value in found.all("concurrency_limit_slots_used").items()}
    assert limits == {"database": 4, "tag:heavy": 2, "deployment:collect/daily": 1}
    assert used == {"database": 3, "tag:heavy": 0, "deployment:collect/daily": 1}


def test_limits_beyond_the_bound_are_one(prefect: Site) -> None:
    for number in range(runs.MOST_LIMITS + 7):
        add_limit(prefect, f"limit-{number}", 10, used=number % 3)
    found = metrics(prefect)
    assert len(found.all("concurrency_limit_slots")) == runs.MOST_LIMITS + 1
    assert found.of("concurrency_limit_slots", tenant="tenant0", limit="other") == 70


def test_dead_runs_and_events(prefect: Site) -> None:
    flow = add_flow(prefect, "collect")
    add_runs(prefect, flow, 2, state="RUNNING", ago=90_000)
    add_runs(prefect, flow, seconds=5, ago=200)
    prefect.sql(
        "INSERT INTO prefect.events (id, occurred, event, resource_id, resource, payload, received, recorded) "
        "SELECT gen_random_uuid(), t, e, r, '{}', '{}', t, t FROM prefect.flow_run, "
        "  LATERAL (VALUES ('prefect.flow-run.heartbeat', 'prefect.flow-run.' || id, now() - interval '25 h'), "
        "                  ('prefect.flow-run.Completed', 'x', now() - interval '500 s')) v (e, r, t)"
    )
    # No server has a session here, so that its age cannot excuse the silence.
    found = metrics(prefect, tenants=(Tenant("tenant0", "prefect"),))
    assert found.of("flow_runs_dead", tenant="tenant0") == 2
    assert found.of("events_lag_seconds", tenant="tenant0") == pytest.approx(200, abs=20)
    assert found.of("flow_runs_oldest_seconds", tenant="tenant0", state="RUNNING") == pytest.approx(90_000, abs=10)


@contextlib.contextmanager
def sessions(site: Site, *statements: str) -> Iterator[None]:
    """Sessions of the application, each with a transaction open."""
    with contextlib.ExitStack() as closing:
        for statement in statements:
            connection = site.server.connect(site.database, site.declaration.app_login, PASSWORD)
            closing.callback(connection.close)
            connection.autocommit = False
            connection.cursor().execute(statement)
        yield


def test_the_database(prefect: Site) -> None:
    prefect.sql("ALTER ROLE mltrading_app CONNECTION LIMIT 20")
    prefect.sql("ALTER TABLE prefect.flow SET (autovacuum_enabled = false)")  # the dead rows stay
    prefect.sql("INSERT INTO prefect.flow (name) SELECT 'flow-' || n FROM generate_series(1, 1000) n")
    prefect.sql("DELETE FROM prefect.flow WHERE name <> 'flow-1'")
    prefect.sql("ANALYZE prefect.flow")
    with sessions(prefect, "SELECT 1", "SELECT 2"):
        time.sleep(1)  # so that the transactions have an age, and the statistics arrive
        found = metrics(prefect)
    [(version, xid)] = prefect.sql(
        "SELECT current_setting('server_version'), (SELECT max(greatest(age(datfrozenxid), mxid_age(datminmxid))) "
        "FROM pg_database)"
    )
    assert found.errors == []
    assert found.of("postgresql_info", version=version.split()[0]) == 1
    assert found.of("connections_used", of="role", name="mltrading_app") == 2
    assert found.of("connections_allowed", of="role", name="mltrading_app") == 20
    assert found.of("connections_used", of="server") >= 2
    assert found.of("transactions_open") == 2 and 1 < found.of("transaction_oldest_seconds") < 20
    assert found.of("lock_waits") == 0 and found.of("archiving_enabled") == 0
    assert 0 < found.of("xid_age") <= xid
    dead = found.of("schema_dead_tuples", tenant="tenant0", schema="prefect")
    assert dead == prefect.sql("SELECT sum(n_dead_tup) FROM pg_stat_all_tables WHERE schemaname = 'prefect'")[0][0]
    assert dead >= 999
    assert found.of("schema_size_bytes", schema="public") > 0 and found.of("database_size_bytes") > 1e6
    assert found.of("schema_info", tenant="tenant0", revision=revision(prefect)) == 1


def revision(site: Site) -> str:
    return str(site.sql("SELECT version_num FROM prefect.alembic_version")[0][0])


def test_archiving_and_replication() -> None:
    options = "-c wal_level=replica -c max_wal_senders=4 -c archive_mode=on -c archive_command=/bin/true"
    with running_postgresql("--tmpfs", "/var/lib/postgresql", "--env", f"POSTGRES_OPTIONS={options}") as server:
        server.sql("postgres", "SELECT pg_create_physical_replication_slot('elsewhere', true)")
        server.sql("postgres", "SELECT pg_switch_wal()")
        site = Configured(server.login, {"database": "postgres", "monitor": "postgres"}, ())
        archived_some = "SELECT archived_count > 0 FROM pg_stat_archiver"
        wait_for(lambda: server.sql("postgres", archived_some) == [(True,)])
        found = Metrics(collect(site, 10))
        [(kept, archived, last)] = server.sql(
            "postgres",
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, archived_count, last_archived_time "
            "FROM pg_replication_slots, pg_stat_archiver",
        )
    assert found.errors == []
    assert found.of("archiving_enabled") == 1 and found.of("archived_segments_total") == archived
    assert found.of("archive_last_success_timestamp_seconds") == pytest.approx(last.timestamp())
    assert found.of("archive_failures_total") == 0
    assert not found.has("archive_last_failure_timestamp_seconds")
    assert found.of("replication_slot_active", slot="elsewhere") == 0
    assert found.of("replication_slot_retained_bytes", slot="elsewhere") == kept > 0


def successes(found: Metrics) -> dict[str, float]:
    return {dict(labels)["group"]: value for labels, value in found.all("collect_success").items()}


def test_a_locked_table_harms_its_own_metrics_alone(prefect: Site) -> None:
    add_runs(prefect, add_flow(prefect, "collect"), 3, seconds=1)
    holder = prefect.server.connect(prefect.database)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE prefect.worker")
    try:
        found = metrics(prefect, timeout=5)
    finally:
        holder.close()
    assert successes(found) == {"runs": 0, "database": 1}
    assert [error.split(": ")[0] for error in found.errors] == [
        "runs of tenant tenant0, workers",
        "runs of tenant tenant0, dead_runs",
    ]
    assert found.of("flow_runs", tenant="tenant0", state="COMPLETED") == 3
    assert found.of("events_lag_seconds", tenant="tenant0") == 0
    assert found.all("workers_online") == {}


def test_a_schema_that_is_gone(prefect: Site) -> None:
    first = prefect.tenant
    other = Tenant("research", "research")
    found = metrics(prefect, tenants=(first, other))
    assert found.of("collect_success", group="runs", tenant="tenant0") == 1
    assert found.of("collect_success", group="runs", tenant="research") == 0
    assert found.of("collect_success", group="database") == 1
    assert len(found.errors) == 1 and "research.alembic_version" in found.errors[0]


@contextlib.contextmanager
def paused(site: Site) -> Iterator[None]:
    docker("pause", site.server.container)
    try:
        yield
    finally:
        docker("unpause", site.server.container)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_dead_database(prefect: Site, tmp_path: Path, how: str) -> None:
    """The rest is printed, and what is dead says so."""
    job = Job("cleanup", "/etc/cron.d/x", "tenant0", str(tmp_path))
    with record(job):
        pass
    stopped = Login("127.0.0.1", 1, "x")
    with contextlib.nullcontext() if how == "stopped" else paused(prefect):
        found = metrics(prefect, timeout=2, jobs=(job,), **({"login": stopped} if how == "stopped" else {}))
    assert successes(found) == {"runs": 0, "database": 0, "jobs": 1}
    assert found.of("job_failed", tenant="tenant0", name="cleanup") == 0
    assert len(found.all("collect_seconds")) == 3 and found.all("flow_runs") == {}
    assert len(found.errors) == 2 and all("group" not in error for error in found.errors)
    assert abs(found.of("collect_timestamp_seconds") - time.time()) < 60


def test_nothing_at_all(prefect: Site) -> None:
    found = collect(configured(prefect, login=Login("127.0.0.1", 1, "x")), 2)
    assert not found.anything
    assert "pgprefect_info" in render(found.samples)


def test_the_names_are_as_prometheus_wants_them(prefect: Site, tmp_path: Path) -> None:
    add_runs(prefect, add_flow(prefect, "collect"), seconds=1)
    with record(job := Job("backup", "/etc/cron.d/x", folder=str(tmp_path))):
        pass
    found = metrics(prefect, jobs=(job,))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", found.text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", found.text, re.MULTILINE))
    assert set(kinds) == set(helps) and len(kinds) > 30
    assert all(text.endswith(".") for text in helps.values())
    for name, kind in kinds.items():
        assert re.fullmatch(r"pgprefect(_[a-z]+)+", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|minutes|hours|days|kb|mb|percent|count|sum|bucket)$", name), name
    assert collecting.INFO.name in kinds
    judged = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=found.text, capture_output=True, text=True, check=False
    )
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")
