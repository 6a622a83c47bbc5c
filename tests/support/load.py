"""A stream of requests to an API, of which each that was acknowledged is remembered."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Load:
    """Creates flow runs by an API at ``address``, which shows a certificate for ``name``.

    A failure is not tried again: what a client of Prefect would bridge is counted.
    """

    address: str
    name: str
    ca_file: Path
    auth_string: str
    rate: float = 20
    acknowledged: list[str] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    slowest: float = 0.0

    @contextlib.contextmanager
    def running(self, threads: int = 4) -> Iterator[Load]:
        """Send requests until the end of the block."""
        ended = threading.Event()
        senders = [threading.Thread(target=self._send, args=(ended, threads / self.rate)) for _ in range(threads)]
        for sender in senders:
            sender.start()
        try:
            yield self
        finally:
            ended.set()
            for sender in senders:
                sender.join()

    def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Send one request by a connection of its own, and return the answer's status and content."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        connection = _Named(self.address, 443, self.name, context)
        try:
            login = base64.b64encode(self.auth_string.encode()).decode()
            headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json", "Host": self.name}
            connection.request(method, f"/api{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _send(self, ended: threading.Event, pause: float) -> None:
        status, flow = self.call("POST", "/flows/", {"name": "load"})
        assert status in (200, 201), flow
        flow_id = json.loads(flow)["id"]
        while not ended.wait(pause):
            begun = time.monotonic()
            try:
                status, content = self.call(
                    "POST",
                    "/flow_runs/",
                    {"flow_id": flow_id, "name": f"load-{uuid.uuid4()}", "state": {"type": "COMPLETED"}},
                )
                if status == 201:
                    self.acknowledged.append(json.loads(content)["id"])
                else:
                    self.failures.append((time.time(), f"{status} {content[:120]!r}"))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((time.time(), repr(error)))
            self.slowest = max(self.slowest, time.monotonic() - begun)


class _Named(http.client.HTTPSConnection):
    """A connection to an address, whose certificate must have a name."""

    def __init__(self, address: str, port: int, name: str, context: ssl.SSLContext) -> None:
        super().__init__(address, port, timeout=30, context=context)
        self._name, self._tls = name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)
