"""What a host with everything on it must be like after site.yml."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from testinfra.host import Host

from tests.support.project import DEFAULT, PREFECT_TABLES
from tests.support.scenario import PREFECT, Playbook, Sql

SECRET_TABLES = ("automation", "block_document", "configuration", "csrf_token", "flow_run_input", "variable")


@pytest.fixture(scope="module")
def units(tenants: list[str], workers: list[str], relays: list[str]) -> list[str]:
    """The units of the tenants' servers, of the workers, and of the relays."""
    kinds = {"server": tenants, "worker": workers, "events": relays}
    return [f"prefect-{kind}@{name}" for kind, names in kinds.items() for name in names]


def test_units_run_and_start_at_boot(host: Host, units: list[str]) -> None:
    for unit in units:
        assert host.service(unit).is_running, unit
        assert host.service(unit).is_enabled, unit
    assert host.run("systemctl is-system-running").stdout.strip() == "running"


def test_units_are_hardened(host: Host, units: list[str]) -> None:
    for unit in units:
        exposure = host.check_output("systemd-analyze security --no-pager %s | tail -n 1", f"{unit}.service")
        match = re.search(r": ([0-9.]+) ", exposure)
        assert match and float(match[1]) <= 3.0, exposure
        limits = host.check_output("systemctl show --property MemoryMax,TasksMax --value %s", unit).split()
        assert len(limits) == 2 and all(limit.isdecimal() for limit in limits), limits


def test_environments_are_for_their_readers_only(
    host: Host, tenants: list[str], workers: list[str], relays: list[str]
) -> None:
    own = (*(f"worker/{name}" for name in workers), *(f"events/{name}" for name in relays))
    expected = {f"/etc/prefect/{name}.env": "600 root root" for name in own}
    expected["/etc/prefect/pgprefect.json"] = "644 root root"  # without secrets
    for tenant in tenants:
        expected[f"/etc/prefect/{tenant}.env"] = "640 root prefect"
        expected[f"/etc/prefect/{tenant}-server.env"] = "640 root prefect"
        expected[f"/etc/prefect/{tenant}-migrate.env"] = "600 root root"
        # What is declared, and what the site has made.
        expected[f"/etc/prefect/{tenant}-objects.json"] = expected[f"/etc/prefect/{tenant}-made.json"] = "600 root root"
        if len(tenants) > 1:  # the scenario that has Redis
            expected[f"/etc/prefect/redis/{tenant}.conf"] = "640 root redis"
    found = host.check_output("find /etc/prefect -type f -printf '%p=%m %u %g\\n'")
    assert dict(line.split("=") for line in found.splitlines()) == expected


def test_a_flow_can_read_no_environment_but_its_own(host: Host, tenants: list[str], workers: list[str]) -> None:
    """Neither a file, nor what another user's process has, whose password may be in it."""
    servers = host.check_output("systemctl show --property MainPID --value prefect-server@%s", tenants[0])
    secret = [f"/etc/prefect/{tenants[0]}-server.env", f"/proc/{servers}/environ"]
    for worker in workers:
        process, user = host.check_output("systemctl show -p MainPID -p User --value prefect-worker@%s", worker).split()
        assert user == f"prefect-{worker.split('-')[0]}"
        secret += [f"/etc/prefect/worker/{worker}.env"]
        secret += [f"/proc/{process}/environ"] if user != f"prefect-{tenants[0]}" else []
    for path in secret:
        result = host.run("runuser --user %s -- cat %s", f"prefect-{tenants[0]}", path)
        assert result.rc == 1 and "Permission denied" in result.stderr, path


def test_what_listens(host: Host, workers: list[str], tenants: list[str]) -> None:
    sockets = {line.split()[3] for line in host.check_output("ss --no-header --listening --tcp --numeric").splitlines()}
    remote = {socket for socket in sockets if not socket.startswith(("127.0.0.", "[::1]"))}
    # The scenario asks for the API on every address; nothing else leaves loopback.
    assert remote == {f"0.0.0.0:{port}" for port in (4200, 4300)[: len(tenants)]}
    assert "127.0.0.1:5432" in sockets
    files = " ".join(f"/etc/prefect/worker/{worker}.env" for worker in workers)
    ports = re.findall(r"WEBSERVER_PORT=\W*(\d+)", host.check_output(f"cat {files}"))
    assert len(set(ports)) == len(workers) and {f"127.0.0.1:{port}" for port in ports} <= sockets


def test_tables_are_where_they_belong(host: Host, relays: list[str]) -> None:
    query = """
        SELECT schemaname, tableowner, count(*) FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema') GROUP BY 1, 2 ORDER BY 1, 2"""
    psql = "runuser --user postgres -- psql --no-psqlrc --tuples-only --no-align --dbname mltrading --command %s"
    rows = [line.split("|") for line in host.check_output(psql, query).splitlines()]
    schemas = {schema: (owner, int(count)) for schema, owner, count in rows}
    assert len(rows) == len(schemas), rows
    assert schemas.pop("public") == ("mltrading_owner", 6)
    assert [schemas.pop(f"{name}_outbox") for name in relays] == [(f"{name}_outbox", 1) for name in relays]
    assert schemas.pop("prefect") == ("prefect_owner", PREFECT_TABLES)
    assert all(entry == (f"{schema}_owner", PREFECT_TABLES) for schema, entry in schemas.items()), schemas


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("mltrading_app", "SELECT count(*) FROM prefect.flow_run"),
        (
            "mltrading_app",
            "INSERT INTO stock_info (symbol, name, currency, source) VALUES ('TEST', 'x', 'EUR', 'test')",
        ),
        ("mltrading_app", "DELETE FROM stock_info WHERE symbol = 'TEST'"),
        ("prefect_server", "SELECT count(*) FROM configuration"),
        ("prefect_server", "DELETE FROM log WHERE false"),
        ("prefect_migrator", "CREATE TABLE prefect.made_by_a_migration (); DROP TABLE prefect.made_by_a_migration"),
        ("prefect_monitor", "SELECT count(*) FROM prefect.flow_run, pg_stat_activity"),
    ],
)
def test_a_role_may(sql: Sql, role: str, statement: str) -> None:
    result = sql(role, statement)
    assert result.rc == 0, result.stderr


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        *(("mltrading_app", f"SELECT * FROM prefect.{table}") for table in SECRET_TABLES),
        *(("prefect_monitor", f"SELECT * FROM prefect.{table}") for table in SECRET_TABLES),
        ("mltrading_app", "SELECT job_variables FROM prefect.flow_run"),
        ("mltrading_app", "SELECT infra_overrides FROM prefect.deployment"),
        ("prefect_monitor", "SELECT base_job_template FROM prefect.work_pool"),
        ("mltrading_app", "DELETE FROM prefect.flow_run"),
        ("mltrading_app", "CREATE TABLE public.x ()"),
        ("mltrading_app", "CREATE TABLE prefect.x ()"),
        ("mltrading_app", "DROP TABLE public.market_data"),
        ("mltrading_app", "TRUNCATE public.market_data"),
        ("mltrading_app", "SET ROLE mltrading_owner"),
        ("mltrading_app", "CREATE SCHEMA x"),
        ("mltrading_app", "CREATE TEMPORARY TABLE x ()"),
        ("prefect_server", "SELECT * FROM public.market_data"),
        ("prefect_server", "CREATE TABLE prefect.x ()"),
        ("prefect_server", "DROP TABLE prefect.flow_run"),
        ("prefect_server", "ALTER TABLE prefect.flow_run ADD x int"),
        ("prefect_server", "TRUNCATE prefect.flow_run"),
        ("prefect_server", "SET ROLE prefect_owner"),
        ("prefect_server", "CREATE EXTENSION hstore"),
        ("prefect_migrator", "SELECT * FROM public.market_data"),
        ("prefect_migrator", "CREATE TABLE public.x ()"),
        ("prefect_monitor", "DELETE FROM prefect.flow_run"),
        ("prefect_monitor", "SELECT * FROM public.market_data"),
    ],
)
def test_a_role_may_not(sql: Sql, role: str, statement: str) -> None:
    result = sql(role, statement)
    assert result.rc == 1 and re.search("permission denied|must be owner", result.stderr), result


def test_nobody_else_gets_in(host: Host, secrets: dict[str, str]) -> None:
    psql = "PGPASSWORD=%s psql --no-psqlrc --host 127.0.0.1 --dbname %s --username %s --command 'SELECT 1'"
    for database, user, password in (
        ("mltrading", "prefect_backup", "x"),  # local only
        ("mltrading", "postgres", "x"),
        ("mltrading", "prefect_owner", "x"),
        ("postgres", "mltrading_app", secrets["mltrading_app"]),
        ("mltrading", "mltrading_app", "wrong"),
    ):
        result = host.run(psql, password, database, user)
        assert result.rc == 2 and re.search("pg_hba.conf|authentication failed", result.stderr), result


def test_passwords_are_stored_as_scram(host: Host) -> None:
    query = "SELECT count(*) FILTER (WHERE rolpassword LIKE 'SCRAM-SHA-256$%'), count(rolpassword) FROM pg_authid"
    strong, stored = host.check_output(
        "runuser --user postgres -- psql --no-psqlrc --tuples-only --no-align --command %s", query
    ).split("|")
    assert strong == stored != "0"


def test_a_flow_run_completed_and_wrote_to_both_schemas(sql: Sql, completed_run: str) -> None:
    state = sql("mltrading_app", f"SELECT state_type FROM prefect.flow_run WHERE name = '{completed_run}'")
    assert state.stdout.strip() == "COMPLETED"
    counts = sql(
        "mltrading_app",
        """SELECT (SELECT count(*) FROM market_data), (SELECT count(*) FROM stock_info),
                  (SELECT count(*) FROM system_logs WHERE status = 'success')""",
    )
    prices, stocks, events = map(int, counts.stdout.split("|"))
    assert prices > 100 and stocks == 3 and events >= 2


def test_the_run_says_where_its_data_came_from(sql: Sql, completed_run: str) -> None:
    query = f"""SELECT string_agg(message, ' ') FROM prefect.log
                JOIN prefect.flow_run ON flow_run.id = log.flow_run_id WHERE flow_run.name = '{completed_run}'"""
    assert "sample" in sql("mltrading_app", query).stdout


def test_no_telemetry(host: Host, units: list[str]) -> None:
    # A relay has nothing of Prefect's that would send any.
    for unit in (unit for unit in units if not unit.startswith("prefect-events@")):
        process = host.check_output("systemctl show --property MainPID --value %s", unit)
        environment = host.check_output(f"tr '\\0' '\\n' < /proc/{int(process)}/environ")
        assert "PREFECT_SERVER_ANALYTICS_ENABLED=false" in environment, unit
        assert "DO_NOT_TRACK=1" in environment, unit


def test_health_as_the_guide_promises(playbook: Playbook) -> None:
    result = playbook("playbooks/verify.yml")
    assert result.returncode == 0, result.stdout
    assert "app_database: healthy, prefect_schema: healthy, schema_separation: healthy" in " ".join(
        result.stdout.split()
    )


def test_api_refuses_strangers(host: Host) -> None:
    request = 'python3 -c \'import urllib.request as r; r.urlopen("http://127.0.0.1:4200/api/flows/count", b"{}")\''
    assert "401" in host.run(request).stderr


def test_commands_speak_for_the_tenant(host: Host) -> None:
    pools = json.loads(host.check_output("prefect work-pool ls --output json"))
    assert [pool["name"] for pool in pools] == ["default"]
    assert host.run("PREFECT_TENANT=nobody prefect work-pool ls").rc != 0
    host.check_output("pgprefect revision --require-current")


def test_packages_are_those_of_the_locks(host: Host) -> None:
    freeze = host.check_output(f"/opt/prefect/uv-*/bin/uv pip freeze --python {PREFECT}/bin/python")
    locks = host.check_output("cat /opt/prefect/requirements/prefect-*.txt /opt/prefect/requirements/flows-*.txt")
    locked = set(re.findall(r"^(\S+==[^\s;]+)", locks, re.MULTILINE))
    assert freeze and set(freeze.split()) <= locked
    assert shlex.split(host.check_output(f"{PREFECT}/bin/prefect --version"))[0] == DEFAULT
