"""The command pgprefect: what it prints, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
from pgprefect.cli.main import main
from pgprefect.cli.output import Progress
from pgprefect.runs.retention import Batch

from bench.data import fill
from tests.support.site import Site, pgprefect


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(site_file: Path, *arguments: str) -> int:
    return main(["--config", str(site_file), *arguments])


def test_help_shows_examples() -> None:
    done = pgprefect("--help", environment={})
    assert done.returncode == 0 and "pgprefect stats --days 7" in done.stdout
    assert pgprefect("nonsense", environment={}).returncode == 2


def codes(text: str) -> set[str]:
    return {problem["code"] for problem in json.loads(text)["problems"]}


def test_verify(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The tests' server is not one of ours: verification says so, and a site's own ends with 0 in the scenarios.
    assert run(site_file, "verify", "--json") == 2
    before = codes(capsys.readouterr().out)
    prefect.sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert run(site_file, "verify") == 2
    text = capsys.readouterr().out
    assert "mltrading_owner" in text and "public, prefect" in text and "Not checked: " in text
    assert "ERROR right_excess" in text and "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in text
    assert run(site_file, "verify", "--json") == 2
    found = capsys.readouterr().out
    assert codes(found) - before == {"right_excess"}
    assert json.loads(found)["verified"] is False and json.loads(found)["public_schema"]["exists"]


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
        run(site_file, "verify")
    assert "┃" in drawn.getvalue() and "┃" not in plain.getvalue()
    monkeypatch.setitem(sys.modules, "rich.console", None)  # the system's Python
    again = Terminal()
    monkeypatch.setattr(sys, "stdout", again)
    run(site_file, "verify")
    assert again.getvalue() == plain.getvalue()


def test_statistics(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 60, days=2)
    assert run(site_file, "stats", "--days", "7") == 0
    text = capsys.readouterr().out
    assert "Of all time" in text and "The last 7 days" in text and "flow-1" in text and "Slowest tasks" in text
    assert run(site_file, "stats", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total_runs"] == 60
    assert run(site_file, "stats", "--csv") == 0
    assert capsys.readouterr().out.startswith("kind,flow,deployment,runs,")
    assert run(site_file, "stats", "--days", "-1") == 2
    assert "days" in capsys.readouterr().err


def test_events(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(site_file.read_text())
    content["login"]["user"] = prefect.declaration.app_login
    site_file.write_text(json.dumps(content))
    prefect.sql(
        "INSERT INTO public.system_logs (event_type, workflow_name, created_at) VALUES "
        "('first', 'daily', now() - interval '3 days'), ('second', 'daily', now()), ('other', 'hourly', now())"
    )
    assert run(site_file, "events", "--workflow", "daily") == 0
    text = capsys.readouterr().out
    assert "first" in text and "second" in text and "hourly" not in text
    assert run(site_file, "events", "--days", "1", "--limit", "1", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_events_that_the_login_may_not_read(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "events") == 3
    text = capsys.readouterr().err
    assert (
        text.partition(":")[0] == "question_refused"
        and "permission denied for schema public" in text
        and "as root on the database's host" in text
    )


def test_cleanup(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "cleanup", "--dry-run") == 0
    assert "Nothing is old enough to go" in capsys.readouterr().out
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 200, days=60)
    assert run(site_file, "cleanup", "--days", "30", "--dry-run", "--json") == 0
    expected = json.loads(capsys.readouterr().out)
    assert 80 < expected["flow_runs_deleted"] < 120
    assert run(site_file, "cleanup", "--days", "30") == 0
    captured = capsys.readouterr()
    assert "Deleted in" in captured.out and "task_run_state" in captured.out
    batches = [json.loads(line) for line in captured.err.splitlines()]
    assert sum(batch["deleted"].get("flow_run", 0) for batch in batches) == expected["flow_runs_deleted"]
    assert prefect.sql("SELECT count(*) FROM prefect.flow_run") == [(200 - expected["flow_runs_deleted"],)]
    for days in ("-1", "0", "nan"):
        assert run(site_file, "cleanup", "--days", days) == 2
        assert "days_to_keep" in capsys.readouterr().err


def test_a_bar_shows_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(200)
    for rows in (100, 200):
        progress(Batch("runs", {"flow_run": 100}, 0.1, rows))
    assert terminal.getvalue() == f"\r[{'#' * 20:<40}]  50%  100 rows\r[{'#' * 40}] 100%  200 rows\n"
