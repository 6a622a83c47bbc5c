"""The present state of the database, read from PostgreSQL's catalog."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.prefect import MADE_HERE, SECRET_COLUMNS, SIGNATURE
from .app_schemas import STAGING
from .declaration import PUBLIC, Declaration
from .workflow_runs import ViewState, read_view

_STAGING_SCHEMA = re.compile(STAGING)


class Object(NamedTuple):
    """An object on which rights are granted; ``kind`` is database, schema, table, sequence or column."""

    kind: str
    schema: str = ""
    name: str = ""
    column: str = ""


class DefaultRights(NamedTuple):
    """The scope of default privileges; without a schema, everything that the creator makes in the database."""

    creator: str
    schema: str
    kind: str


@dataclass(frozen=True)
class Role:
    """A role's attributes. ``connection_limit`` is -1 where there is none."""

    login: bool
    superuser: bool
    powers: frozenset[str]  # CREATEDB, CREATEROLE, REPLICATION, BYPASSRLS
    connection_limit: int


# Privileges of one grantee: name -> may grant it on.
Rights = dict[str, dict[str, bool]]


@dataclass
class Catalog:
    """The part of a cluster and of one database that a declaration covers.

    Of a server that is managed by a declared administrator: ``administers`` says whether the login is that role, with
    what it must have; ``closed_roles`` are those that it may not change, and ``grantable`` says which of PostgreSQL's
    own roles it may grant. ``refused_passwords`` are roles that cannot log in with the declared password: only a
    superuser may read what is stored of passwords.
    """

    server_version: int
    login_is_superuser: bool = True
    administers: bool = False
    closed_roles: frozenset[str] = frozenset()
    grantable: frozenset[str] = frozenset()
    refused_passwords: frozenset[str] = frozenset()
    can_create_database: bool = True
    database_exists: bool = False
    database_owner: str = ""
    database_comment: str = ""
    encoding: str = "UTF8"
    available_extensions: frozenset[str] | None = None  # None: not known
    roles: dict[str, Role] = field(default_factory=dict)
    superusers: frozenset[str] = frozenset({"postgres"})
    verifiers: dict[str, str | None] = field(default_factory=dict, repr=False)
    memberships: set[tuple[str, str]] = field(default_factory=set)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    schema_owners: dict[str, str] = field(default_factory=dict)
    extension_schemas: dict[str, str] = field(default_factory=dict)
    owners: dict[Object, str] = field(default_factory=dict)
    enums: dict[tuple[str, str], str] = field(default_factory=dict)
    rights: dict[Object, Rights] = field(default_factory=dict)
    default_rights: dict[DefaultRights, Rights] = field(default_factory=dict)
    prefect_schemas: frozenset[str] = frozenset()
    workflow_runs: ViewState = field(default_factory=ViewState)

    def is_exclusive(self, declaration: Declaration) -> bool:
        """Say whether the database is the declared roles' alone.

        It is if that is declared, if it was made for them, and if PUBLIC may not connect to it. Others may depend on a
        database that existed before. (The access rules are made by the same question, in hosts/postgresql_cluster.py.)
        """
        if declaration.exclusive is not None:
            return declaration.exclusive
        connects = "CONNECT" in self.rights.get(Object("database", name=declaration.database), {}).get(PUBLIC, {})
        return MADE_HERE in self.database_comment or not (self.database_exists and connects)

    def tables(self, schema: str) -> list[str]:
        """Return the names of a schema's tables, views and materialized views, sorted."""
        return sorted(thing.name for thing in self.owners if thing.kind == "table" and thing.schema == schema)


def clean_database(declaration: Declaration, cluster: Catalog | None = None) -> Catalog:
    """Return the database as CREATE DATABASE would make it, in a cluster that exists or (for check mode) not yet."""
    catalog = cluster or Catalog(server_version=150000)
    modern = catalog.server_version >= 150000
    catalog.database_owner = declaration.database_owner
    catalog.schema_owners = {declaration.app_schema: "pg_database_owner" if modern else "postgres"}
    everybody = dict.fromkeys(["USAGE"] if modern else ["USAGE", "CREATE"], False)
    catalog.rights = {
        Object("database", name=declaration.database): {PUBLIC: dict.fromkeys(["CONNECT", "TEMPORARY"], False)},
        Object("schema", declaration.app_schema): {PUBLIC: everybody},
    }
    return catalog


_CLUSTER = """
SELECT current_setting('server_version_num')::int,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT array_agg(rolname::text) FROM pg_roles WHERE rolsuper),
       (SELECT array_agg(name::text) FROM pg_available_extensions),
       d.datname IS NOT NULL, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding),
       shobj_description(d.oid, 'pg_database')
FROM (SELECT) one LEFT JOIN pg_database d ON d.datname = %(database)s
"""

_ROLES = """
SELECT rolname, rolcanlogin, rolsuper, rolconnlimit,
       array_remove(ARRAY[CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                          CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END],
                    NULL)
FROM pg_roles WHERE rolname = ANY(%(roles)s::name[])
"""

_MEMBERSHIPS = """
SELECT DISTINCT m.rolname, g.rolname
FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
WHERE m.rolname = ANY(%(roles)s::name[])
"""

# By a role's name, whoever asks. Before PostgreSQL 16 CREATEROLE was the right to change and to grant any role but a
# superuser's; from then on it is ADMIN OPTION, which the role has for what it created itself.
_ADMINISTRATOR = """
WITH administrator AS (
    SELECT oid, rolcreatedb, rolcreaterole AND rolname = current_user AS acts,
           rolcreaterole AND current_setting('server_version_num')::int < 160000 AS everything
    FROM pg_roles WHERE rolname = %(administrator)s
)
SELECT acts, rolcreatedb,
       ARRAY(SELECT rolname::text FROM pg_roles r
             WHERE rolname = ANY(%(roles)s::name[]) AND NOT rolsuper AND NOT everything
               AND NOT pg_has_role(a.oid, r.oid, 'MEMBER WITH ADMIN OPTION')),
       ARRAY(SELECT rolname::text FROM pg_roles r
             WHERE rolname ~ '^pg_' AND (everything OR pg_has_role(a.oid, r.oid, 'MEMBER WITH ADMIN OPTION'))),
       ARRAY(SELECT rolname::text FROM pg_roles r
             WHERE rolname = ANY(%(owners)s::name[]) AND pg_has_role(a.oid, r.oid, 'USAGE')
               AND pg_has_role(a.oid, r.oid, {becomes}))
FROM administrator a
"""

_SETTINGS = """
SELECT r.rolname, split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)
FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole JOIN pg_database d ON d.oid = s.setdatabase,
     unnest(s.setconfig) entry
WHERE r.rolname = ANY(%(roles)s::name[]) AND d.datname = %(database)s
"""

_SCHEMAS = "SELECT nspname, pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = ANY(%(schemas)s::name[])"

_EXTENSIONS = "SELECT extname, nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"

_ENUMS = """
SELECT nspname, typname, pg_get_userbyid(typowner)
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE typtype = 'e' AND nspname = ANY(%(schemas)s::name[])
"""

# What belongs to an extension is not ours to grant.
_RIGHTS = """
WITH relations AS (
    SELECT c.oid, c.relkind, nspname, relname, relowner, relacl
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE nspname = ANY(%(owned_schemas)s::name[]) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND NOT EXISTS (SELECT FROM pg_depend
                      WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
), things(kind, schema, name, attribute, owner, acl) AS (
    SELECT 'database', '', datname, '', datdba, coalesce(datacl, acldefault('d', datdba))
    FROM pg_database WHERE datname = %(database)s
    UNION ALL
    SELECT 'schema', nspname, '', '', nspowner, coalesce(nspacl, acldefault('n', nspowner))
    FROM pg_namespace WHERE nspname = ANY(%(schemas)s::name[])
    UNION ALL
    SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, nspname, relname, '', relowner, relacl
    FROM relations
    UNION ALL
    SELECT 'column', nspname, relname, attname, relowner, attacl
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid
    WHERE attnum > 0 AND NOT attisdropped
          AND (attacl IS NOT NULL
               OR nspname = ANY(%(tenant_schemas)s::name[]) AND relname = ANY(%(partly_secret)s::name[]))
)
SELECT kind, schema, name, attribute, pg_get_userbyid(owner),
       CASE WHEN grantee > 0 THEN pg_get_userbyid(grantee) ELSE '' END, privilege_type, is_grantable
FROM things LEFT JOIN LATERAL (SELECT * FROM aclexplode(acl) WHERE grantee <> owner) AS granted ON true
"""

# Without an entry PUBLIC may execute every new function.
_DEFAULT_RIGHTS = """
SELECT rolname, coalesce(nspname, ''),
       CASE defaclobjtype WHEN 'r' THEN 'table' WHEN 'S' THEN 'sequence' ELSE 'function' END,
       CASE WHEN grantee > 0 THEN pg_get_userbyid(grantee) ELSE '' END, privilege_type, is_grantable
FROM (SELECT defaclrole, defaclnamespace, defaclobjtype, defaclacl FROM pg_default_acl
      UNION ALL
      SELECT oid, 0, 'f', acldefault('f', oid) FROM pg_roles r
      WHERE NOT EXISTS (SELECT FROM pg_default_acl
                        WHERE defaclrole = r.oid AND defaclnamespace = 0 AND defaclobjtype = 'f')) AS entries
     JOIN pg_roles r ON r.oid = defaclrole LEFT JOIN pg_namespace n ON n.oid = defaclnamespace,
     aclexplode(defaclacl)
WHERE grantee <> defaclrole AND defaclobjtype IN ('r', 'S', 'f') AND rolname = ANY(%(owners)s::name[])
"""

_PREFECT_SCHEMAS = """
SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE relkind IN ('r', 'p') AND relname = ANY(%(signature)s::name[])
GROUP BY nspname HAVING count(*) = array_length(%(signature)s, 1)
"""


def read_cluster(connection: Any, declaration: Declaration) -> Catalog:
    """Read the part that any database of the cluster shows."""
    with connection.cursor() as cursor:
        cursor.execute(_CLUSTER, {"database": declaration.database})
        version, is_superuser, superusers, extensions, exists, owner, encoding, comment = cursor.fetchone()
        catalog = Catalog(
            server_version=version,
            login_is_superuser=is_superuser,
            superusers=frozenset(superusers),
            available_extensions=frozenset(extensions),
            database_exists=exists,
            database_owner=owner or "",
            encoding=encoding or "",
            database_comment=comment or "",
        )
        parameters = {"roles": list(declaration.roles), "database": declaration.database}
        cursor.execute(_ROLES, parameters)
        for role, login, superuser, limit, powers in cursor:
            catalog.roles[role] = Role(login, superuser, frozenset(powers), limit)
        cursor.execute(_MEMBERSHIPS, parameters)
        catalog.memberships = set(cursor)
        if declaration.administrator:
            _read_administrator(cursor, catalog, declaration)
        if is_superuser:
            cursor.execute(
                "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY(%(roles)s::name[])", parameters
            )
            catalog.verifiers = dict(cursor.fetchall())
    return catalog


def _read_administrator(cursor: Any, catalog: Catalog, declaration: Declaration) -> None:
    # A membership in a group that its member may neither use nor become is only ADMIN OPTION.
    question = _ADMINISTRATOR.format(becomes="'SET'" if catalog.server_version >= 160000 else "'MEMBER'")
    parameters = {
        "administrator": declaration.administrator,
        "roles": list(declaration.roles),
        "owners": list(declaration.owners.values()),
    }
    cursor.execute(question, parameters)
    row = cursor.fetchone()
    if row is None:  # the login's own blocker says so
        return
    catalog.administers, catalog.can_create_database, closed, grantable, owners = row
    catalog.closed_roles, catalog.grantable = frozenset(closed), frozenset(grantable)
    catalog.memberships |= {(declaration.administrator, owner) for owner in owners}


def read(connection: Any, declaration: Declaration) -> Catalog:
    """Read the whole catalog, from the declared database."""
    catalog = read_cluster(connection, declaration)
    parameters = {
        "database": declaration.database,
        "roles": list(declaration.roles),
        "owners": list(declaration.owners.values()),
        "schemas": list(declaration.schemas),
        "owned_schemas": list(declaration.owners),
        "signature": list(SIGNATURE),
        "tenant_schemas": [tenant.schema for tenant in declaration.tenants],
        "partly_secret": list(SECRET_COLUMNS),
    }
    with connection.cursor() as cursor:
        cursor.execute(_SETTINGS, parameters)
        for role, name, value in cursor:
            catalog.settings.setdefault(role, {})[name] = value
        cursor.execute(_SCHEMAS, parameters)
        catalog.schema_owners = dict(cursor.fetchall())
        cursor.execute(_EXTENSIONS)
        catalog.extension_schemas = dict(cursor.fetchall())
        cursor.execute(_ENUMS, parameters)
        catalog.enums = {(schema, name): owner for schema, name, owner in cursor}
        cursor.execute(_RIGHTS, parameters)
        for kind, schema, name, column, owner, grantee, privilege, grantable in cursor:
            thing = Object(kind, schema, name, column)
            if kind in ("table", "sequence"):
                catalog.owners[thing] = owner
            rights = catalog.rights.setdefault(thing, {})
            if privilege:
                held = rights.setdefault(grantee, {})
                held[privilege] = held.get(privilege, False) or grantable
        cursor.execute(_DEFAULT_RIGHTS, parameters)
        for creator, schema, kind, grantee, privilege, grantable in cursor:
            where = DefaultRights(creator, schema, kind)
            catalog.default_rights.setdefault(where, {}).setdefault(grantee, {})[privilege] = grantable
        cursor.execute(_PREFECT_SCHEMAS, parameters)
        # What a restore has staged is nobody's installation.
        catalog.prefect_schemas = frozenset(name for (name,) in cursor if not _STAGING_SCHEMA.fullmatch(name))
        catalog.workflow_runs = read_view(cursor, declaration.app_schema)
    return catalog
