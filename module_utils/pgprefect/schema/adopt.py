"""Adoption of a database in which Prefect and the application are not separated.

Prefect's tables move out of the application's schema, extensions get their own, and everything gets its declared
owner. No row is copied, only the catalog changes. ``plan.apply`` does the rest afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.connection import Login, connect
from ..core.prefect import ENUMS, SIGNATURE, TABLES
from ..core.problems import WARNING, Problem
from ..core.sql import Names, Statement, quote, quote_literal
from .catalog import Catalog, Object, read
from .declaration import Declaration
from .plan import Blocked, Change, Plan, execute_plan, make_plan
from .revision import stored_revisions
from .structure import Structure, known_structure, read_structures
from .structure_data import STRUCTURES
from .verify import other_owners

# The blockers that adoption resolves. Every other blocker of the declaration blocks adoption too.
_RESOLVED = frozenset({"prefect_in_public", "extension_schema", "database_owner", "schema_owner"})

# Changes that disturb a running Prefect.
_DISTURBING = frozenset({"prefect_in_public", "object_owner", "extension_schema", "schema_owner"})

OLDEST_INVOKER = 150000  # the first server with views that run with their reader's rights


@dataclass(frozen=True)
class Adoption:
    """The changes of an adoption; ``warnings`` are problems that a person should resolve afterwards."""

    changes: list[Change]
    warnings: list[Problem]


# Default privileges are no obstacle.
_HELD = """
SELECT pg_describe_object(classid, objid, objsubid)
FROM pg_depend JOIN pg_namespace n ON refclassid = 'pg_namespace'::regclass AND refobjid = n.oid
WHERE nspname = %(schema)s AND classid <> 'pg_default_acl'::regclass
ORDER BY 1
"""

# A session of Prefect's pool ends with a bare COMMIT or ROLLBACK; only its listener says more.
_SESSIONS = """
SELECT pid, usename, coalesce(host(client_addr), 'the unix socket'), application_name
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND (query ~* %(words)s
       OR query ~ '^(BEGIN|COMMIT|ROLLBACK)\\y.*;$'
          AND usesysid IN (SELECT relowner FROM pg_class WHERE relkind = 'r' AND relname = ANY(%(signature)s::name[])))
ORDER BY backend_start
"""

_VIEWS = """
SELECT DISTINCT vn.nspname, v.relname, v.relkind = 'v', pg_get_userbyid(v.relowner), r.rolsuper,
       EXISTS (SELECT FROM unnest(v.reloptions) entry WHERE entry ~ '^security_invoker=(true|on|1|yes)$')
FROM pg_depend d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
     JOIN pg_class v ON v.oid = w.ev_class JOIN pg_namespace vn ON vn.oid = v.relnamespace
     JOIN pg_roles r ON r.oid = v.relowner
     JOIN pg_class t ON d.refclassid = 'pg_class'::regclass AND t.oid = d.refobjid
     JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE v.relkind IN ('v', 'm') AND vn.nspname <> ALL(%(tenants)s::name[])
  AND (tn.nspname || '.' || t.relname) = ANY(%(tables)s)
ORDER BY 1, 2
"""

_TRIGGERS = """
SELECT tgname, n.nspname, c.relname, p.oid::regprocedure::text
FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = relnamespace
     JOIN pg_proc p ON p.oid = tgfoid
WHERE NOT tgisinternal AND NOT prosecdef AND (nspname || '.' || relname) = ANY(%(tables)s)
ORDER BY 1, 2, 3
"""

# PostgreSQL resolves the names in a function's text when it runs, so they do not follow a table that moves.
_FUNCTIONS = """
SELECT p.oid::regprocedure::text
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE n.nspname !~ '^pg_|^information_schema$'
  AND (prosrc ~* %(qualified)s
       OR prosrc ~* %(signature)s
          AND (prosecdef OR EXISTS (SELECT FROM unnest(proconfig) entry WHERE entry LIKE 'search\\_path=%%')))
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
ORDER BY 1
"""


def adopt(login: Login, declaration: Declaration, dry_run: bool = False) -> Adoption:
    """Adopt the database in one transaction. Where it is as declared already, there is nothing to do.

    With ``dry_run`` return the changes that would be made; a Prefect that still runs is then only a warning. Raises
    Blocked and ConnectionFailed before anything is changed.
    """
    connection = connect(login, declaration.database)
    import psycopg2

    sessions: list[Problem] = []

    def plan() -> Plan:
        planned = plan_adoption(connection, declaration)
        if any(change.code in _DISTURBING for change in planned.changes):
            sessions[:] = _sessions(connection, declaration.database)
            planned.blockers += [] if dry_run else sessions
        return planned

    try:
        functions = list(_functions(connection, declaration))
        changes = execute_plan(connection, declaration.database, plan, dry_run)
        if not any(change.code == "prefect_in_public" for change in changes):
            functions = []
        warnings = [replace(problem, severity=WARNING) for problem in (*sessions, *functions)]
    except psycopg2.Error as error:
        message = (
            f"The adoption of the database {declaration.database} stopped, and everything is as it was: {error}".strip()
        )
        remedy = (
            "See what locks a table (pg_locks, pg_stat_activity), such as a migration, and run this again afterwards."
        )
        raise Blocked([Problem("adoption_stopped", f"database {declaration.database}", message, remedy)]) from error
    finally:
        connection.close()
    return Adoption(changes, warnings)


def plan_adoption(connection: Any, declaration: Declaration) -> Plan:
    """Return what blocks an adoption, or the changes in the order in which they must be executed."""
    catalog = read(connection, declaration)
    wanted = make_plan(catalog, declaration)
    blockers = [problem for problem in wanted.blockers if problem.code not in _RESOLVED]
    if blockers:
        return Plan(blockers)
    public, target = declaration.app_schema, declaration.tenants[0]
    with connection.cursor() as cursor:
        structure = read_structures(cursor, [public], declaration.extensions_schema)[public]
        versioned = "version_num" in _columns(structure, "alembic_version")
        stored = stored_revisions(connection, public) if versioned else []
        moving: tuple[list[str], list[str]] = ([], [])
        if public in catalog.prefect_schemas or any(known_structure(revision) for revision in stored):
            blockers = list(_unclear(catalog, declaration, structure, stored))
            blockers += _target(cursor, catalog, declaration)
            if blockers:
                return Plan(blockers)
            known = known_structure(stored[0]) or {}
            enums = sorted(part.name for part in known if part.kind == "enum")
            moving = (sorted(_tables(known)), enums)

        here = [(public, name) for name in moving[0]]
        there = [change for change in wanted.changes if change.code == "object_owner"]
        places = here + [
            (thing.schema, thing.name)
            for thing in catalog.owners
            for tenant in declaration.tenants
            if thing.kind == "table" and thing.schema == tenant.schema and thing.name in TABLES
        ]
        handed_over = bool(here or there)
        views, blockers = _views(cursor, catalog, declaration, places, handed_over)
        if handed_over:
            blockers += _triggers(cursor, places)
        changes = [
            *_database(catalog, declaration),
            *_extensions(catalog, declaration),
            *_moves(moving, public, target.schema),
            *views,
            *_moved_owners(catalog, moving, public, target.schema, target.owner),
            *there,
            *_application_owners(catalog, declaration, moving),
            *_other_owners(cursor, declaration),
        ]
    if not changes and not any(problem.code in _RESOLVED for problem in wanted.blockers):
        return Plan()
    return Plan(blockers, [*_before(wanted.changes, declaration), *_schemas(catalog, declaration), *changes])


def _columns(structure: Structure, table: str) -> dict[str, str]:
    return {
        part.name: found.definition
        for part, found in structure.items()
        if part.kind == "column" and part.table == table
    }


def _tables(structure: Structure) -> set[str]:
    return {part.table for part in structure if part.table}


def _unclear(catalog: Catalog, declaration: Declaration, structure: Structure, stored: list[str]) -> Iterator[Problem]:
    """Report what cannot be identified as Prefect's, where Prefect is in the application's schema."""
    public = declaration.app_schema
    version = quote((public, "alembic_version"))
    known = ", ".join(STRUCTURES)
    strangers = [revision for revision in stored if not known_structure(revision)]
    if len(stored) != 1:
        has = f"the revisions {', '.join(stored)}" if stored else "no revision of Prefect's"
        yield Problem(
            "alembic_version_shared" if stored else "alembic_version_foreign",
            f"table {version}",
            f"Prefect's tables are in the schema {public}, and {version} holds {has}, where one of {known} is "
            "expected: another program uses the table, alone or as well.",
            f"Give the other program an alembic_version of its own (Alembic's version_table), so that {version} holds "
            "Prefect's revision alone, which the Prefect that ran here until now knows.",
        )
        return
    if strangers:
        yield Problem(
            code="revision_unknown",
            object=f"table {version}",
            message=f"{version} holds the revision {stored[0]}. It belongs to another program, or to a release of "
            f"Prefect that this pgprefect does not know; it knows {known}.",
            remedy="If it is Prefect's: run `prefect server database upgrade -y` of the release that prefect_version "
            "names "
            "against this database as it is, and adopt afterwards. If it is another program's: give that program "
            "an alembic_version of its own.",
        )
        return
    wanted = known_structure(stored[0]) or {}
    tables = catalog.tables(public)
    missing = sorted(_tables(wanted) - set(tables))
    missing += sorted(part.name for part in wanted if part.kind == "enum" and part not in structure)
    if missing:
        yield Problem(
            code="prefect_tables_incomplete",
            object=f"schema {public}",
            message=f"{version} holds Prefect's revision {stored[0]}, but of its tables and enums the schema "
            f"{public} lacks {', '.join(missing)}.",
            remedy=f"Bring them back to the schema {public} from a backup or from the schema that they are in; or, "
            "where "
            f"Prefect is not there at all: DELETE FROM {version} WHERE version_num = {quote_literal(stored[0])};",
        )
    for table in sorted(TABLES.intersection(tables)):
        have, want = _columns(structure, table), _columns(wanted, table)
        if have != want:
            yield _not_prefects(f"table {quote((public, table))}", "columns", have, want)
    for part, found in sorted(wanted.items()):
        if part.kind == "enum" and part in structure and structure[part].definition != found.definition:
            have, want = (
                dict.fromkeys(text.split(", "), "") for text in (structure[part].definition, found.definition)
            )
            yield _not_prefects(f"type {quote((public, part.name))}", "labels", have, want)


def _not_prefects(where: str, what: str, have: Mapping[str, str], want: Mapping[str, str]) -> Problem:
    lacks, more = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    others = sorted(name for name in have if name in want and have[name] != want[name])
    listed = [
        *([f"lacks {', '.join(lacks)}"] if lacks else []),
        *([f"has {', '.join(more)} besides"] if more else []),
        *([f"has another {', '.join(others)}"] if others else []),
    ]
    return Problem(
        "prefect_table_unclear",
        where,
        f"The {where} has the name of one of Prefect's, but other {what}: "
        f"it {' and '.join(listed) or 'has another order'}. It is the application's, or somebody changed it.",
        f"Where it is the application's, rename it; where it is Prefect's, make its {what} as Prefect does.",
    )


def _target(cursor: Any, catalog: Catalog, declaration: Declaration) -> Iterator[Problem]:
    """Report what is in the schema to which Prefect's tables would move: it must be empty."""
    schema = declaration.tenants[0].schema
    both = sorted(TABLES.intersection(catalog.tables(schema)))
    if both:
        yield Problem(
            code="prefect_in_both",
            object=f"schema {schema}",
            message=f"Prefect's tables are in the schema {declaration.app_schema} and also in {schema}: "
            f"{', '.join(both)}.",
            remedy="Find out which of them Prefect uses (the newest rows of flow_run), then dump and drop the others; "
            f"where those of {schema} are not needed: DROP SCHEMA {quote(schema)} CASCADE;",
        )
        return
    cursor.execute(_HELD, {"schema": schema})
    held = [name for (name,) in cursor]
    if held:
        yield Problem(
            code="target_schema_taken",
            object=f"schema {schema}",
            message=f"The schema {schema}, to which Prefect's tables would move, is not empty: {', '.join(held)}.",
            remedy="Move it to another schema (ALTER ... SET SCHEMA), or give the tenant "
            f"{declaration.tenants[0].name} another schema.",
        )


def _sessions(connection: Any, database: str) -> Iterator[Problem]:
    words = rf'^LISTEN "?prefect_|\y({"|".join(SIGNATURE)})\y'
    with connection.cursor() as cursor:
        cursor.execute(_SESSIONS, {"words": words, "signature": list(SIGNATURE)})
        found = [f"{pid} ({user} from {host}{f', {name}' if name else ''})" for pid, user, host, name in cursor]
    if found:
        yield Problem(
            code="prefect_running",
            object=f"database {database}",
            message=f"Prefect seems to be running; these sessions of the database {database} are its own: "
            f"{', '.join(found)}.",
            remedy="Stop Prefect's server and its services (and what else logs in as they do), and run this again; "
            "end a session that remains: SELECT pg_terminate_backend(PID);",
        )


def _functions(connection: Any, declaration: Declaration) -> Iterator[Problem]:
    public, target = declaration.app_schema, quote(declaration.tenants[0].schema)
    qualified = rf"\y{public}\.({'|'.join(sorted({*TABLES, *ENUMS}))})\y"
    with connection.cursor() as cursor:
        cursor.execute(_FUNCTIONS, {"qualified": qualified, "signature": rf"\y({'|'.join(SIGNATURE)})\y"})
        for (function,) in cursor:
            yield Problem(
                code="function_names_prefect",
                object=f"function {function}",
                message=f"The function {function} names Prefect's tables, and will not find them, or not be allowed "
                f"to read them, when they are not in the schema {public}.",
                remedy=f"Afterwards qualify these names with {target}, and let a role that may read them run it.",
            )


def _before(changes: list[Change], declaration: Declaration) -> Iterator[Change]:
    """Yield the changes that create the declared owners and schemas."""
    owners = {f"role {role}" for role in declaration.owners.values()}
    for change in changes:
        if change.code == "role_missing" and change.object in owners:
            yield change
    yield from (change for change in changes if change.code in ("schema_missing", "schema_owner"))


def _schemas(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    """Give the extensions' schema to the administrator; the declaration gives the others."""
    schema = declaration.extensions_schema
    actual = catalog.schema_owners.get(schema)
    if actual is not None and actual not in catalog.superusers:
        yield Change(
            code="schema_owner",
            object=f"schema {schema}",
            message=f"The schema {schema} belongs to {actual}, not to a superuser.",
            statement=Statement("ALTER SCHEMA {} OWNER TO CURRENT_USER", (schema,)),
            before=f"schema {schema}: owner {actual}",
            after=f"schema {schema}: owner the administrator",
        )


def _database(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    if catalog.database_owner != declaration.app_owner:
        where = f"database {quote(declaration.database)}"
        yield Change(
            code="database_owner",
            object=where,
            message=f"The {where} belongs to {catalog.database_owner} instead of {declaration.app_owner}.",
            statement=Statement("ALTER DATABASE {} OWNER TO {}", (declaration.database, declaration.app_owner)),
            before=f"{where}: owner {catalog.database_owner}",
            after=f"{where}: owner {declaration.app_owner}",
        )


def _extensions(catalog: Catalog, declaration: Declaration) -> Iterator[Change]:
    for extension in declaration.extensions:
        schema = catalog.extension_schemas.get(extension, declaration.extensions_schema)
        if schema != declaration.extensions_schema:
            yield Change(
                code="extension_schema",
                object=f"extension {extension}",
                message=f"The extension {extension} is in the schema {schema}.",
                statement=Statement("ALTER EXTENSION {} SET SCHEMA {}", (extension, declaration.extensions_schema)),
                before=f"extension {extension}: schema {schema}",
                after=f"extension {extension}: schema {declaration.extensions_schema}",
            )


def _moves(moving: tuple[list[str], list[str]], source: str, target: str) -> Iterator[Change]:
    """Move tables and types. Their indexes, constraints, owned sequences, and views on them follow by themselves."""
    for kind, names in zip(("TABLE", "TYPE"), moving):
        for name in names:
            here = f"{kind.lower()} {quote((source, name))}"
            yield Change(
                "prefect_in_public",
                here,
                f"Prefect's {here} is in the application's schema.",
                Statement(f"ALTER {kind} {{}} SET SCHEMA {{}}", (Names(((source, name),)), target)),
                here,
                f"{kind.lower()} {quote((target, name))}",
            )


def _moved_owners(
    catalog: Catalog, moving: tuple[list[str], list[str]], source: str, target: str, wanted: str
) -> Iterator[Change]:
    for name in moving[0]:
        yield from _owner("TABLE", (target, name), catalog.owners[Object("table", source, name)], wanted, source)
    for name in moving[1]:
        yield from _owner("TYPE", (target, name), catalog.enums[(source, name)], wanted, source)


def _application_owners(
    catalog: Catalog, declaration: Declaration, moving: tuple[list[str], list[str]]
) -> Iterator[Change]:
    """Give the application's relations to its owner. ALTER TABLE serves views too; columns' sequences follow."""
    public = declaration.app_schema
    for thing, owner in sorted(catalog.owners.items()):
        if thing.kind == "table" and thing.schema == public and thing.name not in moving[0]:
            yield from _owner("TABLE", (public, thing.name), owner, declaration.app_owner)
    for (schema, name), owner in sorted(catalog.enums.items()):
        if schema == public and name in ENUMS and name not in moving[1]:
            yield from _owner("TYPE", (public, name), owner, declaration.app_owner)


def _owner(kind: str, name: tuple[str, str], owner: str, wanted: str, source: str = "") -> Iterator[Change]:
    """Change the owner of an object; ``source`` is the schema in which it was before."""
    if owner != wanted:
        where = f"{kind.lower()} {quote(name)}"
        yield Change(
            code="owner_differs",
            object=where,
            message=f"The {where} belongs to {owner} instead of {wanted}.",
            statement=Statement(f"ALTER {kind} {{}} OWNER TO {{}}", (Names((name,)), wanted)),
            before=f"{kind.lower()} {quote((source or name[0], name[1]))}: owner {owner}",
            after=f"{where}: owner {wanted}",
        )


def _other_owners(cursor: Any, declaration: Declaration) -> Iterator[Change]:
    for kind, name, owner, wanted in other_owners(cursor, declaration):
        where = f"{kind.lower()} {name}"
        # PostgreSQL has quoted the name, together with the types of a routine's arguments.
        text = name.replace("{", "{{").replace("}", "}}")
        yield Change(
            code="owner_differs",
            object=where,
            message=f"The {where} belongs to {owner} instead of {wanted}.",
            statement=Statement(f"ALTER {kind} {text} OWNER TO {{}}", (wanted,)),
            before=f"{where}: owner {owner}",
            after=f"{where}: owner {wanted}",
        )


def _views(
    cursor: Any, catalog: Catalog, declaration: Declaration, places: list[tuple[str, str]], handed_over: bool
) -> tuple[list[Change], list[Problem]]:
    """Change views that read Prefect's tables with their owner's rights, which that owner will not have."""
    changes: list[Change] = []
    problems: list[Problem] = []
    tenants = [tenant.schema for tenant in declaration.tenants]
    cursor.execute(_VIEWS, {"tenants": tenants, "tables": [".".join(place) for place in places]})
    for schema, name, plain, owner, by_superuser, invoker in cursor:
        ours = schema == declaration.app_schema
        keeps_owner = owner == declaration.app_owner if ours else True
        if invoker or (keeps_owner and not handed_over) or (by_superuser and not ours):
            continue
        where = f"view {quote((schema, name))}"
        if ours and plain and catalog.server_version >= OLDEST_INVOKER:
            changes.append(
                Change(
                    code="view_reads_prefect",
                    object=where,
                    message=f"The {where} reads Prefect's tables with the rights of its owner.",
                    statement=Statement("ALTER VIEW {} SET (security_invoker = true)", (Names(((schema, name),)),)),
                    before=f"{where}: with the rights of {owner}",
                    after=f"{where}: with the rights of its reader",
                )
            )
            continue
        what = "view" if plain else "materialized view"
        problems.append(
            Problem(
                "view_loses_prefect",
                where,
                f"The {what} {quote((schema, name))} reads Prefect's tables with its owner's rights, and its owner "
                "will have none there.",
                f"Keep its definition, DROP {what.upper()} {quote((schema, name))}; and create it again after this, "
                f"owned by a role that may read the schema {declaration.tenants[0].schema}.",
            )
        )
    return changes, problems


def _triggers(cursor: Any, places: list[tuple[str, str]]) -> Iterator[Problem]:
    """Report triggers on Prefect's tables: they run as Prefect's roles, which have no rights elsewhere."""
    cursor.execute(_TRIGGERS, {"tables": [".".join(place) for place in places]})
    for trigger, schema, table, function in cursor:
        where = f"trigger {quote(trigger)} on {quote((schema, table))}"
        yield Problem(
            "trigger_on_prefect",
            where,
            f"The {where} runs {function} with the rights of Prefect's server, which has none in the application's "
            "schema: where it touches that, Prefect's own statements would fail.",
            f"DROP TRIGGER {quote(trigger)} ON {quote((schema, table))}; or: ALTER FUNCTION {function} SECURITY "
            "DEFINER SET search_path = pg_catalog, public, pg_temp;",
        )
