"""A site that lacks nothing, whose real figures a real Prometheus judges by the site's rules, in seconds."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.http import is_ready
from pgprefect.core.jobs import Job, record
from pgprefect.health.thresholds import Thresholds
from pgprefect.metrics import alerts
from pgprefect.metrics.collect import collect
from pgprefect.metrics.exposition import render
from pgprefect.site.configuration import Backups, Certificate, Keep
from pgprefect.site.configuration import Site as Configured
from redis import Redis

from tests.support.backups import make
from tests.support.certificates import Authority
from tests.support.database_events import ORDERS, with_events
from tests.support.ports import free_port
from tests.support.postgresql import docker, running_postgresql
from tests.support.project import VIRTUALENV
from tests.support.redis_server import running_redis
from tests.support.relay import Program
from tests.support.run_rows import add_flow, configured
from tests.support.site import Site, migrated_site
from tests.support.waiting import wait_for
from tests.support.watched import asked, running_prometheus, serving

INTERVAL = "500ms"
POOL = "default"
JOBS = ("backup", "copy", "drill", "pitr", "cleanup")
XIDS = 5000  # that the site uses up until the limit
MOST_WAITING = 3  # rows of the outbox
# Where the usual limit takes long to reach.
LIMITS = {
    "transaction_s": {"warning": 4},
    "idle_in_transaction_s": {"warning": 3},
    "lock_wait_s": {"warning": 2},
    "archive_lag_s": {"warning": 3},
    "database_events_lag_s": {"warning": 3},
    "backlog": {"warning": 5},
}
ARCHIVE = "/var/lib/postgresql/archive"  # in the container
OPTIONS = "-c wal_level=replica -c max_wal_senders=4 -c archive_mode=on -c autovacuum=off"


class Collector:
    """Collects the figures again and again, as the timer has it done, and keeps the last."""

    def __init__(self, site: Configured) -> None:
        self.site, self.text = site, ""
        self._ended, self._at_work = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        self._at_work.set()
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self._at_work.clear()
        try:
            yield
        finally:
            self._at_work.set()

    def _run(self) -> None:
        while not self._ended.wait(0.3):
            if self._at_work.is_set():
                self.text = render(collect(self.site, 3).samples)


@dataclass
class WatchedSite:
    """The site, and what a fault needs of it."""

    site: Site
    folder: Path
    server: Program
    collector: Collector
    jobs: dict[str, Job]
    flow: tuple[str, str | None]
    redis: Redis
    prometheus: str = ""

    @property
    def certificate(self) -> Path:
        return self.folder / "database.pem"

    @property
    def sets(self) -> Path:
        return self.folder / "sets"

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.site.sql(statement, *values)

    def shell(self, command: str) -> str:
        """Run a command as PostgreSQL's user in the container of the database."""
        return docker("exec", self.site.server.container, "bash", "-c", command)

    def firing(self, alert: str) -> list[dict[str, str]]:
        """Return the labels of an alert as often as it fires, whatever its severity."""
        found = asked(self.prometheus, f'ALERTS{{alertname=~"{alert}", alertstate="firing"}}')
        return [series["metric"] for series in found]


def in_seconds(content: dict[str, Any]) -> dict[str, Any]:
    """Return rules that wait for a moment where they would wait for minutes, and look back for ten seconds."""
    (group,) = content["groups"]

    def quick(expression: str) -> str:
        return re.sub(r"\[\d+m\]", "[10s]", expression.replace("[30m:1m]", "[10s:1s]"))

    changed = [{**rule, "for": INTERVAL, "expr": quick(rule["expr"])} for rule in group["rules"]]
    return {"groups": [{**group, "rules": changed}]}


@contextlib.contextmanager
def watched_site(folder: Path) -> Iterator[WatchedSite]:
    """Run a database, a Prefect server and a Prometheus; nothing is wrong with them."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in (("SLOT_BYTES", 2**20), ("REPLICATION_SECONDS", 2), ("_STALE_SECONDS", 5)):
            patch.setattr(alerts, name, value)
        patch.setattr("pgprefect.schema.outbox_sql.keep_body.__defaults__", (MOST_WAITING,))
        server = stack.enter_context(
            running_postgresql("--tmpfs", "/var/lib/postgresql", "--env", f"POSTGRES_OPTIONS={OPTIONS}")
        )
        site = migrated_site(server, "watched", folder)
        stack.enter_context(with_events(site, ORDERS))
        api, url = _api(site, folder)
        api.start()
        stack.callback(api.stop)
        jobs = {name: Job(name, str(folder / f"cron-{name}"), folder=str(folder / "jobs")) for name in JOBS}
        redis = stack.enter_context(_redis(site.tenant.name, folder, patch))
        tenant = replace(site.tenant, api_url=url, pool_workers={POOL: 2}, redis=True)
        [(xid_age,)] = site.sql("SELECT max(greatest(age(datfrozenxid), mxid_age(datminmxid))) FROM pg_database")
        given = configured(
            site,
            tenants=(tenant,),
            jobs=tuple(jobs.values()),
            backups=Backups(str(folder / "sets"), ("app",), Keep()),
            certificates=(Certificate(str(folder / "database.pem")),),
            health={**LIMITS, "xid_age": {"warning": xid_age + XIDS}},
        )
        watched = WatchedSite(site, folder, api, Collector(given), jobs, add_flow(site, "collect", "nightly"), redis)
        _fill(watched)
        wait_for(lambda: is_ready(f"{url}/ready"), api.log.read_text, 180)
        stack.enter_context(watched.collector.running())
        exporter = stack.enter_context(serving(lambda: watched.collector.text))
        content = in_seconds(alerts.rules(Thresholds.from_arguments(given.health)))
        watched.prometheus = stack.enter_context(running_prometheus(exporter, folder, content, INTERVAL))
        yield watched


def _api(site: Site, folder: Path) -> tuple[Program, str]:
    """Return the API of a Prefect server, without its services, and its address."""
    port = free_port()
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-services"]
    environment = {
        **site.environment(role=site.tenant.server),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "HOME": str(folder),
        "PREFECT_HOME": str(folder),
    }
    return Program(
        [VIRTUALENV / "bin/prefect", *words], environment, folder / "server.log"
    ), f"http://127.0.0.1:{port}/api"


@contextlib.contextmanager
def _redis(tenant: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """Run a Redis of 8 MB that the environment of the tenant's server names."""
    port, password = free_port(), "watched"
    (folder / f"{tenant}-server.env").write_text(
        f'PREFECT_REDIS_MESSAGING_URL="redis://default:{password}@127.0.0.1:{port}/0"\n'
    )
    patch.setattr("pgprefect.health.redis.ENVIRONMENT", str(folder / "{}-server.env"))
    with running_redis(folder, port, password, "--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as client:
        yield client


def _fill(watched: WatchedSite) -> None:
    """Give the site workers, a limit of connections, an archive, jobs that succeeded, a set and a certificate."""
    watched.sql("INSERT INTO prefect.work_pool (name, type) VALUES (%s, 'process')", POOL)
    watched.sql("INSERT INTO prefect.work_queue (name, work_pool_id) SELECT 'default', id FROM prefect.work_pool")
    watched.sql(
        "INSERT INTO prefect.worker (name, work_pool_id, last_heartbeat_time, heartbeat_interval_seconds) "
        "SELECT 'worker-' || n, id, now(), 3600 FROM prefect.work_pool, generate_series(1, 2) n"
    )
    watched.sql("ALTER ROLE mltrading_app CONNECTION LIMIT 5")
    watched.shell(f"mkdir {ARCHIVE}")
    watched.sql(f"ALTER SYSTEM SET archive_command = 'cp %p {ARCHIVE}/%f'")
    watched.sql("SELECT pg_reload_conf(), pg_switch_wal()")
    for job in watched.jobs.values():
        Path(job.schedule).touch()
        with record(job):
            pass
    watched.sets.mkdir()
    make(watched.site, watched.sets, "app")
    watched.certificate.write_text(Authority(days=90).certificate)
