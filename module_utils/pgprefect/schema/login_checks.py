"""Logins with the passwords that this host has, as its services and jobs log in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..core.connection import ConnectionFailed, Login, connect
from ..core.problems import Problem
from ..site import environment
from ..site.environment import SettingMissing

FOLDER = "/etc/prefect"


@dataclass(frozen=True)
class StoredLogin:
    """A login that a file of this host has."""

    path: str
    login: Login
    database: str


def stored_logins(login: Login, database: str, folder: str, not_checked: list[str]) -> Iterator[StoredLogin]:
    """Yield the logins of the services' environments, and those of the password file of ``login``.

    What this user cannot read is added to ``not_checked``.
    """
    for path in sorted(os.path.join(root, name) for root, _, names in os.walk(folder) for name in names):
        if path.endswith(".env"):
            try:
                with open(path, encoding="utf-8") as file:
                    settings = environment.parse(file.read())
            except OSError as error:
                not_checked.append(f"passwords in {path}: {error.strerror}")
                continue
            try:
                yield from _logins_of(path, settings)
            except (SettingMissing, ValueError) as error:
                not_checked.append(f"passwords in {path}: {error}")
    if login.host and login.passfile:
        try:
            for role in _roles_of(login.passfile):
                yield StoredLogin(login.passfile, replace(login, user=role, password=None), database)
        except OSError as error:
            not_checked.append(f"passwords in {login.passfile}: {error.strerror}")


def refused_passwords(login: Login, database: str, passwords: Mapping[str, str]) -> frozenset[str]:
    """Return the roles that a server refuses with these passwords, and roles that do not exist.

    Whoever may not read what is stored of passwords can only try them.
    """
    logins = {role: replace(login, user=role, password=word, passfile=None) for role, word in passwords.items()}
    return frozenset(role for role, tried in logins.items() if _is_refused(tried, database))


def _is_refused(login: Login, database: str) -> bool:
    try:
        connect(login, database).close()
    except ConnectionFailed as failed:
        return "password authentication failed" in failed.problem.message
    return False


def check_logins(found: Iterator[StoredLogin], not_checked: list[str]) -> Iterator[Problem]:
    """Log in with each, once, and yield a problem where PostgreSQL refuses the password."""
    seen = set()
    for stored in found:
        if (stored.login, stored.database) in seen:
            continue
        seen.add((stored.login, stored.database))
        try:
            connect(stored.login, stored.database, connect_timeout=3).close()
        except ConnectionFailed as failed:
            if failed.problem.code != "login_refused":
                not_checked.append(f"the password of {stored.login.user} in {stored.path}: {failed.problem.message}")
                continue
            yield Problem(
                code="password_refused",
                object=f"role {stored.login.user}",
                message=f"With the password in {stored.path} the role {stored.login.user} cannot log in: "
                f"{failed.problem.message} What is connected stays connected; the next connection fails.",
                remedy="Run site.yml, which stores the inventory's password in PostgreSQL and in that file.",
            )


def _logins_of(path: str, settings: dict[str, str]) -> Iterator[StoredLogin]:
    if settings.get("PREFECT_SERVER_DATABASE_PASSWORD"):
        login, database, _ = environment.database(settings)
        yield StoredLogin(path, login, database)
    application = environment.application(settings)
    if application and application[0].password:
        yield StoredLogin(path, *application)


def _roles_of(passfile: str) -> list[str]:
    """Return the roles of a password file of libpq; a backslash keeps a colon from ending a field."""
    with open(passfile, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]
    roles = []
    for line in lines:
        fields, escaped = [""], False
        for letter in line:
            if not escaped and letter == "\\":
                escaped = True
            elif not escaped and letter == ":":
                fields.append("")
            else:
                fields[-1] += letter
                escaped = False
        if len(fields) > 3 and fields[3] != "*":
            roles.append(fields[3])
    return list(dict.fromkeys(roles))
