"""The client of Prefect's API where it meets answers that a real server rarely gives."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pgprefect.cli.common import api_of
from pgprefect.core.http import CA_FILE, ApiError, ApiUnreachable, PrefectApi, get, is_ready
from pgprefect.core.problems import format_problems
from pgprefect.objects.changes import create

from tests.support.certificates import Authority

Answers = list[tuple[int, bytes]]
Serve = Callable[[Answers], PrefectApi]


class Server(BaseHTTPRequestHandler):
    answers: Answers
    asked: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(json.loads(body))
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        status, content = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server that gives these answers, one after the other; a proxy is set, which must not be used."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def answer(answers: Answers) -> PrefectApi:
        Server.answers, Server.asked = answers, []
        return PrefectApi(f"http://127.0.0.1:{server.server_port}/api", "admin:x", timeout=5)

    yield answer
    server.shutdown()
    server.server_close()


def test_filters_read_page_by_page(serve: Serve) -> None:
    pages = [[{"id": i} for i in range(200)], [{"id": 200}]]
    found = serve([(200, json.dumps(page).encode()) for page in pages]).filter("/flows/filter", flows={})
    assert [item["id"] for item in found] == list(range(201))
    assert [(asked["limit"], asked["offset"]) for asked in Server.asked] == [(200, 0), (200, 200)]


def test_a_busy_server_is_asked_again(serve: Serve) -> None:
    assert serve([(503, b""), (429, b""), (200, b"1")]).call("POST", "/x", {}, (0, 0)) == 1


def test_a_server_that_stays_busy_is_an_error(serve: Serve) -> None:
    with pytest.raises(ApiError, match="HTTP 503: ") as failed:
        serve([(503, b"")] * 3).call("POST", "/x", {}, (0, 0))
    assert failed.value.problem.code == "api_refused" and "journalctl" in failed.value.problem.remedy


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, b"<html>\n broken </html>"), "HTTP 500: <html> broken </html>."),
        ((400, b'{"detail": "No."}'), "HTTP 400: No."),
        ((400, b'["odd"]'), r"HTTP 400: \['odd'\]."),
        ((422, b'{"exception_detail": [{"loc": ["body", "name"], "msg": "too long"}]}'), "name: too long"),
    ],
)
def test_refusals_say_what_the_server_says(serve: Serve, answer: tuple[int, bytes], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        serve([answer]).call("POST", "/x", {})


def test_a_page_of_html_is_another_address_than_the_apis(serve: Serve) -> None:
    with pytest.raises(ApiError, match="not JSON") as failed:
        serve([(200, b"<html>")]).call("POST", "/x", {})
    assert failed.value.problem.code == "api_not_json" and "ends with /api" in failed.value.problem.remedy


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "127.0.0.1:4200/api", "http://[::1/api"])
def test_an_address_where_nothing_answers_is_an_error_of_its_own(url: str) -> None:
    with pytest.raises(ApiUnreachable, match="No Prefect API answers") as failed:
        PrefectApi(url).call("GET", "/health")
    assert failed.value.problem.code == "api_not_ready"


def test_a_service_is_ready_when_it_answers_with_success(serve: Serve) -> None:
    url = serve([(503, b""), (200, b"true")]).url
    assert [is_ready(url), is_ready(url), is_ready("http://127.0.0.1:9")] == [False, True, False]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """An authority's file, and the files of a certificate for 127.0.0.1 and its key."""
    folder, made = tmp_path_factory.mktemp("authority"), Authority()
    (folder / "ca.pem").write_text(made.certificate)
    certificate, key = made.write(folder, "server", "127.0.0.1")
    return str(folder / "ca.pem"), str(certificate), str(key)


@pytest.fixture
def encrypted(authority: tuple[str, str, str]) -> Iterator[int]:
    """The port of a server with TLS, which answers with true."""
    server = HTTPServer(("127.0.0.1", 0), Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority[1:])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Server.answers, Server.asked = [(200, b"true")] * 3, []
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_server_with_tls_proves_who_it_is(
    encrypted: int, authority: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"https://127.0.0.1:{encrypted}/api"
    with pytest.raises(ApiUnreachable, match="certificate verify failed") as failed:
        PrefectApi(url).call("GET", "/health")
    assert "set prefect_api_ca_file to the authority" in failed.value.problem.remedy
    assert PrefectApi(url, ca_file=authority[0]).call("GET", "/health") is True
    with pytest.raises(OSError, match="certificate is not valid for"):
        get(url.replace("127.0.0.1", "localhost"), 5, authority[0])
    # As the units of workers have it, and the files of the commands.
    environment = tmp_path / "prefect.env"
    environment.write_text(f'PREFECT_API_URL="{url}"\n{CA_FILE}="{authority[0]}"\n')
    assert api_of(environment, "").call("GET", "/health") is True
    monkeypatch.setenv(CA_FILE, authority[0])
    assert is_ready(url)
    assert not is_ready(url.replace("https", "http"))


def test_a_change_says_what_failed(serve: Serve) -> None:
    api = serve([(400, b'{"detail": "No."}')])
    change = create("work pool x", {}, lambda: api.call("POST", "/x", {}))
    with pytest.raises(ApiError, match=r"Could not create work pool x\. POST .* HTTP 400: No\.") as failed:
        change.apply()
    assert "Could not create work pool x" in format_problems(failed.value.problems)
