"""A database of two hosts: they change places, one is killed, and comes back; what was acknowledged is there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

from testinfra.host import Host

from tests.support.scenario import PSQL, Playbook, Typed, container_of
from tests.support.waiting import wait_for
from tests.support.writes import acknowledged, longest_gap, lost_rows, writes_go_on, writing, written_rows

Primaries = Callable[[], list[str]]
UNIT = "postgresql@15-main.service"
START_CONF = "/etc/postgresql/15/main/start.conf"
STREAMS = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"


def docker(*command: str) -> None:
    subprocess.run(["docker", *command], check=True, capture_output=True)


def follows(host: Host) -> bool:
    return bool(host.run(PSQL, STREAMS).stdout.strip() == "1")


def standby(host: Host) -> bool:
    return bool(host.run(PSQL, "SELECT pg_is_in_recovery()").stdout.strip() == "t")


def codes(host: Host) -> set[str]:
    """What health says of the standby."""
    said = json.loads(host.run("pgprefect health --json").stdout)
    return {problem["code"] for problem in said["problems"]} & {
        *("standby_away", "standby_lost", "standby_behind", "standby_receives_nothing", "two_primaries")
    }


def test_the_second_host_follows_the_first(members: dict[str, Host], primaries: Primaries) -> None:
    assert primaries() == ["db1"]
    assert follows(members["db2"])
    sessions = "SELECT usename, application_name, ssl FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)"
    assert members["db1"].check_output(PSQL, sessions) == "replica_replication|db2|t"
    slots = "SELECT slot_name, active FROM pg_replication_slots"
    assert [host.check_output(PSQL, slots) for host in members.values()] == ["prefect_standby_db2|t", ""]
    for host in members.values():
        passwords = host.file("/var/lib/postgresql/15-main.pgpass")
        assert (passwords.user, passwords.mode) == ("postgres", 0o600)
        assert codes(host) == set()


def test_a_standby_that_reads_nothing_is_not_promoted(
    members: dict[str, Host], primaries: Primaries, playbook: Playbook
) -> None:
    members["db2"].check_output(PSQL, "SELECT pg_wal_replay_pause()")
    done = playbook("playbooks/switchover.yml", "-e", "postgresql_replica_confirmed=true")
    assert done.returncode != 0 and "Nothing was changed, and db1 is the primary again" in done.stdout, done.stdout
    assert primaries() == ["db1"]
    members["db2"].check_output(PSQL, "SELECT pg_wal_replay_resume()")
    wait_for(lambda: follows(members["db2"]))


def test_a_switchover_loses_nothing(members: dict[str, Host], app: Host, primaries: Primaries, typed: Typed) -> None:
    with writing(app, members["db1"]):
        plan, done = typed("standby.md", "Switchover")
        writes_go_on(app)
    longest_gap(app)
    assert "Nothing was changed" in plan and "db2 is the primary, and db1 follows it" in done
    assert primaries() == ["db2"]
    assert lost_rows(app, members["db2"]) == set()
    wait_for(lambda: lost_rows(app, members["db1"]) == set())
    assert follows(members["db1"]) and codes(app) == set()


def test_the_site_leaves_the_roles_as_they_are(playbook: Playbook, primaries: Primaries) -> None:
    before = primaries()
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}, done.stdout
    assert primaries() == before


def test_a_failover_without_the_host(
    members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook, typed: Typed
) -> None:
    """The primary is cut off, goes on for itself, and is killed: what only it has is lost, and nothing else."""
    assert primaries() == ["db2"]
    refused = playbook("playbooks/failover.yml", "-e", "postgresql_replica_confirmed=true")
    assert refused.returncode != 0 and "use playbooks/switchover.yml" in refused.stdout
    network, container = container_of("app").replace("-app", ""), container_of("db1")
    (address,) = members["db1"].check_output("hostname --all-ip-addresses").split()
    with writing(app, members["db2"]):
        docker("network", "disconnect", network, container)
        only_there = members["db2"].check_output(
            PSQL, "INSERT INTO acknowledged SELECT generate_series(900000, 900100) RETURNING number"
        )
        docker("kill", container_of("db2"))
        docker("network", "connect", "--ip", address, network, container)
        refused = playbook("playbooks/failover.yml", "-e", "postgresql_replica_confirmed=true")
        assert refused.returncode != 0 and "db2 does not answer" in refused.stdout, refused.stdout
        assert primaries() == []
        wait_for(lambda: codes(members["db1"]) == {"standby_receives_nothing"}, seconds=150)
        (done,) = typed("standby.md", "Failover without the host")
        assert re.search(r"db1 is the primary, with the WAL of db2 up to [0-9A-F]+/[0-9A-F]+", done), done
        assert primaries() == ["db1"]
        writes_go_on(app)
    longest_gap(app)
    numbers = [number for number, _when in acknowledged(app)]
    lost = sorted(lost_rows(app, members["db1"]))
    print(f"{len(lost)} acknowledged writes are lost")
    assert lost == numbers[numbers.index(lost[0]) :][: len(lost)] if lost else True
    assert not set(map(int, only_there.split())) & written_rows(members["db1"])
    assert codes(app) == {"standby_away"}


def test_the_former_primary_does_not_start_beside_the_new_one(
    members: dict[str, Host], primaries: Primaries, playbook: Playbook
) -> None:
    docker("start", container_of("db2"))
    wait_for(lambda: members["db2"].run("systemctl is-failed %s", UNIT).stdout.strip() == "failed")
    assert "db1 is the primary" in members["db2"].check_output("journalctl --no-pager --unit %s", UNIT)
    assert members["db2"].run("systemctl start %s", UNIT).rc != 0
    assert primaries() == ["db1"]
    refused = playbook("site.yml")
    assert refused.returncode != 0 and "make it the standby by playbooks/rejoin.yml" in refused.stdout, refused.stdout


def test_it_remembers_that_when_both_hosts_start_again(members: dict[str, Host], primaries: Primaries) -> None:
    for name in members:
        docker("kill", container_of(name))
    docker("start", container_of("db2"))
    wait_for(lambda: members["db2"].run("systemctl is-system-running").stdout.strip() in ("running", "degraded"))
    assert members["db2"].run("systemctl start %s", UNIT).rc != 0
    assert "disabled on this host, because db1 took" in members["db2"].check_output("journalctl --unit %s", UNIT)
    assert members["db2"].run("pg_ctlcluster 15 main start").rc != 0
    docker("start", container_of("db1"))
    wait_for(lambda: primaries() == ["db1"])
    assert follows(members["db2"]) is False


def test_a_former_primary_that_runs_is_named_to_the_present_one(members: dict[str, Host], primaries: Primaries) -> None:
    """Somebody has started it while the other host was off: its data is older, and nothing says to keep that."""
    members["db1"].check_output("systemctl stop %s", UNIT)
    members["db2"].check_output("echo auto >%s; systemctl start %s", START_CONF, UNIT)
    assert primaries() == ["db2"]
    assert members["db1"].run("systemctl start %s", UNIT).rc != 0
    said = members["db1"].check_output("journalctl --lines 20 --unit %s", UNIT)
    assert "PostgreSQL on db2 takes writes, but this host was the primary after it. Stop it there" in said
    assert members["db1"].file(START_CONF).content_string == "auto\n"
    members["db2"].check_output("systemctl stop %s", UNIT)
    members["db1"].check_output("systemctl start %s", UNIT)
    assert primaries() == ["db1"]


def test_it_rejoins(members: dict[str, Host], app: Host, primaries: Primaries, typed: Typed) -> None:
    plan, _done = typed("standby.md", "Rejoin")
    assert "db2 becomes the standby of db1" in plan and "be sure that" not in plan
    assert primaries() == ["db1"] and follows(members["db2"])
    wait_for(lambda: written_rows(members["db2"]) == written_rows(members["db1"]))
    assert codes(app) == set()


def test_a_primary_starts_only_where_the_other_host_is_known_to_be_none(members: dict[str, Host]) -> None:
    asks = "/usr/local/lib/postgresql-replica/may_start 1"

    def allow_sessions(number: str) -> None:
        members["db1"].check_output(PSQL, f"ALTER ROLE replica_rewind CONNECTION LIMIT {number}")
        limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'replica_rewind'"
        wait_for(lambda: members["db2"].check_output(PSQL, limit) == number)

    allow_sessions("0")
    refused = members["db1"].run(asks)
    assert refused.rc == 1 and "too many connections for role" in refused.stderr
    assert "PostgreSQL on db2 answers, but not whether it is the primary" in refused.stderr
    allow_sessions("-1")
    members["db1"].check_output(asks)
    members["db2"].check_output("systemctl stop %s", UNIT)
    members["db1"].check_output(asks)
    members["db2"].check_output("systemctl start %s", UNIT)
    wait_for(lambda: follows(members["db2"]))
    assert members["db1"].file(START_CONF).content_string == "auto\n"


def mark_as_standby(host: Host) -> None:
    """What a switchover does before it promotes the other host."""
    host.check_output("systemctl stop %s", UNIT)
    host.check_output("install -o postgres -g postgres -m 600 /dev/null /var/lib/postgresql/15/main/standby.signal")
    host.check_output("systemctl start %s", UNIT)


def test_a_switchover_that_was_killed_leaves_two_standbys(
    members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook, typed: Typed
) -> None:
    before = written_rows(members["db1"])
    mark_as_standby(members["db1"])
    wait_for(lambda: [standby(host) for host in members.values()] == [True, True])
    refused = playbook("site.yml")
    assert refused.returncode != 0 and "run playbooks/failover.yml" in refused.stdout, refused.stdout
    (_plan, done) = typed("standby.md", "Failover")
    assert "db1 is the primary" in done and primaries() == ["db1"]
    typed("standby.md", "Rejoin")
    assert primaries() == ["db1"] and follows(members["db2"])
    assert written_rows(members["db1"]) == written_rows(members["db2"]) == before
    wait_for(lambda: codes(app) == set())


def test_of_two_standbys_the_one_that_has_more_is_promoted(
    members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook, typed: Typed
) -> None:
    members["db2"].check_output("systemctl stop %s", UNIT)
    # From now on the other one gets nothing any more.
    members["db1"].check_output(PSQL, "ALTER ROLE replica_replication NOLOGIN")
    mark_as_standby(members["db1"])
    members["db2"].check_output("systemctl start %s", UNIT)
    wait_for(lambda: [standby(host) for host in members.values()] == [True, True])
    refused = playbook("playbooks/failover.yml", "-e", "postgresql_replica_confirmed=true")
    assert refused.returncode != 0 and "they do not have the same WAL: db1 up to" in refused.stdout, refused.stdout
    assert "On the host that has less, type: systemctl stop postgresql@15-main.service" in refused.stdout
    assert primaries() == []
    members["db2"].check_output("systemctl stop %s", UNIT)
    typed("standby.md", "Failover")
    assert primaries() == ["db1"]
    members["db1"].check_output(PSQL, "ALTER ROLE replica_replication LOGIN")
    typed("standby.md", "Rejoin")
    assert primaries() == ["db1"] and follows(members["db2"])
    wait_for(lambda: codes(app) == set())


def test_a_failover_with_the_host(members: dict[str, Host], primaries: Primaries, typed: Typed, app: Host) -> None:
    """PostgreSQL does not run, and its host answers: it is disabled there."""
    members["db1"].check_output("systemctl stop %s", UNIT)
    before = written_rows(members["db2"])
    typed("standby.md", "Failover")
    assert primaries() == ["db2"]
    assert members["db1"].run("systemctl start %s", UNIT).rc != 0
    assert members["db1"].run("pg_ctlcluster 15 main start").rc != 0
    assert written_rows(members["db2"]) == before
    typed("standby.md", "Rejoin")
    assert primaries() == ["db2"] and follows(members["db1"])
    wait_for(lambda: codes(app) == set())


def test_two_primaries_are_named_and_nothing_is_changed(
    members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook, typed: Typed
) -> None:
    members["db1"].check_output("runuser --user postgres -- pg_ctlcluster 15 main promote")
    wait_for(lambda: primaries() == ["db1", "db2"])
    assert "two_primaries" in codes(app)
    assert "are both primaries" in app.run("pgprefect health").stdout
    refused = playbook("site.yml")
    assert refused.returncode != 0 and "Which host has the data cannot be told" in refused.stdout, refused.stdout
    assert set(re.findall(r"changed=(\d+)", refused.stdout)) == {"0"}
    members["db1"].check_output("systemctl stop %s", UNIT)
    plan, _done = typed("standby.md", "Rejoin")
    assert "It was the primary after db2: be sure that its data is to go." in " ".join(plan.split())
    assert primaries() == ["db2"] and follows(members["db1"])


def test_a_primary_whose_data_is_gone(
    members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook, typed: Typed
) -> None:
    """Its host was installed anew: only a person promotes the standby, which alone has the data."""
    before = written_rows(members["db1"])
    members["db2"].check_output("systemctl stop %s", UNIT)
    members["db2"].check_output("mv /var/lib/postgresql/15 /root/data; mv /etc/postgresql/15 /root/etc")
    for name in ("playbooks/database.yml", "site.yml"):
        refused = playbook(name)
        assert refused.returncode != 0 and "or run playbooks/failover.yml" in refused.stdout, refused.stdout
        assert set(re.findall(r"changed=(\d+)", refused.stdout)) == {"0"}, refused.stdout
    refused = playbook("playbooks/restore_table.yml", "-e", "prefect_backup_restore_table=public.market_data")
    assert refused.returncode != 0 and "none takes writes" in refused.stdout, refused.stdout
    assert primaries() == [] and standby(members["db1"])
    typed("standby.md", "Failover")
    assert primaries() == ["db1"] and written_rows(members["db1"]) == before
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout
    assert primaries() == ["db1"] and follows(members["db2"]) and codes(app) == set()
    members["db2"].check_output("rm -r /root/data /root/etc")


def test_a_standby_that_was_away_for_too_long(
    members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook
) -> None:
    """The primary has not kept its WAL: the data is copied anew, into an empty directory."""
    before = primaries()
    (away,) = (host for name, host in members.items() if name not in before)
    (primary,) = (members[name] for name in before)
    away.check_output("systemctl stop %s", UNIT)
    for command in ("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()"):
        primary.check_output(PSQL, command)
    for _segment in range(4):
        primary.check_output(PSQL, "SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()")
    primary.check_output(PSQL, "CHECKPOINT")
    wait_for(lambda: codes(app) == {"standby_lost"})
    for command in ("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()"):
        primary.check_output(PSQL, command)
    away.check_output("mv /var/lib/postgresql/15/main /var/lib/postgresql/15/main.old")
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout
    assert primaries() == before and follows(away) and codes(app) == set()
    away.check_output("rm -r /var/lib/postgresql/15/main.old")


def test_the_site_changes_nothing_after_all_that(playbook: Playbook, primaries: Primaries, app: Host) -> None:
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout
    assert set(re.findall(r"changed=(\d+)", done.stdout)) == {"0"}, done.stdout
    assert len(primaries()) == 1
    run = app.check_output("prefect deployment run collect-market-data/sample --watch")
    assert "Flow run finished successfully" in run
