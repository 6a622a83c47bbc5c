"""The SQLite file of a Prefect: a copy of it, what it holds, and what in it refers to nothing.

These functions run in a process of an unprivileged user, because a file from elsewhere is not to be trusted.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote as url_quote

from ..core.prefect import SIGNATURE, TABLES, TERMINAL_STATES_SQL
from .problems import damaged, not_prefect
from .rows import quote, write_table

_MAGIC = b"SQLite format 3\0"
_BUSY_SECONDS = 60.0
_SAMPLE = 5
_NOT_TABLES = "SELECT name FROM sqlite_master WHERE name = ? AND (type <> 'table' OR sql LIKE 'CREATE VIRTUAL%')"


@dataclass(frozen=True)
class Key:
    """A foreign key, as PostgreSQL has it; ``action`` is what a deletion does: 'n' sets the reference to NULL."""

    table: str
    column: str
    parent: str
    parent_column: str
    action: str


@dataclass(frozen=True)
class Orphans:
    """Rows whose foreign key refers to a row that is not there; some of their ids."""

    table: str
    column: str
    parent: str
    rows: int
    ids: Sequence[str]
    emptied: bool  # the reference is emptied; otherwise the row is left out


@dataclass(frozen=True)
class Contents:
    """The contents of an upgraded copy.

    ``ended`` counts the runs that have ended and ``events`` the events, by day. ``unfinished`` counts the others by
    state.
    """

    rows: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]
    orphans: Sequence[Orphans] = ()
    ended: Mapping[str, int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    unfinished: Mapping[str, int] = field(default_factory=dict)
    schedules: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Contents:
        """Make it of what ``as_dict`` returned."""
        orphans = tuple(Orphans(**orphan) for orphan in content["orphans"])
        return cls(**{**content, "orphans": orphans})


def copy(source: Path, target: Path) -> str | None:
    """Copy a database with SQLite's backup, also while a server writes to it, and return its Alembic revision.

    A plain copy of the file would silently lack what is still in its write-ahead log. Leaves no file next to the
    source. Raises ImportRefused where it is none of a Prefect, or damaged.
    """
    _check_file(source)
    try:
        _back_up(source, target)
        with opened(target) as connection:
            faults = [text for (text,) in connection.execute("PRAGMA integrity_check(3)") if text != b"ok"]
            if faults:
                raise damaged(str(source), "; ".join(fault.decode(errors="replace") for fault in faults))
            return _revision(connection, str(source))
    except sqlite3.DatabaseError as error:
        raise damaged(str(source), str(error)) from error


def _check_file(source: Path) -> None:
    with open(source, "rb") as file:
        begin = file.read(len(_MAGIC))
    if begin != _MAGIC:
        raise not_prefect(str(source), "it is no SQLite file" if begin else "it is empty")


def _back_up(source: Path, target: Path) -> None:
    log = Path(f"{source}-wal")
    if not log.exists():  # nobody has it open, so SQLite need not make its files next to it
        before = source.stat()
        _pages(source, target, "immutable=1")
        after = source.stat()
        if not log.exists() and (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            return
    _pages(source, target, "mode=ro")


def _pages(source: Path, target: Path, how: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    address = f"file:{url_quote(str(source))}?{how}"
    with (
        contextlib.closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS)) as live,
        contextlib.closing(sqlite3.connect(target)) as copied,
    ):
        copied.execute("PRAGMA synchronous = OFF")
        live.backup(copied)  # in one transaction
        copied.execute("PRAGMA journal_mode = DELETE")
    os.chmod(target, 0o600)


def _revision(connection: sqlite3.Connection, source: str) -> str | None:
    tables = {name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {*SIGNATURE, "alembic_version"} <= tables:
        raise not_prefect(source, f"it lacks {', '.join(sorted({*SIGNATURE, 'alembic_version'} - tables))}")
    for table in sorted(TABLES & tables):
        if connection.execute(_NOT_TABLES, (table,)).fetchone():
            raise not_prefect(source, f"its {table} is not a plain table")
    found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return ", ".join(sorted(str(name, "utf-8", "replace") for (name,) in found)) or None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy; texts are bytes."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.text_factory = bytes
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA temp_store = FILE")
        yield connection


def examine(path: Path, keys: Sequence[Key], leave_out: bool) -> Contents:
    """Return what an upgraded copy holds; with ``leave_out`` the orphans are removed from the copy.

    What refers to a removed row is an orphan too. Raises sqlite3.Error.
    """
    with opened(path) as connection:
        tables = _tables(connection)
        keys = [key for key in keys if {key.table, key.parent} <= set(tables)]
        orphans = _left_out(connection, keys) if leave_out else [o for key in keys for o in _orphans(connection, key)]
        rows = {table: _count(connection, f"SELECT count(*) FROM {quote(table)}") for table in tables}
        return Contents(
            rows=rows,
            columns={table: _columns(connection, table) for table in tables},
            orphans=orphans,
            ended=_counts(
                connection,
                f"SELECT substr(end_time, 1, 10), count(*) FROM flow_run WHERE state_type IN {TERMINAL_STATES_SQL} "
                "AND end_time IS NOT NULL GROUP BY 1 ORDER BY 1",
            ),
            events=_counts(connection, "SELECT substr(occurred, 1, 10), count(*) FROM events GROUP BY 1 ORDER BY 1"),
            unfinished=_counts(
                connection,
                "SELECT coalesce(state_type, 'none'), count(*) FROM flow_run WHERE state_type IS NULL "
                f"OR state_type NOT IN {TERMINAL_STATES_SQL} GROUP BY 1 ORDER BY 1",
            ),
            schedules=_count(connection, "SELECT count(*) FROM deployment_schedule WHERE active"),
        )


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = [name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return sorted(TABLES.intersection(found))


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1].decode() for row in connection.execute(f"PRAGMA table_info({quote(table)})")]


def _count(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


def _counts(connection: sqlite3.Connection, statement: str) -> dict[str, int]:
    return {str(name, "utf-8", "replace"): count for name, count in connection.execute(statement)}


def _lost(key: Key) -> str:
    table, column, parent, target = map(quote, (key.table, key.column, key.parent, key.parent_column))
    return (
        f"FROM {table} WHERE {column} IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE p.{target} = {table}.{column})"
    )


def _orphans(connection: sqlite3.Connection, key: Key) -> Iterator[Orphans]:
    count = _count(connection, f"SELECT count(*) {_lost(key)}")
    if count:
        sample = connection.execute(f"SELECT id {_lost(key)} LIMIT {_SAMPLE}")
        ids = [str(name, "utf-8", "replace") for (name,) in sample]
        yield Orphans(key.table, key.column, key.parent, count, ids, key.action == "n")


def _left_out(connection: sqlite3.Connection, keys: Sequence[Key]) -> list[Orphans]:
    """Remove orphans from the copy as PostgreSQL would have with their parents, until none is left."""
    found: dict[tuple[str, str], Orphans] = {}
    connection.execute("BEGIN")
    again = True
    while again:
        again = False
        for key in keys:
            for orphans in _orphans(connection, key):
                place, table, column = (key.table, key.column), quote(key.table), quote(key.column)
                known = found.get(place)
                found[place] = replace(known, rows=known.rows + orphans.rows) if known else orphans
                change = f"UPDATE {table} SET {column} = NULL" if orphans.emptied else f"DELETE FROM {table}"
                connection.execute(f"{change} WHERE rowid IN (SELECT {table}.rowid {_lost(key)})")
                again = True
    connection.execute("COMMIT")
    return list(found.values())


def write_rows(path: Path, tables: Sequence[tuple[str, Sequence[tuple[str, str]]]], stream: IO[bytes]) -> None:
    """Write the rows of these tables in this order, each as ``rows`` says. Raises sqlite3.Error."""
    with opened(path) as connection:
        connection.execute("PRAGMA query_only = ON")
        for table, columns in tables:
            write_table(connection, table, columns, stream)
    stream.flush()
