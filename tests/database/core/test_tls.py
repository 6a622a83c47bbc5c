"""Clients of a real PostgreSQL believe the declared host's certificate alone, and only while it is valid."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pgprefect.core.connection import ConnectionFailed, connect
from pgprefect.health.certificates import certificates
from pgprefect.health.thresholds import Thresholds
from pgprefect.site.configuration import Certificate

from tests.support.certificates import Authority
from tests.support.postgresql import Server, docker, running_postgresql
from tests.support.project import VIRTUALENV
from tests.support.waiting import wait_for

AUTHORITY, FOREIGN = Authority(), Authority()  # of one name, as a second one made by mistake
DATA = "/var/lib/postgresql/data"
# Prefect's own engine, with its own settings: asked once for each port.
ENGINE = """
import asyncio, json, os, sys
from sqlalchemy import text
from prefect.server.database.configurations import AsyncPostgresConfiguration

async def ask():
    engine = await AsyncPostgresConfiguration(connection_url=sys.argv[1]).engine()
    async with engine.connect() as connection:
        return (await connection.execute(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))).scalar()

for _ in sys.stdin:
    try:
        answer = str(asyncio.run(ask()))
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgresql() as running:
        yield running


def serve(server: Server, folder: Path, *names: str, authority: Authority = AUTHORITY, days: float = 90) -> None:
    """Let PostgreSQL show another certificate, by a reload."""
    for kind, path in zip(("crt", "key"), authority.write(folder, "server", *names, days=days), strict=True):
        path.chmod(0o644)
        docker("cp", str(path), f"{server.container}:/tmp/server.{kind}")
    keep = f"cp /tmp/server.crt {DATA}/ && install --mode 0600 /tmp/server.key {DATA}/"
    docker("exec", server.container, "sh", "-c", keep)
    loaded = "SELECT pg_conf_load_time()"
    before = server.sql("postgres", loaded)
    server.sql("postgres", "ALTER SYSTEM SET ssl = on")
    server.sql("postgres", "SELECT pg_reload_conf()")
    wait_for(lambda: server.sql("postgres", loaded) != before, seconds=10)


@dataclass(frozen=True)
class Case:
    """A certificate, and the words with which libpq and Python's ssl refuse it."""

    names: tuple[str, ...] = ("127.0.0.1",)
    days: float = 90
    authority: Authority = AUTHORITY
    refusals: tuple[str, str] | None = ("certificate verify failed", "CERTIFICATE_VERIFY_FAILED")


CASES = {
    "right": Case(refusals=None),
    "another host's": Case(names=("elsewhere", "192.0.2.1"), refusals=("does not match host name", "IP address mism")),
    "expired": Case(days=-0.01),
    "foreign": Case(authority=FOREIGN),
}


def test_only_the_declared_host_s_certificate_is_believed(server: Server, tmp_path: Path) -> None:
    """By pgprefect's connections, which are libpq's, as the flows' are, and by Prefect's engine."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(AUTHORITY.certificate)
    login = replace(server.login, ssl_mode="verify-full", ca_file=str(ca_file))
    prefix = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS_"
    home = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    url = f"postgresql+asyncpg://postgres:{server.password}@127.0.0.1:{server.port}/postgres"
    with subprocess.Popen(
        [VIRTUALENV / "bin/python", "-c", ENGINE, url],
        env={**home, f"{prefix}ENABLED": "true", f"{prefix}CA_FILE": str(ca_file)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as engine:
        assert engine.stdin and engine.stdout
        for name, case in CASES.items():
            serve(server, tmp_path, *case.names, authority=case.authority, days=case.days)
            engine.stdin.write("\n")
            engine.stdin.flush()
            answer = json.loads(engine.stdout.readline())
            if case.refusals is None:
                connect(login, "postgres").close()
                assert answer == "True"
                continue
            with pytest.raises(ConnectionFailed) as refused:
                connect(login, "postgres")
            problem = refused.value.problem
            assert problem.code == "connection_failed" and case.refusals[0] in problem.message, (name, problem)
            assert case.refusals[1] in answer, (name, answer)
        engine.stdin.close()


def test_a_login_that_does_not_verify_encrypts(server: Server, tmp_path: Path) -> None:
    serve(server, tmp_path, "elsewhere", authority=FOREIGN)
    connection = connect(server.login, "postgres")
    with connection.cursor() as cursor:
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchone() == (True,)
    connection.close()


def test_health_sees_the_certificate_that_the_server_shows(server: Server, tmp_path: Path) -> None:
    serve(server, tmp_path, "127.0.0.1")
    installed = Certificate(str(tmp_path / "server.pem"), f"127.0.0.1:{server.port}", "postgresql")
    assert certificates(Thresholds(), [installed])[0] == []
    AUTHORITY.write(tmp_path, "server", "127.0.0.1")
    assert [problem.code for problem in certificates(Thresholds(), [installed])[0]] == ["certificate_not_loaded"]
