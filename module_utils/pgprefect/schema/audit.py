"""The audit trail: what pgaudit records of whom, and the plan that brings a database's settings and rights to that.

Everybody's DDL and changes of roles and rights are recorded, and everybody's writes but those of the services that
write all day. Of these only the writes to declared tables are: a role that owns nothing has the rights by which pgaudit
knows such a table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.connection import Login
from ..core.problems import WARNING, Problem
from ..core.sql import Names, Statement, Value, quote
from .declaration import Declaration
from .plan import Change, Plan, apply_beside

AUDITOR = "pgprefect_audit"
LIBRARY = "pgaudit"
WRITES = ("INSERT", "UPDATE", "DELETE")
_OF_PREFECT = {"flow_run": ("DELETE",)}  # so that a cleanup is seen
# The server's, which the role postgresql writes, and the words that each must have.
SERVER = {
    "shared_preload_libraries": (LIBRARY,),
    "logging_collector": ("on",),
    "log_destination": ("jsonlog",),
    "pgaudit.log_parameter": ("off",),
}
# The database has its own, so only the files say what those have that have none.
_EVERYWHERE = """
SELECT name, setting FROM pg_file_settings WHERE name = 'pgaudit.log' AND error IS NULL ORDER BY seqno DESC LIMIT 1
"""
_CLASSES = {"everybody": "ddl, role, write", "service": "ddl, role"}
Setting = tuple[str, str]  # the role, empty for the whole database, and the name

_SETTINGS = """
SELECT coalesce(rolname, ''), split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) entry
WHERE entry LIKE 'pgaudit.%%' AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_EXEMPT = """
SELECT rolname, entry FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) entry
WHERE entry LIKE 'pgaudit.%%' AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND NOT (setdatabase <> 0 AND rolname = ANY(%(services)s::name[])) ORDER BY 1, 2
"""
_GRANTS = """
SELECT nspname, relname, privilege_type
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, aclexplode(relacl) JOIN pg_roles r ON r.oid = grantee
WHERE rolname = %(auditor)s ORDER BY 1, 2, 3
"""
_TABLES = """
SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'f') AND nspname || '.' || relname = ANY(%(names)s)
"""


@dataclass
class _Found:
    """What the database has."""

    auditor: bool = False
    settings: dict[Setting, str] = field(default_factory=dict)
    grants: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    tables: set[tuple[str, str]] = field(default_factory=set)


def services(declaration: Declaration) -> tuple[str, ...]:
    """Return the roles that write all day."""
    roles = (role for tenant in declaration.tenants for role in (tenant.server, tenant.relay) if role)
    return (declaration.app_login, *roles)


def audited_tables(declaration: Declaration) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the writes that are recorded of services too, by table."""
    found: dict[tuple[str, str], tuple[str, ...]] = {
        (tenant.schema, table): writes for tenant in declaration.tenants for table, writes in _OF_PREFECT.items()
    }
    for name in declaration.audit_tables:
        schema, _, table = name.partition(".")
        found[schema, table] = WRITES
    return found


def apply(login: Login, declaration: Declaration, dry_run: bool = False) -> list[Change]:
    """Apply the settings and rights of the audit in one transaction, or take them away; return the changes.

    A table that does not exist yet is left out. With ``dry_run`` return the changes that would be made. Raises Blocked
    and ConnectionFailed before anything is changed.
    """
    if declaration.administrator:
        return []
    return apply_beside(
        login,
        declaration.database,
        plan=lambda cursor: make_plan(cursor, declaration),
        anew=lambda: planned_anew(declaration),
        dry_run=dry_run,
    )


def planned_anew(declaration: Declaration) -> list[Change]:
    """Return the changes for a database that does not exist yet."""
    return list(_changes(declaration, _Found()))


def make_plan(cursor: Any, declaration: Declaration) -> Plan:
    """Compare the database with what is declared of the audit."""
    return Plan(changes=list(_changes(declaration, _read(cursor, declaration))))


def audit_problems(cursor: Any, declaration: Declaration, not_checked: list[str]) -> Iterator[Problem]:
    """Yield what is not as declared, what is switched off, and whose sessions are recorded otherwise."""
    found = _read(cursor, declaration)
    yield from (change.as_problem() for change in _changes(declaration, found))
    if not declaration.audit:
        return
    for schema, table in sorted(set(audited_tables(declaration)) - found.tables):
        yield Problem(
            "audit_table_missing",
            f"table {quote((schema, table))}",
            f"The table {schema}.{table}, whose writes should be recorded, does not exist.",
            "Correct postgresql_audit_tables, or create the table, and run playbooks/audit.yml.",
        )
    cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)", {"names": list(SERVER)})
    settings = dict(cursor.fetchall())
    cursor.execute("SELECT pg_has_role('pg_read_all_settings', 'USAGE')")
    if cursor.fetchone() != (True,):
        not_checked.append("settings of the audit: only a member of pg_read_all_settings sees them")
    else:
        yield from _off(settings, SERVER)
    cursor.execute("SELECT has_function_privilege('pg_show_all_file_settings()', 'EXECUTE')")
    if cursor.fetchone() == (True,):
        cursor.execute(_EVERYWHERE)
        yield from _off(dict(cursor.fetchall()), {"pgaudit.log": ("ddl", "role")})
    cursor.execute(_EXEMPT, {"services": list(services(declaration))})
    for role, entry in cursor.fetchall():
        yield Problem(
            "audit_exempt",
            f"role {role}",
            f"The role {role} has {entry} of its own, so its sessions are not recorded as declared.",
            f"ALTER ROLE {quote(role)} RESET {entry.partition('=')[0]}; with IN DATABASE {quote(declaration.database)} "
            "where it was set so.",
            WARNING,
        )


def _off(settings: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    for name, words in wanted.items():
        value = settings.get(name, "")
        given = {word.strip() for word in value.split(",")}
        if "all" not in given and not given.issuperset(words):
            yield Problem(
                "audit_off",
                f"setting {name}",
                f"The audit is declared, but {name} is {value or 'not set'} without {', '.join(words)}, so nothing, or "
                "not all of it, is recorded.",
                f"ALTER SYSTEM RESET {name}; and run playbooks/database.yml, which restarts PostgreSQL if it must.",
            )


def _read(cursor: Any, declaration: Declaration) -> _Found:
    found = _Found()
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %(auditor)s", {"auditor": AUDITOR})
    found.auditor = cursor.fetchone() is not None
    cursor.execute(_SETTINGS)
    found.settings = {(role, name): value for role, name, value in cursor.fetchall()}
    cursor.execute(_GRANTS, {"auditor": AUDITOR})
    for schema, table, privilege in cursor.fetchall():
        found.grants.setdefault((schema, table), set()).add(privilege)
    cursor.execute(_TABLES, {"names": [".".join(name) for name in audited_tables(declaration)]})
    found.tables = set(cursor.fetchall())
    return found


def _changes(declaration: Declaration, found: _Found) -> Iterator[Change]:
    if not declaration.audit and not found.auditor:
        return
    if not found.auditor:
        yield _change(f"role {AUDITOR}", "does not exist", Statement("CREATE ROLE {} NOLOGIN", (AUDITOR,)))
    yield from _settings(declaration, found.settings)
    yield from _grants(declaration, found)
    if not declaration.audit:
        statement = Statement("DROP ROLE {}", (AUDITOR,))
        yield _change(f"role {AUDITOR}", "exists although no audit is declared", statement, gone=True)


def _settings(declaration: Declaration, have: Mapping[Setting, str]) -> Iterator[Change]:
    ours: dict[Setting, str] = {("", "pgaudit.log"): _CLASSES["everybody"], ("", "pgaudit.role"): AUDITOR}
    ours.update({(role, "pgaudit.log"): _CLASSES["service"] for role in services(declaration)})
    for (role, name), value in ours.items():
        actual = have.get((role, name))
        if (declaration.audit and actual == value) or (not declaration.audit and actual is None):
            continue
        whose = f"role {role}" if role else f"database {declaration.database}"
        scope = "ROLE {} IN DATABASE {}" if role else "DATABASE {}"
        arguments = (*([role] if role else []), declaration.database)
        if declaration.audit:
            statement = Statement(f"ALTER {scope} SET {name} TO {{}}", (*arguments, Value(value)))
            yield _change(whose, f"has {name} {actual or 'not set'} instead of {value}", statement)
        else:
            statement = Statement(f"ALTER {scope} RESET {name}", arguments)
            yield _change(whose, f"has {name} although no audit is declared", statement, gone=True)


def _grants(declaration: Declaration, found: _Found) -> Iterator[Change]:
    tables = audited_tables(declaration) if declaration.audit else {}
    wanted = {name: set(writes) for name, writes in tables.items() if name in found.tables}
    for name in sorted({*wanted, *found.grants}):
        want, have = wanted.get(name, set()), found.grants.get(name, set())
        table = f"table {quote(name)}"
        if want - have:
            yield _change(table, f"has writes that are not recorded: {_list(want - have)}", _grant("GRANT", want, name))
        if have - want:
            statement = _grant("REVOKE", have - want, name)
            yield _change(table, f"has writes that are recorded undeclared: {_list(have - want)}", statement, gone=True)


def _grant(verb: str, privileges: Collection[str], name: tuple[str, str]) -> Statement:
    direction = "TO" if verb == "GRANT" else "FROM"
    return Statement(f"{verb} {_list(privileges)} ON TABLE {{}} {direction} {{}}", (Names((name,)), AUDITOR))


def _list(privileges: Collection[str]) -> str:
    return ", ".join(sorted(privileges))


def _change(thing: str, what: str, statement: Statement, gone: bool = False) -> Change:
    line = f"{thing}: {statement}"
    return Change(
        code="audit_differs",
        object=thing,
        message=f"The {thing} {what}.",
        statement=statement,
        before=line if gone else "",
        after="" if gone else line,
    )
