"""Restores where the primary is not the first host: on whichever it is now, and nowhere else."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from tests.support.hosts import wait_for_health
from tests.support.patroni import switch_over
from tests.support.scenario import PSQL, Playbook, on_the_controller
from tests.support.waiting import wait_for

CONFIRMED = ("playbooks/restore_backup.yml", "-e", "prefect_backup_restore_confirmed=true")
RUN = "prefect deployment run collect-market-data/sample --watch"
# Of what no server and no worker writes by itself.
ROWS = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} AS t"
RUNS = (
    "SELECT count(*), md5(string_agg(id::text, '|' ORDER BY id)) FROM prefect.flow_run WHERE state_type = 'COMPLETED'"
)
# It keeps a restore waiting, before it has replaced anything.
HOLD = "BEGIN; LOCK TABLE prefect.block_type IN ACCESS SHARE MODE; SELECT pg_sleep(900)"
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgprefect_restore' AND wait_event_type = 'Lock'"

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", autouse=True)
def run_before(app: Host) -> None:
    assert "Flow run finished successfully" in app.check_output(RUN)


@pytest.fixture
def standbys(members: dict[str, Host], primary: str) -> dict[str, Host]:
    return {name: host for name, host in members.items() if name != primary}


def newest(host: Host) -> str:
    """The newest set of a host that is not a safety set."""
    names = [found["name"] for found in json.loads(host.check_output("pgprefect backup list --json"))]
    return str(max(name for name in names if not name.endswith("-safety")))


def safety_sets(host: Host) -> list[str]:
    return [name for name in host.check_output("ls /var/backups/prefect").split() if name.endswith("-safety")]


def all_have(members: dict[str, Host], question: str, answer: str) -> None:
    def answers() -> set[str]:
        return {host.check_output(PSQL, question) for host in members.values()}

    wait_for(lambda: answers() == {answer}, answers, 30)


def all_works(members: dict[str, Host], app: Host, primary: str) -> None:
    """The servers and the workers run, and the database is as declared."""
    assert "Flow run finished successfully" in app.check_output(RUN)
    wait_for_health(app)
    found = members[primary].run("pgprefect verify")
    assert found.rc == 0, found.stdout


def said_by(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0, done.stdout
    return " ".join(done.stdout.split())


def test_rows_of_a_dropped_table(members: dict[str, Host], app: Host, primary: str, playbook: Playbook) -> None:
    host, table = members[primary], "public.market_data"
    host.check_output("pgprefect backup")
    before = host.check_output(PSQL, ROWS.format(table))
    assert not before.startswith("0|")
    host.check_output(PSQL, f"DROP TABLE {table} CASCADE")
    restored = playbook("playbooks/restore_table.yml", "-e", f"prefect_backup_restore_table={table}")
    assert restored.returncode == 0, restored.stdout
    assert f"restored_{newest(host).lower()}_app.market_data" in restored.stdout
    again = playbook("playbooks/database.yml")
    assert again.returncode == 0, again.stdout
    host.check_output(f"pgprefect restore --table {table} --put-back --yes")
    all_have(members, ROWS.format(table), before)
    all_works(members, app, primary)


def test_the_schema_of_prefect_with_its_runs(
    members: dict[str, Host], app: Host, primary: str, playbook: Playbook
) -> None:
    host = members[primary]
    host.check_output("pgprefect backup")
    before = host.check_output(PSQL, RUNS)
    assert not before.startswith("0|")
    host.check_output(PSQL, "DELETE FROM prefect.flow_run")
    kept = {name: safety_sets(one) for name, one in members.items()}
    restored = playbook(*CONFIRMED)
    assert restored.returncode == 0, restored.stdout
    assert f"Restored {newest(host)}: prefect in mltrading" in " ".join(restored.stdout.split())
    all_have(members, RUNS, before)
    # What was replaced is in a safety set, on this host alone.
    assert [name for name, one in members.items() if safety_sets(one) != kept[name]] == [primary]
    all_works(members, app, primary)


def test_a_standby_refuses_what_writes(primary: str, standbys: dict[str, Host]) -> None:
    for host in standbys.values():
        before = host.check_output("ls /var/backups/prefect")
        for command in (
            "restore --kind workflow --yes",
            "restore --kind workflow --dry-run",
            "restore --table prefect.flow_run",
            "restore --table prefect.flow_run --put-back --yes",
            "restore --into aside",
            "cleanup --days 30 --yes",
        ):
            refused = host.run(f"pgprefect {command}")
            assert refused.rc == 2, command
            assert f"is a standby and takes no writes; {primary} is the primary." in refused.stderr, refused.stderr
            assert f"Run this on {primary}, as root." in refused.stderr
        assert host.check_output("ls /var/backups/prefect") == before
        assert not host.file("/var/lib/pgprefect/restores/restore.json").exists


def test_sets_of_a_standby_are_proved_there(standbys: dict[str, Host]) -> None:
    for host in standbys.values():
        host.check_output("pgprefect backup")
        name = newest(host)
        assert host.check_output("pgprefect drill").startswith(f"/var/backups/prefect/{name} passed the drill")
        assert host.file(f"/var/backups/prefect/{name}/verified.json").exists
        said = json.loads(host.run("pgprefect health --json").stdout)
        checks = {job: said["checks"][job] for job in ("backup", "drill", "leftovers")}
        assert set(checks.values()) == {"healthy"}, said["problems"]


def test_the_hosts_dump_one_after_the_other(members: dict[str, Host]) -> None:
    schedules = [
        re.findall(r"^(\d+) (\d+) \* \* (\S) (\S+)", host.file("/etc/cron.d/prefect-backup").content_string, re.M)
        for host in members.values()
    ]
    assert schedules == [
        [(minute, "2", "*", "prefect_backup"), (minute, "4", "0", "root")] for minute in ("0", "20", "40")
    ]


def test_a_set_of_another_host(
    members: dict[str, Host], primary: str, standbys: dict[str, Host], playbook: Playbook, tmp_path: Path
) -> None:
    source, host = next(iter(standbys.items()))
    host.check_output("pgprefect backup")
    name = newest(host)
    said = said_by(playbook("playbooks/restore_backup.yml", "--check", "-e", f"prefect_backup_restore_set={name}"))
    assert f"has no set {name}. {source} made it." in said
    assert members[primary].run(f"test -e /var/backups/prefect/{name}").rc != 0
    fetch = re.search(r"ansible-playbook (-i \S+ playbooks/create_backup\.yml .*?prefect_backup_fetch_set=\S+)", said)
    assert fetch, said
    command = fetch[1].rstrip("'\"").replace("/srv/backups", str(tmp_path))
    fetched = on_the_controller(".venv/bin/ansible-playbook", *shlex.split(command))
    assert fetched.returncode == 0, fetched.stdout
    upload = ("-e", f"prefect_backup_restore_upload={tmp_path}/{source}/{name}")
    restored = playbook("playbooks/restore_table.yml", "-e", "prefect_backup_restore_table=prefect.flow_run", *upload)
    assert restored.returncode == 0, restored.stdout
    schema = f"restored_{name.lower()}_prefect"
    assert members[primary].check_output(PSQL, f"SELECT count(*) > 0 FROM {schema}.flow_run") == "t"
    members[primary].check_output(PSQL, f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def interrupted(
    members: dict[str, Host], primary: str, playbook: Playbook
) -> Iterator[Callable[[Callable[[], object]], str]]:
    """Do something while a restore waits for a table, and return what its playbook said in the end."""
    for host in members.values():
        host.check_output("pgprefect backup")

    def interrupt(event: Callable[[], object]) -> str:
        hold = "systemd-run --collect --unit=holder runuser --user postgres -- psql mltrading --command %s"
        members[primary].check_output(hold, HOLD)
        done: list[subprocess.CompletedProcess[str]] = []
        restoring = threading.Thread(target=lambda: done.append(playbook(*CONFIRMED)))
        restoring.start()
        wait_for(lambda: members[primary].check_output(PSQL, WAITS) == "1", lambda: done, 120)
        event()
        restoring.join()
        return said_by(done[0])

    yield interrupt
    members[primary].run("systemctl stop holder")


def test_a_switchover_while_it_restores(
    members: dict[str, Host],
    app: Host,
    primary: str,
    interrupted: Callable[[Callable[[], object]], str],
    playbook: Playbook,
) -> None:
    before = members[primary].check_output(PSQL, RUNS)
    said = interrupted(lambda: switch_over(members, primary))
    assert "failed and was rolled back; nothing has changed" in said
    assert "If another host became the primary meanwhile, restore there." in said
    all_have(members, RUNS, before)
    # Servers and workers were started again, and ask the new primary.
    assert "Flow run finished successfully" in app.check_output(RUN)
    again = playbook(*CONFIRMED)
    assert again.returncode == 0, again.stdout
    (now,) = (name for name, host in members.items() if host.check_output(PSQL, "SELECT pg_is_in_recovery()") == "f")
    assert now != primary
    all_have(members, RUNS, before)
    all_works(members, app, now)
    # What the former primary had recorded is nothing that it could take back.
    members[primary].check_output("pgprefect backup")
    assert json.loads(members[primary].run("pgprefect health --json").stdout)["checks"]["leftovers"] == "healthy"
