"""Safety of the server itself: access rules, passwords, TLS, superusers, settings and log."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.problems import ERROR, WARNING, Problem
from ..core.sql import quote, quote_literal

# What each query needs; a login that lacks it skips the query, and the report says so.
_VISIBLE = """
SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       has_table_privilege('pg_hba_file_rules', 'SELECT') AND has_function_privilege('pg_hba_file_rules()', 'EXECUTE')
"""

_SETTINGS = "SELECT name, setting, pending_restart FROM pg_settings WHERE name = ANY(%(names)s) OR pending_restart"

_NAMES = """
    data_checksums fsync full_page_writes listen_addresses log_connections log_line_prefix log_lock_waits
    max_connections password_encryption ssl ssl_min_protocol_version superuser_reserved_connections
"""

_SUPERUSERS = "SELECT rolname, oid = 10 FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid"

# CREATEROLE makes its holder a member of any role (of any that it made, from PostgreSQL 16 on).
_POWERFUL = """
SELECT rolname, concat_ws(', ', CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                          CASE WHEN rolbypassrls THEN 'BYPASSRLS' END)
FROM pg_roles WHERE (rolcreaterole OR rolbypassrls) AND NOT rolsuper AND rolname <> ALL(%(roles)s::name[]) ORDER BY 1
"""

_WEAK_PASSWORDS = r"""
SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolpassword !~ '^SCRAM-SHA-256\$' ORDER BY 1
"""

_LIMITS = """
SELECT sum(rolconnlimit), string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles
WHERE rolname = ANY(%(roles)s::name[]) AND rolconnlimit > 0 AND NOT rolsuper
"""

_RULES = """
SELECT line_number, type, database, user_name, address, netmask, auth_method, error
FROM pg_hba_file_rules ORDER BY line_number
"""


def server_problems(
    cursor: Any, login_roles: Sequence[str], listen_addresses: Sequence[str]
) -> tuple[list[Problem], list[str]]:
    """Return the problems of the server, and what the login cannot see.

    ``listen_addresses`` are those on which the server should listen.
    """
    cursor.execute(_VISIBLE)
    is_superuser, sees_rules = cursor.fetchone()
    problems, not_checked = [], []
    cursor.execute(_SETTINGS, {"names": _NAMES.split()})
    rows = cursor.fetchall()
    settings = {name: setting for name, setting, _ in rows}
    hidden = sorted(set(_NAMES.split()) - set(settings))
    if hidden:
        not_checked.append(f"settings: only a member of pg_read_all_settings sees {', '.join(hidden)}")
    else:
        problems += [
            *_safe_settings(settings, listen_addresses),
            *_log_settings(settings),
            *_pending(sorted(name for name, _, pending in rows if pending)),
        ]
    cursor.execute(_SUPERUSERS)
    superusers = dict(cursor.fetchall())
    problems += _superusers(superusers)
    cursor.execute(_POWERFUL, {"roles": list(login_roles)})  # the declaration covers these
    problems += [_powerful(*row) for row in cursor.fetchall()]
    cursor.execute(_LIMITS, {"roles": list(login_roles)})
    limits = cursor.fetchone()
    problems += [] if hidden else _limits(settings, *limits)
    if is_superuser:
        cursor.execute(_WEAK_PASSWORDS)
        problems += [_weak_password(role) for (role,) in cursor]
    else:
        not_checked.append("stored passwords: only a superuser can read pg_authid")
    if sees_rules:
        cursor.execute(_RULES)
        rules = [Rule(*row) for row in cursor]
        cursor.execute("SELECT current_database()")
        problems += _rules(rules, set(superusers), cursor.fetchone()[0])
    else:
        not_checked.append("access rules: only a superuser can read pg_hba_file_rules")
    return problems, not_checked


def managed_server_problems(
    cursor: Any, login_roles: Sequence[str], encrypted: bool = True
) -> tuple[list[Problem], list[str]]:
    """Return the problems that a server of others has for this site, and what only its administrator can check.

    ``encrypted`` says that the session should be.
    """
    cursor.execute(_SETTINGS, {"names": ["max_connections", "superuser_reserved_connections"]})
    settings = {name: setting for name, setting, _ in cursor}
    cursor.execute(_LIMITS, {"roles": list(login_roles)})
    remedy = "Lower prefect_database_connection_limits and run playbooks/database.yml, or have max_connections raised."
    problems = [replace(problem, remedy=remedy) for problem in _limits(settings, *cursor.fetchone())]
    cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    if encrypted and cursor.fetchone() != (True,):
        problems.append(
            Problem(
                "session_not_encrypted",
                "server",
                "The session is not encrypted, so what the site reads and writes crosses the network in clear.",
                "Set database_ca_file to the authority of the server's certificate, and run site.yml.",
            )
        )
    theirs = "the server is one of others"
    return problems, [f"{what}: {theirs}" for what in ("access rules", "stored passwords", "settings", "superusers")]


def _set(name: str, value: str) -> str:
    return f"ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();"


def _safe_settings(settings: Mapping[str, str], declared: Sequence[str]) -> Iterator[Problem]:
    listens = {address.strip() for address in settings["listen_addresses"].split(",")} - {""}
    everywhere = sorted(listens & {"*", "0.0.0.0", "::"} - set(declared))
    if everywhere:
        yield Problem(
            code="listens_everywhere",
            object="setting listen_addresses",
            message=f"The server listens on {', '.join(everywhere)}: every network that this host joins can reach it.",
            remedy="Name the addresses (postgresql_listen_addresses), run playbooks/database.yml, and restart "
            "PostgreSQL.",
            severity=WARNING,
        )
    if settings["ssl"] != "on":
        remote = listens - {"localhost", "127.0.0.1", "::1"}
        yield Problem(
            "tls_off",
            "setting ssl",
            "The server offers no TLS, so traffic over a network can be read and changed on the way.",
            "Set ssl_cert_file and ssl_key_file (postgresql_tls_certificate, postgresql_tls_key), and "
            + _set("ssl", "on"),
            ERROR if remote else WARNING,
        )
    if settings["ssl_min_protocol_version"] in ("", "TLSv1", "TLSv1.1"):
        yield Problem(
            "tls_old",
            "setting ssl_min_protocol_version",
            f"The server accepts TLS from {settings['ssl_min_protocol_version'] or 'any version'} on; versions "
            "before 1.2 are broken.",
            _set("ssl_min_protocol_version", "'TLSv1.2'"),
        )
    if settings["password_encryption"] != "scram-sha-256":
        yield Problem(
            "password_encryption_weak",
            "setting password_encryption",
            f"New passwords are stored as {settings['password_encryption']}, which is easy to guess once it leaks.",
            _set("password_encryption", "'scram-sha-256'"),
        )
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            yield Problem(
                "crash_unsafe",
                f"setting {name}",
                f"{name} is off: a crash of the host can destroy the whole cluster.",
                _set(name, "on"),
            )
    if settings["data_checksums"] != "on":
        yield Problem(
            code="checksums_off",
            object="setting data_checksums",
            message="The cluster has no data checksums, so a page that the disk corrupts is served as if it were "
            "intact.",
            remedy="Stop PostgreSQL, run pg_checksums --enable on its data directory, and start it again.",
            severity=WARNING,
        )


def _log_settings(settings: Mapping[str, str]) -> Iterator[Problem]:
    wanted = {
        "log_connections": (settings["log_connections"] not in ("off", ""), "on", "who connected, and from where"),
        "log_lock_waits": (settings["log_lock_waits"] == "on", "on", "what waited for whom"),
        # %m, %t or %n: when; %p or %c: which process; %u and %d: whose.
        "log_line_prefix": (
            all(
                any(f"%{letter}" in settings["log_line_prefix"] for letter in letters)
                for letters in ("mtn", "pc", "u", "d")
            ),
            "'%m [%p] %q%u@%d %a '",
            "when, and by which process, role and database",
        ),
    }
    for name, (good, value, what) in wanted.items():
        if not good:
            message = f"With {name} = {quote_literal(settings[name])} the server's log does not say {what}."
            yield Problem("log_setting", f"setting {name}", message, _set(name, value), WARNING)


def _pending(names: Sequence[str]) -> Iterator[Problem]:
    if names:
        yield Problem(
            code="restart_pending",
            object="server",
            message=f"Settings that were changed wait for a restart of PostgreSQL: {', '.join(names)}.",
            remedy="Restart this cluster (pg_lsclusters shows it) at a time when that disturbs nobody: "
            "systemctl restart postgresql@VERSION-CLUSTER",
            severity=WARNING,
        )


def _superusers(superusers: Mapping[str, bool]) -> Iterator[Problem]:
    for role, first in superusers.items():
        if not first:
            yield Problem(
                code="superuser_extra",
                object=f"role {role}",
                message=f"The role {role} is a superuser besides the cluster's own, so no right can be withheld from "
                "it.",
                remedy=f"ALTER ROLE {quote(role)} NOSUPERUSER;",
                severity=WARNING,
            )


def _powerful(role: str, powers: str) -> Problem:
    return Problem(
        code="role_powerful",
        object=f"role {role}",
        message=f"The role {role} has {powers}, by which it can get rights that it was not granted.",
        remedy=f"ALTER ROLE {quote(role)} {' '.join('NO' + power for power in powers.split(', '))};",
        severity=WARNING,
    )


def _limits(settings: Mapping[str, str], total: int | None, roles: str) -> Iterator[Problem]:
    free = int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])
    if total and total > free:
        yield Problem(
            code="connection_limits_exceed",
            object="setting max_connections",
            message=f"The roles {roles} may open {total} connections together, but the server has {free} for them: "
            "one of them can lock the others out.",
            remedy="Lower prefect_database_connection_limits, or raise postgresql_max_connections, and run "
            "playbooks/database.yml.",
            severity=WARNING,
        )


def _weak_password(role: str) -> Problem:
    return Problem(
        code="password_weak",
        object=f"role {role}",
        message=f"The password of {role} is not stored as SCRAM-SHA-256.",
        remedy=f"SET password_encryption = 'scram-sha-256'; \\password {quote(role)}",
    )


@dataclass(frozen=True)
class Rule:
    """One rule of pg_hba.conf, or the error that takes its place."""

    line: int
    type: str | None
    databases: list[str] | None
    users: list[str] | None
    address: str | None
    netmask: str | None
    method: str | None
    error: str | None

    @property
    def from_anywhere(self) -> bool:
        """Say whether the rule admits every address."""
        return self.address == "all" or self.netmask in ("0.0.0.0", "::")

    @property
    def remote(self) -> bool:
        """Say whether the rule admits an address of another host."""
        if self.type == "local" or self.address in (None, "localhost", "samehost"):
            return False
        try:
            return self.from_anywhere or not ipaddress.ip_address(self.address or "").is_loopback
        except ValueError:  # a host name, samenet
            return True


def _rules(rules: Sequence[Rule], superusers: set[str], database: str) -> Iterator[Problem]:
    """Yield the problems of the rules; those of rules that admit nobody to the database are warnings."""
    rejected: set[str] = set()
    closed: set[bool] = set()  # for the unix socket, for TCP: later rules for all databases are not for this one
    for rule in rules:
        users, databases, local = rule.users or [], rule.databases or [], rule.type == "local"
        if rule.error:
            yield _rule_problem(
                rule,
                "hba_error",
                f"has an error, so PostgreSQL ignores every change of the file: {rule.error}",
                "Correct",
            )
        elif rule.method == "reject":
            if rule.from_anywhere and rule.type == "host" and "all" in databases:
                rejected.update(users)
            if users == ["all"] and databases == [database] and (local or rule.from_anywhere):
                closed.add(local)
        else:
            ours = database in databases or ("all" in databases and local not in closed)
            for problem in _admitting(rule, superusers, rejected):
                yield problem if ours else replace(problem, severity=WARNING)


def _admitting(rule: Rule, superusers: set[str], rejected: set[str]) -> Iterator[Problem]:
    users, databases = rule.users or [], rule.databases or []
    if rule.method in ("trust", "password", "md5"):
        why = {
            "trust": "lets everybody in without a password",
            "password": "has passwords sent in clear text",
            "md5": "accepts passwords that are stored as MD5",
        }[rule.method]
        yield _rule_problem(
            rule, "hba_method", f"{why} (method {rule.method})", "Use scram-sha-256, or peer for local rules, in"
        )
    if not rule.remote:
        return
    if rule.type != "hostssl":
        yield _rule_problem(rule, "hba_without_tls", "lets clients of other hosts in without TLS", "Use hostssl in")
    if rule.from_anywhere and "all" in users and "all" in databases:
        yield _rule_problem(
            rule,
            "hba_open",
            "lets every role into every database from anywhere",
            "Name the roles, the databases and the networks in",
        )
    admitted = superusers - rejected if "all" in users else superusers.intersection(users) - rejected
    if admitted and "all" not in rejected:
        message = f"lets a superuser in from other hosts ({', '.join(sorted(admitted))})"
        yield _rule_problem(rule, "hba_superuser", message, "Name the roles that may in")


def _rule_problem(rule: Rule, code: str, what: str, remedy: str) -> Problem:
    return Problem(
        code,
        f"pg_hba.conf:{rule.line}",
        f"Line {rule.line} of pg_hba.conf {what}.",
        f"{remedy} postgresql_hba_extra_rules and run playbooks/database.yml, or in the file itself (SHOW hba_file) "
        "and SELECT pg_reload_conf();",
    )
