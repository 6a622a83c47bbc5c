"""The session of a restore: a login of its own that acts as one owner after the other, and loads dumps.

What a dump has of functions, constraints and views runs with the rights of the session. So the session is never a
superuser's: its role can do nothing by itself, and the administrator makes it a member of one owner at a time, from
another session. Code that resets the role finds no other right than the owner's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ..core.connection import ConnectionFailed, Login, connect
from ..core.process import Process, decompression
from ..core.scram import scram_verifier
from ..core.sql import Statement, Value

ROLE = "pgprefect_restore"
# What the owners may use meanwhile is this role's. Any later restore drops it, also on a host that became the primary.
USES = "pgprefect_restore_uses"
_CHUNK = 1 << 16
_STATEMENTS = 1 << 20  # of SQL without rows that are executed in one go
# Words for psql, a change of roles that no owner may make, and a setting that servers before PostgreSQL 17 do not know.
_NOT_OURS = (
    b"\\restrict ",
    b"\\unrestrict ",
    b"SET SESSION AUTHORIZATION ",
    b"RESET SESSION AUTHORIZATION;",
    b"SET transaction_timeout = 0;",
)
_log = logging.getLogger(__name__)


@dataclass
class Session:
    """An open session of the role, and the administrator's, which lets it act as an owner."""

    connection: Any
    administration: Any
    owner: str = ""

    def act_as(self, owner: str) -> None:
        """Act as this owner and as nobody else any more; as nobody where it is empty."""
        if owner == self.owner:
            return
        cursor = self.connection.cursor()
        if self.owner:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what is deferred runs as the one who deferred it
            cursor.execute("RESET ROLE")
            self._grant("REVOKE {} FROM {}", self.owner)
        if owner:
            self._grant("GRANT {} TO {}", owner)
            # A session learns of other sessions' grants when it looks up what it has never looked up.
            cursor.execute("SELECT to_regrole(%s)", (secrets.token_hex(8),))
            Statement("SET ROLE {}", (owner,)).execute(cursor)
        self.owner = owner
        cursor.close()

    def _grant(self, template: str, owner: str) -> None:
        with self.administration.cursor() as cursor:
            Statement(template, (owner, ROLE)).execute(cursor)

    def load(self, stream: IO[bytes], change: Callable[[bytes], bytes] = bytes, contents: bool = False) -> None:
        """Execute what pg_restore writes: SQL, which ``change`` may change, and rows after each COPY.

        Around the ``contents`` of large objects it writes BEGIN and COMMIT, which would end the transaction.
        """
        text = bytearray(b"\n")
        with self.connection.cursor() as cursor:
            for line in stream:
                if line.startswith(_NOT_OURS) or (contents and line in (b"BEGIN;\n", b"COMMIT;\n")):
                    continue
                text += line
                if line.endswith(b" FROM stdin;\n") and (place := text.rfind(b"\nCOPY ")) >= 0:
                    if _says_something(before := bytes(text[:place])):
                        cursor.execute(change(before))
                    cursor.copy_expert(change(bytes(text[place + 1 :])), _Rows(stream), _CHUNK)
                    text.clear()
                elif len(text) > _STATEMENTS and line.endswith(b";\n"):
                    cursor.execute(change(bytes(text)))
                    text.clear()
            if _says_something(text):
                cursor.execute(change(bytes(text)))

    def execute_all(self, stream: IO[bytes]) -> None:
        """Execute what pg_restore writes of definitions, which have no rows."""
        # A grant by a role that was allowed to grant becomes the owner's own: this session can be nobody else.
        text = b"".join(line for line in stream if not line.startswith(_NOT_OURS))
        if _says_something(text):
            with self.connection.cursor() as cursor:
                cursor.execute(text)


def _says_something(text: bytes | bytearray) -> bool:
    return any(line.strip() and not line.startswith(b"--") for line in text.splitlines())


class _Rows:
    """The rows after a COPY, up to the line that ends them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._ended = stream, False

    def read(self, size: int = _CHUNK) -> bytes:
        lines: list[bytes] = []
        length = 0
        while not self._ended and length < size:
            line = self._stream.readline()
            if line in (b"\\.\n", b""):
                self._ended = True
            else:
                lines.append(line)
                length += len(line)
        return b"".join(lines)


@contextlib.contextmanager
def session(login: Login, database: str, owners: Sequence[str], large_objects: bool = False) -> Iterator[Session]:
    """Make the role, open its session with one transaction, and remove the role afterwards.

    The login is the administrator's. The caller commits. Raises ConnectionFailed and psycopg2's errors.
    """
    import psycopg2

    remove_role(login, [database])
    password = secrets.token_urlsafe(24)
    administration = connect(login, database)
    administration.autocommit = True
    connection = None
    try:
        with administration.cursor() as cursor:
            verifier = Value(scram_verifier(password), secret=True)
            Statement("CREATE ROLE {} LOGIN NOINHERIT PASSWORD {}", (ROLE, verifier)).execute(cursor)
            Statement("GRANT CONNECT ON DATABASE {} TO {}", (database, ROLE)).execute(cursor)
            is_superuser = _may_end(cursor)
            # They have other owners, and no schema whose owner may remove them.
            if large_objects and is_superuser:
                template = "ALTER ROLE {} IN DATABASE {} SET lo_compat_privileges TO 'on'"
                Statement(template, (ROLE, database)).execute(cursor)
        connection = connect(replace(login, user=ROLE, password=password, passfile=None), database)
        _log.info("Opened a session of %s on the database %s, to act as %s.", ROLE, database, ", ".join(owners))
        yield Session(connection, administration)
    finally:
        if connection is not None:
            connection.close()
        administration.close()
        try:
            remove_role(login, [database])
        except (ConnectionFailed, psycopg2.Error) as error:  # such as of a server that became a standby
            _log.warning("The role %s is still there until the next restore: %s", ROLE, error)


def _may_end(cursor: Any, role: str = ROLE) -> bool:
    """Let an administrator end the role's sessions and drop what it has; return whether it is a superuser."""
    cursor.execute("SELECT rolsuper, rolname FROM pg_roles WHERE rolname = current_user")
    is_superuser, administrator = cursor.fetchone()
    if not is_superuser:
        Statement("GRANT {} TO {}", (role, administrator)).execute(cursor)
    return bool(is_superuser)


def remove_role(login: Login, databases: Sequence[str], role: str = ROLE) -> None:
    """End the sessions of the role and drop it, where it exists, with what it owns in these databases."""
    with contextlib.closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
        if cursor.fetchone() is None:
            return
        Statement("ALTER ROLE {} NOLOGIN", (role,)).execute(cursor)
        _may_end(cursor, role)
        cursor.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s", (role,))
        cursor.execute("SELECT datname FROM pg_database WHERE datname = ANY(%s::name[])", (list(databases),))
        for (database,) in cursor.fetchall():
            with contextlib.closing(connect(login, database)) as inside, inside.cursor() as statements:
                inside.autocommit = True
                Statement("DROP OWNED BY {}", (role,)).execute(statements)
        Statement("DROP ROLE {}", (role,)).execute(cursor)


# What a list of pg_restore has for each object: number, catalog, number there, kind, schema, name, owner.
_ENTRY = re.compile(rb"\d+; \d+ \d+ .*")
_SCHEMA = re.compile(rb"\d+; \d+ \d+ SCHEMA - ")
# A copy has not their functions. playbooks/database.yml creates them for whatever the tables are then.
_EVENT_TRIGGER = re.compile(rb"\d+; \d+ \d+ TRIGGER .* pgprefect-")
_RIGHTS = re.compile(rb"\d+; \d+ \d+ (DEFAULT )?ACL ")
_DEFAULT_RIGHTS = re.compile(rb"\d+; \d+ \d+ DEFAULT ACL ")
_OUTSIDE = re.compile(rb"\d+; \d+ \d+ [A-Z ]+ - ")
_OF_SCHEMA = re.compile(rb"\d+; \d+ \d+ [A-Z ]+ - SCHEMA (.*)")


def contents(file: Path) -> list[bytes]:
    """Return the table of contents of a dump, without the schemas and the triggers of database events.

    Raises ProcessFailed.
    """
    with tempfile.TemporaryFile() as listed, open(file, "rb") as source:
        Process([*decompression(file.name), ["pg_restore", "--list"]], stdin=source, stdout=listed).wait()
        listed.seek(0)
        lines = listed.read().splitlines()
    return [line for line in lines if _ENTRY.match(line) and not _SCHEMA.match(line) and not _EVENT_TRIGGER.match(line)]


@dataclass
class Entries:
    """Entries of a table of contents: in schemas, and about schemas and large objects; grants, which come last."""

    inside: list[bytes] = field(default_factory=list)
    outside: list[bytes] = field(default_factory=list)
    rights: list[bytes] = field(default_factory=list)


def entries_of(listed: Sequence[bytes], schemas: Sequence[str], owner: str, large_objects: bool) -> Entries:
    """Return the entries that this owner restores into these schemas, the large objects only if they are wanted.

    Default privileges of other roles are left out: the schema stays, and so do these.
    """
    entries = Entries()
    names = b"|".join(re.escape(schema.encode()) for schema in schemas)
    inside = re.compile(rb"\d+; \d+ \d+ [A-Z ]+ (" + names + rb") ")
    for line in listed:
        is_right, is_outside = bool(_RIGHTS.match(line)), bool(_OUTSIDE.match(line))
        if _DEFAULT_RIGHTS.match(line) and not line.endswith(b" " + owner.encode()):
            continue
        if is_outside:
            about = _OF_SCHEMA.match(line)
            if about and not any(about[1].startswith(schema.encode() + b" ") for schema in schemas):
                continue
            if not about and not large_objects:
                continue
        elif not inside.match(line):
            continue
        chosen = entries.rights if is_right else entries.outside if is_outside else entries.inside
        chosen.append(line)
    return entries


@contextlib.contextmanager
def as_sql(file: Path, entries: Sequence[bytes] | None, *options: str) -> Iterator[IO[bytes]]:
    """Give a stream of the SQL of these entries of a dump, or of all. Raises ProcessFailed where it ends too early."""
    reader, writer = os.pipe()
    with list_file(entries or ()) as listed, open(file, "rb") as source, open(reader, "rb", _CHUNK) as output:
        # Whoever restores owns what comes; the names of other owners are put in place by the administrator.
        chosen = [] if entries is None else [f"--use-list={listed}"]
        command = ["pg_restore", "--file=-", "--no-owner", *chosen, *options]
        try:
            process = Process([*decompression(file.name), command], stdin=source, stdout=writer)
        finally:
            os.close(writer)
        try:
            yield output
        except BaseException:
            process.kill()
            raise
        process.wait()


@contextlib.contextmanager
def list_file(entries: Sequence[bytes]) -> Iterator[str]:
    """Write these entries to a temporary file for pg_restore's --use-list, and give its name."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(entries) + b"\n")
        file.flush()
        yield file.name
