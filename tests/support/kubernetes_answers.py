"""A stand-in for the API server of Kubernetes that replays what a real one answered, for the Job of one run.

tests/kubernetes/test_recorded_answers.py records the answers where the file is missing, and compares them.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.certificates import Authority
from tests.support.kubernetes import Cluster

ANSWERS = Path(__file__).with_name("kubernetes_answers.json")
RUN_LABEL = "prefect.io/flow-run-id"


@dataclass
class RecordedCluster(Cluster):
    """The namespace is empty until ``fails`` is set; then it has the Job that was created, which fails as recorded."""

    token: str
    answers: dict[str, Any] = field(default_factory=lambda: dict(json.loads(ANSWERS.read_text())))
    asked: list[str] = field(default_factory=list)
    created: dict[str, Any] = field(default_factory=dict)
    fails: threading.Event = field(default_factory=threading.Event)
    _closed: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return the status and the answer to a request that is not a watch."""
        kind = path.rpartition("/")[2]
        if method == "POST" and kind == "jobs":
            self.created = body
            return 201, self.answers["created"]
        if method == "GET" and kind in ("jobs", "pods") and "/namespaces/" in path:
            return 200, self.answers["ended" if self.fails.is_set() else "empty"][kind]
        if path in self.answers["discovery"]:
            return 200, self.answers["discovery"][path]
        return 404, self.answers["not_found"]

    def text(self, answer: Any) -> bytes:
        """Return an answer as JSON, for the run whose Job was created."""
        run = self.created["metadata"]["labels"][RUN_LABEL] if self.created else ""
        return json.dumps(answer).replace(self.answers["run"], run).encode()

    def events(self, kind: str) -> Iterator[bytes]:
        """Yield the lines of a watch, and then nothing until the end."""
        while not self.fails.wait(0.1):
            if self._closed.is_set():
                return
        for event in self.answers["watched"][kind]:
            yield self.text(event) + b"\n"
        self._closed.wait()

    @contextlib.contextmanager
    def serving(self, folder: Path, authority: Authority) -> Iterator[RecordedCluster]:
        """Serve on the port over TLS."""
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(*authority.write(folder, "recorded", "127.0.0.1"))
        handler = type("Handler", (_Handler,), {"cluster": self})
        with _Server(("127.0.0.1", self.port), handler) as server:
            # Shaking hands is for the thread of the connection, which closes it where the client is gone.
            server.socket = trust.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                self._closed.set()
                server.shutdown()
                thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that are killed do not take their leave."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: RecordedCluster

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def _serve(self, method: str) -> None:
        parts = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        self.cluster.asked.append(f"{method} {parts.path}")
        if self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
            self._send(401, self.cluster.answers["unauthorized"])
        elif "watch" in parse_qs(parts.query):
            self._watch(parts.path.rpartition("/")[2])
        else:
            self._send(*self.cluster.answer(method, parts.path, body))

    def _send(self, status: int, answer: Any) -> None:
        content = self.cluster.text(answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _watch(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            for line in self.cluster.events(kind):
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
