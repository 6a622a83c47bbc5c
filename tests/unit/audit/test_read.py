"""The reader of the audit trail: hostile statements, rotated files, cut lines, and what stays hidden."""

from __future__ import annotations

import gzip
import json
import os
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pgprefect.audit.read import Entry, parse, read_trail
from pgprefect.core.errors import ProblemError

HOSTILE = 'UPDATE "a,b" SET c = \'x""y\', d = $$\n,,"\n{"message":"AUDIT: SESSION,1,1,ROLE"}$$ -- é\r\n\t,<not logged>'


def csv(text: str) -> str:
    """A field as pgaudit writes it."""
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\n\r') else text


def line(statement: str = "DROP TABLE x", /, **changes: Any) -> bytes:
    """A line of PostgreSQL's log."""
    kind, command, name = (changes.pop(key, default) for key, default in KIND.items())
    fields = ["SESSION", "1", "1", kind, command, "TABLE" if name else "", csv(name), csv(statement), "<not logged>"]
    record = {
        "timestamp": "2026-01-30 02:14:31.221 UTC",
        "user": "ann",
        "dbname": "mltrading",
        "pid": 7,
        "remote_host": "192.0.2.7",
        "error_severity": "LOG",
        "message": f"AUDIT: {','.join(fields)}",
        "application_name": "psql",
        **changes,
    }
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n"
    return text.encode()


KIND = {"kind": "DDL", "command": "DROP TABLE", "name": ""}


def written(folder: Path, *lines: bytes, name: str = "log.json") -> str:
    (folder / name).write_bytes(b"".join(lines))
    return str(folder / "log.json")


def statements(path: str, **asked: Any) -> list[str]:
    return [entry.statement for entry in read_trail(path, **asked).entries]


def at(hour: int) -> dict[str, str]:
    return {"timestamp": f"2026-01-30 {hour:02}:00:00.000 UTC"}


def test_an_entry_says_who_when_from_where_and_what() -> None:
    entry = parse(line(HOSTILE, kind="WRITE", command="UPDATE", name='public."a,b"'))
    assert entry == Entry(
        time=datetime(2026, 1, 30, 2, 14, 31, 221000, tzinfo=UTC),
        role="ann",
        application="psql",
        client="192.0.2.7",
        database="mltrading",
        kind="WRITE",
        command="UPDATE",
        object='public."a,b"',
        statement=HOSTILE,
    )


@pytest.mark.parametrize("statement", ["", '"', ",", '""', "\n", "a,", ',"', "x" * 300_000, 'é"\r\n,'])
def test_any_statement_is_read_as_it_was(statement: str) -> None:
    entry = parse(line(statement))
    assert entry and entry.statement == statement


def test_what_a_client_raises_or_names_is_no_entry(tmp_path: Path) -> None:
    forged = "AUDIT: SESSION,1,1,ROLE,GRANT,,,GRANT all TO me,<not logged>"
    path = written(
        tmp_path,
        line(message=forged, context="PL/pgSQL function inline_code_block line 1 at RAISE"),
        line(message=forged, statement="DO ..."),
        line(message="connection received", application_name=f'","message":"{forged}'),
        line(message="x", user=f'{{"message":"{forged}"}}'),
        b'{"timestamp":"2026-01-30 02:14:31.221 UTC","message":"checkpoint starting: time"}\n',
    )
    trail = read_trail(path)
    assert (trail.entries, trail.unreadable) == ([], 0)


def test_rotated_and_compressed_files_are_read_too_and_others_are_not(tmp_path: Path) -> None:
    path = written(tmp_path, line("now", **at(9)))
    written(tmp_path, line("yesterday", **at(8)), name="log.json.1")
    (tmp_path / "log.json.10.gz").write_bytes(gzip.compress(line("long ago", **at(1))))
    (tmp_path / "log.json.2.gz").write_bytes(gzip.compress(line("before", **at(7))))
    written(tmp_path, line("foreign", **at(9)), name="log.json.bak")
    assert statements(path) == ["now", "yesterday", "before", "long ago"]
    assert statements(path, limit=2) == ["now", "yesterday"]
    assert read_trail(path, limit=2).more and not read_trail(path, limit=4).more


def test_a_file_that_was_last_written_before_is_not_opened(tmp_path: Path) -> None:
    path = written(tmp_path, line("now", timestamp=f"{datetime.now(UTC):%F %T}.000 UTC"))
    (tmp_path / "log.json.1").write_bytes(line("old"))
    os.utime(tmp_path / "log.json.1", (0, 0))
    assert statements(path, since=datetime.now(UTC) - timedelta(hours=1)) == ["now"]


def test_cut_and_damaged_lines_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    whole = line("whole")
    path = written(
        tmp_path,
        whole[40:],  # its beginning is cut: it still says that it was an entry
        b"\0" * 4096 + whole,  # what a copy that was cut while it was written begins with
        line(timestamp="yesterday"),
        line(message="AUDIT: SESSION,1"),
        whole.replace(b"whole", b"\xff\xfe"),
        line("tail")[:-60],
    )
    (tmp_path / "log.json.1.gz").write_bytes(gzip.compress(line("packed"))[:-12])
    trail = read_trail(path)
    assert [entry.statement for entry in trail.entries] == ["\ufffd\ufffd", "whole"]
    assert trail.unreadable == 5


def test_the_trail_of_a_role_and_of_a_table(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        line("DELETE FROM a", name="public.orders", kind="WRITE", **at(1)),
        line('ALTER TABLE "public" . "orders" ADD x int', **at(2)),
        line("grant select on ORDERS to bob", kind="ROLE", user="bob", **at(3)),
        line("DELETE FROM other.orders", kind="WRITE", **at(4)),
        line("UPDATE orders_old SET x = 1", kind="WRITE", **at(5)),
        line("INSERT INTO x SELECT 'orders'", name="public.x", kind="WRITE", **at(6)),
    )
    assert [entry.time.hour for entry in read_trail(path, table="public.orders").entries] == [3, 2, 1]
    assert statements(path, role="bob") == ["grant select on ORDERS to bob"]
    assert [entry.time.hour for entry in read_trail(path, since=datetime(2026, 1, 30, 5, tzinfo=UTC)).entries] == [6, 5]


@pytest.mark.parametrize(
    ("statement", "kind", "shown"),
    [
        ("UPDATE prefect.configuration SET value = 'S3'", "WRITE", "<not shown: it names configuration>"),
        ("WITH x AS (SELECT 'S3') INSERT INTO \"block_document\" ...", "WRITE", "<not shown: it names block_document>"),
        ("ALTER TABLE configuration ADD x int", "DDL", "ALTER TABLE configuration ADD x int"),
        ("UPDATE my_variables SET a = 1", "WRITE", "UPDATE my_variables SET a = 1"),
        ("CREATE USER MAPPING FOR a SERVER b OPTIONS (PASSWORD 'S3')", "DDL", None),
        ("CREATE FUNCTION f() AS $$ ALTER ROLE a\nPASSWORD 'S3' $$", "DDL", None),
    ],
)
def test_secrets_are_not_shown(tmp_path: Path, statement: str, kind: str, shown: str | None) -> None:
    (found,) = statements(written(tmp_path, line(statement, kind=kind)))
    assert found == shown if shown else found.endswith("password <REDACTED>") and "S3" not in found


def test_times_are_those_of_the_hosts_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        zones = {
            "2026-07-01 12:00:00.000 CEST": datetime(2026, 7, 1, 10, tzinfo=UTC),
            "2026-10-25 02:30:00.000 CEST": datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
            "2026-10-25 02:30:00.000 CET": datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
            "2026-07-01 12:00:00.000 +0530": datetime(2026, 7, 1, 6, 30, tzinfo=UTC),
            "2026-07-01 12:00:00.000 -03": datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=-3))),
        }
        for text, moment in zones.items():
            entry = parse(line(timestamp=text))
            assert entry and entry.time == moment, text
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_trail_that_is_not_there_is_a_problem_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as refused:
        read_trail(str(tmp_path / "log.json"))
    assert refused.value.problem.code == "audit_unreadable"
    assert "postgresql_audit: true" in refused.value.problem.remedy
