"""What the modules for Prefect's objects do that is hard to provoke on a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prefect_api import Plan, PrefectApi, PrefectError, PrefectUnreachable

Answers = list[tuple[int, bytes]]
Serve = Callable[[Answers], PrefectApi]


class Server(BaseHTTPRequestHandler):
    answers: Answers
    asked: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(json.loads(body))
        status, content = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that gives these answers, one after the other."""
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
    with pytest.raises(PrefectError, match=r"HTTP 503: .*journalctl"):
        serve([(503, b"")] * 3).call("POST", "/x", {}, (0, 0))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, b"<html>\n broken </html>"), "HTTP 500: <html> broken </html>."),
        ((400, b'{"detail": "No."}'), "HTTP 400: No."),
        ((400, b'["odd"]'), r"HTTP 400: \['odd'\]."),
        ((422, b'{"exception_detail": [{"loc": ["body", "name"], "msg": "too long"}]}'), "name: too long"),
        ((200, b"<html>"), "not JSON"),
    ],
)
def test_refusals_say_what_the_server_says(serve: Serve, answer: tuple[int, bytes], message: str) -> None:
    with pytest.raises(PrefectError, match=message):
        serve([answer]).call("POST", "/x", {})


def test_nothing_that_answers_is_an_error_of_its_own() -> None:
    with pytest.raises(PrefectUnreachable, match="No Prefect API answers"):
        PrefectApi("http://127.0.0.1:9/api").call("GET", "/health")


def test_a_plan_says_what_failed() -> None:
    def refuse() -> None:
        raise PrefectError("No.")

    plan = Plan()
    plan.create("work pool x", {}, refuse)
    with pytest.raises(PrefectError, match=r"Could not create work pool x\. No\."):
        plan.apply()
