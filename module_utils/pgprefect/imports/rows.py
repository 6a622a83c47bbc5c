"""The rows of a SQLite file as PostgreSQL's COPY reads them (CSV), in frames that bound the memory.

A table is a sequence of frames: the length and the number of rows as two numbers of four bytes, then the rows. A frame
of length 0 ends the table; its number counts the values that were changed, because PostgreSQL takes no NUL characters,
no half surrogate pairs and no NaN.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from typing import IO

# How a column is written, by PostgreSQL's type; every other type takes SQLite's text as it stands.
TEXT, JSON, JSONB, INTERVAL, FLOAT, PLAIN = "text", "json", "jsonb", "interval", "float", "plain"
KINDS = {
    "text": TEXT,
    "character varying": TEXT,
    "json": JSON,
    "jsonb": JSONB,
    "interval": INTERVAL,
    "double precision": FLOAT,
    "real": FLOAT,
}
Columns = Sequence[tuple[str, str]]  # name and kind

HEADER = struct.Struct(">II")
_FRAME = 1 << 18

# Written by CSV's rules: what is quoted is a text, what is empty and not quoted is NULL.
_TEXT = """coalesce('"' || replace({0}, '"', '""') || '"', '')"""
# SQLite keeps a JSON number as a number, and would write it with 15 digits.
_JSON = """CASE typeof({0}) WHEN 'real' THEN printf('%!.17g', {0}) ELSE """ + _TEXT + " END"
_FLOAT = "CASE typeof({0}) WHEN 'real' THEN printf('%!.17g', {0}) ELSE coalesce({0}, '') END"
# The time since 1970 as a point in time, or 0.
_INTERVAL = """CASE typeof({0}) WHEN 'text' THEN
    cast(julianday(substr({0}, 1, 10)) - 2440587.5 AS int) || ' days ' || substr({0}, 12) ELSE coalesce({0}, '') END"""
_EXPRESSIONS = {TEXT: _TEXT, JSON: _JSON, JSONB: _JSON, FLOAT: _FLOAT, INTERVAL: _INTERVAL}
_PLAIN = "coalesce({0}, '')"

_SUSPECT = re.compile(rb"\x00|\\u(?:0000|[dD][89a-fA-F])|NaN|Infinity")
_FIELD = re.compile(rb'("(?:[^"]|"")*"|[^,]*)(?:,|$)')
# Within JSON whose quotes are doubled: a string, or a word that is no JSON.
_STRING_OR_WORD = re.compile(rb'""(?:\\(?:""|[^"])|[^"\\])*""|-?Infinity|NaN')
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def quote(name: str) -> str:
    """Return a name as SQLite has it, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


def write_table(connection: sqlite3.Connection, table: str, columns: Columns, stream: IO[bytes]) -> None:
    """Write a table's rows as frames. Raises sqlite3.Error."""
    parts = [_EXPRESSIONS.get(kind, _PLAIN).format(quote(name)) for name, kind in columns]
    cursor = connection.cursor()
    cursor.execute(f"SELECT {_concatenated(parts)} FROM {quote(table)}")
    changed = 0
    for lines in _batches(cursor):
        chunk = b"\n".join(lines) + b"\n"
        if _SUSPECT.search(chunk):
            cleaned = [_cleaned(line, columns) for line in lines]
            changed += sum(count for _, count in cleaned)
            chunk = b"\n".join(line for line, _ in cleaned) + b"\n"
        stream.write(HEADER.pack(len(chunk), len(lines)))
        stream.write(chunk)
    stream.write(HEADER.pack(0, changed))


def _concatenated(parts: Sequence[str]) -> str:
    """Return an expression that copies no part more often than there are levels."""
    if len(parts) <= 8:
        return " || ',' || ".join(parts)
    middle = len(parts) // 2
    return f"({_concatenated(parts[:middle])}) || ',' || ({_concatenated(parts[middle:])})"


def _batches(cursor: sqlite3.Cursor) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    length = 0
    for (line,) in cursor:
        lines.append(line)
        length += len(line)
        if length >= _FRAME:
            yield lines
            lines, length = [], 0
    if lines:
        yield lines


def _cleaned(line: bytes, columns: Columns) -> tuple[bytes, int]:
    """Return a row without what PostgreSQL refuses, and how many of its values were changed."""
    if not _SUSPECT.search(line):
        return line, 0
    fields = _FIELD.findall(line)[: len(columns)]
    cleaned = [_cleaned_field(field, kind) for field, (_, kind) in zip(fields, columns)]
    changed = sum(before != after for before, after in zip(fields, cleaned))
    return (b",".join(cleaned), changed) if changed else (line, 0)


def _cleaned_field(field: bytes, kind: str) -> bytes:
    field = field.replace(b"\0", b"")
    if kind not in (JSON, JSONB) or not field.startswith(b'"'):
        return field
    inner = _STRING_OR_WORD.sub(lambda found: found[0] if found[0].startswith(b'""') else b"null", field[1:-1])
    if kind == JSONB:  # json keeps the text as it is
        inner = _ESCAPE.sub(_escape, inner)
    return b'"' + inner + b'"'


def _escape(found: re.Match[bytes]) -> bytes:
    text = found[0]
    if text == b"\\u0000":
        return b""
    return b"\\ufffd" if _HALF.fullmatch(text) else text


class Frames:
    """A table's frames as the file that psycopg2's COPY reads; ``rows`` and ``changed`` count as it goes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._ended = False
        self.rows = 0
        self.changed = 0

    def read(self, _size: int = -1) -> bytes:
        """Return the next rows, or nothing at the end of the table. Raises EOFError where the writer has gone."""
        if self._ended:
            return b""
        length, number = HEADER.unpack(self._exactly(HEADER.size))
        if not length:
            self._ended, self.changed = True, number
            return b""
        self.rows += number
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        found = self._stream.read(length)
        if len(found) < length:
            raise EOFError("the process that reads the file has ended too early")
        return found
