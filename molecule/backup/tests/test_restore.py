"""What comes back while the site stands, typed as the pages say it; a restore that fails leaves all running."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from tests.support.hosts import wait_for_health
from tests.support.scenario import PSQL, Playbook, Typed

CONFIRMED = ("--extra-vars", "prefect_backup_restore_confirmed=true")


def test_nothing_happens_without_a_word(host: Host, playbook: Playbook, typed: Typed) -> None:
    host.check_output("pgprefect backup")
    before = host.check_output("systemctl show --property MainPID prefect-server@prefect")
    refused = playbook("playbooks/restore_backup.yml")
    assert refused.returncode != 0
    assert "It would replace prefect in the database mltrading" in " ".join(refused.stdout.split())
    assert "prefect_backup_restore_confirmed=true" in refused.stdout
    assert host.check_output("systemctl show --property MainPID prefect-server@prefect") == before
    typed("restore.md", "In place")
    assert host.check_output("systemctl show --property MainPID prefect-server@prefect") == before


def newest(host: Host) -> str:
    name: str = json.loads(host.check_output("pgprefect backup list --json"))[-1]["name"]
    return name


@pytest.fixture(scope="module")
def night(host: Host, completed_run: str) -> dict[str, str]:
    """What both schemas hold in a set that is the newest."""
    assert completed_run
    host.check_output("pgprefect backup")
    return contents(host)


def contents(host: Host) -> dict[str, str]:
    """A hash of the rows of some tables, without what a server and workers write as long as they run."""
    found = {}
    for rows in ("public.market_data", "public.system_logs", "prefect.log", "prefect.task_run",
                 "prefect.flow_run WHERE state_type = 'COMPLETED'"):  # fmt: skip
        table, _, condition = rows.partition(" ")
        hashed = f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t {condition}"
        found[table] = host.check_output(PSQL, hashed)
        assert not found[table].startswith("0|"), table
    return found


@pytest.mark.thorough
def test_a_dropped_table(host: Host, typed: Typed, night: dict[str, str]) -> None:
    typed("disaster.md", "Start here")
    host.check_output(PSQL, "DROP TABLE market_data CASCADE")
    typed("disaster.md", "A table was dropped, or has wrong rows", **{"20261125t020000z": newest(host).lower()})
    assert contents(host)["public.market_data"] == night["public.market_data"]
    typed("restore.md", "One table", TIME=newest(host).lower())
    assert host.run("pgprefect verify").rc == 0


@pytest.mark.thorough
def test_nonsense_in_the_application_s_tables(host: Host, typed: Typed, night: dict[str, str]) -> None:
    host.check_output(PSQL, "UPDATE market_data SET volume = 0; INSERT INTO system_logs (event_type) VALUES ('later')")
    typed("disaster.md", "All data of the application is wrong")
    assert contents(host)["public.market_data"] == night["public.market_data"]
    assert host.check_output(PSQL, "SELECT count(*) FROM system_logs WHERE event_type = 'later'") == "0"


def test_a_destroyed_schema(host: Host, typed: Typed, night: dict[str, str]) -> None:
    host.check_output(PSQL, "INSERT INTO system_logs (event_type, message) VALUES ('later', 'm')")
    host.check_output("systemctl stop 'prefect-worker@*' 'prefect-server@*'")
    host.check_output(PSQL, "DROP SCHEMA prefect CASCADE")
    typed("disaster.md", "Prefect's schema was destroyed")
    assert_all_is_well(host, night, *(table for table in night if table.startswith("prefect.")))
    assert host.check_output(PSQL, "SELECT count(*) FROM system_logs WHERE event_type = 'later'") == "1"


def assert_all_is_well(host: Host, night: dict[str, str], *tables: str) -> None:
    """Some tables have the rows of the night, and the site runs."""
    now = contents(host)
    assert {table: now[table] for table in tables} == {table: night[table] for table in tables}
    assert host.run("pgprefect verify").rc == 0
    wait_for_health(host)


@pytest.mark.thorough
def test_a_lost_database(host: Host, typed: Typed, night: dict[str, str]) -> None:
    host.check_output("systemctl stop 'prefect-worker@*' 'prefect-server@*'")
    host.check_output(PSQL.replace("mltrading", "postgres"), "DROP DATABASE mltrading WITH (FORCE)")
    typed("disaster.md", "The database or its host is lost")
    assert_all_is_well(host, night, *night)


@pytest.mark.thorough
def test_no_room_for_a_safety_set(host: Host, typed: Typed) -> None:
    typed("disaster.md", "The disk is full")
    sets = host.check_output("ls /var/backups/prefect")
    typed("disaster.md", "The restore fails")
    assert host.check_output("ls /var/backups/prefect") == sets
    wait_for_health(host)


def test_a_restore_that_fails_leaves_all_as_it_was_and_running(host: Host, playbook: Playbook) -> None:
    hold = "BEGIN; LOCK TABLE prefect.block_type IN ACCESS SHARE MODE; SELECT pg_sleep(900)"
    host.check_output("systemd-run --unit=holder runuser --user postgres -- psql mltrading --command %s", hold)
    try:
        failed = playbook("playbooks/restore_backup.yml", *CONFIRMED)
        assert failed.returncode != 0
        assert "lock timeout" in failed.stdout
        assert host.check_output(PSQL, "SELECT count(*) > 0 FROM prefect.flow_run") == "t"
        # What was made for safety is not what the next try restores.
        assert newest(host).endswith("-safety")
        assert newest(host) not in host.check_output("pgprefect restore --kind workflow --dry-run")
        assert host.service("prefect-server@prefect").is_running
    finally:
        host.check_output("systemctl stop holder")
    wait_for_health(host)


@pytest.mark.thorough
def test_what_would_be_lost_is_named_before_anything_stops(host: Host, playbook: Playbook) -> None:
    before = host.check_output("systemctl show --property MainPID prefect-server@prefect")
    host.check_output(PSQL, "CREATE VIEW public.in_the_way AS SELECT id FROM prefect.flow_run")
    try:
        failed = playbook("playbooks/restore_backup.yml", *CONFIRMED)
        assert failed.returncode != 0
        assert "1 objects of other schemas stand on what would be replaced" in " ".join(failed.stdout.split())
    finally:
        host.check_output(PSQL, "DROP VIEW public.in_the_way")
    assert host.check_output("systemctl show --property MainPID prefect-server@prefect") == before


@pytest.mark.thorough
def test_into_a_database_beside(host: Host, typed: Typed) -> None:
    try:
        typed("restore.md", "By hand, or into another database")
        aside = host.check_output(PSQL.replace("mltrading", "aside"), "SELECT count(*) FROM prefect.flow_run")
        assert aside != "0"
    finally:
        host.check_output(PSQL.replace("mltrading", "postgres"), "DROP DATABASE IF EXISTS aside WITH (FORCE)")
