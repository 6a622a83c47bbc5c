"""One host takes writes and none is lost when the network is cut, a disk is full or a process is killed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

from tests.support.certificates import sign_again
from tests.support.hosts import changed, wait_for_health, wait_for_problem
from tests.support.network import address_of, cut
from tests.support.patroni import health, is_whole, members_of, switch_over
from tests.support.scenario import PSQL, SCENARIO, Playbook, container_of
from tests.support.waiting import wait_for
from tests.support.writes import longest_gap, lost_rows, writes_go_on, writing

Primaries = Callable[[], list[str]]
DATA = "/var/lib/postgresql/15/main"


@contextlib.contextmanager
def alone(name: str, members: dict[str, Host]) -> Iterator[None]:
    """Let no packet pass between one member and the others; clients reach all of them."""
    with contextlib.ExitStack() as stack:
        for other, host in members.items():
            if other != name:
                stack.enter_context(cut(container_of(name), address_of(host)))
        yield


def never_two(primaries: Primaries, seconds: float, successor_of: str = "") -> str:
    """Watch who takes writes, until it is another one than this, and return it; it is never two at once."""
    deadline = time.monotonic() + seconds
    while True:
        names = primaries()
        assert len(names) < 2, names
        if names and names != [successor_of]:
            return names[0]
        assert time.monotonic() < deadline, names


def all_say(members: dict[str, Host], status: str, codes: list[str]) -> None:
    """Wait until health says the same on each member."""

    def said() -> list[tuple[str, list[str]]]:
        return [health(host) for host in members.values()]

    wait_for(lambda: all(found == (status, codes) for found in said()), said, 60)


def comes_back(members: dict[str, Host]) -> None:
    """Wait until all members run and health says so everywhere, without anybody's help."""
    wait_for(lambda: is_whole(next(iter(members.values())), members), seconds=180)
    all_say(members, "healthy", [])


def test_the_primary_is_cut_off_from_the_others(members: dict[str, Host], app: Host, primaries: Primaries) -> None:
    (primary,) = primaries()
    with writing(app, members[primary]):
        with alone(primary, members):
            successor = never_two(primaries, 60, successor_of=primary)
            writes_go_on(app)
            wait_for(lambda: "patroni_member_away" in health(members[successor])[1], seconds=30)
            wait_for(lambda: "etcd_silent" in health(members[primary])[1], seconds=30)
            assert primaries() == [successor]
        assert never_two(primaries, 10) == successor
        writes_go_on(app)
    assert longest_gap(app) < 40 and lost_rows(app, members[successor]) == set()
    comes_back(members)
    assert lost_rows(app, members[primary]) == set()


def test_a_standby_is_cut_off_from_the_others(members: dict[str, Host], app: Host, primaries: Primaries) -> None:
    (primary,) = primaries()
    standby = next(name for name in members if name != primary)
    with writing(app, members[primary]):
        with alone(standby, members):
            wait_for(lambda: "patroni_member_away" in health(members[primary])[1], seconds=60)
            writes_go_on(app)
            assert primaries() == [primary]
        writes_go_on(app)
    assert lost_rows(app, members[primary]) == set()
    comes_back(members)
    assert primaries() == [primary]


@pytest.mark.parametrize("process", ["postgres", "patroni", "etcd"])
def test_a_process_of_the_primary_is_killed(
    process: str, members: dict[str, Host], app: Host, primaries: Primaries
) -> None:
    (primary,) = primaries()
    host = members[primary]
    which = {
        "postgres": f"head -1 {DATA}/postmaster.pid",
        "patroni": "systemctl show --property MainPID --value patroni",
        "etcd": "systemctl show --property MainPID --value postgresql-etcd",
    }[process]
    before = host.check_output(which)
    with writing(app, host):
        host.check_output(f"kill -9 {before}")
        wait_for(lambda: host.run(which).stdout.strip() not in ("0", "", before), seconds=60)
        wait_for(lambda: len(primaries()) == 1, seconds=60)
        writes_go_on(app)
    (now,) = primaries()
    assert longest_gap(app) < 40 and lost_rows(app, members[now]) == set()
    comes_back(members)


@pytest.mark.parametrize("role", ["standby", "primary"])
def test_a_member_restarts_with_an_ended_certificate(
    role: str, members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook
) -> None:
    (primary,) = primaries()
    name = primary if role == "primary" else next(one for one in members if one != primary)
    other = next(one for one in members if one not in (name, primary))
    folder = SCENARIO / "inventory/.secrets/tls"
    ended = sign_again(folder / f"{name}.postgresql.pem", folder / "ca.pem", folder / "ca.key", days=-1)
    with writing(app, members[primary]):
        members[name].check_output("printf %%s %s >/etc/prefect/tls/postgresql.pem", ended)
        members[name].check_output("systemctl restart --no-block postgresql-etcd patroni")
        wait_for_problem(members[name], "certificate_ends")
        wait_for(lambda: "patroni_member_away" in health(members[other])[1], seconds=60)
        assert never_two(primaries, 60, successor_of="" if role == "standby" else name) != name
        writes_go_on(app)
        mended = playbook("playbooks/certificates.yml")
        assert mended.returncode == 0 and sum(changed(mended.stdout)) > 0, mended.stdout
        comes_back(members)
        writes_go_on(app)
    assert longest_gap(app) < 40 and lost_rows(app, members[never_two(primaries, 10)]) == set()


def test_standbys_that_receive_nothing(members: dict[str, Host], primaries: Primaries) -> None:
    """They run, and answer, and nobody would have what was written since."""
    (primary,) = primaries()
    host = members[primary]
    receiving = "SELECT application_name FROM pg_stat_replication ORDER BY sync_state = 'sync'"
    last = host.check_output(PSQL, receiving).split()
    assert len(last) == len(members) - 1
    cut_off = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = '{}'"
    host.check_output(PSQL, "ALTER ROLE patroni_replication NOLOGIN")
    try:
        for number, name in enumerate(last, start=1):
            host.check_output(PSQL, cut_off.format(name))
            expected = ["patroni_member_away"] * number
            expected += ["patroni_not_synchronous"] if number == len(last) else []
            all_say(members, "degraded", expected)
            assert f"The member {name} receives no WAL from the primary" in " ".join(
                host.run("pgprefect health").stdout.split()
            )
    finally:
        host.check_output(PSQL, "ALTER ROLE patroni_replication LOGIN")
    comes_back(members)
    assert primaries() == [primary]


def test_etcd_restarts_on_one_member_after_the_other(
    members: dict[str, Host], primaries: Primaries, playbook: Playbook
) -> None:
    """Where the first one does not come back the others are left alone, and the next run goes on with them."""
    (primary,) = primaries()
    unit, broken = "/etc/systemd/system/postgresql-etcd.service", "[Service]\nExecStartPre=/bin/false\n"
    first = members[next(name for name in members if name != primary)]

    def processes() -> dict[str, str]:
        which = "systemctl show --property MainPID --value postgresql-etcd"
        return {name: host.check_output(which) for name, host in members.items()}

    before = processes()
    for host in members.values():
        host.check_output(f"echo '# by hand' >>{unit}")
    first.check_output(f"mkdir {unit}.d && printf %%s %s >{unit}.d/broken.conf", broken)
    try:
        failed = playbook("playbooks/database.yml")
        assert failed.returncode != 0 and "Unable to restart service postgresql-etcd" in failed.stdout, failed.stdout
        after = processes()
        assert [name for name in members if after[name] != before[name]] == [first.check_output("hostname")]
        assert primaries() == [primary] and "etcd_silent" in health(first)[1]
    finally:
        first.check_output(f"rm -r {unit}.d && systemctl daemon-reload")
    again = playbook("playbooks/database.yml")
    assert again.returncode == 0, again.stdout
    assert not set(processes().values()) & {*before.values(), "0"}
    comes_back(members)
    assert primaries() == [primary]


def test_a_new_authority(members: dict[str, Host], app: Host, primaries: Primaries, playbook: Playbook) -> None:
    """All members take it, without anybody's help; sessions that are there go on, and new ones verify by it."""
    (primary,) = primaries()
    trusted = app.check_output("cat /etc/prefect/tls/ca.pem")
    shutil.rmtree(SCENARIO / "inventory/.secrets/tls")
    with writing(app, members[primary]):
        done = playbook("site.yml")
        assert done.returncode == 0, done.stdout
        writes_go_on(app)
    assert app.check_output("cat /etc/prefect/tls/ca.pem") != trusted
    assert longest_gap(app) < 40 and lost_rows(app, members[never_two(primaries, 10)]) == set()
    comes_back(members)
    # By new connections alone.
    for host in members.values():
        host.check_output("systemctl restart patroni")
        comes_back(members)
    wait_for_health(app)
    again = playbook("site.yml")
    assert again.returncode == 0 and set(changed(again.stdout)) == {0}, again.stdout


@contextlib.contextmanager
def small_disk(host: Host) -> Iterator[None]:
    """Give a member a disk for its WAL alone, of 512 MB, for the block."""
    wal, kept = f"{DATA}/pg_wal", "/var/lib/postgresql/kept-wal"
    begin = (
        f"systemctl stop patroni && mkdir {kept} && cp -a {wal}/. {kept} && mount -t tmpfs -o size=512m tmpfs {wal} && "
        f"chown postgres: {wal} && chmod 0700 {wal} && cp -a {kept}/. {wal} && rm -r {kept} && systemctl start patroni"
    )
    end = (
        f"systemctl stop patroni && mkdir {kept} && cp -a {wal}/. {kept} && umount {wal} && "
        f"find {wal} -mindepth 1 -delete && cp -a {kept}/. {wal} && rm -r {kept} && systemctl start patroni"
    )
    host.check_output(begin)
    try:
        yield
    finally:
        host.check_output(end)


def becomes_synchronous(name: str, members: dict[str, Host]) -> None:
    """Make a standby the one for which each transaction waits, by taking the other one away for a moment."""

    def synchronous() -> str:
        (found,) = [row["Member"] for row in members_of(members[name]) if row["Role"] == "Sync Standby"] or [""]
        return str(found)

    while (other := wait_for(synchronous)) != name:
        members[other].check_output("systemctl stop patroni")
        wait_for(lambda: synchronous() == name)
        members[other].check_output("systemctl start patroni")
        comes_back(members)


def test_the_disk_of_the_primary_is_full(members: dict[str, Host], app: Host, primaries: Primaries) -> None:
    (other,) = primaries()
    name = next(one for one in members if one != other)
    host = members[name]
    filler = f"{DATA}/pg_wal/filler"
    with small_disk(host):
        comes_back(members)
        becomes_synchronous(name, members)
        assert switch_over(members, other) == name
        comes_back(members)
        with writing(app, host):
            host.run(f"dd if=/dev/zero of={filler} bs=1M; chmod 0 {filler}")
            # First it goes on in files that it has kept to write into again.
            use = "psql -XAtc \"SELECT pg_logical_emit_message(true, 'a', 'b')\" -c 'SELECT pg_switch_wal()'"
            host.run(f"for number in $(seq 60); do runuser --user postgres -- {use} || break; done")
            # It keeps its place, as docs/disaster.md says, and everybody knows.
            wait_for(lambda: "patroni_member_away" in health(members[other])[1], seconds=60)
            assert primaries() == []
            host.check_output("systemctl stop patroni")
            successor = never_two(primaries, 60, successor_of=name)
            writes_go_on(app)
        assert lost_rows(app, members[successor]) == set()
        host.check_output(f"rm {filler}; systemctl start patroni")
        comes_back(members)
    comes_back(members)
