"""What a restore changes besides the data, recorded, so that a killed one is seen and taken back.

The administrator executes what a record says, so it stands where only root can write: not next to the sets, whose
owner is the user of the backups.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from ..core.connection import ConnectionFailed, Login, NotPrimary, connect, require_primary
from ..core.jobs import RESTORES
from ..core.lock import folder_lock
from ..core.problems import Problem
from ..core.sql import Statement, quote
from .examine import Examination
from .session import USES, remove_role
from .sets import BackupError

FOLDER = Path(RESTORES)
FILE = "restore.json"
_NEW = f"{FILE}.new"
_LOCK = ".lock"
_log = logging.getLogger(__name__)


@dataclass
class Record:
    """A restore that is running, or was killed.

    ``created`` means that the database is its own. ``schemas``, ``roles`` and ``extensions`` are those that it creates,
    ``lent`` are schemas with the owner that they get back, ``uses`` are pairs of a schema and the owner that may use it
    meanwhile, where that does not inherit it from the role USES. ``transaction`` is the number of the one that replaces
    the data; after its COMMIT ``owned`` and ``afterwards`` are due.
    """

    set: str
    database: str
    created: bool
    started: str
    schemas: dict[str, str] = field(default_factory=dict)
    roles: list[str] = field(default_factory=list)
    extensions: dict[str, str] = field(default_factory=dict)
    lent: dict[str, str | None] = field(default_factory=dict)
    uses: list[list[str]] = field(default_factory=list)
    owned: list[list[Any]] = field(default_factory=list)
    afterwards: list[str] = field(default_factory=list)
    transaction: str | None = None
    committed: bool = False


class Running:
    """A restore's record, kept on disk, and what the administrator does before and after its transaction."""

    def __init__(self, login: Login, record: Record, owners: dict[str, str] | None = None) -> None:
        self._login, self._path, self._record = login, FOLDER / FILE, record
        self._owners = owners or {}

    @property
    def transaction(self) -> str | None:
        """The number of the transaction that replaces the data."""
        return self._record.transaction

    def began(self, transaction: str) -> None:
        """Record the number of the transaction that replaces the data."""
        self._record.transaction = transaction
        self.write()

    def committed(self) -> None:
        """Record that the data is replaced."""
        self._record.committed = True
        self.write()

    def has_committed(self) -> bool:
        """Ask PostgreSQL whether the transaction that replaces the data was committed. Raises ConnectionFailed."""
        return _has_committed(self._login, self._record)

    def write(self) -> None:
        """Write the record durably. Raises BackupError."""
        new = FOLDER / _NEW
        try:
            with open(new, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                json.dump(asdict(self._record), file, indent=2, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            new.rename(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise _unwritable(error) from error

    def prepare(self) -> None:
        """Create the roles, schemas and extensions that are missing, and lend the schemas of superusers."""
        record = self._record
        remove_role(self._login, [record.database], USES)
        with closing(connect(self._login, record.database)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            for role in record.roles:
                Statement("CREATE ROLE {} NOLOGIN", (role,)).execute(cursor)
            present = _schemas(cursor)
            for schema, owner in record.schemas.items():
                if schema not in present:
                    Statement("CREATE SCHEMA {} AUTHORIZATION {}", (schema, owner)).execute(cursor)
            for extension, schema in record.extensions.items():
                if schema.startswith("pg_"):  # the extension itself says where
                    Statement("CREATE EXTENSION {}", (extension,)).execute(cursor)
                    continue
                Statement("CREATE SCHEMA IF NOT EXISTS {}", (schema,)).execute(cursor)
                Statement("CREATE EXTENSION {} SCHEMA {}", (extension, schema)).execute(cursor)
            for schema in record.lent:
                Statement("ALTER SCHEMA {} OWNER TO {}", (schema, self._owners[schema])).execute(cursor)
            owners = sorted(set(self._owners.values()))
            _let_use(cursor, _lacking(cursor, owners))
            record.uses = _lacking(cursor, owners)  # of owners that do not inherit
            self.write()
            for schema, owner in record.uses:
                Statement("GRANT USAGE ON SCHEMA {} TO {}", (schema, owner)).execute(cursor)

    def complete(self) -> list[str]:
        """Do what is due after the COMMIT, and remove the record. Returns what PostgreSQL refused, with its reason."""
        left: list[str] = []
        with closing(connect(self._login, self._record.database)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            self._give_back(cursor)
            for kind, names, arguments, owner in self._record.owned:
                what = f"{kind} {quote(tuple(names))} to {owner}"
                left += _refused(what, partial(give, cursor, kind, names, arguments, owner))
            for statement in self._record.afterwards:
                left += _refused(f"{statement};", partial(cursor.execute, statement))
        remove_role(self._login, [self._record.database], USES)
        self.forget()
        return left

    def take_back(self) -> None:
        """Undo what was prepared for a transaction that did not commit, and remove the record."""
        record = self._record
        if record.created:
            with closing(connect(self._login, "postgres")) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                Statement("DROP DATABASE IF EXISTS {} WITH (FORCE)", (record.database,)).execute(cursor)
        else:
            with closing(connect(self._login, record.database)) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                self._give_back(cursor)
                for template, names in (
                    ("DROP EXTENSION IF EXISTS {}", list(record.extensions)),
                    ("DROP SCHEMA IF EXISTS {}", list(record.schemas)),
                ):
                    _execute_each(cursor, template, names)
        remove_role(self._login, [record.database], USES)
        with closing(connect(self._login, "postgres")) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            _execute_each(cursor, "DROP ROLE IF EXISTS {}", record.roles)
        self.forget()

    def forget(self) -> None:
        """Remove the record."""
        self._path.unlink(missing_ok=True)

    def _give_back(self, cursor: Any) -> None:
        present = _schemas(cursor)
        for schema, owner in self._record.lent.items():
            if owner and schema in present:
                Statement("ALTER SCHEMA {} OWNER TO {}", (schema, owner)).execute(cursor)
        for schema, owner in self._record.uses:
            if schema in present:
                Statement("REVOKE USAGE ON SCHEMA {} FROM {}", (schema, owner)).execute(cursor)


def _refused(what: str, execute: Callable[[], Any]) -> list[str]:
    """Execute, and return what it was with PostgreSQL's reason where it refused."""
    import psycopg2

    try:
        execute()
    except psycopg2.Error as error:
        return [f"{what} ({(str(error).splitlines() or ['no reason given'])[0]})"]
    return []


def _execute_each(cursor: Any, template: str, names: list[str]) -> None:
    """Execute a statement for each name; what something else uses by now stays."""
    import psycopg2

    for name in names:
        with contextlib.suppress(psycopg2.Error):
            Statement(template, (name,)).execute(cursor)


def _let_use(cursor: Any, lacking: list[list[str]]) -> None:
    """Let owners use schemas by a role of their own, where something is lacking."""
    if not lacking:
        return
    Statement("CREATE ROLE {} NOLOGIN", (USES,)).execute(cursor)
    for schema in sorted({schema for schema, _ in lacking}):
        Statement("GRANT USAGE ON SCHEMA {} TO {}", (schema, USES)).execute(cursor)
    for owner in sorted({owner for _, owner in lacking}):
        Statement("GRANT {} TO {}", (USES, owner)).execute(cursor)


def _lacking(cursor: Any, owners: list[str]) -> list[list[str]]:
    """Return pairs of schema and owner where the owner may not use the schema."""
    cursor.execute(
        "SELECT nspname, owner FROM pg_namespace n, unnest(%s::name[]) owner"
        " WHERE nspname !~ '^(pg_|information_schema$)' AND NOT has_schema_privilege(owner, n.oid, 'USAGE')",
        (owners,),
    )
    return [list(row) for row in cursor.fetchall()]


def _schemas(cursor: Any) -> set[str]:
    cursor.execute("SELECT nspname FROM pg_namespace")
    return {name for (name,) in cursor.fetchall()}


def give(cursor: Any, kind: str, names: list[str], arguments: list[str], owner: str) -> None:
    """Give an object to its owner. PostgreSQL finds the object and quotes its name."""
    cursor.execute(
        "SELECT type, identity FROM pg_get_object_address(%s, %s, %s) a, pg_identify_object(a.classid, a.objid, 0)",
        (kind, names, arguments),
    )
    kind, identity = cursor.fetchone()
    word = "ROUTINE" if kind in ("function", "procedure", "aggregate") else kind.upper()
    Statement(
        "ALTER " + word.replace("STATISTICS OBJECT", "STATISTICS") + " " + _escaped(identity) + " OWNER TO {}", (owner,)
    ).execute(cursor)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def only_restore() -> Iterator[None]:
    """Hold the lock of this host's restores. Raises BackupError where another process holds it."""
    remedy = f"Wait until it has ended; as root `lslocks | grep {FOLDER}` names its process."
    taken = BackupError(Problem("restore_running", str(FOLDER), "Another restore is running on this host.", remedy))
    try:
        FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error) from error
    with folder_lock(FOLDER, _LOCK, taken, _unwritable):
        yield


def _unwritable(error: OSError) -> BackupError:
    message = f"{FOLDER} cannot be written: {error.strerror}."
    return BackupError(Problem("backup_not_written", str(FOLDER), message, "Free space, or run this as root."))


@contextlib.contextmanager
def recorded(login: Login, path: Path, database: str, found: Examination, created: bool = False) -> Iterator[Running]:
    """Record a restore, and take back what was prepared where the block fails.

    Where that cannot be, because the server is gone or a standby by now, the record stays for the next job, and so it
    does where the data was committed all the same.
    """
    record = Record(
        set=path.name,
        database=database,
        created=created,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        schemas={schema: found.owners[schema] for schema in found.schemas},
        roles=found.roles,
        extensions=found.extensions,
        lent=found.lent,
        owned=found.owned,
        afterwards=[str(statement) for statement in found.afterwards],
    )
    running = Running(login, record, found.owners)
    running.write()
    try:
        yield running
    except BaseException:
        if not record.committed:
            _try_to_take_back(running)
        raise


def _try_to_take_back(running: Running) -> None:
    import psycopg2

    try:
        if not running.has_committed():
            running.take_back()
    except (ConnectionFailed, psycopg2.Error) as error:
        _log.warning("What the restore had prepared is still there: %s", error)


def read() -> Record | None:
    """Return the record of a restore that is running or was killed, or None."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Record(**json.loads((FOLDER / FILE).read_text(encoding="utf-8")))
    return None


def is_left() -> bool:
    """Return whether there is a record, or a part of one, of a restore that is running or was killed."""
    return any((FOLDER / name).exists() for name in (FILE, _NEW))


def finish(login: Login) -> None:
    """Take back what a killed restore prepared, or complete it where its data was committed. The caller has the lock.

    Where another host is the primary by now, the record is of a database that has gone on without it: it is forgotten.
    A server in recovery that follows nobody may take writes again, so that it stays for the next job. Raises
    ConnectionFailed.
    """
    record = read()
    with contextlib.suppress(OSError):
        (FOLDER / _NEW).unlink()  # it was killed while it wrote
    if record is None:
        with contextlib.suppress(OSError):
            (FOLDER / FILE).unlink()  # it cannot be read
        return
    running = Running(login, record)
    try:
        require_primary(login, {})
    except NotPrimary as standby:
        if standby.primary is None:
            return
        left = "`pgprefect verify` on the primary names what the killed restore of %s into %s has left there."
        _log.warning(left, record.set, record.database)
        running.forget()
        return
    _log.info("Take back what the killed restore of %s into %s left.", record.set, record.database)
    with contextlib.suppress(ConnectionFailed):
        remove_role(login, [record.database])
    try:
        if record.committed or _has_committed(login, record):
            for statement in running.complete():
                _log.warning("Left of the restore of %s: %s", record.set, statement)
        else:
            running.take_back()
    except ConnectionFailed as error:
        if error.problem.code != "database_missing":
            raise
        running.forget()


def _has_committed(login: Login, record: Record) -> bool:
    if record.transaction is None:
        return False
    import psycopg2

    with closing(connect(login, record.database)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT pg_xact_status(%s::xid8)", (record.transaction,))
        except psycopg2.Error:  # of a cluster that was made since
            return False
        return bool(cursor.fetchone()[0] == "committed")
