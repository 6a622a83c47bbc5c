"""Which PostgreSQL a drill takes, and what it says where something of it fails."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest
from pgprefect.backup import drill, sets
from pgprefect.backup.sets import BackupError, Manifest

from tests.support.site import declaration_of


def test_the_postgresql_of_the_set_or_the_newest_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [f"/usr/lib/postgresql/{version}/bin/initdb" for version in ("9.6", "17", "15")]
    monkeypatch.setattr(glob, "glob", lambda _pattern: found)
    assert drill._programs(15) == "/usr/lib/postgresql/15/bin"
    assert drill._programs(16) == drill._programs(17) == "/usr/lib/postgresql/17/bin"


def test_a_host_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glob, "glob", lambda _pattern: [])
    with pytest.raises(BackupError, match="this host has no PostgreSQL server") as failed:
        drill._programs(15)
    assert failed.value.problem.code == "drill_failed"


def test_the_steps_of_a_drill_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pgprefect")
    monkeypatch.setattr(glob, "glob", lambda _pattern: [])
    path = tmp_path / "20261125T020000Z"
    path.mkdir()
    (tmp_path / "copy").mkdir()
    sets.write(path, Manifest(path.name, "mltrading", "", 1.5, "", "", 150000, None, {}, ()))
    with pytest.raises(BackupError, match="this host has no PostgreSQL server"):
        drill.unpack(path, tmp_path / "copy")
        drill.prove(tmp_path / "copy" / path.name, tmp_path, declaration_of("mltrading"))
    assert caplog.messages == ["Unpacked 0 bytes of dumps in 0.0 s.", f"Drill the set {path.name}."]


def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(
        BackupError, match="The restore drill failed, and the set is not verified: sh ended with 3: out of luck"
    ) as failed:
        drill._run(["sh", "-c", "echo out of luck >&2; exit 3"])
    assert failed.value.problem.code == "drill_failed"


def test_the_banner_of_prefect_is_no_reason() -> None:
    log = """
 ___ ___ ___ ___ ___ ___ _____
| _ \\ _ \\ __| __| __/ __|_   _|
|_| |_|_\\___|_| |___\\___| |_|

Configure Prefect to communicate with the server with:

    prefect config set PREFECT_API_URL=http://127.0.0.1:1/api

sqlalchemy.exc.ProgrammingError: relation "flow" does not exist
Application startup failed. Exiting.
"""
    said = 'sqlalchemy.exc.ProgrammingError: relation "flow" does not exist Application startup failed. Exiting.'
    assert drill._without_banner(log) == said
