"""Each message of docs/troubleshooting.md is what somebody sees: reproduced here, or by the test that is named."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote as in_url

import psycopg2
import pytest
from pgprefect.core.connection import ConnectionFailed, connect
from pgprefect.core.problems import Problem
from pgprefect.schema.plan import Blocked
from pgprefect.schema.verify import verify

from tests.support.ansible import Result
from tests.support.postgresql import docker
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import PASSWORD, Site
from tests.support.waiting import wait_for

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
ROWS = {
    cells[0].strip("`"): cells[1].strip("`")
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"
    )
    if cells[0] not in ("message", "---")
}


@dataclass
class Stage:
    """Where a message is reproduced: a database that is as declared."""

    site: Site
    home: Path
    run_module: Callable[..., Result]

    def prefect(self, *arguments: str, **settings: str) -> str:
        """What Prefect's command says."""
        quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        home = {"HOME": str(self.home), "PREFECT_HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [VIRTUALENV / "bin/prefect", *arguments],
            env={**home, **quiet, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        return done.stdout

    def upgrade(self, scheme: str) -> str:
        """What a migration says whose database is given as a URL with options, as older guides show it."""
        login = f"{self.site.tenant.migrator}:{in_url(PASSWORD, safe='')}"
        where = f"127.0.0.1:{self.site.server.port}/{self.site.database}"
        url = f"{scheme}://{login}@{where}?options=-csearch_path%3Dprefect"
        return self.prefect("server", "database", "upgrade", "-y", PREFECT_SERVER_DATABASE_CONNECTION_URL=url)

    def problems(self, **login: object) -> list[Problem]:
        changed = replace(self.site.server.login, **login)  # type: ignore[arg-type]
        return verify(changed, self.site.declaration, virtualenv=str(VIRTUALENV)).problems

    def health(self, api_url: str, workers: int = 0) -> Seen:
        tenant = {"name": "prefect", "schema": "prefect", "api_url": api_url, "workers": workers}
        login = {**self.site.server.module_arguments(), "login_password": PASSWORD}
        result = self.run_module("prefect_health_check", **login, database=self.site.database, tenants=[tenant])
        problems = result["problems"]
        return " ".join(problem["message"] for problem in problems), {problem["code"] for problem in problems}

    def refusal(self, role: str, statement: str) -> str:
        with pytest.raises(psycopg2.Error) as refused:
            self.site.sql(statement, role=role)
        return str(refused.value)


# What somebody sees, and the codes that verification or health finds.
Seen = tuple[str, set[str]]
Reproduction = Callable[[Stage], Seen]
REPRODUCTIONS: dict[str, Reproduction] = {}


def shows(message: str) -> Callable[[Reproduction], Reproduction]:
    def register(reproduction: Reproduction) -> Reproduction:
        REPRODUCTIONS[message] = reproduction
        return reproduction

    return register


def seen(problems: list[Problem]) -> Seen:
    return " ".join(problem.message for problem in problems), {problem.code for problem in problems}


def after(statement: str) -> Reproduction:
    """Verification after somebody changed something."""

    def reproduce(stage: Stage) -> Seen:
        stage.site.sql(statement)
        return seen(stage.problems())

    return reproduce


def with_login(**login: object) -> Reproduction:
    return lambda stage: seen(stage.problems(**login))


REPRODUCTIONS |= {
    "The database is at the revision …, which the installed Prefect does not know": after(
        "UPDATE prefect.alembic_version SET version_num = 'fffffffffff1'"
    ),
    "migrations behind the installed Prefect": after("UPDATE prefect.alembic_version SET version_num = 'c8d5f2a71b3e'"),
    "The asyncio extension requires an async driver to be used": lambda stage: (stage.upgrade("postgresql"), set()),
    "connect() got an unexpected keyword argument 'options'": lambda stage: (
        stage.upgrade("postgresql+asyncpg"),
        set(),
    ),
    "Prefect's tables are in the schema public": after(
        "CREATE TABLE flow_run (); CREATE TABLE flow_run_state (); CREATE TABLE task_run_state ()"
    ),
    "Prefect's migration of the schema … is not complete": after("DROP TABLE prefect.saved_search"),
    "is invalid: its creation was interrupted": after(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'prefect.ix_log__level'::regclass"
    ),
    "where this release of Prefect makes TABLE": after("ALTER TABLE prefect.task_run ENABLE ROW LEVEL SECURITY"),
    "no migration of Prefect makes it": after("CREATE RULE eat AS ON INSERT TO prefect.log DO INSTEAD NOTHING"),
    "lacks the index …": after("DROP INDEX prefect.trgm_ix_flow_name"),
    "has none of Prefect's tables yet": after("DROP SCHEMA prefect CASCADE; CREATE SCHEMA prefect"),
    'password authentication failed for user "…"': with_login(password="wrong"),
    "Connection refused": with_login(port=1),
    "server does not support SSL, but SSL was required": with_login(ssl_mode="require"),
}


@shows('invalid connection option "timeout"')
def _timeout(stage: Stage) -> Seen:
    with pytest.raises(psycopg2.Error) as refused:  # libpq's drivers all say it of what Prefect gives to asyncpg
        psycopg2.connect(host="127.0.0.1", port=stage.site.server.port, timeout=5)
    return str(refused.value), set()


@shows("Port … is already in use")
def _port(stage: Stage) -> Seen:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ports = [{"address": "127.0.0.1", "port": port, "unit": "prefect-server@prefect.service"}]
        found = stage.run_module("host_preflight", requirements=[{"ports": ports}])["problems"]
        return stage.prefect("server", "start", "--port", str(port)), {problem["code"] for problem in found}


@shows("All connection attempts failed")
def _no_api(stage: Stage) -> Seen:
    url = "http://127.0.0.1:1/api"
    return stage.prefect("work-pool", "ls", PREFECT_API_URL=url), stage.health(url)[1]


@shows("/ready does not answer well")
def _not_ready(stage: Stage) -> Seen:
    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path.endswith("/ready") else 200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return stage.health(f"http://127.0.0.1:{server.server_address[1]}/api")
        finally:
            server.shutdown()


@shows("declared workers … are online")
def _workers(stage: Stage) -> Seen:
    return stage.health("http://127.0.0.1:1/api", workers=2)


@shows("The verification of the database … stopped")
def _locked(stage: Stage) -> Seen:
    with contextlib.closing(stage.site.server.connect(stage.site.database)) as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE prefect.alembic_version")
        return seen(verify(stage.site.server.login, stage.site.declaration, timeout=0.2).problems)


@shows("Another run is changing the database")
def _another_run(stage: Stage) -> Seen:
    with contextlib.closing(stage.site.server.connect(stage.site.database)) as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE pg_catalog.pg_default_acl IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(Blocked) as blocked:
            stage.site.apply()
    return seen(blocked.value.problems)


@shows("psycopg2 is not installed")
def _no_driver(stage: Stage) -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "psycopg2", None)
        with pytest.raises(ConnectionFailed) as failed:
            connect(stage.site.server.login, stage.site.database)
    return seen([failed.value.problem])


@shows('relation "flow_run" does not exist')
def _search_path(stage: Stage) -> Seen:
    stage.site.sql(f"ALTER ROLE prefect_server IN DATABASE {stage.site.database} RESET search_path")
    return stage.refusal("prefect_server", "SELECT * FROM flow_run"), seen(stage.problems())[1]


@shows("permission denied for table flow_run")
def _right(stage: Stage) -> Seen:
    stage.site.sql("REVOKE SELECT ON prefect.flow_run FROM prefect_server")
    return stage.refusal("prefect_server", "SELECT * FROM flow_run"), seen(stage.problems())[1]


@shows('permission denied for database "…"')
def _connect(stage: Stage) -> Seen:
    stage.site.sql(f"REVOKE CONNECT ON DATABASE {stage.site.database} FROM prefect_server")
    return stage.refusal("prefect_server", "SELECT"), set()


@shows('too many connections for role "…"')
def _too_many(stage: Stage) -> Seen:
    stage.site.sql("ALTER ROLE prefect_monitor CONNECTION LIMIT 0")
    try:
        return seen(stage.problems(user="prefect_monitor", password=PASSWORD))
    finally:
        stage.site.sql("ALTER ROLE prefect_monitor CONNECTION LIMIT -1")


@shows('Peer authentication failed for user "postgres"')
def _peer(stage: Stage) -> Seen:
    inside = ["docker", "exec", "--user", "root", stage.site.server.container]
    psql = ["psql", "--host", "/var/run/postgresql", "--username", "postgres"]
    return subprocess.run([*inside, *psql], stderr=subprocess.PIPE, text=True, check=False).stderr, set()


@shows("No Prefect API answers at")
def _no_api_for_a_module(stage: Stage) -> Seen:
    url = "http://127.0.0.1:1/api"
    result = stage.run_module("prefect_work_pools", api_url=url, pools=[{"name": "default"}])
    return result["msg"], stage.health(url)[1]


@shows('database "…" does not exist')
def _database(stage: Stage) -> Seen:
    stage.site.declaration = replace(stage.site.declaration, database="nowhere")
    with pytest.raises(psycopg2.Error) as refused:
        stage.site.sql("SELECT")
    return str(refused.value), seen(stage.problems())[1]


def without_rule(stage: Stage, last: str) -> Seen:
    """What the monitor sees where only the administrator has a rule, and ``last`` follows it."""
    server, path = stage.site.server, "/var/lib/postgresql/data/pg_hba.conf"
    before = docker("exec", server.container, "cat", path)
    write = ("exec", server.container, "sh", "-c", f'printf "%s\\n" "$1" >{path}', "sh")
    docker(*write, f"local all postgres peer\nhost all postgres all scram-sha-256\n{last}")
    try:
        server.sql("postgres", "SELECT pg_reload_conf()")
        return seen(wait_for(lambda: stage.problems(user="prefect_monitor", password=PASSWORD)))
    finally:
        docker(*write, before)
        server.sql("postgres", "SELECT pg_reload_conf()")
        wait_for(lambda: not stage.problems(user="prefect_monitor", password=PASSWORD))


REPRODUCTIONS |= {
    'no pg_hba.conf entry for host "…"': lambda stage: without_rule(stage, ""),
    'pg_hba.conf rejects connection for host "…"': lambda stage: without_rule(stage, "host all all all reject"),
}


# Messages that a test elsewhere reproduces: it must exist, and have the message and the code in its file.
_BACKUP = "tests/database/backup/test_create.py::test"
_PLACEMENT = "tests/database/schema/test_verify.py::test_each_placement_is_known_by_its_codes"
_GIT = "tests/api/objects/test_git.py::test_what_can_not_be_run_is_refused_before_anything_is_made"
_AUTOMATIONS = "tests/api/objects/test_automations.py::test"
_TLS = "tests/database/core/test_tls.py::test"
_REDIS = "tests/database/health/test_redis.py::test_one_that_takes_writes_is_well_until_it_is_full"
ELSEWHERE = {
    "the repository has no such branch or tag": _GIT,
    "does not let these credentials read it": _GIT,
    "Automation …: there is no …": f"{_AUTOMATIONS}_what_an_action_names_must_be_there_or_be_planned",
    "The server has … automations of the name …": f"{_AUTOMATIONS}_two_of_one_name_are_refused",
    "Work pool … is not declared any more, but deployments use it": (
        "tests/api/objects/test_drift.py::test_prune_deletes_what_was_made_here_and_nothing_else"
    ),
    "The cluster does not say which Jobs of flow runs it has": (
        "tests/api/workers/test_kubernetes_worker.py::test_without_an_answer_of_the_cluster_nothing_is_resolved"
    ),
    "the server's certificate is not trusted": _GIT,
    "the host's key is not one of known_hosts": (
        "tests/api/objects/test_git.py::test_a_private_repository_by_a_deploy_key"
    ),
    'operator class "gin_trgm_ops" does not exist': _PLACEMENT,
    'permission denied to create extension "pg_trgm"': _PLACEMENT,
    "Can't locate revision identified by '…'": _PLACEMENT,
    "was told to send nothing to": "tests/unit/health/test_proxy.py::test_servers_that_are_left_out",
    "receives no WAL from the primary": "tests/unit/health/test_patroni.py::test_what_is_said_of_them",
    "No standby is synchronous": "tests/unit/health/test_patroni.py::test_what_is_said_of_them",
    "The member … is … behind the primary": "tests/unit/health/test_patroni.py::test_what_is_said_of_them",
    "Patroni is paused": "tests/unit/health/test_patroni.py::test_one_that_is_paused",
    "PostgreSQL runs on …, but not everywhere": (
        "tests/unit/pitr/test_service.py::test_a_standby_that_cannot_be_rebuilt"
    ),
    "The last cleanup of tenant … failed": "tests/unit/core/test_jobs.py::test_a_failed_run",
    "The cleanup of tenant … began at … and never ended": (
        "tests/unit/core/test_jobs.py::test_a_run_that_is_killed_and_one_that_lives"
    ),
    "The cleanup of tenant … has not succeeded for … hours": (
        "tests/unit/core/test_jobs.py::test_the_time_since_it_succeeded"
    ),
    "bytes free, and the set may need": f"{_BACKUP}_too_little_room_is_said_before_anything_is_written",
    "is not what was written": f"{_BACKUP}_a_damaged_file_is_found",
    "none of its workers is online": (
        "tests/database/health/test_check.py::test_a_pool_without_workers_is_well_until_its_runs_wait"
    ),
    "Another backup": f"{_BACKUP}_two_at_once",
    "is not copied to": (
        "tests/database/backup/test_copy.py::test_a_target_that_can_not_be_reached_gets_both_the_next_time"
    ),
    "is a standby and takes no writes": "tests/database/core/test_standby.py::test_the_primary_is_named",
    "of the set is not known on this host": (
        "tests/database/backup/test_restore.py::test_a_host_without_prefect_says_which_revisions_it_cannot_judge"
    ),
    "stand on what would be replaced": (
        "tests/database/backup/test_restore.py::test_a_view_of_the_application_that_would_be_lost_ends_it"
    ),
    "The restore drill failed": "tests/unit/backup/test_drill.py::test_a_program_that_fails_is_quoted",
    "There is no restore point": "tests/unit/pitr/test_repository.py::test_what_can_not_be_reached_is_refused",
    "and was not put back": (
        "tests/unit/pitr/test_restore.py::test_one_that_cannot_be_put_back_says_where_the_data_is"
    ),
    "is there, of a restore before this one": (
        "tests/unit/pitr/test_repository.py::test_what_is_in_the_way_of_a_restore"
    ),
    "The flow run … counts as Running": (
        "tests/database/health/test_dead_runs.py::test_runs_that_wait_for_its_slot_are_counted"
    ),
    "Archiving of WAL fails": "tests/database/health/test_check.py::test_wal_that_is_not_archived",
    "certificate verify failed": f"{_TLS}_only_the_declared_host_s_certificate_is_believed",
    "does not match host name": f"{_TLS}_only_the_declared_host_s_certificate_is_believed",
    "The certificate … ends on": "tests/unit/health/test_certificates.py::test_a_certificate_that_ends",
    "another certificate is shown than the installed": (
        "tests/unit/health/test_certificates.py::test_a_service_that_shows_another_certificate_than_the_installed"
    ),
    "takes no writes (": _REDIS,
    "of its memory; full, it takes no writes": _REDIS,
    **dict.fromkeys(
        (
            "The standby … does not follow the primary",
            "The standby … is … s behind the primary",
            "The standby … was away for so long",
            "is a standby and receives nothing",
        ),
        "tests/unit/health/test_standby.py::test_a_standby",
    ),
    "are both primaries": (
        "molecule/replica/tests/test_replica.py::test_two_primaries_are_named_and_nothing_is_changed"
    ),
    "HTTP 401": "tests/api/objects/test_work_pools.py::test_a_wrong_password_is_called_by_its_name",
}


def pattern(message: str) -> str:
    return r"(?s:.{1,300}?)".join(re.escape(part) for part in message.split("…"))


@pytest.fixture
def stage(prefect: Site, tmp_path: Path, run_module: Callable[..., Result]) -> Stage:
    return Stage(prefect, tmp_path, run_module)


def test_the_page_is_read() -> None:
    assert len(ROWS) > 25
    for playbook in re.findall(r"ansible-playbook (\S+\.yml)", PAGE):
        assert (ROOT / playbook).exists(), playbook
    assert set(REPRODUCTIONS) | set(ELSEWHERE) <= set(ROWS), "a reproduction of a row that is not there any more"


@pytest.mark.parametrize("message", ROWS)
def test_the_message_is_what_somebody_sees(stage: Stage, message: str) -> None:
    code = ROWS[message]
    if message in ELSEWHERE:
        path, _, name = ELSEWHERE[message].partition("::")
        text = (ROOT / path).read_text()
        assert f"def {name}(" in text and re.search(pattern(message), text) and code in text
        return
    assert message in REPRODUCTIONS, f"{message}: reproduce it here, or name the test that does"
    text, codes = REPRODUCTIONS[message](stage)
    assert re.search(pattern(message), " ".join(text.split())), text
    assert not code or code in codes
