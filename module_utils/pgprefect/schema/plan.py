"""The plan that brings a database to its declaration: statements that resolve it, and problems that block it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable

from ..core.connection import ConnectionFailed, Login, connect
from ..core.errors import ProblemError
from ..core.lock import try_advisory_lock, try_table_lock
from ..core.prefect import ENUMS, MADE_HERE, TABLES
from ..core.problems import ERROR, Problem
from ..core.scram import scram_verifier, verifier_matches
from ..core.sql import Names, Script, Statement, Value, quote, search_path_names
from . import workflow_runs
from .catalog import Catalog, DefaultRights, Object, Rights, clean_database, read, read_cluster
from .declaration import NONE, PUBLIC, Declaration, Privileges
from .login_checks import refused_passwords

_LOCK_SECONDS = 3
_LOCK = 5_820_349_117_204  # any number that is no other program's
OLDEST_SERVER = 140000  # the first with pg_read_all_data

_PRIVILEGES = "SELECT INSERT UPDATE DELETE TRUNCATE REFERENCES TRIGGER MAINTAIN USAGE CREATE CONNECT TEMPORARY EXECUTE"
_ORDER = _PRIVILEGES.split()


@dataclass(frozen=True)
class Change:
    """One statement and the deviation that it resolves; ``before`` and ``after`` are lines for a diff."""

    code: str
    object: str
    message: str
    statement: Statement | Script
    before: str
    after: str

    def as_problem(self) -> Problem:
        """Return the deviation as a problem with the statement as its remedy, unless that has a secret."""
        arguments = self.statement.arguments if isinstance(self.statement, Statement) else ()
        secret = any(isinstance(argument, Value) and argument.secret for argument in arguments)
        remedy = (
            "Run playbooks/database.yml, which stores the inventory's password." if secret else f"{self.statement};"
        )
        return Problem(self.code, self.object, self.message, remedy, ERROR)


@dataclass
class Plan:
    """``blockers`` are problems that a person must decide first; while there are any, nothing is changed."""

    blockers: list[Problem] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


class Blocked(ProblemError):
    """The declaration cannot be applied to the database; ``problems`` are the blockers."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(*problems)


def apply(
    login: Login,
    declaration: Declaration,
    app_schema_sql: str = "",
    dry_run: bool = False,
    done: list[str] | None = None,
) -> list[Change]:
    """Apply the declaration in one transaction, except CREATE DATABASE, and return the changes.

    What stays although the transaction is rolled back, as the database, is added to ``done``, as its statement.
    With ``dry_run`` return the changes that would be made. Raises Blocked and ConnectionFailed before anything is
    changed.
    """
    changes: list[Change] = []
    administration = connect(login, "postgres")
    try:
        administration.autocommit = True
        cluster = read_cluster(administration, declaration)
        if declaration.administrator:
            cluster.refused_passwords = refused_passwords(login, declaration.database, declaration.passwords)
        refused = [cluster.refused_passwords]
        if not cluster.database_exists:
            planned = make_plan(clean_database(declaration, cluster), declaration, app_schema_sql)
            if planned.blockers:
                raise Blocked(planned.blockers)
            if dry_run:
                return planned.changes
            changes = planned.changes[: _until_database(planned.changes)]
            with administration.cursor() as cursor:
                _execute(changes, cursor, [] if done is None else done)
    finally:
        administration.close()
    connection = connect(login, declaration.database)

    def plan() -> Plan:
        found = read(connection, declaration)
        # Once: what this transaction stores nobody can log in with before its end.
        found.refused_passwords = refused.pop() if refused else frozenset()
        return make_plan(found, declaration, app_schema_sql)

    try:
        return changes + execute_plan(connection, declaration.database, plan, dry_run)
    finally:
        connection.close()


def execute_plan(connection: Any, database: str, plan: Callable[[], Plan], dry_run: bool) -> list[Change]:
    """Execute a plan in one transaction, check that a new plan is empty, and return the changes. Raises Blocked."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        if cursor.fetchone() == (True,):
            alone = try_table_lock(cursor, "pg_catalog", "pg_default_acl", _LOCK_SECONDS)
        else:  # nobody but a superuser may lock that table
            alone = try_advisory_lock(cursor, _LOCK, _LOCK_SECONDS)
        if not alone:
            raise Blocked([_another_run(database)])
        planned = plan()
        if planned.blockers:
            raise Blocked(planned.blockers)
        if dry_run or not planned.changes:
            return planned.changes
        _execute(planned.changes, cursor)
        left = plan()
        if left.blockers or left.changes:
            raise Blocked([*left.blockers, *map(_resists, left.changes)])
    return planned.changes


def apply_beside(
    login: Login,
    database: str,
    plan: Callable[[Any], Plan],
    anew: Callable[[], list[Change]],
    dry_run: bool,
) -> list[Change]:
    """Execute what ``plan`` makes with a cursor, in one transaction of its own, and return the changes.

    A dry run returns the changes that would be made: those of ``anew`` for a database that does not exist yet. Raises
    Blocked and ConnectionFailed before anything is changed.
    """
    try:
        connection = connect(login, database)
    except ConnectionFailed as failed:
        if not (dry_run and failed.problem.code == "database_missing"):
            raise
        return anew()

    def make() -> Plan:
        with connection.cursor() as cursor:
            return plan(cursor)

    try:
        return execute_plan(connection, database, make, dry_run)
    finally:
        connection.close()


def _another_run(database: str) -> Problem:
    message = f"Another run is changing the database {database}."
    return Problem("another_run", f"database {database}", message, "Wait until it has ended, and run this again.")


def _execute(changes: list[Change], cursor: Any, done: list[str] | None = None) -> None:
    """Execute the changes. Without a transaction each of them stays, and is added to ``done``."""
    import psycopg2

    def execute(change: Change) -> None:
        try:
            change.statement.execute(cursor)
        except psycopg2.Error as error:
            rest = ", and everything was rolled back" if done is None else ""
            message = f"PostgreSQL refused a statement{rest}: {change.statement}: {error}".strip()
            remedy = "Resolve what PostgreSQL names, and run this again."
            if error.pgcode == "55P03":
                remedy = "Wait for the session that holds the lock (pg_locks, pg_stat_activity), and run this again."
            raise Blocked([Problem("statement_refused", change.object, message, remedy)]) from error

    for change in changes:
        execute(change)
        if done is not None:
            done.append(str(change.statement))


def _until_database(changes: list[Change]) -> int:
    return 1 + [change.code for change in changes].index("database_unmarked")


def _resists(change: Change) -> Problem:
    # For instance a role with the grant option granted a right: only that role's own grant can be revoked.
    return Problem(
        "change_without_effect",
        change.object,
        f"{change.message} This statement did not resolve it, and everything was rolled back: {change.statement}.",
        "See who granted it (\\dp in psql), and revoke the grant option of that role with CASCADE.",
    )


def make_plan(catalog: Catalog, declaration: Declaration, app_schema_sql: str = "") -> Plan:
    """Compare the catalog with the declaration. The changes are in the order in which they must be executed."""
    blockers = list(_blockers(catalog, declaration))
    if catalog.server_version < OLDEST_SERVER:
        return Plan(blockers)
    changes = [
        *_roles(catalog, declaration),
        *_memberships(catalog, declaration),
        *_settings(catalog, declaration),
        *_schemas(catalog, declaration),
        *_extensions(catalog, declaration),
        *_default_rights(catalog, declaration),
        *_prefect_owners(catalog, declaration),
        *_application(catalog, declaration, app_schema_sql),
        *_workflow_runs(catalog, declaration),
        *_rights(catalog, declaration),
    ]
    return Plan(blockers, changes)


def _blockers(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    if catalog.server_version < OLDEST_SERVER:
        yield Problem(
            code="server_too_old",
            object="server",
            message=f"PostgreSQL {catalog.server_version // 10000} is too old: Prefect's own roles need version 14 "
            "or later.",
            remedy="Upgrade the server (pg_upgradecluster), or name another one.",
        )
    if declaration.administrator:
        yield from _administrator_blockers(catalog, declaration)
    elif not catalog.login_is_superuser:
        yield Problem(
            code="login_not_superuser",
            object="server",
            message="The login is not a superuser, and only a superuser can create databases and extensions and read "
            "what is stored of passwords.",
            remedy="Set the login user to the administrator, usually postgres over the unix socket.",
        )
    for role in (*declaration.service_roles, declaration.app_login):
        if role in catalog.roles and catalog.roles[role].superuser:
            yield Problem(
                code="role_superuser",
                object=f"role {role}",
                message=f"The role {role} is a superuser, so no right can be withheld from it.",
                remedy=f"Name another role, or ALTER ROLE {quote(role)} NOSUPERUSER;",
            )
    for extension in declaration.extensions:
        if catalog.available_extensions is not None and extension not in catalog.available_extensions:
            yield Problem(
                code="extension_unavailable",
                object=f"extension {extension}",
                message=f"The server does not offer the extension {extension}.",
                remedy="Install the package that has it (Debian: postgresql-contrib), or correct the name.",
            )
        where = catalog.extension_schemas.get(extension, declaration.extensions_schema)
        if where != declaration.extensions_schema:
            schema = quote(declaration.extensions_schema)
            yield Problem(
                code="extension_schema",
                object=f"extension {extension}",
                message=f"The extension {extension} is in the schema {where}, where Prefect's roles do not see it; "
                "moving it could break an application that finds it there.",
                remedy=f"CREATE SCHEMA IF NOT EXISTS {schema}; ALTER EXTENSION {quote(extension)} SET SCHEMA {schema}; "
                "and add that schema to the search path of the roles that use the extension.",
            )
    yield from _database_blockers(catalog, declaration)
    yield from _schema_blockers(catalog, declaration)


def _administrator_blockers(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    """Find what the administrator of a server of others lacks, each with what somebody must type once."""
    role, database = declaration.administrator, declaration.database
    if not catalog.administers and not catalog.login_is_superuser:
        yield Problem(
            code="login_not_administrator",
            object=f"role {role}",
            message=f"The login is not {role}, or {role} has no CREATEROLE, without which it cannot create the site's "
            "roles.",
            remedy=f"Let the server's administrator type: ALTER ROLE {quote(role)} CREATEROLE;",
        )
    if not catalog.database_exists and not catalog.can_create_database and not catalog.login_is_superuser:
        yield Problem(
            code="database_not_creatable",
            object=f"database {database}",
            message=f"The database {database} does not exist, and {role} has no CREATEDB.",
            remedy=f"Let the server's administrator type: CREATE DATABASE {quote(database)} OWNER {quote(role)} "
            "ENCODING 'UTF8' TEMPLATE template0;",
        )
    closed = sorted(catalog.closed_roles)
    if closed and not catalog.login_is_superuser:
        yield Problem(
            code="role_not_administered",
            object=f"role {closed[0]}",
            message=f"{role} created the roles {', '.join(closed)} not itself, and has no ADMIN OPTION for them, so it "
            "cannot change or grant them.",
            remedy="Let the server's administrator type: "
            f"GRANT {', '.join(map(quote, closed))} TO {quote(role)} WITH ADMIN OPTION;",
        )


def _database_blockers(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    owner = declaration.database_owner
    if catalog.database_exists and catalog.database_owner != owner:
        who = f"Set app_owner to {catalog.database_owner}, or"
        if declaration.administrator:
            who = "Let the server's administrator type"
        yield Problem(
            code="database_owner",
            object=f"database {declaration.database}",
            message=f"The database {declaration.database} belongs to the role {catalog.database_owner}, not to "
            f"{owner}.",
            remedy=f"{who}: ALTER DATABASE {quote(declaration.database)} OWNER TO {quote(owner)};",
        )
    if catalog.encoding != "UTF8" and catalog.database_exists:
        yield Problem(
            code="database_encoding",
            object=f"database {declaration.database}",
            message=f"The database {declaration.database} has the encoding {catalog.encoding}; Prefect needs UTF8.",
            remedy="Dump it, create it again with ENCODING 'UTF8' TEMPLATE template0, and restore.",
        )
    if declaration.app_schema in catalog.prefect_schemas:
        yield prefect_in_public(catalog, declaration)
    if declaration.events and workflow_runs.is_foreign(catalog.workflow_runs):
        name = quote((declaration.app_schema, workflow_runs.NAME))
        yield Problem(
            code="workflow_runs_taken",
            object=f"relation {name}",
            message=f"{name} belongs to the application, so the view of all flow runs cannot have this name.",
            remedy="Rename it, or declare an empty events_table: then there is no such view.",
        )


def prefect_in_public(catalog: Catalog, declaration: Declaration) -> Problem:
    """Return the problem of an earlier installation whose tables are among the application's."""
    public, target = declaration.app_schema, declaration.tenants[0]
    tables = [name for name in catalog.tables(public) if name in TABLES]
    enums = sorted(name for schema, name in catalog.enums if schema == public and name in ENUMS)
    moves = [f"CREATE SCHEMA IF NOT EXISTS {quote(target.schema)};"]
    moves += [f"ALTER TABLE {quote((public, name))} SET SCHEMA {quote(target.schema)};" for name in tables]
    moves += [f"ALTER TYPE {quote((public, name))} SET SCHEMA {quote(target.schema)};" for name in enums]
    return Problem(
        code="prefect_in_public",
        object=f"schema {public}",
        message=f"Prefect's tables are in the schema {public}, from an earlier installation: {', '.join(tables)}.",
        remedy="Stop that Prefect, and let playbooks/adopt_database.yml move them (docs/adopt.md); or by hand: "
        "pg_dump the "
        "database; then, as a superuser and in one transaction, without any table of this list that is the "
        "application's own: "
        f"{' '.join(moves)}",
    )


def _schema_blockers(catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    for schema, actual in catalog.schema_owners.items():
        wanted = declaration.owners.get(schema)
        # A schema that a superuser owns was created by an administrator in psql: it can be taken over.
        ours = declaration.administrator and actual == declaration.administrator
        if ours or actual in (wanted, "pg_database_owner") or actual in catalog.superusers:
            continue
        yield Problem(
            code="schema_owner",
            object=f"schema {schema}",
            message=f"The schema {schema} belongs to the role {actual}, not to {wanted or 'a superuser'}.",
            remedy=f"Name another schema, or: ALTER SCHEMA {quote(schema)} OWNER TO {quote(wanted or 'postgres')};",
        )


def _roles(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    for role in declaration.roles:
        yield from _role(catalog, declaration, role)
        if role == declaration.app_owner and not catalog.database_exists:
            # Right after its owner, so that no other role ever owns the database.
            yield Change(
                code="database_missing",
                object=f"database {declaration.database}",
                message=f"The database {declaration.database} does not exist.",
                statement=Statement(
                    "CREATE DATABASE {} OWNER {} ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0",
                    (declaration.database, declaration.database_owner),
                ),
                before="",
                after=f"database {declaration.database}: owner {declaration.database_owner}",
            )
            yield Change(
                code="database_unmarked",
                object=f"database {declaration.database}",
                message=f"Nothing says that the database {declaration.database} was made here.",
                statement=Statement("COMMENT ON DATABASE {} IS {}", (declaration.database, Value(MADE_HERE))),
                before="",
                after=f"database {declaration.database}: {MADE_HERE}",
            )


def _role(catalog: Catalog, declaration: Declaration, role: str) -> Iterator[Change]:
    logs_in = role in declaration.login_roles
    limit = declaration.connection_limits.get(role)
    password = declaration.passwords.get(role)
    actual = catalog.roles.get(role)
    if actual is None:
        words, arguments = ["LOGIN" if logs_in else "NOLOGIN", *sorted(declaration.powers(role))], []
        if limit is not None:
            words.append("CONNECTION LIMIT {}")
            arguments.append(Value(limit))
        if password is not None:
            words.append("PASSWORD {}")
            arguments.append(Value(scram_verifier(password), secret=True))
        statement = Statement("CREATE ROLE {} " + " ".join(words), (role, *arguments))
        after = str(statement).replace("CREATE ROLE", "role", 1)
        yield Change(
            code="role_missing",
            object=f"role {role}",
            message=f"The role {role} does not exist.",
            statement=statement,
            before="",
            after=after,
        )
        return
    if role == declaration.app_owner:
        return  # the application's own role, which may have existed before
    declared = declaration.powers(role)
    # What the administrator of a server of others has given to the backup, because ours may not.
    given = {"BYPASSRLS"} if declaration.administrator and role == declaration.backup else set()
    wrong = [f"NO{power}" for power in sorted(actual.powers - declared - given)] + sorted(declared - actual.powers)
    if actual.login != logs_in:
        wrong.append("LOGIN" if logs_in else "NOLOGIN")
    if wrong:
        yield Change(
            code="role_attributes",
            object=f"role {role}",
            message=f"The role {role} should be {' '.join(wrong)}.",
            statement=Statement("ALTER ROLE {} " + " ".join(wrong), (role,)),
            before=f"role {role}: {' '.join(word[2:] if word.startswith('NO') else 'NO' + word for word in wrong)}",
            after=f"role {role}: {' '.join(wrong)}",
        )
    if limit is not None and actual.connection_limit != limit:
        yield Change(
            code="role_connection_limit",
            object=f"role {role}",
            message=f"The role {role} may open {actual.connection_limit} connections instead of {limit} (-1: any "
            "number).",
            statement=Statement("ALTER ROLE {} CONNECTION LIMIT {}", (role, Value(limit))),
            before=f"role {role}: CONNECTION LIMIT {actual.connection_limit}",
            after=f"role {role}: CONNECTION LIMIT {limit}",
        )
    if password is None:
        return
    # Only a superuser sees what is stored; others try it.
    stored = catalog.login_is_superuser and not verifier_matches(catalog.verifiers.get(role), password)
    if stored or role in catalog.refused_passwords:
        yield Change(
            code="role_password",
            object=f"role {role}",
            message=f"The role {role} has another password, or one that is not stored as SCRAM-SHA-256.",
            statement=Statement("ALTER ROLE {} PASSWORD {}", (role, Value(scram_verifier(password), secret=True))),
            before=f"role {role}: another password",
            after=f"role {role}: the declared password",
        )


def _memberships(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    for member, group in sorted(declaration.memberships - catalog.memberships - ungrantable(catalog, declaration)):
        yield Change(
            code="membership_missing",
            object=f"role {member}",
            message=f"The role {member} is not a member of {group}.",
            statement=Statement("GRANT {} TO {}", (group, member)),
            before="",
            after=f"role {member}: member of {group}",
        )
    given = {(declaration.backup, "pg_read_all_data")} if declaration.administrator else set()
    for member, group in sorted(catalog.memberships - declaration.memberships - given):
        # The application's own roles may be members of roles that are not declared.
        if member in declaration.service_roles or group in declaration.roles:
            yield Change(
                code="membership_excess",
                object=f"role {member}",
                message=f"The role {member} is a member of {group}, and so has all the rights of {group}.",
                statement=Statement("REVOKE {} FROM {}", (group, member)),
                before=f"role {member}: member of {group}",
                after="",
            )


def ungrantable(catalog: Catalog, declaration: Declaration) -> frozenset[tuple[str, str]]:
    """Return the memberships in PostgreSQL's own roles that the administrator of a server of others may not grant."""
    if not declaration.administrator or catalog.login_is_superuser:
        return frozenset()
    return frozenset(
        (member, group)
        for member, group in declaration.memberships
        if group.startswith("pg_") and group not in catalog.grantable
    )


def _settings(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    for role, path in declaration.search_paths.items():
        actual = catalog.settings.get(role, {}).get("search_path")
        if actual is None or tuple(search_path_names(actual)) != path:
            wanted = ", ".join(map(quote, path))
            yield Change(
                code="search_path",
                object=f"role {role}",
                message=f"The search path of {role} in this database is {actual or 'not set'} instead of {wanted}.",
                statement=Statement(
                    "ALTER ROLE {} IN DATABASE {} SET search_path TO {}", (role, declaration.database, Names(path))
                ),
                before=f"role {role}: search_path {actual}" if actual else "",
                after=f"role {role}: search_path {wanted}",
            )
    for role, owner in declaration.become.items():
        actual = catalog.settings.get(role, {}).get("role")
        if actual != owner:
            yield Change(
                code="role_setting",
                object=f"role {role}",
                message=f"The role {role} does not become {owner} when it logs in, so it would own the tables that "
                "it creates.",
                statement=Statement("ALTER ROLE {} IN DATABASE {} SET role TO {}", (role, declaration.database, owner)),
                before=f"role {role}: becomes {actual}" if actual else "",
                after=f"role {role}: becomes {owner}",
            )
    # Only a superuser may set this one. Nothing else lets a role read large objects that were not granted to it.
    reads = "lo_compat_privileges"
    actual = catalog.settings.get(declaration.backup, {}).get(reads)
    if actual != "on" and catalog.login_is_superuser and not declaration.administrator:
        role = declaration.backup
        yield Change(
            code="role_setting",
            object=f"role {role}",
            message=f"The role {role} cannot back up large objects that it was not granted: {reads} is "
            f"{actual or 'not set'}.",
            statement=Statement(
                "ALTER ROLE {} IN DATABASE {} SET lo_compat_privileges TO 'on'", (role, declaration.database)
            ),
            before=f"role {role}: {reads} {actual}" if actual else "",
            after=f"role {role}: {reads} on",
        )


def _schemas(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    for schema in declaration.schemas:
        wanted, actual = declaration.owners.get(schema), catalog.schema_owners.get(schema)
        if actual is None:
            yield Change(
                code="schema_missing",
                object=f"schema {schema}",
                message=f"The schema {schema} does not exist.",
                statement=Statement("CREATE SCHEMA {} AUTHORIZATION {}", (schema, wanted))
                if wanted
                else Statement("CREATE SCHEMA {}", (schema,)),
                before="",
                after=f"schema {schema}: owner {wanted or 'the administrator'}",
            )
        elif wanted and actual != wanted:
            yield Change(
                code="schema_owner",
                object=f"schema {schema}",
                message=f"The schema {schema} belongs to {actual} instead of {wanted}.",
                statement=Statement("ALTER SCHEMA {} OWNER TO {}", (schema, wanted)),
                before=f"schema {schema}: owner {actual}",
                after=f"schema {schema}: owner {wanted}",
            )


def _extensions(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    for extension in declaration.extensions:
        if extension not in catalog.extension_schemas:
            yield Change(
                code="extension_missing",
                object=f"extension {extension}",
                message=f"The extension {extension} is not installed in this database.",
                statement=Statement("CREATE EXTENSION {} SCHEMA {}", (extension, declaration.extensions_schema)),
                before="",
                after=f"extension {extension}: schema {declaration.extensions_schema}",
            )


def _prefect_owners(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    """Give Prefect's tables and enums to the declared owner, after a migration by another role."""
    for tenant in declaration.tenants:
        things = [
            ("TABLE", (thing.schema, thing.name), owner)
            for thing, owner in catalog.owners.items()
            if thing.kind == "table" and thing.name in TABLES
        ]
        things += [("TYPE", name, owner) for name, owner in catalog.enums.items() if name[1] in ENUMS]
        for kind, name, owner in sorted(things):
            if name[0] == tenant.schema and owner != tenant.owner:
                yield Change(
                    code="object_owner",
                    object=f"{kind.lower()} {quote(name)}",
                    message=f"The {kind.lower()} {quote(name)} belongs to {owner} instead of {tenant.owner}.",
                    statement=Statement(f"ALTER {kind} {{}} OWNER TO {{}}", (Names((name,)), tenant.owner)),
                    before=f"{kind.lower()} {quote(name)}: owner {owner}",
                    after=f"{kind.lower()} {quote(name)}: owner {tenant.owner}",
                )


def _application(catalog: Catalog, declaration: Declaration, script: str) -> Iterator[Change]:
    present = catalog.tables(declaration.app_schema)
    missing = [table for table in declaration.app_schema_tables if table not in present]
    if missing and script:
        reason = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        yield Change(
            code="app_table_missing",
            object=f"schema {declaration.app_schema}",
            message=f"In the schema {declaration.app_schema}, {reason}.",
            statement=Script(script, declaration.app_owner, declaration.app_schema, reason),
            before="",
            after="\n".join(f"table {quote((declaration.app_schema, table))}" for table in missing),
        )


def _workflow_runs(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    if declaration.events is None:
        return
    found, schema, owner = catalog.workflow_runs, declaration.app_schema, declaration.app_owner
    name = f"view {quote((schema, workflow_runs.NAME))}"
    text = workflow_runs.body(declaration.events, [(tenant.name, tenant.schema) for tenant in declaration.tenants])
    recreate = workflow_runs.must_be_new(found, schema, owner, declaration.app_login)
    if not recreate and found.body == text:
        return
    missing = not found.relation
    yield Change(
        "workflow_runs_missing" if missing else "workflow_runs_differs",
        name,
        f"The {name}, of all flow runs with the application's events, "
        + ("does not exist." if missing else "is not as declared."),
        workflow_runs.statement(schema, owner, text, recreate),
        "" if missing else f"{name}: another definition",
        f"{name}: {', '.join(tenant.schema for tenant in declaration.tenants)} with {declaration.events.table}",
    )


def _deviations(
    declaration: Declaration, have: Rights, want: dict[str, Privileges], owner: str = ""
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield verb, grantee and privileges, for PUBLIC and every declared role except the owner, who has all rights."""
    for grantee in (PUBLIC, *declaration.roles):
        if grantee == owner and owner:
            continue
        held, wanted = have.get(grantee, {}), want.get(grantee, NONE)
        found = {
            "REVOKE": set(held) - wanted,
            "REVOKE GRANT OPTION FOR": {name for name in wanted if held.get(name)},
            "GRANT": wanted - set(held),
        }
        for verb, privileges in found.items():
            if privileges:
                yield verb, grantee, tuple(sorted(privileges, key=_ORDER.index))


def _granting(
    verb: str,
    grantee: str,
    privileges: tuple[str, ...],
    on: str,
    names: tuple[Any, ...],
    columns: tuple[str, ...] = (),
) -> tuple[str, tuple[Any, ...]]:
    """Return the template and the arguments of a GRANT or REVOKE."""
    listed = ", ".join(f"{privilege} ({{}})" if columns else privilege for privilege in privileges)
    lists = (Names(columns),) * len(privileges) if columns else ()
    direction, cascade = ("TO", "") if verb == "GRANT" else ("FROM", " CASCADE")
    to = "{}" if grantee else "PUBLIC"
    roles = (grantee,) if grantee else ()
    return f"{verb} {listed} ON {on} {direction} {to}{cascade}", (*lists, *names, *roles)


def _default_rights(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    exclusive = catalog.is_exclusive(declaration)
    for schema, creator in declaration.owners.items():
        for scope in ("", schema):
            for kind in ("table", "sequence", "function"):
                have = catalog.default_rights.get(DefaultRights(creator, scope, kind), {})
                is_new = creator not in catalog.roles or not catalog.database_exists
                if is_new and not scope and kind == "function":
                    have = {PUBLIC: {"EXECUTE": False}}  # PostgreSQL's default where nothing else was said yet
                want = declaration.rights(kind, scope) if scope else {}
                for verb, grantee, privileges in _deviations(declaration, have, want, creator):
                    if grantee == PUBLIC and creator == declaration.app_owner and not exclusive:
                        continue
                    template, arguments = _granting(verb, grantee, privileges, f"{kind.upper()}S", ())
                    target = " IN SCHEMA {}" if scope else ""
                    scopes = (scope,) if scope else ()
                    words = f"{', '.join(privileges)} on {kind}s that {creator} creates"
                    line = f"default {words}{f' in {scope}' if scope else ''}: {grantee or 'PUBLIC'}"
                    yield Change(
                        f"default_right_{'missing' if verb == 'GRANT' else 'excess'}",
                        f"role {creator}",
                        f"{grantee or 'PUBLIC'} {'lacks' if verb == 'GRANT' else 'gets'} {words}"
                        f"{f' in the schema {scope}' if scope else ''}.",
                        Statement(
                            f"ALTER DEFAULT PRIVILEGES FOR ROLE {{}}{target} {template}", (creator, *scopes, *arguments)
                        ),
                        "" if verb == "GRANT" else line,
                        line if verb == "GRANT" else "",
                    )


def _rights(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    """Grant and revoke rights on existing objects; the same right on many objects is one statement."""
    things = dict.fromkeys(
        [
            Object("database", name=declaration.database),
            *(Object("schema", schema) for schema in declaration.schemas),
            *sorted(catalog.rights, key=lambda thing: (bool(thing.column), thing)),
        ]
    )
    revoked: set[tuple[str, str, str]] = set()  # what is revoked on a table is revoked on its columns too
    exclusive, public = catalog.is_exclusive(declaration), declaration.app_schema
    groups: dict[tuple[str, str, str, str, str, tuple[str, ...]], list[Object]] = {}
    for thing in things:
        want = declaration.rights(thing.kind, thing.schema, thing.name, thing.column)
        owner = _future_owner(catalog, declaration, thing)
        have = catalog.rights.get(thing, {})
        if thing.column:
            have = {role: held for role, held in have.items() if (thing.schema, thing.name, role) not in revoked}
        for verb, grantee, privileges in _deviations(declaration, have, want, owner):
            if grantee == PUBLIC and not exclusive and (thing.kind == "database" or thing.schema == public):
                continue  # others may depend on it
            if thing.kind == "table" and verb != "GRANT":
                revoked.add((thing.schema, thing.name, grantee))
            table = thing.name if thing.column else ""
            groups.setdefault((thing.kind, thing.schema, table, verb, grantee, privileges), []).append(thing)
    for (kind, schema, table, verb, grantee, privileges), members in groups.items():
        names: tuple[Any, ...] = tuple(
            {"database": thing.name, "schema": thing.schema}.get(kind, (thing.schema, thing.name))
            for thing in (members[:1] if table else members)
        )
        columns = tuple(thing.column for thing in members if table)
        on = {"column": "TABLE"}.get(kind, kind.upper())
        template, arguments = _granting(verb, grantee, privileges, f"{on} {{}}", (Names(names),), columns)
        lines = [f"{kind} {quote(name)}: {grantee or 'PUBLIC'} {', '.join(privileges)}" for name in names]
        what = f"{kind} {quote(names[0])}" if len(names) == 1 else f"{len(names)} {kind}s of {quote(schema)}"
        if columns:
            listed = ", ".join(map(quote, columns))
            what = f"column{'s' if len(columns) > 1 else ''} {listed} of {quote(names[0])}"
            lines = [f"{what}: {grantee or 'PUBLIC'} {', '.join(privileges)}"]
        message = (
            f"{grantee or 'PUBLIC'} {'lacks' if verb == 'GRANT' else 'has'} {', '.join(privileges)} "
            f"{'' if verb != 'REVOKE GRANT OPTION FOR' else 'with grant option '}on the {what}."
        )
        whole = verb == "GRANT" and (schema, table, grantee) in revoked
        if whole:
            message = f"{grantee} has {', '.join(privileges)} on the whole table, not only on the {what}."
        yield Change(
            f"right_{'missing' if verb == 'GRANT' and not whole else 'excess'}",
            what,
            message,
            Statement(template, arguments),
            "" if verb == "GRANT" else "\n".join(lines),
            "\n".join(lines) if verb == "GRANT" else "",
        )


def _future_owner(catalog: Catalog, declaration: Declaration, thing: Object) -> str:
    """Return the owner of an object after the changes that precede the grants."""
    if thing.kind == "database":
        return declaration.database_owner
    owner = declaration.owners.get(thing.schema, "")
    if thing.kind == "schema" or (thing.schema in declaration.of_tenants and thing.name in TABLES):
        return owner
    table = Object(thing.kind if thing.kind == "sequence" else "table", thing.schema, thing.name)
    return catalog.owners.get(table, "")
