"""A site whose PostgreSQL is not its own: what works there, over TLS, with no login but its administrator's."""

from __future__ import annotations

import os
import re

import pytest
import testinfra
from testinfra.host import Host

from tests.support.scenario import PSQL, Playbook, Typed, as_cron

SUFFIX = os.environ.get("MOLECULE_SUFFIX", "")


@pytest.fixture(scope="session")
def container() -> str:
    """Where a person runs the command prefect."""
    return f"prefect-managed{SUFFIX}"


@pytest.fixture(scope="module")
def provider() -> Host:
    return testinfra.get_host(f"docker://prefect-managed-provider{SUFFIX}")


def login(provider: Host, role: str, **options: str) -> str:
    """libpq's words for a login of root's on the site's host."""
    address = provider.check_output("hostname --all-ip-addresses").strip()
    words = {"host": address, "dbname": "mltrading", "user": role, "sslmode": "verify-full"}
    words |= {"sslrootcert": "/etc/ssl/certs/provider.pem", "passfile": "/etc/prefect/pgpass", **options}
    return " ".join(f"{name}={value}" for name, value in words.items())


def psql(host: Host, words: str, statement: str) -> tuple[int, str]:
    done = host.run("psql --no-psqlrc --tuples-only --no-align %s --command %s", words, statement)
    return done.rc, (done.stdout if done.rc == 0 else done.stderr).strip()


def test_a_run_wrote_to_both_schemas(provider: Host, completed_run: str) -> None:
    state = f"SELECT state_type FROM prefect.flow_run WHERE name = '{completed_run}'"
    assert provider.check_output(PSQL, state) == "COMPLETED"
    assert int(provider.check_output(PSQL, "SELECT count(*) FROM market_data")) > 100


def test_every_session_is_encrypted_and_no_superusers(provider: Host, completed_run: str) -> None:
    assert completed_run
    now = """SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE client_addr IS NOT NULL"""
    sessions, encrypted = map(int, provider.check_output(PSQL, now).split("|"))
    assert sessions == encrypted > 0
    # Since the first start, those that have ended as well.
    log = provider.check_output("cat /var/log/postgresql/postgresql-17-main.log")
    logins = re.findall(r"connection authorized: user=(\w+) database=\w+(.*)", log)
    remote = [(user, rest) for user, rest in logins if user != "postgres"]
    assert {"site_admin", "prefect_server", "prefect_migrator", "prefect_monitor", "mltrading_app"} <= dict(
        remote
    ).keys()
    assert not [one for one in remote if "SSL enabled (protocol=TLSv1." not in one[1]]


def test_no_password_reaches_the_servers_log(provider: Host, secrets: dict[str, str]) -> None:
    log = provider.check_output("cat /var/log/postgresql/postgresql-17-main.log")
    assert 'CREATE ROLE "prefect_server"' in log
    assert [name for name, secret in secrets.items() if secret in log] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sslmode": "disable"}, "no encryption"),
        # What would be true if somebody else answered.
        ({"sslrootcert": "/etc/ssl/certs/ssl-cert-snakeoil.pem"}, "certificate"),
        ({"host": "elsewhere", "hostaddr": "ADDRESS"}, "does not match host name"),
    ],
)
def test_a_login_is_refused(host: Host, provider: Host, options: dict[str, str], message: str) -> None:
    address = provider.check_output("hostname --all-ip-addresses").strip()
    words = login(
        provider, "mltrading_app", **{name: word.replace("ADDRESS", address) for name, word in options.items()}
    )
    status, said = psql(host, words, "SELECT 1")
    assert status == 2 and message in said, said


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("mltrading_app", "SELECT * FROM prefect.configuration"),
        ("mltrading_app", "SET ROLE mltrading_owner"),
        ("prefect_server", "SELECT * FROM public.orders"),
        ("prefect_backup", "DELETE FROM public.stock_info"),
        ("site_admin", "ALTER SYSTEM SET fsync = off"),
    ],
)
def test_a_role_may_not(host: Host, provider: Host, role: str, statement: str) -> None:
    status, said = psql(host, login(provider, role), statement)
    assert status == 1 and "permission denied" in said, said


def test_passwords_are_for_their_readers_only(host: Host) -> None:
    for path, user in (("/etc/prefect/pgpass", "root"), ("/var/lib/prefect_backup/pgpass", "prefect_backup")):
        assert (host.file(path).mode, host.file(path).user) == (0o600, user)
    assert len(host.file("/var/lib/prefect_backup/pgpass").content_string.splitlines()) == 1


def test_the_pages_commands(typed: Typed) -> None:
    verified, healthy, made, checked = typed("managed.md", "Look at it")
    for words in ("access rules: the server is one of others", "superusers: the server is one of others"):
        assert words in verified
    assert "healthy" in healthy
    assert "Made the set" in made and "read to the end" in checked


def test_jobs_of_cron(host: Host) -> None:
    backup = as_cron(host, "/etc/cron.d/prefect-backup", "prefect_backup", "/usr/local/bin/pgprefect backup")
    assert backup.rc == 0, backup.stderr
    drill = as_cron(host, "/etc/cron.d/prefect-backup", "root", "/usr/local/bin/pgprefect drill")
    assert drill.rc == 0 and host.check_output("pg_lsclusters --no-header") == "", drill.stderr
    command = "/usr/local/bin/pgprefect --tenant prefect cleanup --yes"
    cleanup = as_cron(host, "/etc/cron.d/prefect-retention", "root", command)
    assert cleanup.rc == 0, cleanup.stderr


def test_a_restored_row_count(host: Host, provider: Host, playbook: Playbook, completed_run: str) -> None:
    counts = (
        "SELECT (SELECT count(*) FROM stock_info), (SELECT count(*) FROM prefect.log), (SELECT count(*) FROM orders)"
    )
    assert completed_run
    host.check_output("pgprefect backup")
    before = provider.check_output(PSQL, counts)
    provider.check_output(
        PSQL, "DELETE FROM public.market_data; DELETE FROM public.stock_info; DELETE FROM prefect.log"
    )
    assert provider.check_output(PSQL, counts) != before
    arguments = (
        "-e",
        "prefect_backup_restore_confirmed=true",
        "-e",
        '{"prefect_backup_restore_kinds": ["app", "workflow"]}',
    )
    done = playbook("playbooks/restore_backup.yml", *arguments)
    assert done.returncode == 0, done.stdout
    stocks, logs, orders = map(int, provider.check_output(PSQL, counts).split("|"))
    old_stocks, old_logs, old_orders = map(int, before.split("|"))
    assert (stocks, orders) == (old_stocks, old_orders) and logs >= old_logs > 0
    assert host.run("pgprefect verify").rc == 0


@pytest.mark.parametrize("name", ["adopt_database", "restore_cluster", "upgrade_postgresql"])
def test_a_playbook_that_needs_a_postgresql_of_the_sites_own(host: Host, playbook: Playbook, name: str) -> None:
    done = playbook(f"playbooks/{name}.yml")
    assert done.returncode != 0 and "The group postgresql is empty" in " ".join(done.stdout.split()), done.stdout
    assert host.service("prefect-server@prefect").is_running


def test_a_wrong_administrator_changes_nothing(playbook: Playbook) -> None:
    wrong = '{"database_administrator": {"name": "site_admin", "password": "wrong"}}'
    done = playbook("playbooks/preflight.yml", "-e", wrong)
    assert done.returncode != 0 and "password authentication failed" in done.stdout, done.stdout
    assert re.search(r"prefect-managed +: ok=\d+ +changed=0", done.stdout), done.stdout
