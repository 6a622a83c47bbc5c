"""A real standby: what would write there is refused, and the primary is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.backup import unfinished
from pgprefect.core.connection import ConnectionFailed, Login, NotPrimary, connect, require_primary

from tests.support.postgresql import Server, docker, running_postgresql
from tests.support.waiting import wait_for

DATA, COPY = "/var/lib/postgresql/data", "/tmp/standby"
SENDING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"


RECORD = unfinished.Record(
    set="20261126T020000Z", database="mltrading", created=False, started="", lent={"public": "postgres"}
)


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    settings = "POSTGRES_OPTIONS=-c wal_level=replica -c max_wal_senders=4"
    with running_postgresql("--publish", "127.0.0.1::5433", "--env", settings) as running:
        yield running


@pytest.fixture(scope="module")
def standby(primary: Server) -> Server:
    def inside(command: str) -> None:
        docker("exec", primary.container, "sh", "-c", command)

    inside(f"echo 'host replication all all scram-sha-256' >>{DATA}/pg_hba.conf")
    primary.sql("postgres", "SELECT pg_reload_conf()")
    source = f"host=127.0.0.1 user=postgres password={primary.password}"
    inside(f"pg_basebackup --pgdata {COPY} --write-recovery-conf --dbname '{source}'")
    options = "-p 5433 -c listen_addresses=* -c unix_socket_directories=/tmp -c max_connections=200"
    inside(f"/usr/lib/postgresql/*/bin/pg_ctl -D {COPY} --log /tmp/standby.log --wait --options '{options}' start")
    wait_for(lambda: primary.sql("postgres", SENDING) == [(1,)])
    port = int(docker("port", primary.container, "5433").rpartition(":")[2])
    return replace(primary, port=port)


def refusal(login: Login, **members: str) -> str:
    with pytest.raises(NotPrimary) as refused:
        require_primary(login, {address: name for name, address in members.items()})
    assert refused.value.problem.code == "database_standby"
    return f"{refused.value.problem.message} {refused.value.problem.remedy}"


def test_the_primary_is_named(primary: Server, standby: Server) -> None:
    require_primary(primary.login, {})
    said = refusal(standby.login, db1="127.0.0.1", db2="127.0.0.2")
    assert "is a standby and takes no writes; db1 is the primary. Run this on db1, as root." in said


def test_of_several_hosts_the_one_that_does_not_answer_is_to_blame(standby: Server) -> None:
    with pytest.raises(ConnectionFailed) as failed:
        connect(replace(standby.login, host="127.0.0.2,127.0.0.1"), "postgres")
    assert "Connection refused" in failed.value.problem.message


def test_the_record_of_a_restore_is_forgotten_where_another_host_is_the_primary(
    standby: Server, restores: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restores.mkdir()
    unfinished.Running(standby.login, RECORD).write()
    assert unfinished.is_left()
    unfinished.finish(standby.login)
    assert not unfinished.is_left()
    assert "`pgprefect verify` on the primary names what the killed restore of 20261126T020000Z" in caplog.text


def test_a_standby_that_receives_nothing_knows_no_primary(standby: Server, restores: Path) -> None:
    for command in ("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"):
        standby.sql("postgres", command)
    wait_for(lambda: standby.sql("postgres", "SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])
    said = refusal(standby.login, db1="127.0.0.1")
    assert "it receives nothing, so its primary is not known. Run this on the primary, which pgprefect health" in said
    # It may take writes again, as after a restore to a moment.
    restores.mkdir()
    unfinished.Running(standby.login, RECORD).write()
    unfinished.finish(standby.login)
    assert unfinished.is_left()
