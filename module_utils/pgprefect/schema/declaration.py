"""The declared state of the database: roles, schemas, rights and search paths.

The matrix of rights stands here and nowhere else. ``plan`` computes the statements that bring a database to it,
``verify`` compares a database with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..core.errors import InputError
from ..core.prefect import SECRET_COLUMNS, SECRETS
from ..core.scram import PasswordRefused, saslprep
from ..site.configuration import ConfigurationError, Site, Tenant
from .event_table import EventTable

PUBLIC = ""  # the pseudo-role of GRANT ... TO PUBLIC: no role can have this name

Privileges = frozenset[str]

NONE: Privileges = frozenset()
READ = frozenset({"SELECT"})
READ_AND_WRITE = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
USE = frozenset({"USAGE"})
USE_SEQUENCE = frozenset({"USAGE", "SELECT"})
EXECUTE = frozenset({"EXECUTE"})
CONNECT = frozenset({"CONNECT"})

# The options of an Ansible module that takes a declaration, as ``declare`` names them.
DECLARATION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "database": {"type": "str", "required": True},
    "app_owner": {"type": "str", "required": True},
    "app_login": {"type": "str", "required": True},
    "tenants": {"type": "list", "elements": "dict", "required": True},
    "monitor": {"type": "str", "required": True},
    "backup": {"type": "str", "required": True},
    "extensions_schema": {"type": "str", "default": "extensions"},
    "extensions": {"type": "list", "elements": "str", "default": ["pg_trgm"]},
    "app_schema_tables": {"type": "list", "elements": "str", "default": []},
    "app_schemas": {"type": "list", "elements": "str", "default": []},
    "events_table": {"type": "str", "default": ""},
    "events_columns": {"type": "dict", "default": {}},
    "connection_limits": {"type": "dict", "default": {}},
    "exclusive": {"type": "bool"},
    "administrator": {"type": "str", "default": ""},
    "audit": {"type": "bool", "default": False},
    "audit_tables": {"type": "list", "elements": "str", "default": []},
}


class DeclarationError(InputError):
    """The declaration contradicts itself or PostgreSQL's rules; the message names each fault."""


@dataclass(frozen=True)
class Grant:
    """The rights of one role in one schema; ``secrets`` extends them to Prefect's secret tables."""

    role: str
    schema: str
    tables: Privileges = NONE
    sequences: Privileges = NONE
    functions: Privileges = NONE
    secrets: bool = False


@dataclass(frozen=True)
class Declaration:
    """The whole database as it must be.

    ``exclusive`` says whether ``PUBLIC`` loses what it has in the database and the application's schema. None leaves it
    what it has in a database that existed before.

    ``administrator`` is the role by which a server of others is managed, which is no superuser: it has CREATEROLE, owns
    the database and is a member of each schema's owner. Empty where the superuser's login is used.
    """

    database: str
    app_owner: str
    app_login: str
    tenants: tuple[Tenant, ...]
    monitor: str
    backup: str
    extensions_schema: str = "extensions"
    extensions: tuple[str, ...] = ("pg_trgm",)
    app_schema_tables: tuple[str, ...] = ()
    app_schemas: tuple[str, ...] = ()  # besides app_schema; none: those that are found are backed up, no more
    events: EventTable | None = None  # with it, the view workflow_runs
    connection_limits: Mapping[str, int] = field(default_factory=dict)
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    exclusive: bool | None = None
    administrator: str = ""
    audit: bool = False
    audit_tables: tuple[str, ...] = ()  # each as SCHEMA.TABLE, whose writes by services are recorded too

    app_schema: str = field(default="public", init=False)

    @property
    def owners(self) -> dict[str, str]:
        """The owner of each schema that a declared role owns; the same role creates the objects in it."""
        applications = dict.fromkeys(self.of_application, self.app_owner)
        outboxes = {schema: schema for schema in self.of_outboxes}
        return {**applications, **{tenant.schema: tenant.owner for tenant in self.tenants}, **outboxes}

    @property
    def of_application(self) -> tuple[str, ...]:
        """The declared schemas of the application, the main one first."""
        return tuple(dict.fromkeys((self.app_schema, *self.app_schemas)))

    @property
    def of_tenants(self) -> tuple[str, ...]:
        """The schemas of the tenants."""
        return tuple(tenant.schema for tenant in self.tenants)

    @property
    def of_outboxes(self) -> tuple[str, ...]:
        """The schemas of the outboxes, of the tenants that have database events."""
        return tuple(tenant.outbox for tenant in self.tenants if tenant.relay)

    @property
    def schemas(self) -> tuple[str, ...]:
        """The declared schemas."""
        return (*self.of_application, *self.of_tenants, *self.of_outboxes, self.extensions_schema)

    @property
    def login_roles(self) -> tuple[str, ...]:
        """The roles that may log in."""
        services = [role for tenant in self.tenants for role in (tenant.migrator, tenant.server, tenant.relay) if role]
        return (self.app_login, *services, self.monitor, self.backup)

    @property
    def roles(self) -> tuple[str, ...]:
        """All declared roles."""
        return (self.app_owner, *(tenant.owner for tenant in self.tenants), *self.of_outboxes, *self.login_roles)

    def powers(self, role: str) -> frozenset[str]:
        """The attributes of a role beyond logging in: the backup reads what row security hides from others.

        Only a superuser can give that one.
        """
        return frozenset({"BYPASSRLS"} if role == self.backup and not self.administrator else ())

    @property
    def database_owner(self) -> str:
        """The role that owns the database: on a server of others the administrator, to whom it belongs there."""
        return self.administrator or self.app_owner

    @property
    def service_roles(self) -> tuple[str, ...]:
        """The roles that belong to Prefect alone, so that whatever is not declared for them is an excess."""
        return tuple(role for role in self.roles if role not in (self.app_owner, self.app_login))

    @property
    def memberships(self) -> frozenset[tuple[str, str]]:
        """Pairs of member and group."""
        migrators = {(tenant.migrator, tenant.owner) for tenant in self.tenants}
        # Where it may not be granted, the backup's rights are those of ``grants``.
        reads = {(self.backup, "pg_read_all_data")}
        if self.administrator:
            reads = {(self.administrator, owner) for owner in self.owners.values()}
        return frozenset({*migrators, *reads, (self.monitor, "pg_monitor")})

    @property
    def search_paths(self) -> dict[str, tuple[str, ...]]:
        """The path of each login. Prefect's never has ``public``: a migration takes what it sees there for its own."""
        paths: dict[str, tuple[str, ...]] = {self.app_login: (self.app_schema, self.tenants[0].schema)}
        for tenant in self.tenants:
            paths[tenant.migrator] = paths[tenant.server] = (tenant.schema, self.extensions_schema)
        return paths

    @property
    def become(self) -> dict[str, str]:
        """The role that a login becomes in this database, so that the schema's owner owns what it creates."""
        return {tenant.migrator: tenant.owner for tenant in self.tenants}

    @property
    def grants(self) -> tuple[Grant, ...]:
        """The matrix of role and schema. A role in it may use the schema; owners may do anything in their own."""
        rows = [Grant(self.app_login, schema, READ_AND_WRITE, USE_SEQUENCE, EXECUTE) for schema in self.of_application]
        for tenant in self.tenants:
            rows += [
                Grant(tenant.server, tenant.schema, READ_AND_WRITE, USE_SEQUENCE, EXECUTE, secrets=True),
                Grant(self.app_login, tenant.schema, READ),
                Grant(self.monitor, tenant.schema, READ),
                Grant(tenant.owner, self.extensions_schema),
                Grant(tenant.server, self.extensions_schema),
            ]
            if tenant.relay:
                rows += [
                    Grant(tenant.relay, tenant.outbox, READ | {"UPDATE", "DELETE"}, READ),
                    Grant(self.monitor, tenant.outbox, READ, READ),
                    # Whoever creates a trigger must be allowed to execute its function.
                    Grant(self.app_owner, tenant.outbox, functions=EXECUTE),
                ]
        if self.administrator:
            rows += [Grant(self.backup, schema, READ, READ, secrets=True) for schema in self.owners]
        return tuple(rows)

    def rights(self, kind: str, schema: str, name: str = "", column: str = "") -> dict[str, Privileges]:
        """Return the rights of each role on an object; every other declared role, and PUBLIC, has none."""
        if kind == "database":
            return dict.fromkeys(self.login_roles, CONNECT)
        rows = [grant for grant in self.grants if grant.schema == schema]
        if kind == "schema":
            return {grant.role: USE for grant in rows}
        prefects = schema in self.of_tenants
        if kind == "table":
            secret = prefects and (name in SECRETS or name in SECRET_COLUMNS)
            return {grant.role: grant.tables for grant in rows if grant.tables and (grant.secrets or not secret)}
        if kind == "column" and prefects and column not in SECRET_COLUMNS.get(name, (column,)):
            return {grant.role: grant.tables for grant in rows if grant.tables and not grant.secrets}
        if kind == "sequence":
            return {grant.role: grant.sequences for grant in rows if grant.sequences}
        if kind == "function":
            return {grant.role: grant.functions for grant in rows if grant.functions}
        return {}


def declare(
    database: str,
    app_owner: str,
    app_login: str,
    tenants: Iterable[Mapping[str, Any]],
    monitor: str,
    backup: str,
    extensions_schema: str = "extensions",
    extensions: Iterable[str] = ("pg_trgm",),
    app_schema_tables: Iterable[str] = (),
    app_schemas: Iterable[str] = (),
    events_table: str = "",
    events_columns: Mapping[str, str | None] = MappingProxyType({}),
    connection_limits: Mapping[str, Any] = MappingProxyType({}),
    passwords: Mapping[str, str] = MappingProxyType({}),
    exclusive: bool | None = None,
    administrator: str = "",
    audit: bool = False,
    audit_tables: Iterable[str] = (),
) -> Declaration:
    """Check the user's arguments and return the declaration that they make. Other keys of a tenant are ignored.

    Raises DeclarationError, which names all faults.
    """
    tenants = list(tenants)
    keys = ("name", "schema", "owner", "migrator", "server")
    faults = [
        f"tenants[{index}] has no {key}" for index, tenant in enumerate(tenants) for key in keys if not tenant.get(key)
    ]
    faults += [
        f"the connection limit of {role!r} is {limit!r}; use -1 for none, or a number from 0"
        for role, limit in connection_limits.items()
        if not re.fullmatch("-1|[0-9]{1,6}", str(limit))
    ]
    if faults:
        raise DeclarationError("; ".join(faults) + ".")
    declaration = Declaration(
        database=database,
        app_owner=app_owner,
        app_login=app_login,
        tenants=tuple(map(Tenant.from_arguments, tenants)),
        monitor=monitor,
        backup=backup,
        extensions_schema=extensions_schema,
        extensions=tuple(extensions),
        app_schema_tables=tuple(app_schema_tables),
        app_schemas=tuple(app_schemas),
        events=_events(events_table, events_columns),
        connection_limits={role: int(limit) for role, limit in connection_limits.items()},
        passwords=dict(passwords),
        exclusive=exclusive,
        administrator=administrator,
        audit=audit,
        audit_tables=tuple(audit_tables),
    )
    faults = _faults(declaration)
    if faults:
        raise DeclarationError("; ".join(faults) + ".")
    return declaration


def declaration_of(site: Site) -> Declaration:
    """Return what the site's file declares. Raises ConfigurationError."""
    try:
        return declare(**{name: site.declared[name] for name in DECLARATION_ARGUMENTS if name in site.declared})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The site's file declares no database that can be: {error} Run site.yml.") from error


def _events(table: str, columns: Mapping[str, str | None]) -> EventTable | None:
    if not table:
        return None
    try:
        events = EventTable(table=table, columns=dict(columns))
    except ValueError as error:
        raise DeclarationError(f"events_columns: {error}") from error
    faults = [
        f"events_columns gives {name} no column, without which events and flow runs cannot be joined"
        for name in ("created_at", "flow_run_id")
        if not events.column(name)
    ]
    names = [("table", table), *(("column", column) for column in events.stored.values())]

    faults += [fault for what, name in names for fault in [name_fault(what, name)] if fault]
    if faults:
        raise DeclarationError("; ".join(faults) + ".")
    return events


def _faults(declaration: Declaration) -> list[str]:
    faults = [] if declaration.tenants else ["tenants is empty: declare at least one"]
    names = [
        ("database", declaration.database),
        *(("role", role) for role in (*declaration.roles, *filter(None, [declaration.administrator]))),
        *(("schema", schema) for schema in declaration.schemas),
        *(("extension", extension) for extension in declaration.extensions),
    ]
    for what, name in names:
        fault = name_fault(what, name)
        if fault:
            faults.append(fault)
    for what, values in (
        ("role", declaration.roles),
        ("schema", declaration.schemas),
        ("tenant", tuple(tenant.name for tenant in declaration.tenants)),
    ):
        doubles = sorted({value for value in values if values.count(value) > 1})
        faults += [f"the {what} {value!r} is declared twice" for value in doubles]
    if declaration.administrator and declaration.administrator in declaration.roles:
        faults.append(
            f"the administrator {declaration.administrator!r} is another declared role too: that one needs less rights"
        )
    schemas = (*declaration.of_application, *declaration.of_tenants)
    for name in declaration.audit_tables:
        schema, _, table = name.partition(".")
        if schema not in schemas or not table:
            faults.append(f"audit_tables has {name!r}, which is no table of the schemas {', '.join(schemas)}")
        elif schema in declaration.of_tenants and table in SECRETS:
            faults.append(f"audit_tables has {name!r}, but what is written there is secret, and stays out of logs")
    for role in declaration.connection_limits:
        if role not in declaration.login_roles:
            faults.append(f"connection_limits names {role!r}, which is none of {', '.join(declaration.login_roles)}")
    for role, password in declaration.passwords.items():
        if role not in declaration.login_roles:
            faults.append(f"passwords names {role!r}, which is none of {', '.join(declaration.login_roles)}")
        try:
            saslprep(password)
        except PasswordRefused as error:
            faults.append(f"the password of {role!r} cannot be used: {error}")
    return faults


def name_fault(what: str, name: str) -> str | None:
    """Return why PostgreSQL cannot take a name, or None."""
    if not name:
        return f"a {what} has an empty name"
    if "\0" in name:
        return f"the {what} {name!r} contains a NUL character"
    if len(name.encode()) > 63:
        return f"the {what} {name!r} is longer than 63 bytes, where PostgreSQL would cut it"
    if what == "role" and re.search("[,=]", name):
        return f"the role {name!r} has a comma or an equals sign, with which Prefect's driver (asyncpg) cannot log in"
    reserved = {
        "role": re.fullmatch("pg_.*|public|none", name),
        "schema": re.fullmatch("pg_.*|information_schema", name),
    }
    if reserved.get(what):
        return f"the {what} name {name!r} is reserved by PostgreSQL"
    return None
