"""Wrong input stops before anything is changed, with a message that says what to do."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.project import ROOT
from tests.support.scenario import Playbook

PSQL = "runuser --user postgres -- psql --no-psqlrc --quiet --command %s"


def files(host: Host) -> str:
    """What a playbook could have written, with size, mode and time."""
    folders = "/etc /opt/prefect /usr/local /var/backups /var/lib/apt /var/lib/postgresql/*/main/*.conf"
    return str(
        host.check_output(f"find {folders} -xdev -printf '%p %s %m %u %T@\\n' 2>/dev/null | grep -v __pycache__ | sort")
    )


@pytest.fixture(autouse=True)
def unchanged(host: Host) -> Iterator[None]:
    """A refusal leaves the host as it is."""
    before = files(host)
    yield
    assert files(host) == before


def refuse(playbook: Playbook, variables: dict[str, Any], *messages: str, inventory: str = "") -> None:
    """Run the site with the variables and expect a refusal that says all of the messages."""
    extra = ["--inventory", inventory, "--limit", "victim"] if inventory else []
    result = playbook("site.yml", "--extra-vars", json.dumps(variables), *extra)
    text = re.sub(r"\s+", " ", result.stdout)
    assert result.returncode != 0, text
    assert set(re.findall(r"changed=(\d+)", text)) <= {"0"}, text
    for message in messages:
        assert message in text, text


# The controller refuses what the inventory shows, and the preflight what a host shows: each names all of it at once.
# What the controller refuses has its own tests, too, so one of its kind is enough here.
@pytest.mark.parametrize(
    ("variables", "messages"),
    [
        (
            {
                "app_databse": "shop",
                "postgresql_port": 5433,
                "prefect_monitoring_thresholds": {"latncy_ms": {}},
                "app_schema": "shop",
                "prefect_version": "9.9.9",
                "prefect_tenants": [{"name": "Prefect!"}, {"name": "a", "schema": "pg_a"}, {"name": "b", "prot": 1}],
                "app_login": "x" * 64,
                "prefect_backup_schedule": "daily",
                "prefect_backup_kinds": ["all"],
                "prefect_backup_keep": {"daily": -1},
                "prefect_backup_copy": {"tool": "scp"},
                "prefect_backup_age_recipient": "AGE-SECRET-KEY-1" + "Q" * 58,
                "backup_directory": "/backups",
                "prefect_flows": "/nowhere",
                "app_networks": ["192.0.2.0/24", "10.0.0.0/8 trust", "10.0.0.0/33"],
                "postgresql_log_min_duration_ms": "often",
            },
            (
                "app_databse (--extra-vars): nothing reads",
                "did you mean app_database?",
                "the playbooks set this variable. Set database_port instead",
                "latncy_ms: unknown key",
                "latency_ms?",
                "app_schema is 'shop'",
                "none, trading",
                "prefect_version is '9.9.9'",
                "requirements/lock prefect 9.9.9",
                "prefect_tenants[0].name is 'Prefect!'",
                "lower-case letters",
                "[1].schema is 'pg_a'",
                "reserved by PostgreSQL",
                "prefect_tenants[2].prot: unknown key",
                "mean port?",
                "app_login is 'xxxx",
                "63",
                "prefect_backup_schedule is 'daily'",
                '"0 2 * * *"',
                "prefect_backup_kinds",
                "app, workflow, full",
                "prefect_backup_keep.daily is -1",
                "a whole number from 0",
                "rsync, rclone",
                "prefect_backup_age_recipient must be a public key",
                "backup_directory is '/backups'",
                "/var/backups/prefect",
                "prefect_flows is '/nowhere'",
                "there is no such folder on this machine",
                "app_networks[1] is '10.0.0.0/8 trust'",
                "app_networks[2] is '10.0.0.0/33'",
                "192.0.2.64/28",
                "postgresql_log_min_duration_ms is 'often'",
            ),
        ),
        pytest.param(
            {
                "app_login": "pg_app",
                "backup_directory": "/var/lib",
                "prefect_backup_age_recipient": "age1" + "q" * 58,
                "prefect_tenants": [{"name": "prefect", "deployments": [
                    {"name": "x", "flow": "x", "entrypoint": "x.py:x", "work_pool": "nowhere"}]}],
            },
            (
                "app_login is 'pg_app'",
                "backup_directory is '/var/lib'",
                "the system or other programs",
                "prefect_backup_age_recipient must be a public key",
                "age-keygen",
                "prefect_tenants[0].deployments[0].work_pool",
                "nowhere/default",
                "Declared are: default/default",
            ),
            marks=pytest.mark.thorough,
        ),
        (
            {
                "postgresql_settings": {"no_such_setting": 1, "shared_buffers": "900TB"},
                "postgresql_tls_certificate": "/etc/ssl/nowhere.pem",
                "database_ca_file": "/etc/ssl/nowhere.pem",
                "prefect_bind_address": "198.51.100.7",
                "prefect_flows": str(ROOT / "molecule/default"),
                "prefect_tenants": [{"name": "prefect"}],
                "pgbackrest_enabled": True,
                "pgbackrest_repository": {"path": "/var/lib/apt"},
                "backup_directory": "/var/lib/apt",
                "postgresql_minimum_memory_mb": 9999999,
                "prefect_minimum_disk_mb": 999999999,
            },
            (
                "postgresql_settings.no_such_setting is '1'",
                "postgresql_settings.shared_buffers is '900TB'",
                "_certificate is /etc/ssl/nowhere.pem: there",
                "database_ca_file is /etc/ssl/nowhere.pem: there is",
                "This host has no address 198.51.100.7",
                "of the 10 files in /opt/prefect/flows would be removed",
                "-e prefect_flows_removal_confirmed=true",
                "pgbackrest_repository.path is /var/lib/apt: that belongs to root",
                "backup_directory is /var/lib/apt: that belongs to root",
                "MB of memory; 9999999 MB are needed",
                "MB free; 999999999 MB are needed",
            ),
        ),
        pytest.param(
            {"prefect_secrets": {"prefect_api": "pässword"}},
            ("prefect_secrets.prefect_api", "printable ASCII"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {
                "prefect_backup_copy": {"tool": "rclone", "target": "store:sets"},
                "prefect_backup_copy_secret": "[other]",
            },
            (
                "prefect_backup_copy is {'tool': 'rclone', 'target': 'store:sets'}",
                "has the section of the remote",
            ),
            marks=pytest.mark.thorough,
        ),
        (
            {
                "postgresql_settings": {"shared_preload_libraries": "lost"},
                "postgresql_tls_certificate": "/etc/hostname",
            },
            ("does not start with shared_preload_lib", "_certificate is /etc/hostname: it cannot be read"),
        ),
        pytest.param(
            {"prefect_database_login_host": "127.0.0.1", "prefect_database_login_user": "mltrading_app"},
            ("mltrading_app", "127.0.0.1"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {"prefect_database_login_user": "nobody_there"}, ("nobody_there",), marks=pytest.mark.thorough
        ),
    ],
    ids=("inventory", "inventory again", "host", "password", "copy", "cluster", "few rights", "no login"),
)  # fmt: skip
def test_wrong_values(playbook: Playbook, variables: dict[str, Any], messages: tuple[str, ...]) -> None:
    refuse(playbook, variables, *messages)


@pytest.mark.thorough
def test_a_port_in_use(host: Host, playbook: Playbook) -> None:
    host.check_output("systemd-run --unit squatter python3 -m http.server 4555 --bind 127.0.0.1")
    try:
        tenants = [{"name": "prefect"}, {"name": "second", "port": 4555}]
        refuse(
            playbook,
            {"prefect_tenants": tenants},
            "The port 4555 on 127.0.0.1 is in use",
            "prefect-server@second.service",
        )
    finally:
        host.check_output("systemctl stop squatter")


@pytest.fixture
def database(host: Host) -> Iterator[str]:
    """A database that was there before, owned by another role."""
    host.check_output(PSQL, "CREATE ROLE other")
    host.check_output(PSQL, "CREATE DATABASE others OWNER other")
    yield "others"
    host.check_output(PSQL, "DROP DATABASE others")
    host.check_output(PSQL, "DROP ROLE other")


@pytest.mark.thorough
def test_a_database_that_another_role_owns(playbook: Playbook, database: str) -> None:
    refuse(playbook, {"app_database": database}, "others", "other", "app_owner", "ALTER DATABASE")


def test_prefects_tables_in_public(host: Host, playbook: Playbook, database: str) -> None:
    for table in ("flow", "flow_run", "flow_run_state", "task_run", "task_run_state", "alembic_version"):
        host.check_output(f"{PSQL} --dbname others", f"CREATE TABLE {table} (id int)")
    refuse(playbook, {"app_database": database, "app_owner": "other"}, "flow_run", "public", "pg_dump", "SET SCHEMA")
    assert host.check_output(f"{PSQL} --dbname others --tuples-only", "SELECT count(*) FROM flow_run").strip() == "0"


@pytest.fixture
def victim(tmp_path: Any) -> Iterator[tuple[str, str]]:
    """A container without systemd, and an inventory that names it."""
    name = "prefect-victim"
    command = ["docker", "run", "--detach", "--rm", "--name", name, "ansible-prefect-host:bookworm", "sleep", "600"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    inventory = tmp_path / "hosts.yml"
    host = {
        "ansible_connection": "community.docker.docker",
        "ansible_docker_host": name,
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": False,
    }
    groups = ("postgresql", "prefect_server", "prefect_worker")
    inventory.write_text(json.dumps({group: {"hosts": {"victim": host}} for group in groups}))
    yield name, str(inventory)
    subprocess.run(["docker", "rm", "--force", name], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.thorough
def test_no_systemd(playbook: Playbook, victim: tuple[str, str]) -> None:
    refuse(playbook, {}, "systemd does not run this host", inventory=victim[1])


@pytest.mark.thorough
def test_an_unsupported_system(playbook: Playbook, victim: tuple[str, str]) -> None:
    release = "sed -i 's/^ID=.*/ID=fedora/; s/^VERSION_ID=.*/VERSION_ID=44/' /etc/os-release"
    subprocess.run(["docker", "exec", victim[0], "sh", "-c", release], check=True)
    refuse(playbook, {}, "The host runs fedora 44, which is not supported", "debian 12, debian 13", inventory=victim[1])
