"""Point in time: the cluster goes back to between two writes, in place and beside, and survives what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.point_in_time import listed, remove_rows, write_row, written
from tests.support.scenario import PREFECT, PSQL, Playbook, Typed
from tests.support.waiting import wait_for

POSTMASTER = "systemctl show --property MainPID 'postgresql@*-main.service' prefect-server@prefect"
REPOSITORY = "/var/lib/pgbackrest"
Write = Callable[[str], None]


@pytest.fixture(scope="module", autouse=True)
def no_rows_of_these_tests(host: Host) -> Iterator[None]:
    remove_rows(host)
    yield
    remove_rows(host)


@pytest.fixture(scope="module")
def write(host: Host) -> Write:
    return partial(write_row, host)


def clusters(host: Host) -> list[str]:
    return str(host.check_output("ls /var/lib/postgresql/*/")).split()


def test_a_second_run_changes_nothing(playbook: Playbook) -> None:
    again = playbook("playbooks/pgbackrest.yml")
    assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout


def test_only_root_and_postgresql_read_the_secrets_and_nobody_the_repository(host: Host) -> None:
    secrets = host.file("/etc/pgbackrest/conf.d/secrets.conf")
    assert (secrets.user, secrets.group, secrets.mode) == ("root", "postgres", 0o640)
    passphrase = secrets.content_string.strip().rpartition("=")[2]
    assert len(passphrase) == 32
    assert not host.file("/etc/pgbackrest/pgbackrest.conf").contains(passphrase)
    # What is encrypted begins with OpenSSL's salt.
    files = host.check_output(f"find {REPOSITORY} -type f -exec head --bytes 6 {{}} ';' -exec echo ';'")
    assert set(files.split()) == {"Salted"}
    assert host.run(f"runuser --user prefect -- ls {REPOSITORY}").rc != 0


def test_another_passphrase_is_refused_before_anything_is_touched(host: Host, playbook: Playbook) -> None:
    """As of a clone that has no secrets yet: what reads the backups may stand on the host alone."""
    file = host.file("/etc/pgbackrest/conf.d/secrets.conf")
    before = file.content_string
    another = json.dumps({"prefect_secrets": {"postgresql_pitr": "another-one-that-is-long"}})
    for command in (["site.yml"], ["site.yml", "--check", "--diff"], ["playbooks/pgbackrest.yml"]):
        refused = playbook(*command, "--extra-vars", another)
        assert refused.returncode != 0 and changed(refused.stdout) == [0], refused.stdout
        assert "has another passphrase in /etc/pgbackrest/conf.d/secrets.conf than the inventory" in refused.stdout
        assert "another-one-that-is-long" not in refused.stdout
    assert file.content_string == before


def test_what_can_not_be_reached_is_refused_before_anything_is_touched(host: Host) -> None:
    before = host.check_output(POSTMASTER)
    for arguments, words in (
        ("--point never", "There is no restore point 'never'"),
        ("--time '2020-01-01 00:00:00Z'", "before the first backup"),
        ("--time '2100-01-01 00:00:00Z'", "in the future"),
        ("--time '2026-01-01 00:00:00'", "no time zone"),
        ("--end --point never", "must be one of"),
    ):
        refused = host.run(f"pgprefect pitr restore {arguments} --yes")
        assert refused.rc == 2 and words in refused.stderr, refused.stderr
    assert host.check_output(POSTMASTER) == before


@pytest.mark.thorough
def test_the_playbook_refuses_what_is_unclear_or_unconfirmed(host: Host, playbook: Playbook) -> None:
    before = host.check_output(POSTMASTER)
    unclear = playbook("playbooks/restore_cluster.yml", "--extra-vars", "pgbackrest_restore_confirmed=true")
    assert unclear.returncode != 0 and "must be one of a time, a restore point" in unclear.stdout
    unconfirmed = playbook("playbooks/restore_cluster.yml", "--extra-vars", "pgbackrest_restore_end=true")
    assert unconfirmed.returncode != 0 and "pgbackrest_restore_confirmed=true" in unconfirmed.stdout
    looked = playbook("playbooks/restore_cluster.yml", "--check", "--extra-vars", "pgbackrest_restore_end=true")
    assert looked.returncode == 0 and listed(host)["backups"][0]["label"] in looked.stdout, looked.stdout
    assert host.check_output(POSTMASTER) == before


def test_in_place_to_between_two_writes_and_what_was_there_is_seen_beside(
    host: Host, playbook: Playbook, typed: Typed, write: Write
) -> None:
    write("A")
    point = typed("point_in_time.md", "Backups and restore points")[1].split()[3]
    write("B")
    typed("point_in_time.md", "Restore in place", NAME=point)
    assert written(host) == "A"
    wait_for_health(host)
    host.check_output("prefect work-pool ls")
    assert clusters(host) == ["main"]
    found = listed(host)
    # The playbook made a backup of the new timeline; the way back is on the old one.
    assert found["backups"][-1]["kind"] == "full"
    back = [part for part in found["points"] if part["name"].startswith("before-restore-")][-1]
    assert back["timeline"] < found["backups"][-1]["timeline"]

    before = host.check_output(POSTMASTER)
    beside = {"pgbackrest_restore_point": back["name"], "pgbackrest_restore_beside": True}
    done = playbook("playbooks/restore_cluster.yml", "--extra-vars", json.dumps(beside))
    assert done.returncode == 0, done.stdout
    try:
        assert "psql -p 5433 mltrading" in done.stdout and "pg_dropcluster --stop" in done.stdout
        assert written(host, 5433) == "AB"
        assert written(host) == "A" and host.check_output(POSTMASTER) == before
        assert not host.socket("tcp://127.0.0.1:5433").is_listening
        again = host.run("pgprefect pitr restore --end --beside")
        assert again.rc == 2 and "pitr_in_the_way" in again.stderr
    finally:
        version = host.check_output("ls /var/lib/postgresql")
        host.check_output(f"pg_dropcluster --stop {version} beside")
    assert clusters(host) == ["main"] and host.run("ls /etc/postgresql/*/beside").rc != 0


@pytest.mark.thorough
def test_to_a_time(host: Host, typed: Typed, write: Write) -> None:
    before = written(host)
    moment = host.check_output("date --utc '+%F %T.%6NZ'")
    write("C")
    typed("point_in_time.md", "Restore into a copy", **{"2026-01-31 15:04:05+00:00": moment})
    try:
        assert written(host, 5433) == before and written(host) == before + "C"
    finally:
        host.check_output(f"pg_dropcluster --stop {host.check_output('ls /var/lib/postgresql')} beside")


@pytest.fixture
def prefect_stopped(host: Host) -> Iterator[None]:
    host.check_output("systemctl stop 'prefect-worker@*' prefect-server@prefect")
    yield
    if "main.before-restore" in clusters(host):  # the test failed halfway
        host.check_output("systemctl stop victim; pgprefect pitr undo --yes")
    cluster = "postgresql@$(ls /var/lib/postgresql)-main"
    workers = "$(systemctl list-units --all --plain --no-legend 'prefect-worker@*' | cut -d' ' -f1)"
    host.check_output(f"systemctl start {cluster} prefect-server@prefect {workers}")
    wait_for_health(host)


@pytest.mark.usefixtures("prefect_stopped")
def test_a_restore_that_fails_or_is_killed_leaves_the_database_as_it_was(host: Host, typed: Typed) -> None:
    written_before = written(host)
    # Nothing was committed after that time, so recovery ends before it: only PostgreSQL itself finds out.
    host.check_output("systemctl stop 'postgresql@*-main.service'")
    failed = host.run("pgprefect pitr restore --yes --time \"$(date --utc '+%F %T.%6NZ')\"")
    assert failed.rc == 2 and "recovery ended before configured recovery target" in failed.stderr, failed.stderr
    assert "The database is as it was" in failed.stderr, failed.stderr
    assert written(host) == written_before and clusters(host) == ["main"]

    host.check_output("systemd-run --collect --unit=victim /usr/local/bin/pgprefect pitr restore --end --yes")
    aside = "ls -d /var/lib/postgresql/*/main.before-restore"
    waiting = f"timeout 180 bash -c 'until {aside} >/dev/null 2>&1; do sleep 0.05; done'"
    host.check_output(f"{waiting} || {{ journalctl --unit victim >&2; false; }}")
    host.check_output("systemctl kill --signal=KILL victim")
    assert "main.before-restore" in clusters(host)
    refused = host.run("pgprefect pitr restore --end --yes")
    assert refused.rc == 2 and "pitr_in_the_way" in refused.stderr, refused.stderr
    typed("point_in_time.md", "Undo a restore that was killed")
    assert written(host) == written_before and clusters(host) == ["main"]
    host.check_output("pgprefect pitr check")


@pytest.mark.thorough
def test_a_restore_point_is_set_before_a_restore_and_an_upgrade(host: Host, playbook: Playbook) -> None:
    def points(name: str) -> int:
        return len([part for part in listed(host)["points"] if part["name"].startswith(name)])

    before = points("before-restore-")
    host.check_output("systemctl stop 'prefect-worker@*' prefect-server@prefect")
    host.check_output("pgprefect backup")
    host.check_output("pgprefect restore --kind workflow --yes")
    assert points("before-restore-") == before + 1
    as_migrator = "--uid=prefect --property=EnvironmentFile=/etc/prefect/prefect-migrate.env"
    downgrade = f"{PREFECT}/bin/prefect server database downgrade --yes"
    host.check_output(f"systemd-run --quiet --pipe --wait {as_migrator} {downgrade}")
    for name in ("server", "workers"):
        done = playbook(f"playbooks/{name}.yml")
        assert done.returncode == 0, done.stdout
    assert points("before-upgrade-prefect-") == 1
    wait_for_health(host)


@pytest.mark.thorough
def test_a_repository_that_is_away(host: Host, playbook: Playbook, typed: Typed, write: Write) -> None:
    """Health says so, nobody relies on it, and the WAL waits."""
    host.check_output(f"mv {REPOSITORY} {REPOSITORY}.away")
    try:
        write("D")
        segment = host.check_output(PSQL, "SELECT pg_walfile_name(pg_switch_wal())")
        waiting = f"ls /var/lib/postgresql/*/main/pg_wal/archive_status/{segment}.ready"
        wait_for(lambda: host.run(waiting).rc == 0, seconds=60)
        failing = "SELECT last_failed_wal IS NOT NULL FROM pg_stat_archiver"
        wait_for(lambda: host.check_output(PSQL, failing) == "t", seconds=60)
        limits = {"prefect_monitoring_thresholds": {"archive_lag_s": {"warning": 0, "critical": 0}}}
        health = playbook("playbooks/health.yml", "--extra-vars", json.dumps(limits))
        assert health.returncode != 0 and "Archiving of WAL fails" in " ".join(health.stdout.split())
        assert host.run("runuser --user postgres -- pgprefect pitr backup").rc == 2
        found = json.loads(host.run("pgprefect health --json").stdout)
        assert found["checks"]["pitr"] == "degraded"
        assert "job_failed" in [part["code"] for part in found["problems"]]
        restored = host.run("pgprefect restore --kind workflow --yes")
        assert restored.rc == 2 and "pitr_" in restored.stderr
    finally:
        host.check_output(f"mv {REPOSITORY}.away {REPOSITORY}")
    host.check_output("pgprefect pitr check")
    archived = f"runuser --user postgres -- pgbackrest --stanza=main repo-ls --recurse --filter={segment} archive"
    assert segment in host.check_output(archived)
    host.check_output("runuser --user postgres -- pgprefect pitr backup")
    wait_for_health(host)
    typed("point_in_time.md", "Check that it works")
