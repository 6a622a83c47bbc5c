"""The command without a database."""

from __future__ import annotations

import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pgprefect.cli import common
from pgprefect.cli.main import main


def test_the_command_starts_itself_and_nothing_of_the_folder_in_which_it_runs(tmp_path: Path) -> None:
    (tmp_path / "pgprefect").mkdir()
    for name in ("sitecustomize", "pgprefect/__init__", "pgprefect/__main__", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('trapped')")
    command = [*common.this_program(), "backup", "create", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--safety" in done.stdout, done.stderr


def test_wait_returns_when_the_service_answers_with_success() -> None:
    answers = [503, 503, 200]

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert main(["wait", f"http://127.0.0.1:{server.server_port}/ready"]) == 0
        server.shutdown()
    assert answers == []


def test_wait_refuses_the_answer_of_another_users_process(capsys: pytest.CaptureFixture[str]) -> None:
    """A local user who takes a port while its service restarts would get what clients send."""

    class Squatter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Squatter) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/ready"
        assert main(["wait", "--user", "nobody", url]) == 2
        server.shutdown()
    assert f"Port {server.server_port} of this host is listened on by a process of" in capsys.readouterr().err
