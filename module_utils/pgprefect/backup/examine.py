"""What a restore would do and what keeps it from it, found out before anything is changed. A dry run is this alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.connection import Login, connect
from ..core.prefect import MADE_HERE
from ..core.problems import WARNING, Problem
from ..core.sql import Names, Statement, Value, quote, quote_literal, search_path_names
from ..schema import revision
from ..schema.declaration import Declaration
from . import sets
from .contents import comment_of, settings_of
from .dependents import Dependents, Published, dependents
from .session import contents
from .sets import BackupError, Dump, Manifest

_MOST_NAMED = 30


@dataclass
class Examination:
    """What a restore will do.

    ``owners`` are the roles as which each schema is filled; ``lent`` are schemas of a superuser, which have another
    owner meanwhile, with the owner that they get back (None: they keep the new one). ``schemas``, ``roles`` and
    ``extensions`` are missing and will be created. After the COMMIT the administrator gives what is ``owned`` by other
    roles to them (kind, names, arguments, owner) and executes ``afterwards``. ``notes`` are what a person should know.
    """

    manifest: Manifest
    owners: dict[str, str] = field(default_factory=dict)
    lent: dict[str, str | None] = field(default_factory=dict)
    schemas: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    extensions: dict[str, str] = field(default_factory=dict)
    owned: list[list[Any]] = field(default_factory=list)
    afterwards: list[Statement] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


@dataclass
class _Target:
    """What the restore finds in the cluster and in the database."""

    server: int = 0
    exists: bool = False
    roles: dict[str, bool] = field(default_factory=dict)  # True: a superuser
    available: frozenset[str] = frozenset()
    restricted: frozenset[str] = frozenset()  # settings that only a superuser may change
    schemas: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, str] = field(default_factory=dict)
    settings: dict[tuple[str | None, str], str] = field(default_factory=dict)
    comment: str | None = None
    publications: frozenset[str] = frozenset()
    dependents: Dependents = field(default_factory=Dependents)
    revisions: frozenset[str] = frozenset()  # that the schemas have now


def examine(
    login: Login,
    declaration: Declaration,
    path: Path,
    parts: Sequence[Dump],
    virtualenv: str | None = None,
    into: str | None = None,
    was_read: bool = False,
) -> Examination:
    """Read the set to its end, unless it just was, and find out what its restore will do. Changes nothing.

    Raises BackupError with every problem that keeps the restore from it, and ConnectionFailed.
    """
    manifest = sets.read_manifest(path) if was_read else sets.check(path)
    target = _read(login, declaration, parts, into)
    found = Examination(manifest)
    problems = [
        *_server(manifest, target, into),
        *_revisions(manifest, parts, virtualenv, target, found),
        *_owners(declaration, parts, target, found),
        *_privileged(manifest, parts),
        *_extensions(manifest, target, found),
        *_neighbours(parts, target, found),
    ]
    if problems:
        raise BackupError(*problems)
    _without_dependency(path, parts, target.dependents, found)
    _roles(manifest, parts, target, found)
    _outside(manifest, into or declaration.database, target, found)
    return found


def examine_set(login: Login, path: Path) -> Manifest:
    """Read the set to its end, and check that this server can read it. Raises BackupError and ConnectionFailed."""
    manifest = sets.check(path)
    with closing(connect(login, "postgres")) as connection:
        target = _Target(server=connection.server_version)
    if problems := list(_server(manifest, target, None)):
        raise BackupError(*problems)
    return manifest


def _read(login: Login, declaration: Declaration, parts: Sequence[Dump], into: str | None) -> _Target:
    target = _Target()
    with closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        target.server = connection.server_version
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (into,))
        target.exists = cursor.fetchone() is not None
        cursor.execute("SELECT rolname, rolsuper FROM pg_roles")
        target.roles = dict(cursor.fetchall())
        cursor.execute("SELECT name FROM pg_available_extensions")
        target.available = frozenset(name for (name,) in cursor.fetchall())
        cursor.execute("SELECT name FROM pg_settings WHERE context NOT IN ('user', 'backend')")
        target.restricted = frozenset(name for (name,) in cursor.fetchall())
    if into:
        # What ``apply`` makes of a new database.
        target.schemas = {**declaration.owners}
        target.extensions = dict.fromkeys(declaration.extensions, declaration.extensions_schema)
        target.extensions["plpgsql"] = "pg_catalog"
        target.settings = {(role, "search_path"): "" for role in declaration.search_paths}
        target.settings |= {(role, "role"): "" for role in declaration.become}
        target.settings[declaration.backup, "lo_compat_privileges"] = ""
        target.comment = MADE_HERE
        return target
    schemas = [str(part.schema) for part in parts]
    with closing(connect(login, declaration.database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT nspname, pg_get_userbyid(nspowner) FROM pg_namespace")
        target.schemas = dict(cursor.fetchall())
        cursor.execute("SELECT extname, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace")
        target.extensions = dict(cursor.fetchall())
        target.settings = {(role, str(name)): str(value) for role, name, value in settings_of(cursor)}
        target.comment = comment_of(cursor)
        cursor.execute("SELECT pubname FROM pg_publication")
        target.publications = frozenset(name for (name,) in cursor.fetchall())
        target.dependents = dependents(connection, schemas)
        target.revisions = frozenset(name for part in parts for name in _revision_of(connection, part))
    return target


def _revision_of(connection: Any, part: Dump) -> list[str]:
    return revision.stored_revisions(connection, str(part.schema)) if part.revision else []


def _server(manifest: Manifest, target: _Target, into: str | None) -> Iterator[Problem]:
    made, server = manifest.server_version // 10000, target.server // 10000
    if server < made:
        message = f"The set {manifest.name} is of PostgreSQL {made}, but this server is {server}."
        remedy = "Restore it on a server of that version or a later one."
        yield Problem("restore_older_server", manifest.name, message, remedy)
    if target.exists:
        message = f"The database {into} exists already."
        remedy = "Name one that does not exist, or drop this one by hand."
        yield Problem("restore_database_exists", f"database {into}", message, remedy)


def _revisions(
    manifest: Manifest, parts: Sequence[Dump], virtualenv: str | None, target: _Target, found: Examination
) -> Iterator[Problem]:
    revisions = [part.revision for part in parts if part.revision]
    if not virtualenv or not revisions:
        return
    version = manifest.prefect_version or "of that time"
    remedy = f"Install Prefect {version} or a later one first (prefect_version)."
    try:
        migrations = revision.installed_migrations(virtualenv)
    except revision.RevisionError:  # a host of the database alone
        for name in sorted({*revisions} - target.revisions):
            message = f"Whether the server's Prefect knows the revision {name} of the set is not known on this host."
            found.notes.append(Problem("restore_revision_unknown", manifest.name, message, remedy, WARNING))
        return
    for name in revisions:
        if revision.compare([name], migrations).state == revision.UNKNOWN:
            message = f"The set {manifest.name} is at the revision {name}, which the installed Prefect does not know."
            yield Problem("restore_newer_revision", manifest.name, message, remedy)


def _owners(declaration: Declaration, parts: Sequence[Dump], target: _Target, found: Examination) -> Iterator[Problem]:
    """Find the role as which each schema is filled: its owner, and the application's where that is a superuser."""
    for part in parts:
        schema, declared = str(part.schema), declaration.owners.get(str(part.schema))
        actual = target.schemas.get(schema)
        if actual is None:
            found.schemas.append(schema)
            known = part.owner in target.roles and not target.roles[part.owner]
            found.owners[schema] = declared or (str(part.owner) if known else declaration.app_owner)
        elif actual == declared or (not declared and not target.roles.get(actual, True)):
            found.owners[schema] = actual
        elif target.roles.get(actual, True):  # a superuser, or pg_database_owner
            found.owners[schema] = declared or declaration.app_owner
            found.lent[schema] = None if declared else actual
        else:
            yield Problem(
                code="restore_schema_owner",
                object=f"schema {schema}",
                message=f"The schema {schema} belongs to {actual}, not to {declared}, as whom it would be restored.",
                remedy=f"ALTER SCHEMA {quote(schema)} OWNER TO {quote(str(declared))};",
            )


def _privileged(manifest: Manifest, parts: Sequence[Dump]) -> Iterator[Problem]:
    names = [name for part in parts for name in part.privileged]
    if names:
        yield Problem(
            "restore_needs_superuser",
            manifest.name,
            f"Only a superuser can create {_some(names)}, and a set is never restored as a superuser.",
            "Restore the other kinds or schemas (--kind, --schema); create these by hand in a schema that is not in "
            "the set, and take them out of the application's schemas before the next backup.",
        )


def _extensions(manifest: Manifest, target: _Target, found: Examination) -> Iterator[Problem]:
    for name, schema in sorted(manifest.extensions.items()):
        if name in target.extensions:
            if target.extensions[name] != schema:
                message = (
                    f"The extension {name} is in the schema {target.extensions[name]}, in the set {manifest.name} "
                    f"it was in {schema}: what names it there cannot be restored."
                )
                remedy = f"If the restore fails by it: ALTER EXTENSION {quote(name)} SET SCHEMA {quote(schema)};"
                found.notes.append(Problem("restore_extension_moved", f"extension {name}", message, remedy, WARNING))
        elif name in target.available:
            found.extensions[name] = schema
        else:
            yield Problem(
                code="restore_extension_missing",
                object=f"extension {name}",
                message=f"The set {manifest.name} needs the extension {name}, which this server does not offer.",
                remedy="Install the package that has it (Debian: postgresql-contrib, or "
                f"postgresql-{target.server // 10000}-{name.replace('_', '-')}), and restore again.",
            )


def _neighbours(parts: Sequence[Dump], target: _Target, found: Examination) -> Iterator[Problem]:
    """Find what other schemas would lose. Publications can be put back, right after the COMMIT."""
    around = target.dependents
    schemas = ", ".join(str(part.schema) for part in parts)
    if around.lost:
        yield Problem(
            code="restore_dependents",
            object=f"schema {schemas}",
            message=f"{len(around.lost)} objects of other schemas stand on what would be replaced: "
            f"{_some(around.lost)}.",
            remedy="Drop them, restore, and recreate them (pg_dump --schema-only has their text); a schema "
            "restored_... is only dropped.",
        )
    for subscription, table in around.subscribed:
        yield Problem(
            code="restore_subscription",
            object=f"subscription {subscription}",
            message=f"The table {table} receives rows by the subscription {subscription}, which would lose it.",
            remedy=f"Take the table out of the publication there, and ALTER SUBSCRIPTION {quote(subscription)} "
            "REFRESH PUBLICATION; restore, and add it again.",
        )
    held = {(str(part.schema), table) for part in parts for table in (*part.rows, *(part.parents or {}))}
    for member in around.published:
        name = quote((member.schema, member.table))
        if (member.schema, member.table) not in held:
            yield Problem(
                code="restore_publication",
                object=f"publication {member.publication}",
                message=f"The publication {member.publication} has the table {name}, which is not in the set.",
                remedy=f"ALTER PUBLICATION {quote(member.publication)} DROP TABLE {name}; and restore.",
            )
        else:
            found.afterwards.append(published(member))
            message = (
                f"The table {name} is put back into the publication {member.publication} right after the COMMIT: what "
                "is written in between is not published."
            )
            remedy = "Let the subscribers copy the table anew (ALTER SUBSCRIPTION ... REFRESH PUBLICATION)."
            where = f"publication {member.publication}"
            found.notes.append(Problem("restore_published", where, message, remedy, WARNING))


def _without_dependency(path: Path, parts: Sequence[Dump], around: Dependents, found: Examination) -> None:
    if around.numbers:
        message = (
            f"The columns {_some(around.numbers)} may hold numbers of tables, types or functions, which get new ones."
        )
        remedy = "Write their names there again after the restore, or keep names as text."
        found.notes.append(Problem("restore_object_numbers", "columns", message, remedy, WARNING))
    if not around.texts:
        return
    held = b"\n".join(line for file in {part.file for part in parts} for line in contents(path / file)).decode()
    gone = [pair for pair in around.named if not re.search(rf" {re.escape(' '.join(pair))}[ (]", held)]
    for function, body in around.texts:
        if names := [quote(pair) for pair in gone if re.search(rf"(?<![\w.]){re.escape(quote(pair))}(?!\w)", body)]:
            message = f"The function {function} names {_some(names)}, which the set does not have."
            remedy = f"The function will fail: change it, or restore a set that has {names[0]}."
            found.notes.append(Problem("restore_named", f"function {function}", message, remedy, WARNING))


def published(member: Published) -> Statement:
    """Return the statement that adds a table to a publication."""
    template = "ALTER PUBLICATION {} ADD TABLE ONLY {}"
    arguments: list[Any] = [member.publication, Names(((member.schema, member.table),))]
    if member.columns:
        template += " ({})"
        arguments.append(Names(member.columns))
    if member.condition:
        template += f" WHERE ({member.condition.replace('{', '{{').replace('}', '}}')})"
    return Statement(template, tuple(arguments))


def _roles(manifest: Manifest, parts: Sequence[Dump], target: _Target, found: Examination) -> None:
    """Find the roles that are missing, and who owns what afterwards. Nothing is given to a superuser."""
    needed = [role for part in parts for role in (*part.roles, *(row[-1] for row in part.owners))]
    found.roles = sorted({role for role in needed if role not in target.roles})
    for role in found.roles:
        message = f"The role {role} of the set {manifest.name} does not exist: it is created without login."
        remedy = (
            f"Let it log in if it should: ALTER ROLE {quote(role)} LOGIN; with a password or a rule of pg_hba.conf."
        )
        found.notes.append(Problem("restore_role_missing", f"role {role}", message, remedy, WARNING))
    kept: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        acting = found.owners[str(part.schema)]
        if part.owner and part.owner != acting and target.roles.get(part.owner, False):
            kept.setdefault((part.owner, acting), []).append(f"what {part.owner} had in the schema {part.schema}")
        for kind, names, arguments, owner in part.owners:
            if target.roles.get(owner, False):
                name = f"{kind} {quote(tuple(names))}" + (f"({', '.join(arguments)})" if arguments else "")
                kept.setdefault((owner, acting), []).append(name)
            elif owner != acting:
                found.owned.append([kind, names, arguments, owner])
    for (owner, acting), names in kept.items():
        message = (
            f"{_some(names)}: it belonged to {owner}, and belongs to {acting} after the restore, because nothing of a "
            "set is given to a superuser."
        )
        remedy = "That is safer as it is; else ALTER ... OWNER TO, after you have looked at what it runs."
        found.notes.append(Problem("restore_owner_differs", manifest.name, message, remedy, WARNING))


def _outside(manifest: Manifest, database: str, target: _Target, found: Examination) -> None:
    """Find what stands outside the dumps and is missing: settings, the comment, publications. Nothing is replaced."""
    for role, name, value in manifest.settings:
        if (role, str(name)) in target.settings:
            continue
        on = (f"ALTER ROLE {quote(role)} IN DATABASE" if role else "ALTER DATABASE") + f" {quote(database)} SET"
        shown = f"{on} {name} TO {quote_literal(str(value))};"
        if name in target.restricted or (role and target.roles.get(role, False)):
            message = f"The setting {name} of {role or 'the database'}, {value}, is not restored: it is a superuser's."
            found.notes.append(Problem("restore_setting_left", f"database {database}", message, shown, WARNING))
        else:
            found.afterwards.append(_setting(role, str(name), str(value), database))
            if role and role not in target.roles and role not in found.roles:
                found.roles.append(role)
    comment = manifest.comment or ""
    if comment and target.comment in (None, MADE_HERE) and comment != target.comment:
        # The word by which ours is known stays.
        comment += f" ({MADE_HERE})" if target.comment and MADE_HERE not in comment else ""
        found.afterwards.append(Statement("COMMENT ON DATABASE {} IS {}", (database, Value(comment))))
    for publication in manifest.publications:
        if publication["name"] not in target.publications:
            found.afterwards += _publication(publication, found)


def _setting(role: str | None, name: str, value: str, database: str) -> Statement:
    template = "ALTER ROLE {} IN DATABASE {} SET {} TO " if role else "ALTER DATABASE {} SET {} TO "
    arguments: list[Any] = [*([role] if role else []), database, Names((tuple(name.split(".")),))]
    if name in ("search_path", "temp_tablespaces", "local_preload_libraries"):  # lists of names
        names = search_path_names(value)
        return Statement(template + "{}", (*arguments, Names(tuple(names)) if names else Value("")))
    return Statement(template + "{}", (*arguments, Value(value)))


def _publication(content: Mapping[str, Any], found: Examination) -> list[Statement]:
    """Return the statements that create a publication; one of a part of the rows is only named."""
    name = str(content["name"])
    where = f"publication {name}"
    if any(row[3] for row in content["tables"]):
        message = f"The publication {name} of the set publishes a part of the rows of a table, and is not restored."
        remedy = "Create it with its conditions: CREATE PUBLICATION (the set's manifest.json has them)."
        found.notes.append(Problem("restore_publication_left", where, message, remedy, WARNING))
        return []
    everything = " FOR ALL TABLES" if content["all"] else ""
    template = f"CREATE PUBLICATION {{}}{everything} WITH (publish = {{}}, publish_via_partition_root = {{}})"
    statements = [Statement(template, (name, Value(str(content["publish"])), Value(bool(content["root"]))))]
    statements += [published(Published(name, row[0], row[1], "", tuple(row[2]))) for row in content["tables"]]
    statements += [
        Statement("ALTER PUBLICATION {} ADD TABLES IN SCHEMA {}", (name, schema)) for schema in content["schemas"]
    ]
    message = f"The publication {name} of the set is created again; no subscriber knows of it."
    remedy = "Let the subscribers refresh: ALTER SUBSCRIPTION ... REFRESH PUBLICATION."
    found.notes.append(Problem("restore_publication_created", where, message, remedy, WARNING))
    return statements


def _some(names: Sequence[str]) -> str:
    """Return the names as a list, or the first of very many."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
