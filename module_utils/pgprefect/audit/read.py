"""Reading of the audit trail: pgaudit's entries in PostgreSQL's log of JSON lines, in rotated files too."""

from __future__ import annotations

import contextlib
import glob
import gzip
import json
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import IO, Any, cast

from ..core.errors import ProblemError
from ..core.prefect import SECRETS
from ..core.problems import Problem

# A value of JSON has no bare quote, so nothing that a client sends can look like this.
_MARK = b'"message":"AUDIT: '
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^",]*))(?:,|\Z)')
_FIELDS = 8  # type, statement, substatement, class, command, kind of object, object, text
_SECRET_TABLE = re.compile(rf"(?<!\w)({'|'.join(SECRETS)})(?!\w)", re.IGNORECASE)
_PASSWORD = re.compile(r"password\b.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """What one role did: who, when, from where, what.

    ``client`` is an address, or ``[local]``. ``object`` is empty where pgaudit names none, as for DDL and for writes
    that are recorded of a role and not of a table; then the statement has it.
    """

    time: datetime
    role: str
    application: str
    client: str
    database: str
    kind: str  # pgaudit's class: DDL, ROLE, WRITE
    command: str
    object: str
    statement: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "time": self.time.isoformat()}


@dataclass
class Trail:
    """The newest entries that were asked for, the newest first. ``unreadable`` counts those that are cut or damaged."""

    entries: list[Entry] = field(default_factory=list)
    unreadable: int = 0
    more: bool = False


def read_trail(
    path: str, since: datetime | None = None, role: str | None = None, table: str | None = None, limit: int = 100
) -> Trail:
    """Read the newest entries of a log and of its rotated files (``path.1``, ``path.2.gz``).

    ``table`` is SCHEMA.TABLE. Raises ProblemError where the log cannot be read.
    """
    trail = Trail()
    found: deque[Entry] = deque(maxlen=limit + 1)
    about = _about(table) if table else None
    for file in _files(path, since):
        try:
            with _opened(file) as lines:
                for entry in _entries(lines, trail):
                    if (since and entry.time < since) or (role and entry.role != role):
                        continue
                    if about and not (entry.object == table or (not entry.object and about.search(entry.statement))):
                        continue
                    found.append(entry)
        except EOFError:  # a compressed file that is cut
            trail.unreadable += 1
        except FileNotFoundError:  # rotated meanwhile
            continue
        except OSError as error:
            raise _unreadable(file, error) from error
    newest = sorted(found, key=lambda entry: entry.time)[::-1]
    trail.more = len(newest) > limit
    trail.entries = [_without_secrets(entry) for entry in newest[:limit]]
    return trail


def parse(line: bytes) -> Entry | None:
    """Return the entry of a line of the log, or None for a line that is none. Raises ValueError for a damaged one."""
    if _MARK not in line:
        return None
    record = json.loads(line.decode("utf-8", "replace").strip("\0 \r\n"))
    # pgaudit shows neither; a message that a client raises has both.
    if "context" in record or "statement" in record:
        return None
    fields = [
        quoted.replace('""', '"') or plain for quoted, plain in _FIELD.findall(str(record["message"])[len("AUDIT: ") :])
    ]
    if len(fields) < _FIELDS:
        raise ValueError("it has too few fields")
    return Entry(
        time=_moment(record["timestamp"]),
        role=record.get("user", ""),
        application=record.get("application_name", ""),
        client=record.get("remote_host", ""),
        database=record.get("dbname", ""),
        kind=fields[3],
        command=fields[4],
        object=fields[6],
        statement=fields[7],
    )


def _files(path: str, since: datetime | None) -> list[str]:
    """Return the log's files that can have something to say, the oldest first. Raises ProblemError without the log."""
    if not os.path.exists(path):
        raise _unreadable(path, FileNotFoundError(2, "it does not exist"))
    numbered = [(0, path)]
    for name in glob.glob(f"{glob.escape(path)}.*"):
        number = re.fullmatch(r"\.(\d+)(\.gz)?", name[len(path) :])
        if number:
            numbered.append((int(number[1]), name))
    files = [name for _, name in sorted(numbered, reverse=True)]
    return [name for name in files if not since or _written(name) >= since.timestamp()]


def _written(path: str) -> float:
    with contextlib.suppress(OSError):
        return os.path.getmtime(path)
    return 0


def _opened(path: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.endswith(".gz") else open(path, "rb")


def _entries(lines: IO[bytes], trail: Trail) -> Iterator[Entry]:
    for line in lines:
        try:
            entry = parse(line)
        except (ValueError, KeyError, TypeError):
            trail.unreadable += 1
            continue
        if entry:
            yield entry


def _moment(text: str) -> datetime:
    """Parse a time as PostgreSQL logs it, in the host's time zone unless it says another one."""
    when, _, zone = text.rpartition(" ")
    moment = datetime.strptime(when, "%Y-%m-%d %H:%M:%S.%f")
    if zone in ("UTC", "GMT"):
        return moment.replace(tzinfo=timezone.utc)
    offset = re.fullmatch(r"([+-])(\d\d)(?::?(\d\d))?", zone)
    if offset:
        span = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        return moment.replace(tzinfo=timezone(span if offset[1] == "+" else -span))
    local = [moment.replace(fold=fold).astimezone() for fold in (0, 1)]  # the hour that winter time repeats
    return next((one for one in local if one.tzname() == zone), local[0])


def _about(table: str) -> re.Pattern[str]:
    schema, _, name = table.partition(".")
    words = rf'(?<![\w."])(?:"?{re.escape(schema)}"?\s*\.\s*)?"?{re.escape(name)}"?(?![\w"])'
    return re.compile(words, re.IGNORECASE)


def _without_secrets(entry: Entry) -> Entry:
    """Hide what a statement may have of secrets: values for Prefect's secret tables, and passwords."""
    secret = _SECRET_TABLE.search(entry.statement) if entry.kind == "WRITE" else None
    text = f"<not shown: it names {secret[1]}>" if secret else _PASSWORD.sub("password <REDACTED>", entry.statement)
    return Entry(**{**vars(entry), "statement": text})


def _unreadable(path: str, error: OSError) -> ProblemError:
    return ProblemError(
        Problem(
            "audit_unreadable",
            path,
            f"The audit trail {path} cannot be read: {error.strerror}.",
            "Run this as root on the database's host, whose inventory says postgresql_audit: true.",
        )
    )


def as_dict(trail: Trail) -> Mapping[str, Any]:
    """Return it as JSON has it."""
    return {"entries": [entry.as_dict() for entry in trail.entries], "unreadable": trail.unreadable, "more": trail.more}
