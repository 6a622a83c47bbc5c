"""Point in time of a database of three hosts, whose repository is on a disk that all of them have."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.patroni import health, is_whole, members_of, switch_over
from tests.support.point_in_time import listed, remove_rows, write_row, written
from tests.support.scenario import PSQL, Playbook, Typed, as_cron
from tests.support.waiting import wait_for

DATA, ARCHIVE = "/var/lib/postgresql/15", "/srv/shared/pgbackrest/archive/main/15-1"
SCHEDULE = "/etc/cron.d/postgresql-pitr"
RUN = "prefect deployment run collect-market-data/sample --watch"
TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
Write = Callable[[str], None]

pytestmark = pytest.mark.thorough


@pytest.fixture
def standbys(members: dict[str, Host], primary: str) -> dict[str, Host]:
    return {name: host for name, host in members.items() if name != primary}


@pytest.fixture
def write(members: dict[str, Host], primary: str) -> Write:
    remove_rows(members[primary])
    return partial(write_row, members[primary])


def cron(host: Host) -> Any:
    """Make the backup that is scheduled last, as cron does."""
    command = host.file(SCHEDULE).content_string.strip().splitlines()[-1].partition(" postgres ")[2]
    return as_cron(host, SCHEDULE, "postgres", command.partition("postgresql-pitr ")[2])


def all_are_whole(members: dict[str, Host], rows: str) -> None:
    """All members run, follow, have these rows and nothing aside, and Patroni is in charge."""
    wait_for(lambda: is_whole(next(iter(members.values())), members), seconds=60)
    wait_for(lambda: {written(host) for host in members.values()} == {rows}, seconds=30)
    for host in members.values():
        assert host.check_output(f"ls {DATA}") == "main"
        postmaster = host.check_output(f"cat /proc/$(head -1 {DATA}/main/postmaster.pid)/cgroup")
        assert "/patroni.service" in postmaster and "recovery" not in postmaster
    wait_for(
        lambda: all(health(host) == ("healthy", []) for host in members.values()),
        lambda: [health(host) for host in members.values()],
        60,
    )


def test_all_members_archive_into_one_repository(members: dict[str, Host], primary: str, playbook: Playbook) -> None:
    assert len({json.dumps(listed(host)) for host in members.values()}) == 1
    assert listed(members[primary])["backups"]
    settings = "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name ~ '^archive_(com|mode)'"
    assert {host.check_output(PSQL, settings) for host in members.values()} == {
        '/usr/local/lib/pgbackrest/archive_push.sh main "%p" on'
    }
    members[primary].check_output("pgprefect pitr check")
    # The primary is not the host that made the stanza.
    again = playbook("playbooks/pgbackrest.yml")
    assert again.returncode == 0 and set(changed(again.stdout)) == {0}, again.stdout


def test_backups_and_wal_go_on_after_a_switchover(members: dict[str, Host], primary: str) -> None:
    before = listed(members[primary])["backups"][-1]
    successor = switch_over(members, primary)
    left = cron(members[primary])
    assert left.rc == 0, left.stderr
    assert f"{successor} is the primary. It makes the backups of all. The newest one ended" in left.stdout
    assert listed(members[primary])["backups"][-1] == before
    said = json.loads(members[primary].run("pgprefect health --json").stdout)
    assert (said["checks"]["pitr"], said["checks"]["archiving"]) == ("healthy", "healthy"), said["problems"]
    made = cron(members[successor])
    assert made.rc == 0 and "Made the incr backup" in made.stdout, made.stderr
    after = listed(members[primary])["backups"][-1]
    assert after["kind"] == "incr" and after["timeline"] > before["timeline"]
    members[successor].check_output("pgprefect pitr check")


def test_a_standby_that_could_not_archive_as_the_primary_is_well(members: dict[str, Host], primary: str) -> None:
    stanza = ARCHIVE.rpartition("/")[0]
    members[primary].check_output(f"mv {stanza} {stanza}.away")
    try:
        failing = "SELECT last_failed_wal IS NOT NULL FROM pg_stat_archiver"
        members[primary].check_output(PSQL, "SELECT pg_logical_emit_message(true, 'a', 'b'), pg_switch_wal()")
        wait_for(lambda: members[primary].check_output(PSQL, failing) == "t", seconds=60)
    finally:
        members[primary].check_output(f"mv {stanza}.away {stanza}")
    switch_over(members, primary)
    said = json.loads(members[primary].run("pgprefect health --json").stdout)
    assert said["checks"]["archiving"] == "healthy" and said["details"]["archiving"]["last_failed"] is None


def test_another_version_of_where_a_timeline_ended_keeps_nothing_waiting(
    members: dict[str, Host], primary: str
) -> None:
    """As pg_rewind leaves them: each member has another rest of that segment."""
    host, folder = members[switch_over(members, primary)], f"{DATA}/main/pg_wal"
    former, end = host.check_output(f"tail -1 $(ls {folder}/*.history | tail -1)").split()[:2]
    segment = f"{int(former):08X}{0:08X}{int(end.rpartition('/')[2], 16) >> 24:08X}"
    for _ in range(2):  # the archive has the former primary's or takes the first one
        newest = host.check_output(PSQL, "SELECT pg_walfile_name(pg_current_wal_lsn())")
        version = f"(head -c 8M {newest}; head -c 8M /dev/urandom) >{segment} && touch archive_status/{segment}.ready"
        host.check_output("runuser --user postgres -- sh -c %s", f"cd {folder} && {version}")
        host.check_output(PSQL, "SELECT pg_logical_emit_message(true, 'a', 'b'), pg_switch_wal()")
        wait_for(lambda: host.run(f"ls {folder}/archive_status/*.ready").rc != 0, seconds=90)
        host.check_output(f"rm -f {folder}/{segment} {folder}/archive_status/{segment}.done")
    assert f"{segment}: timeline {former} ended" in host.check_output("journalctl --unit patroni --since -3min")
    host.check_output("pgprefect pitr check")


def test_a_standby_refuses_what_is_the_primarys(primary: str, standbys: dict[str, Host]) -> None:
    for name, host in standbys.items():
        for command in ("point x", "check"):
            refused = host.run(f"pgprefect pitr {command}")
            assert refused.rc == 2 and f"{primary} is the primary." in refused.stderr, refused.stderr
        for command in ("restore --end --yes", "restore --end --beside", "restore --end --dry-run"):
            refused = host.run(f"pgprefect pitr {command}")
            assert refused.rc == 2 and f"{name} is a standby; {primary} is the primary." in refused.stderr
            assert f"Run this on {primary}, as root." in refused.stderr
        assert host.check_output(f"ls {DATA}") == "main"


def test_a_copy_beside_the_cluster(members: dict[str, Host], primary: str, playbook: Playbook, write: Write) -> None:
    host = members[primary]
    write("A")
    point = host.check_output("pgprefect pitr point beside").split()[3]
    write("B")
    postmaster = f"head -1 {DATA}/main/postmaster.pid"
    before = host.check_output(postmaster)
    to = {"pgbackrest_restore_point": point, "pgbackrest_restore_beside": True}
    done = playbook("playbooks/restore_cluster.yml", "--extra-vars", json.dumps(to))
    assert done.returncode == 0, done.stdout
    try:
        assert written(host, 5433) == "A"
        assert host.check_output(f"PGPORT=5433 {PSQL}", "SHOW archive_mode") == "off"
        assert host.check_output(postmaster) == before
    finally:
        host.check_output("pg_dropcluster --stop 15 beside")
    all_are_whole(members, "AB")


def test_what_a_copy_that_was_killed_leaves_goes_as_the_messages_say(
    members: dict[str, Host], primary: str, write: Write
) -> None:
    host = members[primary]
    write("AB")
    again = "pgprefect pitr restore --end --beside"
    host.check_output(f"systemd-run --collect --unit=victim /usr/local/bin/{again}")
    host.check_output(f"timeout 180 bash -c 'until test -e {DATA}/beside; do sleep 0.05; done'")
    host.check_output("systemctl kill --signal=KILL victim")
    typed = []
    while (done := host.run(again)).rc:
        (command,) = re.findall(r"^What to do: .*: (systemctl stop \S+|rm -r \S+)$", done.stderr, re.MULTILINE)
        assert command not in typed, done.stderr
        host.check_output(command)
        typed.append(command)
    assert typed[-1] == f"rm -r {DATA}/beside"
    try:
        assert written(host, 5433) == "AB"
    finally:
        host.check_output("pg_dropcluster --stop 15 beside")
    all_are_whole(members, "AB")


def test_back_to_between_two_writes(
    members: dict[str, Host], app: Host, primary: str, typed: Typed, write: Write
) -> None:
    host = members[primary]
    write("A")
    point = host.check_output("pgprefect pitr point between").split()[3]
    write("B")
    timeline = host.check_output(PSQL, TIMELINE)
    typed("point_in_time.md", "Restore in place", NAME=point)
    all_are_whole(members, "A")
    assert host.check_output(PSQL, "SELECT pg_is_in_recovery()") == "f"
    assert host.check_output(PSQL, TIMELINE) > timeline
    assert "Flow run finished successfully" in app.check_output(RUN)
    wait_for_health(app)
    assert host.run("pgprefect verify").rc == 0
    found = listed(host)
    assert found["backups"][-1]["kind"] == "full"
    # What comes next is archived, by whichever is the primary.
    switch_over(members, primary)
    write_to = next(one for one in members.values() if one.check_output(PSQL, "SELECT pg_is_in_recovery()") == "f")
    write_to.check_output("pgprefect pitr check")


def test_nothing_is_restored_while_somebody_has_paused_patroni(
    members: dict[str, Host], primary: str, typed: Typed
) -> None:
    members[primary].check_output("patronictl -c /etc/patroni/config.yml pause --wait")
    refused = members[primary].run("pgprefect pitr restore --end --yes")
    assert refused.rc == 2 and "Patroni is paused. Nothing was changed." in refused.stderr, refused.stderr
    typed("point_in_time.md", "Several hosts")
    wait_for(lambda: health(members[primary]) == ("healthy", []), seconds=30)


@pytest.fixture
def whole_again(members: dict[str, Host], primary: str) -> Iterator[None]:
    yield
    if "before-restore" in members[primary].check_output(f"ls {DATA}"):  # the test failed halfway
        members[primary].check_output("systemctl stop victim; pgprefect pitr undo --yes")


@pytest.mark.usefixtures("whole_again")
def test_a_restore_that_fails_leaves_the_database_as_it_was(
    members: dict[str, Host], primary: str, write: Write
) -> None:
    host = members[primary]
    write("A")
    point = host.check_output("pgprefect pitr point broken").split()[3]
    segment = host.check_output(PSQL, "SELECT pg_walfile_name(pg_current_wal_lsn())")
    write("B")
    host.check_output("pgprefect pitr check")
    host.check_output(f"mkdir /srv/shared/away && mv {ARCHIVE}/{segment[:16]}/{segment}-* /srv/shared/away")
    try:
        failed = host.run(f"pgprefect pitr restore --point {point} --yes")
    finally:
        host.check_output(f"mv /srv/shared/away/* {ARCHIVE}/{segment[:16]}/ && rmdir /srv/shared/away")
    assert failed.rc == 2 and "recovery ended before configured recovery target" in failed.stderr, failed.stderr
    assert "The database is as it was" in failed.stderr, failed.stderr
    all_are_whole(members, "AB")
    host.check_output("pgprefect pitr check")


@pytest.mark.usefixtures("whole_again")
def test_a_restore_that_was_killed_is_undone(
    members: dict[str, Host], primary: str, standbys: dict[str, Host], write: Write
) -> None:
    host = members[primary]
    write("AB")
    host.check_output("systemd-run --collect --unit=victim /usr/local/bin/pgprefect pitr restore --end --yes")
    waiting = f"timeout 180 bash -c 'until test -e {DATA}/main.before-restore; do sleep 0.05; done'"
    host.check_output(f"{waiting} || {{ journalctl --unit victim >&2; false; }}")
    host.check_output("systemctl kill --signal=KILL victim")
    # Nobody takes over meanwhile, and everybody knows why.
    for standby in standbys.values():
        assert "patroni_paused" in health(standby)[1]
        assert written(standby) == "AB"
        assert "There is nothing to undo" in standby.run("pgprefect pitr undo --yes").stderr
    undone = host.run("pgprefect pitr undo --yes")
    assert undone.rc == 0, undone.stderr
    all_are_whole(members, "AB")
    host.check_output("pgprefect pitr check")


def test_a_restore_that_succeeded_is_undone(members: dict[str, Host], primary: str, write: Write) -> None:
    """The others come back from what is put back, and the next failover takes no timeline that was used already."""
    host = members[primary]
    write("A")
    point = host.check_output("pgprefect pitr point undone").split()[3]
    write("B")
    host.check_output(f"pgprefect pitr restore --point {point} --yes")
    assert written(host) == "A"
    host.check_output("pgprefect pitr undo --yes")
    all_are_whole(members, "AB")
    used = set(re.findall(r"^(\w{8})\.history$", host.check_output(f"ls {ARCHIVE}"), re.MULTILINE))
    successor = switch_over(members, primary)
    assert members[successor].check_output(PSQL, TIMELINE) > max(used)
    members[successor].check_output("pgprefect pitr check")


@pytest.mark.usefixtures("whole_again")
def test_a_standby_that_goes_away_while_the_primary_is_restored(
    members: dict[str, Host], app: Host, primary: str, standbys: dict[str, Host], playbook: Playbook, write: Write
) -> None:
    """The restore stands, servers and workers run, and what is still to be typed is said."""
    host, lost = members[primary], next(iter(standbys.values()))
    write("A")
    point = host.check_output("pgprefect pitr point lonely").split()[3]
    write("B")
    to = json.dumps({"pgbackrest_restore_point": point, "pgbackrest_restore_confirmed": True})
    done: list[subprocess.CompletedProcess[str]] = []
    arguments = ("playbooks/restore_cluster.yml", "--extra-vars", to)
    restoring = threading.Thread(target=lambda: done.append(playbook(*arguments)))
    restoring.start()
    wait_for(lambda: host.run(f"test -e {DATA}/main.before-restore").rc == 0, lambda: done, 180)
    lost.check_output("systemctl stop patroni")
    restoring.join()
    said = " ".join(done[0].stdout.split())
    assert done[0].returncode != 0 and f"PostgreSQL runs on {primary}, but not everywhere" in said, done[0].stdout
    assert written(host) == "A"
    assert "Flow run finished successfully" in app.check_output(RUN)
    lost.check_output("systemctl start patroni")
    wait_for(lambda: len(members_of(host)) == len(members), seconds=60)
    commands = re.findall(r"patronictl -c /etc/patroni/config\.yml (?:reinit(?: [\w-]+)+|resume [\w-]+)", said)[:2]
    assert [command.split()[3] for command in commands] == ["reinit", "resume"]
    for command in commands:
        host.check_output(command.replace("reinit", "reinit --force"))
    wait_for(lambda: is_whole(host, members), seconds=120)
    host.check_output("pgprefect pitr backup --full")
    host.check_output(f"rm -r {DATA}/main.before-restore")
    all_are_whole(members, "A")
    wait_for_health(app)


def test_a_path_that_is_not_shared_is_refused(members: dict[str, Host], primary: str, playbook: Playbook) -> None:
    settings = {name: host.check_output(PSQL, "SHOW archive_command") for name, host in members.items()}
    own = {"pgbackrest_repository": {"path": "/srv/own"}}
    refused = playbook("playbooks/pgbackrest.yml", "--extra-vars", json.dumps(own))
    said = " ".join(refused.stdout.split())
    assert refused.returncode != 0, refused.stdout
    assert f"does not find in /srv/own what {primary} created there" in said, refused.stdout
    assert "Mount the same disk on all hosts" in said
    assert {name: host.check_output(PSQL, "SHOW archive_command") for name, host in members.items()} == settings
    for host in members.values():
        host.check_output("rm -r /srv/own")
    back = playbook("playbooks/pgbackrest.yml")
    assert back.returncode == 0, back.stdout
    # What was archived meanwhile is missing, and no older backup leads across that.
    members[primary].check_output("pgprefect pitr backup --full")
