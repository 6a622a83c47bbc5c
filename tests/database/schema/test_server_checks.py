"""Whether verification knows an unsafe server, and finds nothing about one that the role postgresql has set up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import comment, to_bool
from pgprefect.core.connection import Login
from pgprefect.core.problems import Problem
from pgprefect.schema.verify import verify

from filter_plugins.access import hba_lines
from tests.support.ansible import Result
from tests.support.postgresql import Server, docker, running_postgresql
from tests.support.project import ROOT
from tests.support.site import PASSWORD, Site, declaration_of
from tests.support.waiting import wait_for

ROLE = ROOT / "roles/postgresql"
# What start.sh is like, with the settings of the role.
START = """\
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
data=/var/lib/postgresql/data
printf '%s' "${POSTGRES_PASSWORD:?}" >/tmp/password
"$bin/initdb" --pgdata "$data" --username postgres --pwfile /tmp/password --encoding UTF8 --locale C.UTF-8 \\
    --auth-local peer --auth-host scram-sha-256 --no-sync --data-checksums >/dev/null
printf 'local all postgres peer\\nhost all all all scram-sha-256\\n' >"$data/pg_hba.conf"
echo "include '/settings.conf'" >>"$data/postgresql.conf"
exec "$bin/postgres" -D "$data" -c unix_socket_directories=/var/run/postgresql
"""


def rendered(name: str, **variables: Any) -> str:
    """A template of the role as Ansible would write it."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"bool": to_bool, "comment": comment}
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    return environment.from_string((ROLE / "templates" / name).read_text()).render(
        {**defaults, "ansible_managed": "managed", "postgresql_memory_mb": 1024, **variables}
    )


def problems(site: Site, listen_addresses: tuple[str, ...] = ("*",)) -> list[Problem]:
    """What is found about the server, and nothing else."""
    report = verify(site.server.login, site.declaration, check_server=True, listen_addresses=listen_addresses)
    assert report.not_checked == []
    return report.problems


def codes(found: list[Problem]) -> set[str]:
    return {problem.code for problem in found}


@contextlib.contextmanager
def access_rules(server: Server, rules: str) -> Iterator[None]:
    """Other rules in pg_hba.conf, where PostgreSQL shows them; they are not loaded, so tests can still connect."""
    path = "/var/lib/postgresql/data/pg_hba.conf"
    before = docker("exec", server.container, "cat", path)
    write = ("exec", server.container, "sh", "-c", f'printf "%s\\n" "$1" >{path}', "sh")
    docker(*write, rules)
    try:
        yield
    finally:
        docker(*write, before)


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A declared database on a server with the settings of the role."""
    folder = tmp_path_factory.mktemp("server")
    settings = {
        "postgresql_listen_addresses": ["*"],
        "__postgresql_has_members": False,
        "__postgresql_settings": {"shared_preload_libraries": ""},
        "postgresql_tls_certificate": "/etc/ssl/certs/ssl-cert-snakeoil.pem",
        "postgresql_tls_key": "/etc/ssl/private/ssl-cert-snakeoil.key",
    }
    for name, text in {"start.sh": START, "settings.conf": rendered("postgresql.conf.j2", **settings)}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    volumes = [f"--volume={folder}/{name}:/{name}:ro" for name in ("start.sh", "settings.conf")]
    with running_postgresql(*volumes) as server:
        site = Site(server, replace(declaration_of("safe"), app_schema_tables=()))
        site.apply()
        yield site


@pytest.fixture(scope="module")
def loose(safe: Site) -> set[str]:
    """What is found with the rules by which the tests connect."""
    return codes(problems(safe))


OURS = [
    {"type": "local", "databases": ["all"], "users": ["prefect_backup"], "method": "peer map=pgprefect"},
    {"type": "host", "databases": ["safe"], "users": ["mltrading_app"], "address": "127.0.0.1/32"},
    {"type": "host", "databases": ["safe"], "users": ["mltrading_app"], "address": "::1/128"},
    {"type": "hostssl", "databases": ["safe"], "users": ["mltrading_app"], "address": "10.0.0.0/8"},
    {"type": "hostssl", "databases": ["safe"], "users": ["prefect_server"], "address": "fd00::1/128"},
]


def test_what_the_role_sets_up_has_no_problem(safe: Site) -> None:
    with access_rules(safe.server, "\n".join(["local all postgres peer", *hba_lines(OURS)])):
        assert codes(problems(safe)) == {"prefect_tables_missing"}
        assert codes(problems(safe, ())) == {"prefect_tables_missing", "listens_everywhere"}


def test_a_rule_of_others_for_their_own_database_is_a_warning(safe: Site) -> None:
    others = "host webshop all 10.0.0.0/8 md5\nhost all all 192.0.2.0/24 scram-sha-256"
    with access_rules(safe.server, f'local "safe" all reject\nhost "safe" all all reject\n{others}'):
        found = {(problem.code, problem.severity) for problem in problems(safe) if problem.code.startswith("hba_")}
    names = ("hba_method", "hba_without_tls", "hba_superuser")
    assert found == {(name, "warning") for name in names}
    with access_rules(safe.server, others):
        assert ("hba_without_tls", "error") in {(problem.code, problem.severity) for problem in problems(safe)}


RULES = [
    ({"hba_error"}, "hots all all all scram-sha-256"),
    ({"hba_error"}, "local all nobody no_such_method"),
    ({"hba_method"}, "local all all trust"),
    ({"hba_method"}, "host safe prefect_server 127.0.0.1/32 md5"),
    ({"hba_method"}, "hostssl safe prefect_server samenet password"),
    ({"hba_without_tls"}, "host safe prefect_server 10.0.0.0/8 scram-sha-256"),
    ({"hba_without_tls"}, "hostnossl safe prefect_server db.example.org scram-sha-256"),
    ({"hba_open", "hba_superuser"}, "hostssl all all 0.0.0.0/0 scram-sha-256"),
    ({"hba_open", "hba_superuser"}, "hostssl all all ::/0 scram-sha-256"),
    ({"hba_open"}, "host all postgres all reject\nhostssl all all all scram-sha-256"),
    ({"hba_superuser"}, "hostssl safe prefect_server,postgres 10.0.0.0/8 scram-sha-256"),
    ({"hba_superuser"}, "hostssl safe all 10.0.0.0/8 scram-sha-256"),
    ({"hba_superuser", "hba_without_tls", "hba_open", "hba_method"}, "host all all all trust"),
    (set(), "host all all all reject\nhostssl safe postgres 10.0.0.0/8 scram-sha-256"),
    (set(), "host all all samehost scram-sha-256\nhost all all localhost scram-sha-256\nlocal all all peer"),
]


@pytest.mark.parametrize(("expected", "rules"), RULES)
def test_access_rules(safe: Site, expected: set[str], rules: str) -> None:
    with access_rules(safe.server, f"# a comment\n{rules}"):
        found = [problem for problem in problems(safe) if problem.code != "prefect_tables_missing"]
    assert codes(found) == expected
    assert {problem.severity for problem in found} <= {"error"}
    assert {problem.object for problem in found} <= {"pg_hba.conf:2", "pg_hba.conf:3"}


SETTINGS = [
    ("tls_off", "error", "ssl = off"),
    ("tls_old", "error", "ssl_min_protocol_version = 'TLSv1'"),
    ("password_encryption_weak", "error", "password_encryption = 'md5'"),
    ("crash_unsafe", "error", "fsync = off"),
    ("crash_unsafe", "error", "full_page_writes = off"),
    ("log_setting", "warning", "log_connections = off"),
    ("log_setting", "warning", "log_lock_waits = off"),
    ("log_setting", "warning", "log_line_prefix = '%m %p '"),
    ("restart_pending", "warning", "max_connections = 321"),
]


@pytest.mark.parametrize(("code", "severity", "setting"), SETTINGS)
def test_settings(safe: Site, loose: set[str], code: str, severity: str, setting: str) -> None:
    def eventually(wanted: Callable[[set[str]], bool]) -> None:
        # A new connection has what the server has taken up by then.
        wait_for(lambda: wanted(codes(problems(safe))), lambda: codes(problems(safe)))

    safe.sql(f"ALTER SYSTEM SET {setting}")
    try:
        safe.sql("SELECT pg_reload_conf()")
        eventually(lambda found: found == loose | {code})
        (found,) = [problem for problem in problems(safe) if problem.code == code]
        assert found.severity == severity
        if "ALTER SYSTEM" in found.remedy:
            for statement in found.remedy[found.remedy.index("ALTER SYSTEM") :].rstrip(";").split("; "):
                safe.sql(statement)
            eventually(lambda found: found == loose)
    finally:
        safe.sql("ALTER SYSTEM RESET ALL")
        safe.sql("SELECT pg_reload_conf()")
        eventually(lambda found: found == loose)


ROLES = [
    ("superuser_extra", "warning", "CREATE ROLE other SUPERUSER LOGIN"),
    ("role_powerful", "warning", "CREATE ROLE other CREATEROLE BYPASSRLS"),
    ("password_weak", "error", "SET password_encryption = md5; CREATE ROLE other LOGIN PASSWORD 'p'"),
    ("connection_limits_exceed", "warning", "CREATE ROLE other; ALTER ROLE mltrading_app CONNECTION LIMIT 98"),
]


@pytest.mark.parametrize(("code", "severity", "statement"), ROLES)
def test_roles(safe: Site, loose: set[str], code: str, severity: str, statement: str) -> None:
    safe.sql(statement)
    try:
        found = problems(safe)
        assert codes(found) == loose | {code}
        (problem,) = [problem for problem in found if problem.code == code]
        assert problem.severity == severity
        if problem.remedy.startswith("ALTER"):
            safe.sql(problem.remedy)
            assert codes(problems(safe)) == loose
    finally:
        safe.sql("DROP ROLE other; ALTER ROLE mltrading_app CONNECTION LIMIT -1")


def test_the_server_is_looked_at_only_when_asked(run_module: Callable[..., Result], prefect: Site) -> None:
    """The server of the tests is anything but safe."""
    assert run_module("prefect_schema_verify", **prefect.arguments())["verified"]
    result = run_module("prefect_schema_verify", **prefect.arguments(), check_server=True)
    assert not result["verified"]
    found = {problem["code"]: problem["severity"] for problem in result["problems"]}
    assert found.items() >= {
        ("checksums_off", "warning"),
        ("listens_everywhere", "warning"),
        ("tls_off", "error"),
        ("hba_without_tls", "error"),
    }
    tolerated = run_module("prefect_schema_verify", **prefect.arguments(), check_server=True, listen_addresses=["*"])
    assert "listens_everywhere" not in {problem["code"] for problem in tolerated["problems"]}


def test_what_the_monitor_can_not_see_is_said(safe: Site) -> None:
    login = Login("127.0.0.1", safe.server.port, safe.declaration.monitor, PASSWORD)
    report = verify(login, safe.declaration, check_server=True, listen_addresses=("*",))
    assert codes(report.problems) == {"prefect_tables_missing"}
    assert [note.partition(":")[0] for note in report.not_checked] == ["stored passwords", "access rules"]
    report = verify(replace(login, user=safe.declaration.app_login), safe.declaration, check_server=True)
    assert next(note.partition(":")[0] for note in report.not_checked) == "settings"
