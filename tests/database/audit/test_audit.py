"""The audit trail of a real PostgreSQL: who, when, from where and what, and nothing of the services' daily writes."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pgprefect.core.sql import quote
from pgprefect.runs.retention import Policy, clean_up
from pgprefect.schema import audit
from pgprefect.schema.declaration import DeclarationError, declare
from pgprefect.schema.verify import verify

from bench.data import fill
from tests.support.audit import OPTIONS, Audited, audited_site
from tests.support.backups import make, put_back
from tests.support.postgresql import docker, running_postgresql

FLOW_RUN = "prefect.flow_run"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    with audited_site(tmp_path_factory.mktemp("audit")) as site:
        yield site


def codes(site: Audited) -> set[str]:
    found = verify(site.server.login, site.declaration, check_server=True, listen_addresses=["*"]).problems
    return {problem.code for problem in found if "audit" in problem.code}


def test_a_migration_leaves_its_ddl_with_the_role_that_made_it(site: Audited) -> None:
    (made,) = site.entries("CREATE TABLE flow_run (")
    assert (made.role, made.database, made.kind) == (site.tenant.migrator, "audited", "DDL")
    assert made.client.count(".") == 3 and abs(datetime.now(UTC) - made.time) < timedelta(hours=1)
    assert site.trail(table="prefect.block_document", role=site.tenant.migrator).entries


def test_a_cleanup_leaves_its_deletions_of_runs(site: Audited) -> None:
    with contextlib.closing(site.server.connect(site.database)) as connection:
        fill(connection, "prefect", 50)
    server = site.tenant.server
    connection = site.server.connect(site.database, server, site.declaration.passwords[server])
    before = len(site.trail(role=server).entries)
    with contextlib.closing(connection):
        deleted = clean_up(connection, "prefect", Policy(days_to_keep=0.001, zombie_hours=None))
    assert deleted.rows[FLOW_RUN.partition(".")[2]] > 0
    entries = site.trail(role=server).entries[: len(site.trail(role=server).entries) - before]
    assert {(entry.command, entry.object) for entry in entries} == {("DELETE", FLOW_RUN)}


def test_normal_writes_of_a_service_leave_nothing(site: Audited) -> None:
    server, app = site.tenant.server, site.declaration.app_login
    before = len(site.trail().entries)
    site.sql("INSERT INTO flow (name) VALUES ('daily'); UPDATE flow_run SET name = 'x'", role=server)
    site.sql("INSERT INTO configuration (key, value) VALUES ('daily', '{}')", role=server)
    site.sql("DELETE FROM flow_run_state; SELECT * FROM flow_run FOR UPDATE", role=server)
    site.sql("DELETE FROM stock_info", role=app)
    assert len(site.trail().entries) == before


def test_a_named_table_leaves_what_the_application_writes(site: Audited) -> None:
    site.sql("UPDATE public.orders SET quantity = 11 WHERE id = 4711", role=site.declaration.app_login)
    (entry,) = site.entries("4711")
    assert (entry.role, entry.command, entry.object) == (site.declaration.app_login, "UPDATE", "public.orders")
    assert site.trail(table="public.orders").entries[0] == entry


def test_a_hand_made_update_and_a_grant_leave_who_and_what(site: Audited) -> None:
    site.sql("CREATE ROLE ann LOGIN PASSWORD 'tell-nobody-1'; GRANT mltrading_owner TO ann")
    with contextlib.closing(site.server.connect(site.database, "ann", "tell-nobody-1")) as connection:
        cursor = connection.cursor()
        cursor.execute("SET application_name = 'by hand'")
        cursor.execute("UPDATE public.stock_info SET name = 'a,\n\"b\"' WHERE symbol = 'BY HAND'")
        cursor.execute("TRUNCATE public.trading_signals")
        cursor.execute("GRANT SELECT ON public.stock_info TO PUBLIC")
        cursor.execute("REVOKE SELECT ON public.stock_info FROM PUBLIC")
    entries = list(reversed(site.trail(role="ann").entries))
    assert [(entry.kind, entry.command) for entry in entries] == [
        ("WRITE", "UPDATE"),
        ("WRITE", "TRUNCATE TABLE"),
        ("ROLE", "GRANT"),
        ("ROLE", "REVOKE"),
    ]
    assert {entry.application for entry in entries} == {"by hand"}
    assert entries[0].statement == "UPDATE public.stock_info SET name = 'a,\n\"b\"' WHERE symbol = 'BY HAND'"
    assert [entry.command for entry in site.trail(table="public.stock_info", role="ann").entries] == [
        "REVOKE",
        "GRANT",
        "UPDATE",
    ]
    site.sql("UPDATE prefect.flow SET name = name WHERE name = 'the administrator'")
    assert [entry.role for entry in site.entries("the administrator")] == ["postgres"]


def test_a_restore_leaves_its_trail_and_the_audit_goes_on(site: Audited, tmp_path: Path) -> None:
    since = datetime.now(UTC) - timedelta(milliseconds=1)
    made = make(site, tmp_path)
    put_back(site, tmp_path / made.name, "app", "workflow")
    entries = site.trail(since=since).entries
    copied = {entry.statement.split()[1] for entry in entries if entry.command == "COPY"}
    assert {"public.orders", FLOW_RUN} <= copied
    dropped = {entry.role for entry in entries if "DROP table IF EXISTS prefect.flow_run" in entry.statement}
    assert dropped == {"pgprefect_restore"}
    # Whatever the dump had of the rights by which tables are audited, the next run has to say nothing about.
    assert site.audit() == []
    assert codes(site) == set()


def test_no_password_and_no_value_of_a_parameter_is_recorded(site: Audited) -> None:
    value = secrets.token_hex(8)
    assert site.server.sql("postgres", f"ALTER ROLE prefect_monitor PASSWORD '{value}'") == []
    site.sql(f"DO $$ BEGIN EXECUTE 'ALTER ROLE prefect_monitor PASSWORD ''{value}'''; END $$")
    with contextlib.closing(site.server.connect(site.database)) as connection, connection.cursor() as cursor:
        cursor.execute("PREPARE hide AS UPDATE prefect.configuration SET value = to_json($1::text) WHERE key = 'x'")
        cursor.execute(f"EXECUTE hide ('{value}')")
    marked = [line for line in site.raw("json").splitlines() if b'"message":"AUDIT: ' in line]
    assert marked and not any(value.encode() in line for line in marked)


def test_what_is_switched_off_is_named(site: Audited) -> None:
    assert codes(site) == set()
    site.sql("ALTER SYSTEM SET pgaudit.log = 'role'")
    site.sql("ALTER ROLE ann SET pgaudit.log = 'none'")
    site.sql(f"REVOKE DELETE ON {FLOW_RUN} FROM {audit.AUDITOR}")
    site.sql("SELECT pg_reload_conf(); SELECT pg_sleep(0.3)")
    try:
        assert codes(site) == {"audit_off", "audit_exempt", "audit_differs"}
    finally:
        site.sql("ALTER SYSTEM SET pgaudit.log = 'ddl, role'")
        site.sql("ALTER ROLE ann RESET pgaudit.log; SELECT pg_reload_conf(); SELECT pg_sleep(0.3)")
    assert site.audit() == [f"GRANT DELETE ON TABLE {FLOW_RUN} TO {audit.AUDITOR}"]
    missing = replace(site.declaration, audit_tables=("public.orders", "public.ordres"))
    with_typo = Audited(site.server, missing, site.copy)
    assert codes(with_typo) == {"audit_table_missing"}


def test_the_plan_is_idempotent_and_takes_everything_away_again(site: Audited) -> None:
    off = Audited(site.server, replace(site.declaration, audit=False), site.copy)
    before = site.sql("SELECT setrole::regrole::text, setconfig::text FROM pg_db_role_setting ORDER BY 1")
    planned = [str(change.statement) for change in audit.apply(site.server.login, off.declaration, dry_run=True)]
    assert site.audit() == []
    assert off.audit() == planned and planned[-1] == f"DROP ROLE {audit.AUDITOR}"
    assert off.audit() == []
    left = site.sql("SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%%pgaudit%%'")
    assert left == [(0,)] and site.sql("SELECT 1 FROM pg_roles WHERE rolname = %s", audit.AUDITOR) == []
    assert len(site.audit()) >= 5 and codes(site) == set()
    assert before == site.sql("SELECT setrole::regrole::text, setconfig::text FROM pg_db_role_setting ORDER BY 1")


def test_a_full_disk_loses_entries_and_stops_nothing() -> None:
    options = ("--tmpfs", "/var/lib/postgresql", "--tmpfs", "/tmp/log:size=1m,mode=1777")
    with running_postgresql(*options, "--env", f"POSTGRES_OPTIONS={OPTIONS}") as server:
        for number in range(20):
            server.sql("postgres", f"COMMENT ON DATABASE postgres IS '{number}-{'x' * 200_000}'")
        assert "100%" in docker("exec", server.container, "df", "/tmp/log")
        assert server.sql(
            "postgres",
            "SELECT left(shobj_description(oid, 'pg_database'), 3) FROM pg_database WHERE datname = 'postgres'",
        ) == [("19-",)]


@pytest.mark.parametrize("table", ["orders", "nowhere.orders", "prefect.configuration", "prefect.block_document"])
def test_a_table_that_cannot_be_audited_is_refused(site: Audited, table: str) -> None:
    arguments = {
        name: getattr(site.declaration, name) for name in ("database", "app_owner", "app_login", "monitor", "backup")
    }
    with pytest.raises(DeclarationError, match=f"audit_tables has '{table}'"):
        declare(**arguments, tenants=[vars(site.tenant)], audit=True, audit_tables=[table])
    assert quote(table)
