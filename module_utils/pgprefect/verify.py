"""Whether a database is as declared: what stands where, whose it is, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .catalog import Catalog, Object, read
from .connection import ConnectionFailed, Login, connect
from .declaration import PUBLIC, Declaration, Tenant
from .difference import difference
from .prefect_tables import NEWER, TABLES
from .problems import ERROR, WARNING, Problem
from .statement import Names, Statement, quote


@dataclass(frozen=True)
class SchemaReport:
    exists: bool = False
    owner: str | None = None
    tables: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TenantReport(SchemaReport):
    schema: str = ""
    revision: str | None = None
    search_path: str | None = None


@dataclass
class Verification:
    """``search_path`` is the application's; ``search_paths`` are those of all login roles."""

    connection_test: bool = False
    public_schema: SchemaReport = field(default_factory=SchemaReport)
    tenants: dict[str, TenantReport] = field(default_factory=dict)
    search_path: str | None = None
    search_paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        return self.connection_test and not any(problem.severity == ERROR for problem in self.problems)


# PostgreSQL's own order: role in database, role, database, all.
_SEARCH_PATHS = """
SELECT rolname, coalesce(
    (SELECT substr(entry, strpos(entry, '=') + 1)
     FROM pg_db_role_setting s, unnest(setconfig) entry
     WHERE entry LIKE 'search\\_path=%%' AND setrole IN (r.oid, 0)
       AND setdatabase IN ((SELECT oid FROM pg_database WHERE datname = current_database()), 0)
     ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1),
    (SELECT boot_val FROM pg_settings WHERE name = 'search_path'))
FROM pg_roles r WHERE rolname = ANY(%(roles)s::name[])
"""

# What a role may do by whatever way: its own grant, PUBLIC's, a group's or as the owner.
_EFFECTIVE_RIGHTS = """
WITH roles AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname = ANY(%(roles)s::name[]) AND NOT rolsuper
), relations AS (
    SELECT c.oid, nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE nspname = ANY(%(schemas)s::name[]) AND relkind IN ('r', 'p', 'v', 'm', 'f')
      AND NOT EXISTS (SELECT FROM pg_depend
                      WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
)
SELECT rolname, 'table', nspname, relname, privilege
FROM roles r, relations c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) privilege
WHERE has_table_privilege(r.oid, c.oid, privilege)
UNION ALL
SELECT rolname, 'schema', nspname, '', privilege
FROM roles r, pg_namespace n, unnest('{USAGE,CREATE}'::text[]) privilege
WHERE nspname = ANY(%(schemas)s::name[]) AND has_schema_privilege(r.oid, n.oid, privilege)
UNION ALL
SELECT rolname, 'database', '', datname, privilege
FROM roles r, pg_database d, unnest('{CONNECT,CREATE,TEMPORARY}'::text[]) privilege
WHERE datname = current_database() AND has_database_privilege(r.oid, d.oid, privilege)
"""

_MEMBERS_OF_OWNERS = """
SELECT DISTINCT m.rolname, g.rolname
FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
WHERE g.rolname = ANY(%(owners)s::name[]) AND m.rolname <> ALL(%(roles)s::name[]) AND NOT m.rolsuper
ORDER BY 1, 2
"""

_FOREIGN_ENUMS = """
SELECT tn.nspname, t.typname, cn.nspname, string_agg(c.relname || '.' || a.attname, ', ' ORDER BY c.relname, a.attname)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
     JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
WHERE cn.nspname = ANY(%(prefect)s::name[]) AND tn.nspname <> cn.nspname AND t.typtype = 'e'
  AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

# Another application's table of this name may have other columns, and the login may lack the right to read it.
_ALEMBIC_TABLES = """
SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE nspname = ANY(%(schemas)s::name[]) AND relname = 'alembic_version' AND relkind = 'r' AND attname = 'version_num'
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
"""


def verify(login: Login, declaration: Declaration, timeout: float = 30) -> Verification:
    """Compare. Changes nothing, and a server that can not be reached or that is too slow is a finding too.

    ``timeout`` is in seconds, for each statement.
    """
    report = Verification(tenants={tenant.name: TenantReport(schema=tenant.schema) for tenant in declaration.tenants})
    try:
        connection = connect(login, declaration.database, statement_timeout=timeout)
    except ConnectionFailed as failed:
        report.problems.append(failed.problem)
        return report
    import psycopg2

    report.connection_test = True
    try:
        connection.set_session(readonly=True)
        with connection:
            _verify(connection, declaration, report)
    except psycopg2.Error as error:
        message = f"The verification of the database {declaration.database} stopped: {error}".strip()
        remedy = "Look what locks a table (pg_locks, pg_stat_activity), as a migration does, and verify again after it."
        report.problems.append(Problem("verification_stopped", f"database {declaration.database}", message, remedy))
    finally:
        connection.close()
    return report


def _verify(connection: Any, declaration: Declaration, report: Verification) -> None:
    catalog = read(connection, declaration)
    with connection.cursor() as cursor:
        cursor.execute(_SEARCH_PATHS, {"roles": list(declaration.login_roles)})
        report.search_paths = dict(cursor.fetchall())
        revisions = _revisions(cursor, declaration)
        extra = [
            *_effective_rights(cursor, catalog, declaration),
            *_owner_members(cursor, declaration),
            *_foreign_enums(cursor, declaration),
        ]
    report.search_path = report.search_paths.get(declaration.app_login)
    public = declaration.app_schema
    owners = catalog.schema_owners
    report.public_schema = SchemaReport(public in owners, owners.get(public), catalog.tables(public))
    for tenant in declaration.tenants:
        report.tenants[tenant.name] = TenantReport(
            exists=tenant.schema in owners,
            owner=owners.get(tenant.schema),
            tables=catalog.tables(tenant.schema),
            schema=tenant.schema,
            revision=revisions.get(tenant.schema),
            search_path=report.search_paths.get(tenant.server),
        )
    compared = difference(catalog, declaration)
    report.problems += [problem for problem in compared.barriers if problem.code != "login_not_superuser"]
    report.problems += [change.as_problem() for change in compared.changes]
    report.problems += _placement(catalog, declaration)
    for tenant in declaration.tenants:
        report.problems += _tenant(catalog, declaration, tenant, revisions)
    report.problems += _undeclared(catalog, declaration)
    report.problems += extra


def _revisions(cursor: Any, declaration: Declaration) -> dict[str, str]:
    cursor.execute(_ALEMBIC_TABLES, {"schemas": list(declaration.owners)})
    found = {}
    for (schema,) in cursor.fetchall():
        table = Names(((schema, "alembic_version"),))
        Statement("SELECT string_agg(version_num::text, ', ' ORDER BY version_num) FROM {}", (table,)).execute(cursor)
        found[schema] = cursor.fetchone()[0] or ""
    return found


def _placement(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    public = declaration.app_schema
    for schema in sorted(catalog.prefect_schemas - set(declaration.owners)):
        yield Problem(
            "prefect_undeclared",
            f"schema {schema}",
            f"The schema {schema} holds Prefect's tables and is no declared tenant's.",
            f"Declare it as a tenant, or, when nothing needs it any more: DROP SCHEMA {quote(schema)} CASCADE;",
            WARNING,
        )
    present = catalog.tables(public)
    for table in declaration.app_schema_tables:
        if table not in present:
            yield Problem(
                "app_table_missing",
                f"table {quote((public, table))}",
                f"The application's table {table} is not in the schema {public}.",
                "Run the playbook that makes it (playbooks/database.yml).",
            )
    for thing, owner in sorted(catalog.owners.items()):
        if thing.schema == public and thing.kind == "table" and owner != declaration.app_owner:
            yield Problem(
                "app_table_owner",
                f"table {quote((public, thing.name))}",
                f"The table {thing.name} belongs to {owner}, not to {declaration.app_owner}, who owns its schema.",
                f"ALTER TABLE {quote((public, thing.name))} OWNER TO {quote(declaration.app_owner)};",
                WARNING,
            )


def _tenant(catalog: Catalog, declaration: Declaration, tenant: Tenant, revisions: dict[str, str]) -> Iterator[Problem]:
    schema, public = tenant.schema, declaration.app_schema
    stray = quote((public, "alembic_version"))
    tables = catalog.tables(schema)
    migrate = f"systemctl start prefect-migrate@{tenant.name}"
    known = TABLES.intersection(tables)
    if schema in catalog.schema_owners and not known:
        yield Problem(
            "prefect_tables_missing",
            f"schema {schema}",
            f"The schema {schema} has none of Prefect's tables yet.",
            migrate,
        )
    elif known and TABLES - NEWER - known:
        missing = ", ".join(sorted(TABLES - NEWER - known))
        yield Problem(
            "prefect_tables_incomplete",
            f"schema {schema}",
            f"Prefect's migration of the schema {schema} is not complete: {missing} missing.",
            f"{migrate} (its log says why it stopped)",
        )
    if known - {"alembic_version"} and not revisions.get(schema) and "alembic_version" not in tables:
        yield Problem(
            "alembic_version_missing",
            f"schema {schema}",
            f"Prefect's tables are in the schema {schema} but its alembic_version is not, so no migration knows where "
            "it stands.",
            f"Where {stray} is Prefect's: ALTER TABLE {stray} SET SCHEMA {quote(schema)}; else restore the schema from "
            "a backup.",
        )
    if revisions.get(schema) and revisions[schema] in revisions.get(public, "").split(", "):
        yield Problem(
            "alembic_version_in_public",
            f"table {stray}",
            f"The table alembic_version of the schema {public} holds Prefect's revision {revisions[schema]}.",
            f"DELETE FROM {stray} WHERE version_num = '{revisions[schema]}'; and drop the "
            "table when no application uses it.",
        )
    applications = {*catalog.tables(public), *declaration.app_schema_tables}
    for table in tables:
        if table in TABLES:
            continue
        if table in applications:
            yield Problem(
                "app_table_in_prefect",
                f"table {quote((schema, table))}",
                f"The application's table {table} is in Prefect's schema {schema}.",
                f"ALTER TABLE {quote((schema, table))} SET SCHEMA {quote(public)};",
            )
        else:
            yield Problem(
                "table_unknown",
                f"table {quote((schema, table))}",
                f"The table {table} in the schema {schema} is none of Prefect's.",
                f"ALTER TABLE {quote((schema, table))} SET SCHEMA {quote(public)}; unless a newer Prefect made it.",
                WARNING,
            )


def _undeclared(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    """Rights in Prefect's schemas of roles that nobody declared: they stay, and are told."""
    found: dict[tuple[str, str], set[str]] = {}
    for thing, rights in catalog.rights.items():
        if thing.schema in declaration.owners and thing.schema != declaration.app_schema:
            for grantee, privileges in rights.items():
                if grantee not in (PUBLIC, *declaration.roles):
                    found.setdefault((thing.schema, grantee), set()).update(privileges)
    for (schema, grantee), held in sorted(found.items()):
        yield Problem(
            "grant_undeclared",
            f"schema {schema}",
            f"The role {grantee}, which is not declared, has {', '.join(sorted(held))} in the schema {schema}.",
            f"REVOKE ALL ON ALL TABLES IN SCHEMA {quote(schema)} FROM {quote(grantee)}; "
            f"REVOKE ALL ON SCHEMA {quote(schema)} FROM {quote(grantee)};",
            WARNING,
        )


def _effective_rights(cursor: Any, catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    """What a role may do beyond the matrix without a grant of its own, as through a group."""
    everything = {(tenant.migrator, tenant.schema) for tenant in declaration.tenants}
    reading = {"table": "SELECT", "schema": "USAGE"}
    cursor.execute(_EFFECTIVE_RIGHTS, {"roles": list(declaration.login_roles), "schemas": list(declaration.owners)})
    found: dict[tuple[str, str, str], list[str]] = {}
    for role, kind, schema, name, privilege in cursor:
        thing = Object(kind, schema, name)
        granted = catalog.rights.get(thing, {})
        if (
            privilege in declaration.rights(kind, schema, name).get(role, ())
            or privilege in granted.get(role, ())
            or privilege in granted.get(PUBLIC, ())
            or (role, schema) in everything
            or (role == declaration.backup and reading.get(kind) == privilege)
            or catalog.owners.get(thing) == role
        ):
            continue
        where = f"{kind} {quote((schema, name) if kind == 'table' else name or schema)}"
        found.setdefault((role, kind, privilege), []).append(where)
    for (role, _kind, privilege), things in found.items():
        yield Problem(
            "right_inherited",
            f"role {role}",
            f"The role {role} may {privilege} on {', '.join(things)} although nobody granted it that directly.",
            f"Look for the group that gives it (\\drg in psql) and REVOKE it FROM {quote(role)};",
        )


def _owner_members(cursor: Any, declaration: Declaration) -> Iterator[Problem]:
    owners = [tenant.owner for tenant in declaration.tenants]
    cursor.execute(_MEMBERS_OF_OWNERS, {"owners": owners, "roles": list(declaration.roles)})
    for member, owner in cursor:
        yield Problem(
            "owner_member",
            f"role {owner}",
            f"The role {member}, which is not declared, is a member of {owner}, so Prefect's tables are its own.",
            f"REVOKE {quote(owner)} FROM {quote(member)};",
            WARNING,
        )


def _foreign_enums(cursor: Any, declaration: Declaration) -> Iterator[Problem]:
    cursor.execute(_FOREIGN_ENUMS, {"prefect": [tenant.schema for tenant in declaration.tenants]})
    for owner, enum, schema, columns in cursor:
        yield Problem(
            "enum_foreign",
            f"type {quote((owner, enum))}",
            f"Prefect's columns {columns} in the schema {schema} use the type {enum} of the schema {owner}, which a "
            "migration took for Prefect's own.",
            "Restore Prefect's schema from a backup, or migrate an empty one with the declared search path "
            f"({', '.join(map(quote, (schema, declaration.extensions_schema)))}).",
        )
