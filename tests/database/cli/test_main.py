"""The command pgprefect: what it prints, and how it ends."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pgprefect.cli.main import main
from pgprefect.cli.output import Progress
from pgprefect.runs.retention import Batch

from bench.data import fill
from tests.support.history import insert, insert_run
from tests.support.site import TRADING_SQL, TRADING_TABLES, Site, declaration_of, disposable, pgprefect


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(site_file: Path, *arguments: str) -> int:
    return main(["--config", str(site_file), *arguments])


def test_help_shows_examples() -> None:
    done = pgprefect("--help", environment={})
    assert done.returncode == 0 and "pgprefect stats --days 7" in done.stdout
    assert pgprefect("nonsense", environment={}).returncode == 3


def content(site_file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site_file.read_text())
    return found


def change(site_file: Path, **values: Any) -> None:
    site_file.write_text(json.dumps({**content(site_file), **values}))


class Api:
    """A server that answers every question with success."""

    def __enter__(self) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"true")

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Answer)
        Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/api"

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def codes(text: str) -> set[str]:
    return {problem["code"] for problem in json.loads(text)["problems"]}


def test_verify(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The tests' server is not one of ours: verification says so, and a site's own ends with 0 in the scenarios.
    assert run(site_file, "verify", "--json") == 2
    before = codes(capsys.readouterr().out)
    prefect.sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert run(site_file, "verify") == 2
    text = capsys.readouterr().out
    assert re.match(rf"{prefect.database} differs from what is declared: \d+ errors? and \d+ warnings?\.\n", text)
    assert "mltrading_owner" in text and "public, prefect" in text and "Not checked: " in text
    assert "ERROR right_excess" in text and "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in text
    assert run(site_file, "verify", "--json") == 2
    found = capsys.readouterr().out
    assert codes(found) - before == {"right_excess"}
    assert json.loads(found)["verified"] is False and json.loads(found)["public_schema"]["exists"]


def test_verify_where_nothing_answers(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(site_file, login={**content(site_file)["login"], "port": 1})
    assert run(site_file, "verify") == 3
    assert "No connection to PostgreSQL" in capsys.readouterr().err


def test_verify_one_tenant(clean: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(clean.server, declaration_of(clean.database, "t_", ("prefect", "research")))
    with disposable(site, roles=True):
        site.apply(app_schema_sql=TRADING_SQL)
        path = tmp_path / "site.json"
        login = {"host": "127.0.0.1", "port": site.server.port, "user": "postgres", "password": site.server.password}
        tenants = [{**vars(tenant), "api_url": "http://127.0.0.1:1/api"} for tenant in site.declaration.tenants]
        names = {name: getattr(site.declaration, name) for name in ("app_owner", "app_login", "monitor", "backup")}
        content = {**names, "database": site.database, "login": login, "tenants": tenants}
        path.write_text(json.dumps({**content, "app_schema_tables": list(TRADING_TABLES)}))
        found = {}
        for name in ("tenant0", "tenant1", None):
            run(path, "verify", "--json", *(["--tenant", name] if name else []))
            found[name] = json.loads(capsys.readouterr().out)
        assert list(found["tenant1"]["tenants"]) == ["tenant1"] and len(found[None]["tenants"]) == 2
        objects = {
            name: {(problem["code"], problem["object"]) for problem in content["problems"]}
            for name, content in found.items()
        }
        assert objects["tenant0"] | objects["tenant1"] == objects[None]
        assert ("search_path", "role t_mltrading_app") not in objects["tenant0"]
        assert ("prefect_tables_missing", "schema research") in objects["tenant1"] - objects["tenant0"]


def test_health_without_a_server(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "health") == 2
    text = capsys.readouterr().out
    assert "api_not_ready" in text and "unhealthy" in text and "systemctl status prefect-server@tenant0" in text
    assert text.startswith(f"{content(site_file)['database']} is unhealthy: of ")
    assert re.search(r"^connections +healthy +\d+ of \d+ \(server\)", text, re.MULTILINE)
    assert run(site_file, "health", "--json") == 2
    assert json.loads(capsys.readouterr().out)["checks"]["app_database"] == "healthy"


def test_health_of_somebody_without_rights(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site_file.parent / "pgpass").write_text("")
    with Api() as url:
        change(site_file, tenants=[{**content(site_file)["tenants"][0], "api_url": url}])
        assert run(site_file, "health", "--json") == 3
        found = json.loads(capsys.readouterr().out)
        assert found["overall_status"] == "unknown" and found["checks"]["app_database"] == "unknown"
        assert run(site_file, "health") == 3
    assert "is not known: of " in capsys.readouterr().out


def test_health_of_one_tenant(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = content(site_file)["tenants"][0]
    change(site_file, tenants=[first, {**first, "name": "other"}])
    checks = {}
    for name in (None, "tenant0", "other"):
        run(site_file, "health", "--json", *(["--tenant", name] if name else []))
        checks[name] = set(json.loads(capsys.readouterr().out)["checks"])
    assert checks["tenant0"] | checks["other"] == checks[None]
    assert checks["tenant0"] & checks["other"] >= {"app_database", "connections"}
    assert "workers" in checks["tenant0"] - checks["other"] and "workers:other" in checks["other"] - checks["tenant0"]


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


def test_colours_on_a_terminal(site_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, drawn = io.StringIO(), Terminal()
    for output in (plain, drawn):
        monkeypatch.setattr(sys, "stdout", output)
        run(site_file, "verify")
    assert "\033" in drawn.getvalue() and re.sub("\033\\[[0-9;]*m", "", drawn.getvalue()) == plain.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    again = Terminal()
    monkeypatch.setattr(sys, "stdout", again)
    run(site_file, "verify")
    assert again.getvalue() == plain.getvalue()


def test_statistics(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 60, days=2)
    assert run(site_file, "stats", "--days", "7") == 0
    text = capsys.readouterr().out
    assert text.startswith("Tenant tenant0: 50 runs in the last 7 days, ") and " 50 runs, " in text.splitlines()[1]
    assert text.splitlines()[1].endswith("; 10 scheduled.")
    assert "flow-1" in text and "Slowest tasks" in text
    trend = text.partition("By day, in UTC\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert trend and not [line for line in trend if line.split()[1] == "0"]
    assert run(site_file, "stats", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total_runs"] == 60
    assert run(site_file, "stats", "--csv") == 0
    assert capsys.readouterr().out.startswith("kind,flow,deployment,runs,")


def test_what_the_history_says(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file, "stats", "compare") == 0
    assert "nothing to compare" in capsys.readouterr().out
    flow, now = insert(prefect, "flow", name="collect"), datetime.datetime.now(datetime.UTC)
    for place in range(10):
        for days, seconds in ((10, 5), (3, 50)):
            due = now - datetime.timedelta(days=days, minutes=place)
            values: dict[str, Any] = {"seconds": seconds, "tags": '["nightly"]', "run_count": 2}
            last = insert_run(prefect, flow, due, "COMPLETED", **values)
    assert run(site_file, "stats", "compare") == 0
    headline, _, columns, row = capsys.readouterr().out.splitlines()
    assert "last 7 days compared with those before: 1 worse, 0 better" in headline and columns.endswith("IS")
    assert row.split()[2:5] == ["duration", "5", "s"] and row.endswith("worse")
    assert run(site_file, "stats", "compare", "--all") == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    for action, words in (("flaky", "1 deployment succeeded at"), ("costs", "nightly"), ("path", "50 s, of which 0 s")):
        assert run(site_file, "stats", action, *([last] if action == "path" else [])) == 0
        assert words in capsys.readouterr().out
        assert run(site_file, "stats", action, *([last] if action == "path" else []), "--json") == 0
        assert json.loads(capsys.readouterr().out)
    assert run(site_file, "stats", "report") == 0 and "# Flow runs of the last 7 days" in capsys.readouterr().out
    assert run(site_file, "stats", "report", "--html") == 0 and "<!doctype html>" in capsys.readouterr().out
    assert run(site_file, "stats", "path", "nonsense") == 3
    assert "no id of a flow run" in capsys.readouterr().err


def test_events(prefect: Site, site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(site_file, login={**content(site_file)["login"], "user": prefect.declaration.app_login})
    assert run(site_file, "events", "--workflow", "daily", "--days", "1") == 0
    assert capsys.readouterr().out == (
        "Nothing to show: the table public.system_logs has no event of the workflow daily in the last 1 day.\n"
    )
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
    assert "Nothing is old enough to be deleted" in capsys.readouterr().out
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 200, days=60)
    assert run(site_file, "cleanup", "--days", "31", "--dry-run", "--json") == 0
    expected = json.loads(capsys.readouterr().out)
    assert 80 < expected["flow_runs_deleted"] < 120
    assert run(site_file, "cleanup", "--days", "31") == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"Would delete {expected['flow_runs_deleted']} flow runs, ")
    assert captured.err == "Nothing was deleted: say --yes to delete it.\n"
    assert prefect.sql("SELECT count(*) FROM prefect.flow_run") == [(200,)]
    assert run(site_file, "cleanup", "--days", "31", "--yes") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Deleted ") and "task_run_state" in captured.out
    batches = [json.loads(line) for line in captured.err.splitlines()]
    assert sum(batch["deleted"].get("flow_run", 0) for batch in batches) == expected["flow_runs_deleted"]
    assert prefect.sql("SELECT count(*) FROM prefect.flow_run") == [(200 - expected["flow_runs_deleted"],)]


def test_a_bar_shows_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(200)
    for rows in (100, 200):
        progress(Batch("runs", {"flow_run": 100}, 0.1, rows))
    assert terminal.getvalue() == f"\r[{'#' * 20:<40}]  50%  100 rows\r[{'#' * 40}] 100%  200 rows\n"
