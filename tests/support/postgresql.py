"""A real PostgreSQL in a container; PostgreSQL 17 with ``POSTGRESQL_SUITE=trixie``."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
from pgprefect.core.connection import Login

from tests.support.project import ROOT
from tests.support.waiting import wait_for

SUITE = os.environ.get("POSTGRESQL_SUITE", "bookworm")
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server in a container, and its superuser."""

    container: str
    port: int
    password: str

    @property
    def login(self) -> Login:
        return Login("127.0.0.1", self.port, "postgres", self.password)

    def connect(self, database: str, user: str = "postgres", password: str | None = None) -> Any:
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=user,
            password=self.password if password is None else password,
            connect_timeout=5,
        )
        connection.autocommit = True
        return connection

    def sql(
        self, database: str, statement: str, *values: Any, user: str = "postgres", password: str | None = None
    ) -> Rows:
        """Run SQL on a connection of its own and return the rows, if it makes any."""
        with contextlib.closing(self.connect(database, user, password)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        with contextlib.suppress(psycopg2.OperationalError):
            self.sql("postgres", "SELECT")
            return True
        return False

    def module_arguments(self) -> dict[str, Any]:
        return {"login_host": "127.0.0.1", "login_port": self.port, "login_password": self.password}


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def database_image() -> str:
    """Build the image of tests/support/image, and return its name."""
    image = f"ansible-prefect-postgresql:{SUITE}"
    base = f"BASE=ansible-prefect-host:{SUITE}"
    command = ["docker", "build", "--quiet", "--build-arg", base, "--tag", image, str(ROOT / "tests/support/image")]
    # Shown only if it fails: it always warns that its builder is an old one.
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return image


@contextlib.contextmanager
def running_postgresql(*options: str) -> Iterator[Server]:
    """A PostgreSQL in a container of its own; ``options`` are docker's."""
    image = database_image()
    password = secrets.token_urlsafe(12)
    environment = f"POSTGRES_PASSWORD={password}"
    publish = ("--publish", "127.0.0.1::5432")
    container = docker("run", "--detach", "--rm", "--env", environment, *publish, *options, image)
    try:
        port = int(docker("port", container, "5432").rpartition(":")[2])
        server = Server(container, port, password)
        wait_for(server.answers, lambda: docker("logs", container))
        yield server
    finally:
        docker("rm", "--force", "--volumes", container)
