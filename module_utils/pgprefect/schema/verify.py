"""Verification of a database against its declaration: placement, owners and rights. Read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.connection import ConnectionFailed, Login, connect
from ..core.prefect import ENUMS, NEWER, TABLES
from ..core.problems import ERROR, WARNING, Problem
from ..core.sql import quote, search_path_names
from ..site.configuration import Site, Tenant
from . import audit, event_plan
from .app_schemas import app_schemas, left_out, privileged, torn, torn_problem
from .catalog import Catalog, Object, read
from .declaration import PUBLIC, Declaration, declaration_of
from .foreign import event_triggers, foreign, read_objects
from .login_checks import FOLDER, check_logins, stored_logins
from .plan import make_plan, ungrantable
from .revision import BEHIND, UNKNOWN, RevisionError, compare, head_of, installed_migrations, stored_revisions
from .server_checks import managed_server_problems, server_problems
from .structure import drift, invalid, known_structure, read_structures


@dataclass(frozen=True)
class SchemaReport:
    """A schema as it was found."""

    exists: bool = False
    owner: str | None = None
    tables: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TenantReport(SchemaReport):
    """A tenant's schema as it was found, with its migration and the search path of its server."""

    schema: str = ""
    revision: str | None = None
    head: str | None = None  # the newest migration of the installed Prefect, where that was given
    search_path: str | None = None


@dataclass
class Verification:
    """``search_path`` is the application's; ``search_paths`` are those of all login roles.

    ``not_checked`` names what this login cannot see, and what is not known about this release of Prefect.
    """

    connection_test: bool = False
    public_schema: SchemaReport = field(default_factory=SchemaReport)
    tenants: dict[str, TenantReport] = field(default_factory=dict)
    search_path: str | None = None
    search_paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Say whether the database was reached and no problem is an error."""
        return self.connection_test and not any(problem.severity == ERROR for problem in self.problems)


# What a login lacks is none of the database's faults.
_OF_THE_LOGIN = ("login_not_superuser", "login_not_administrator")
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

# The effective rights of a role: by its own grant, PUBLIC's, a group's, or as the owner.
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

# For each role the schemas that it may use, and those of them that hold pg_trgm's operators.
_USABLE = """
SELECT rolname, array_agg(nspname::text),
       array_agg(nspname::text) FILTER (WHERE EXISTS (SELECT FROM pg_opclass
                                                      WHERE opcnamespace = n.oid AND opcname = 'gin_trgm_ops'))
FROM pg_roles r, pg_namespace n
WHERE rolname = ANY(%(roles)s::name[]) AND has_schema_privilege(r.oid, n.oid, 'USAGE') GROUP BY rolname
"""

_SECURITY_DEFINERS = """
SELECT p.oid::regprocedure::text, quote_ident(nspname), pg_get_userbyid(proowner)
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE nspname = ANY(%(schemas)s::name[]) AND prosecdef
  AND NOT EXISTS (SELECT FROM unnest(proconfig) entry WHERE entry LIKE 'search\\_path=%%')
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
ORDER BY 1
"""

# Tables and Prefect's enums are compared with the declaration elsewhere; this is everything else that has an owner.
_OWNERS = """
SELECT n.nspname, things.statement, things.name, pg_get_userbyid(things.owner)
FROM (SELECT 'pg_proc'::regclass AS class, oid, pronamespace AS namespace, 'ROUTINE' AS statement,
             oid::regprocedure::text AS name, proowner AS owner
      FROM pg_proc
      UNION ALL
      SELECT 'pg_type'::regclass, oid, typnamespace, 'TYPE', oid::regtype::text, typowner
      FROM pg_type t
      WHERE typname <> ALL(%(enums)s::name[])
        AND (typtype IN ('e', 'd', 'r') OR EXISTS (SELECT FROM pg_class WHERE oid = typrelid AND relkind = 'c'))
      UNION ALL
      SELECT 'pg_class'::regclass, oid, relnamespace, 'SEQUENCE', oid::regclass::text, relowner
      FROM pg_class WHERE relkind = 'S') AS things JOIN pg_namespace n ON n.oid = namespace
WHERE nspname = ANY(%(schemas)s::name[])
  AND NOT EXISTS (SELECT FROM pg_depend
                  WHERE classid = things.class AND objid = things.oid AND deptype IN ('e', 'a', 'i'))
ORDER BY 1, 3
"""


def verify(
    login: Login,
    declaration: Declaration,
    timeout: float = 30,
    virtualenv: str | None = None,
    check_server: bool = False,
    listen_addresses: Sequence[str] = (),
    environments: str | None = None,
) -> Verification:
    """Compare a database with its declaration. A server that cannot be reached or is too slow is a problem too.

    ``timeout`` is in seconds, for each statement. With Prefect's ``virtualenv`` each schema must be at the newest
    migration of that Prefect. With ``check_server`` the safety of the server itself is checked; ``listen_addresses``
    are those on which it should listen. ``environments`` is a folder of services' environments, with whose passwords
    this logs in too.
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
            _verify(connection, declaration, report, virtualenv)
            if check_server:
                with connection.cursor() as cursor:
                    roles = declaration.login_roles
                    if declaration.administrator:
                        problems, not_checked = managed_server_problems(cursor, roles, encrypted=login.host != "")
                    else:
                        problems, not_checked = server_problems(cursor, roles, listen_addresses)
                        problems += audit.audit_problems(cursor, declaration, not_checked)
                report.problems += problems
                report.not_checked += not_checked
    except psycopg2.Error as error:
        message = f"The verification of the database {declaration.database} stopped: {error}".strip()
        remedy = (
            "See what locks a table (pg_locks, pg_stat_activity), such as a migration, and verify again afterwards."
        )
        report.problems.append(Problem("verification_stopped", f"database {declaration.database}", message, remedy))
    finally:
        connection.close()
    if environments:
        found = stored_logins(login, declaration.database, environments, report.not_checked)
        report.problems += check_logins(found, report.not_checked)
    return report


def verify_site(site: Site, login: Login | None = None) -> Verification:
    """Compare the database and its server with what the site's file declares, by this host's login or another one."""
    return verify(
        login or site.login,
        declaration_of(site),
        virtualenv=site.virtualenv,
        check_server=True,
        listen_addresses=site.listen_addresses,
        environments=FOLDER,
    )


def _verify(connection: Any, declaration: Declaration, report: Verification, virtualenv: str | None) -> None:
    catalog = read(connection, declaration)
    with connection.cursor() as cursor:
        cursor.execute(_SEARCH_PATHS, {"roles": list(declaration.login_roles)})
        report.search_paths = dict(cursor.fetchall())
        revisions = _revisions(cursor, declaration)
        extra = [
            *_effective_rights(cursor, catalog, declaration),
            *_owner_members(cursor, declaration),
            *_foreign_enums(cursor, declaration),
            *_visibility(cursor, catalog, declaration, report.search_paths),
            *_security_definers(cursor, declaration),
            *_owners(cursor, declaration),
            *event_triggers(cursor),
            *_structure(cursor, catalog, declaration, revisions, report.not_checked),
            *_backups(cursor, declaration, report.not_checked),
            *_database_events(cursor, declaration),
        ]
    migrations = _migrations(virtualenv, report.not_checked)
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
            head=head_of(migrations) if migrations else None,
            search_path=report.search_paths.get(tenant.server),
        )
    compared = make_plan(catalog, declaration)
    report.problems += [problem for problem in compared.blockers if problem.code not in _OF_THE_LOGIN]
    for member, group in sorted(ungrantable(catalog, declaration) - catalog.memberships):
        report.not_checked.append(
            f"what only {group} sees: {member} is no member of it, which the server's administrator can change: "
            f"GRANT {group} TO {quote(member)};"
        )
    report.problems += [change.as_problem() for change in compared.changes]
    report.problems += _placement(catalog, declaration)
    for tenant in declaration.tenants:
        report.problems += _tenant(catalog, declaration, tenant, revisions)
        if migrations and revisions.get(tenant.schema):
            report.problems += _revision(tenant, revisions[tenant.schema], migrations)
    report.problems += _undeclared(catalog, declaration)
    report.problems += extra


def _revisions(cursor: Any, declaration: Declaration) -> dict[str, str]:
    cursor.execute(_ALEMBIC_TABLES, {"schemas": list(declaration.owners)})
    schemas = [schema for (schema,) in cursor.fetchall()]
    return {schema: ", ".join(stored_revisions(cursor.connection, schema)) for schema in schemas}


def _placement(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    public = declaration.app_schema
    if not catalog.is_exclusive(declaration):
        database = declaration.database
        yield Problem(
            code="database_open",
            object=f"database {database}",
            message=f"The database {database} existed before, and every role of the server may still connect to it.",
            remedy=f"GRANT CONNECT ON DATABASE {quote(database)} TO the roles of others that need it, allow them in "
            "postgresql_hba_extra_rules, set app_database_exclusive: true, and run playbooks/database.yml.",
            severity=WARNING,
        )
    for schema in sorted(catalog.prefect_schemas - set(declaration.owners)):
        yield Problem(
            code="prefect_undeclared",
            object=f"schema {schema}",
            message=f"The schema {schema} holds Prefect's tables and belongs to no declared tenant.",
            remedy=f"Declare it as a tenant, or, if nothing needs it any more: DROP SCHEMA {quote(schema)} CASCADE;",
            severity=WARNING,
        )
    present = catalog.tables(public)
    for table in declaration.app_schema_tables:
        if table not in present:
            yield Problem(
                code="app_table_missing",
                object=f"table {quote((public, table))}",
                message=f"The application's table {table} is not in the schema {public}.",
                remedy="Run the playbook that creates it (playbooks/database.yml).",
            )
    for thing, owner in sorted(catalog.owners.items()):
        if thing.schema in declaration.of_application and thing.kind == "table" and owner != declaration.app_owner:
            name = quote((thing.schema, thing.name))
            yield Problem(
                code="app_table_owner",
                object=f"table {name}",
                message=f"The table {thing.name} belongs to {owner}, not to {declaration.app_owner}, who owns its "
                "schema.",
                remedy=f"ALTER TABLE {name} OWNER TO {quote(declaration.app_owner)};",
                severity=WARNING,
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
            code="prefect_tables_incomplete",
            object=f"schema {schema}",
            message=f"Prefect's migration of the schema {schema} is not complete: {missing} missing.",
            remedy=f"{migrate} (its log says why it stopped)",
        )
    if known - {"alembic_version"} and not revisions.get(schema) and "alembic_version" not in tables:
        yield Problem(
            code="alembic_version_missing",
            object=f"schema {schema}",
            message=f"Prefect's tables are in the schema {schema} but its alembic_version is not, so no migration "
            "can tell what has been applied.",
            remedy=f"Where {stray} is Prefect's: ALTER TABLE {stray} SET SCHEMA {quote(schema)}; else restore the "
            "schema from a backup.",
        )
    if revisions.get(schema) == "" and known - {"alembic_version"}:
        yield Problem(
            code="alembic_version_empty",
            object=f"table {quote((schema, 'alembic_version'))}",
            message=f"The table alembic_version of the schema {schema} holds no revision as Prefect writes it, so "
            "neither its tables can be compared nor can a migration tell what has been applied.",
            remedy="Restore the schema from a backup (pgprefect restore --kind workflow); nothing of Prefect's "
            "empties it.",
        )
    if revisions.get(schema) and revisions[schema] in revisions.get(public, "").split(", "):
        yield Problem(
            code="alembic_version_in_public",
            object=f"table {stray}",
            message=f"The table alembic_version of the schema {public} holds Prefect's revision {revisions[schema]}.",
            remedy=f"DELETE FROM {stray} WHERE version_num = '{revisions[schema]}'; and drop the "
            "table when no application uses it.",
        )
    applications = {*catalog.tables(public), *declaration.app_schema_tables}
    for table in tables:
        if table in TABLES:
            continue
        if table in applications:
            yield Problem(
                code="app_table_in_prefect",
                object=f"table {quote((schema, table))}",
                message=f"The application's table {table} is in Prefect's schema {schema}.",
                remedy=f"ALTER TABLE {quote((schema, table))} SET SCHEMA {quote(public)};",
            )
        elif known >= TABLES - NEWER:  # a migration that stopped half-way leaves tables that a later one drops
            yield Problem(
                code="table_unknown",
                object=f"table {quote((schema, table))}",
                message=f"The table {table} in the schema {schema} is not one of Prefect's.",
                remedy=f"ALTER TABLE {quote((schema, table))} SET SCHEMA {quote(public)}; unless a newer Prefect "
                "created it.",
                severity=WARNING,
            )


def _undeclared(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    """Report rights that undeclared roles have in Prefect's schemas; nothing revokes them."""
    found: dict[tuple[str, str], set[str]] = {}
    for thing, rights in catalog.rights.items():
        if thing.schema in declaration.of_tenants:
            for grantee, privileges in rights.items():
                if grantee not in (PUBLIC, *declaration.roles, audit.AUDITOR):
                    found.setdefault((thing.schema, grantee), set()).update(privileges)
    for (schema, grantee), held in sorted(found.items()):
        yield Problem(
            code="grant_undeclared",
            object=f"schema {schema}",
            message=f"The role {grantee}, which is not declared, has {', '.join(sorted(held))} in the schema {schema}.",
            remedy=f"REVOKE ALL ON ALL TABLES IN SCHEMA {quote(schema)} FROM {quote(grantee)}; "
            f"REVOKE ALL ON SCHEMA {quote(schema)} FROM {quote(grantee)};",
            severity=WARNING,
        )


def _effective_rights(cursor: Any, catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    """Report rights that a role has beyond the matrix without a grant of its own, for instance through a group."""
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
            code="right_inherited",
            object=f"role {role}",
            message=f"The role {role} may {privilege} on {', '.join(things)} although that was not granted to it "
            "directly.",
            remedy=f"Look for the group that gives it (\\drg in psql) and REVOKE it FROM {quote(role)};",
        )


def _owner_members(cursor: Any, declaration: Declaration) -> Iterator[Problem]:
    owners = [tenant.owner for tenant in declaration.tenants]
    roles = [*declaration.roles, declaration.administrator]
    cursor.execute(_MEMBERS_OF_OWNERS, {"owners": owners, "roles": roles})
    for member, owner in cursor:
        yield Problem(
            code="owner_member",
            object=f"role {owner}",
            message=f"The role {member}, which is not declared, is a member of {owner}, so Prefect's tables are its "
            "own.",
            remedy=f"REVOKE {quote(owner)} FROM {quote(member)};",
            severity=WARNING,
        )


def _foreign_enums(cursor: Any, declaration: Declaration) -> Iterator[Problem]:
    cursor.execute(_FOREIGN_ENUMS, {"prefect": [tenant.schema for tenant in declaration.tenants]})
    for owner, enum, schema, columns in cursor:
        yield Problem(
            code="enum_foreign",
            object=f"type {quote((owner, enum))}",
            message=f"Prefect's columns {columns} in the schema {schema} use the type {enum} of the schema {owner}, "
            "which a migration took for Prefect's own.",
            remedy="Restore Prefect's schema from a backup, or migrate an empty one with the declared search path "
            f"({', '.join(map(quote, (schema, declaration.extensions_schema)))}).",
        )


def _migrations(virtualenv: str | None, not_checked: list[str]) -> dict[str, tuple[str, ...]]:
    try:
        migrations = installed_migrations(virtualenv) if virtualenv else {}
        if migrations:
            head_of(migrations)
    except RevisionError as error:
        not_checked.append(f"newest migration: {error}")
        return {}
    return migrations


def _revision(tenant: Tenant, stored: str, migrations: dict[str, tuple[str, ...]]) -> Iterator[Problem]:
    found = compare(stored.split(", "), migrations)
    where, message = f"schema {tenant.schema}", f"Schema {tenant.schema}: {found.message}"
    if found.state == BEHIND:
        yield Problem("revision_behind", where, message, f"systemctl start prefect-migrate@{tenant.name}")
    if found.state == UNKNOWN:
        remedy = "Set prefect_version to that release or a later one, and run site.yml."
        yield Problem("revision_unknown", where, message, remedy)


def _visibility(
    cursor: Any, catalog: Catalog, declaration: Declaration, search_paths: Mapping[str, str]
) -> Iterator[Problem]:
    """Check what Prefect's roles find in their search paths: pg_trgm, and no alembic_version of another program."""
    acting = {role: declaration.become.get(role, role) for role in declaration.search_paths}
    cursor.execute(_USABLE, {"roles": list(acting.values())})
    usable = {role: (schemas, trigrams or []) for role, schemas, trigrams in cursor}
    for tenant in declaration.tenants:
        for role in (tenant.migrator, tenant.server):
            if role not in search_paths or acting[role] not in usable:
                continue
            schemas, trigrams = usable[acting[role]]
            names = [acting[role] if name == "$user" else name for name in search_path_names(search_paths[role])]
            path = [name for name in names if name in schemas]
            extensions = declaration.extensions_schema
            if not set(path) & set(trigrams):
                yield Problem(
                    code="extension_invisible",
                    object=f"role {role}",
                    message=f"The role {role} does not see the extension pg_trgm: none of the schemas that it "
                    "searches and may "
                    f"use ({', '.join(path) or 'none'}) holds gin_trgm_ops, so migrations stop half-way.",
                    remedy=f"GRANT USAGE ON SCHEMA {quote(extensions)} TO {quote(acting[role])}; with pg_trgm there "
                    f"and {quote(extensions)} in the role's search path (playbooks/database.yml does all of this).",
                )
            for schema in path:
                if schema != tenant.schema and Object("table", schema, "alembic_version") in catalog.owners:
                    yield Problem(
                        code="alembic_version_visible",
                        object=f"role {role}",
                        message=f"The role {role} finds {quote((schema, 'alembic_version'))}, which is not its own, "
                        "by its "
                        "search path: a migration reads another application's revision there, or writes its own to it.",
                        remedy=f"ALTER ROLE {quote(role)} IN DATABASE {quote(declaration.database)} SET search_path TO "
                        f"{quote(tenant.schema)}, {quote(extensions)};",
                    )


def _security_definers(cursor: Any, declaration: Declaration) -> Iterator[Problem]:
    cursor.execute(_SECURITY_DEFINERS, {"schemas": list(declaration.schemas)})
    for function, schema, owner in cursor:
        yield Problem(
            code="security_definer_path",
            object=f"function {function}",
            message=f"The function {function} runs with the rights of {owner} and looks names up in its caller's "
            "search path, so a caller can make it run code of their own.",
            remedy=f"ALTER ROUTINE {function} SET search_path = pg_catalog, {schema}, pg_temp;",
        )


def other_owners(cursor: Any, declaration: Declaration) -> Iterator[tuple[str, str, str, str]]:
    """Yield kind, quoted name, owner and declared owner of routines, types and sequences with another owner."""
    cursor.execute(_OWNERS, {"schemas": list(declaration.owners), "enums": list(ENUMS)})
    for schema, kind, name, owner in cursor:
        if owner != declaration.owners[schema]:
            yield kind, name, owner, declaration.owners[schema]


def _owners(cursor: Any, declaration: Declaration) -> Iterator[Problem]:
    for kind, name, owner, wanted in other_owners(cursor, declaration):
        yield Problem(
            code="owner_differs",
            object=f"{kind.lower()} {name}",
            message=f"The {kind.lower()} {name} belongs to {owner}, not to {wanted}, who owns its schema.",
            remedy=f"ALTER {kind} {name} OWNER TO {quote(wanted)};",
            severity=WARNING,
        )


def _backups(cursor: Any, declaration: Declaration, not_checked: list[str]) -> Iterator[Problem]:
    """Report what no backup of this database can have, or what no restore can bring back."""
    outboxes = [tenant.outbox for tenant in declaration.tenants]  # also where the events are declared no more
    others = (*declaration.of_tenants, *outboxes, declaration.extensions_schema)
    found = app_schemas(cursor, others)
    schemas = declaration.of_application if declaration.app_schemas else found
    for schema in sorted(set(found) - set(schemas)):
        yield Problem(
            code="schema_not_backed_up",
            object=f"schema {schema}",
            message=f"The schema {schema} is none of the declared app_schemas, so it is in no backup set.",
            remedy=f"Add {schema} to app_schemas, or, if nothing needs it any more: DROP SCHEMA {quote(schema)} "
            "CASCADE;",
            severity=WARNING,
        )
    for parent, table, schema, part in torn(cursor, [*schemas, *declaration.of_tenants]):
        yield torn_problem(parent, table, schema, part)
    for name in privileged(cursor, [*schemas, *declaration.of_tenants]):
        yield Problem(
            "not_restorable",
            name,
            f"Only a superuser can create {name}, so no backup set with its schema can be restored.",
            "Move it to a schema of its own that is not in app_schemas, or drop it.",
            WARNING,
        )
    # An outbox is left out on purpose, see docs/database_events.md.
    kinds = left_out(cursor, [*found, *declaration.of_tenants, *outboxes], large_objects=True)
    for kind, names in kinds.items():
        not_checked.append(f"{kind} ({', '.join(names)}): they are in no backup set")


def _database_events(cursor: Any, declaration: Declaration) -> Iterator[Problem]:
    compared = event_plan.make_plan(cursor, declaration)
    yield from compared.blockers
    yield from (replace(change.as_problem(), remedy="Run playbooks/database.yml.") for change in compared.changes)


def _structure(
    cursor: Any, catalog: Catalog, declaration: Declaration, revisions: Mapping[str, str], not_checked: list[str]
) -> Iterator[Problem]:
    extensions = catalog.extension_schemas.get("pg_trgm", declaration.extensions_schema)
    schemas = [tenant.schema for tenant in declaration.tenants]
    structures, objects = (read(cursor, schemas, extensions) for read in (read_structures, read_objects))
    for schema, structure in structures.items():
        revision = revisions.get(schema)
        wanted = known_structure(revision) if revision else None
        yield from invalid(structure, wanted, schema)
        yield from foreign(objects[schema], wanted, schema)
        if wanted is not None:
            yield from drift(structure, wanted, schema, extensions)
        elif revision:
            not_checked.append(
                f"columns, indexes and constraints of the schema {schema}: this pgprefect does not know what Prefect's "
                f"revision {revision} makes"
            )
        elif "alembic_version" in catalog.tables(schema) and revision is None:
            not_checked.append(f"revision of the schema {schema}: the login cannot read its alembic_version")
