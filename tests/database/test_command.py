"""The command pgprefect: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from pgprefect.__main__ import main

from tests.conftest import Site, pgprefect


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(site_file: Path, *arguments: str) -> int:
    return main(["--config", str(site_file), *arguments])


def test_help_shows_examples() -> None:
    done = pgprefect("--help", environment={})
    assert done.returncode == 0 and "pgprefect stats --days 7" in done.stdout
    assert pgprefect("nonsense", environment={}).returncode == 2


def test_verify(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "verify") == 0
    text = capsys.readouterr().out
    assert "mltrading_owner" in text and "public, prefect" in text
    prefect.sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert run(site_file, "verify") == 2
    text = capsys.readouterr().out
    assert "ERROR right_excess" in text and "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in text
    assert run(site_file, "verify", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is False and found["public_schema"]["exists"]


def test_verify_where_nothing_answers(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(site_file.read_text())
    content["login"]["port"] = 1
    site_file.write_text(json.dumps(content))
    assert run(site_file, "verify") == 3
    assert "No connection to PostgreSQL" in capsys.readouterr().err


def test_health_without_a_server(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "health") == 2
    text = capsys.readouterr().out
    assert "api_not_ready" in text and "unhealthy" in text and "systemctl status prefect-server@tenant0" in text
    assert run(site_file, "health", "--json") == 2
    assert json.loads(capsys.readouterr().out)["checks"]["app_database"] == "healthy"


def test_revision_of_the_sites_file(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "revision", "--require-current") == 0
    assert "revision of the installed Prefect" in capsys.readouterr().out


def test_another_tenant(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "--tenant", "nobody", "revision") == 3
    assert "there are: tenant0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not on this host: run site.yml"),
        ("{", "is not as the roles write it"),
        ("[]", "is not as the roles write it"),
        ('{"tenants": [], "login": {}, "database": "x"}', "is not as the roles write it"),
    ],
)
def test_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str) -> None:
    path = tmp_path / "pgprefect.json"
    if text is not None:
        path.write_text(text)
    assert run(path, "verify") == 3
    assert words in capsys.readouterr().err


def test_tables_on_a_terminal(site_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, drawn = io.StringIO(), Terminal()
    for output in (plain, drawn):
        monkeypatch.setattr(sys, "stdout", output)
        assert run(site_file, "verify") == 0
    assert "┃" in drawn.getvalue() and "┃" not in plain.getvalue()
    monkeypatch.setitem(sys.modules, "rich.console", None)  # the system's Python
    again = Terminal()
    monkeypatch.setattr(sys, "stdout", again)
    assert run(site_file, "verify") == 0
    assert again.getvalue() == plain.getvalue()
