"""Connections to PostgreSQL, and clear reasons where one cannot be opened."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ProblemError
from .problems import Problem
from .sql import quote

# The options of an Ansible module that logs in.
LOGIN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "login_host": {"type": "str", "default": ""},
    "login_port": {"type": "int", "default": 5432},
    "login_user": {"type": "str", "default": "postgres"},
    "login_password": {"type": "str", "no_log": True},
    "login_ssl_mode": {
        "type": "str",
        "default": "prefer",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    },
    "login_ca_file": {"type": "path"},
}


@dataclass(frozen=True)
class Login:
    """A login at a PostgreSQL server. An empty host is the unix socket; of several, with commas, it is the primary."""

    host: str = ""
    port: int = 5432
    user: str = "postgres"
    password: str | None = None
    ssl_mode: str = "prefer"
    ca_file: str | None = None
    passfile: str | None = None  # libpq's, where there is no password

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Login:
        """Make a login of the arguments of a module."""
        return cls(**{name[len("login_") :]: arguments[name] for name in LOGIN_ARGUMENTS})

    @classmethod
    def of(cls, connection: Any) -> Login:
        """Return the login by which a psycopg2 connection was opened."""
        given = connection.info.dsn_parameters
        return cls(
            host=given.get("host", ""),
            port=int(given["port"]),
            user=given["user"],
            password=connection.info.password or None,
            ssl_mode=given.get("sslmode", "prefer"),
            ca_file=given.get("sslrootcert"),
            passfile=given.get("passfile"),
        )

    @property
    def session(self) -> str | None:
        """The kind of server that libpq looks for: of several hosts the primary, of one host whatever it is."""
        return "read-write" if "," in self.host else None

    @property
    def where(self) -> str:
        """The server's address, for messages."""
        return f"{self.host}:{self.port}" if self.host else f"the unix socket of port {self.port}"


class ConnectionFailed(ProblemError):
    """There is no connection."""


class NotPrimary(ProblemError):
    """The server is a standby; ``primary`` is the host from which it receives changes, if it receives any."""

    def __init__(self, problem: Problem, primary: str | None) -> None:
        super().__init__(problem)
        self.primary = primary


def connect(
    login: Login,
    database: str,
    connect_timeout: int = 5,
    statement_timeout: float | None = None,
    search_path: Sequence[str] = ("pg_catalog",),
) -> Any:
    """Open a connection that resolves names in ``search_path`` alone and never waits indefinitely for a lock.

    The timeouts are in seconds. Raises ConnectionFailed.
    """
    try:
        import psycopg2
    except ImportError as error:
        raise ConnectionFailed(
            Problem(
                code="driver_missing",
                object=f"python {sys.executable}",
                message=f"psycopg2 is not installed for {sys.executable}, so PostgreSQL cannot be reached.",
                remedy="apt install python3-psycopg2, or install psycopg2-binary into that virtualenv.",
            )
        ) from error
    path = ", ".join(map(quote, search_path))
    # In libpq's options a backslash keeps a space from ending the word.
    path = re.sub(r"([\\ ])", r"\\\1", path)
    options = [f"-c search_path={path}", "-c lock_timeout=10s", "-c client_min_messages=warning"]
    if statement_timeout is not None:
        options.append(f"-c statement_timeout={int(statement_timeout * 1000)}")

    def attempt(user: str | None) -> Any:
        with _as_user(user):
            return psycopg2.connect(
                dbname=database,
                host=login.host or None,
                port=login.port,
                user=login.user,
                password=login.password or None,
                passfile=login.passfile,
                sslmode=login.ssl_mode,
                sslrootcert=login.ca_file,
                target_session_attrs=login.session,
                connect_timeout=connect_timeout,
                application_name="pgprefect",
                options=" ".join(options),
            )

    namesake = peer_user(login)
    try:
        try:
            connection = attempt(namesake)
        except psycopg2.OperationalError as error:
            if namesake is None or "eer authentication failed" not in str(error):
                raise
            connection = attempt(None)
    except psycopg2.OperationalError as error:
        raise ConnectionFailed(_explain(login, database, str(error).strip())) from error
    connection.set_client_encoding("UTF8")
    return connection


_STANDBY = "SELECT pg_is_in_recovery(), (SELECT sender_host FROM pg_stat_wal_receiver)"


def require_primary(login: Login, members: Mapping[str, str]) -> None:
    """Check that the server takes writes; ``members`` are the hosts of its database by their addresses.

    Raises NotPrimary, which names the host that does, and ConnectionFailed.
    """
    with contextlib.closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        cursor.execute(_STANDBY)
        standby, sender = cursor.fetchone()
    if standby:
        primary = members.get(sender, sender)
        told = f"{primary} is the primary" if primary else "it receives nothing, so its primary is not known"
        message = f"PostgreSQL at {login.where} is a standby and takes no writes; {told}."
        remedy = f"Run this on {primary or 'the primary, which pgprefect health names on the other hosts'}, as root."
        raise NotPrimary(Problem("database_standby", f"server {login.where}", message, remedy), primary)


def peer_user(login: Login) -> str | None:
    """Return the operating system's user as whom root logs in over the unix socket, or None for root itself.

    PostgreSQL asks for the role's namesake, or for root where pg_ident.conf maps it to the role.
    """
    if login.host or login.password or os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(login.user).pw_name
    except KeyError:
        return None


# The effective user belongs to the whole process, so threads must take turns.
_PEER_LOCK = threading.Lock()


@contextlib.contextmanager
def _as_user(user: str | None) -> Iterator[None]:
    """Let root take on a user of the operating system for the block."""
    if user is None:
        yield
        return
    with _PEER_LOCK:
        os.seteuid(pwd.getpwnam(user).pw_uid)
        try:
            yield
        finally:
            os.seteuid(0)


_STANDBY_REASONS = ("session is read-only", "server is in hot standby mode")


def _explain(login: Login, database: str, error: str) -> Problem:
    # libpq gives no code for a failed connection, only this text.
    reasons = [line.partition("failed: ")[2] for line in error.splitlines() if "failed: " in line]
    # Of several hosts the one that did not answer is to blame, not the standbys.
    reasons.sort(key=lambda reason: reason not in _STANDBY_REASONS)
    reason = reasons[-1] if reasons else error or "no reason given"
    if "does not exist" in error and f'database "{database}"' in error:
        return Problem(
            code="database_missing",
            object=f"database {database}",
            message=f"The database {database} does not exist at {login.where}.",
            remedy="Run the playbook that creates it (playbooks/database.yml), or correct the name.",
        )
    if any(
        word in error for word in ("authentication failed", "no password supplied", "pg_hba.conf", "not permitted")
    ) or ("role" in error and "does not exist" in error):
        return Problem(
            code="login_refused",
            object=f"role {login.user}",
            message=f"PostgreSQL at {login.where} refused the login as {login.user} to the database {database}: "
            f"{reason}.",
            remedy="Correct the login user and its password, or allow it in pg_hba.conf; over the unix socket the "
            "task must "
            f"run as the operating system's user {login.user}, or as root on a host where site.yml has mapped root to "
            "the role (pg_ident.conf).",
        )
    return Problem(
        code="connection_failed",
        object=f"server {login.where}",
        message=f"No connection to PostgreSQL at {login.where} as {login.user}: {reason}.",
        remedy="Start PostgreSQL, or correct the host, the port and the TLS settings.",
    )
