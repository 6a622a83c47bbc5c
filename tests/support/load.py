"""A stream of requests to an API, of which each that was acknowledged is remembered."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
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
    """Creates flow runs by an API at ``address``, which shows a certificate for ``name``, ``rate`` requests a second.

    After each of them it asks for the run ``reads`` times, which costs the API less. A failure is not tried again: what
    a client of Prefect would bridge is counted.
    """

    address: str
    name: str
    ca_file: Path
    auth_string: str
    rate: float = 20
    reads: int = 0
    acknowledged: list[str] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    answered: int = 0
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
        connection = self._connection()
        try:
            return self._ask(connection, method, path, body)
        finally:
            connection.close()

    def _connection(self) -> _Named:
        return _Named(self.address, 443, self.name, ssl.create_default_context(cafile=str(self.ca_file)))

    def _ask(self, connection: _Named, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        login = base64.b64encode(self.auth_string.encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json", "Host": self.name}
        connection.request(method, f"/api{path}", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def start(self, deployment: str, **parameters: object) -> str:
        """Start a run of ``FLOW/DEPLOYMENT``, which workers take, and return its ID."""
        status, found = self.call("GET", f"/deployments/name/{deployment}")
        assert status == 200, found
        path = f"/deployments/{json.loads(found)['id']}/create_flow_run"
        status, made = self.call("POST", path, {"parameters": parameters})
        assert status == 201, made
        self.runs.append(json.loads(made)["id"])
        return self.runs[-1]

    def _send(self, ended: threading.Event, pause: float) -> None:
        status, flow = self.call("POST", "/flows/", {"name": "load"})
        assert status in (200, 201), flow
        connection = self._connection()  # which it keeps, as Prefect's own client does
        made = {"flow_id": json.loads(flow)["id"], "state": {"type": "COMPLETED"}}
        for number in itertools.count():
            begun = time.monotonic()
            try:
                if number % (self.reads + 1) == 0 or not self.acknowledged:
                    run = {**made, "name": f"load-{uuid.uuid4()}"}
                    status, content = self._ask(connection, "POST", "/flow_runs/", run)
                    if status == 201:
                        self.acknowledged.append(json.loads(content)["id"])
                else:
                    status, content = self._ask(connection, "GET", f"/flow_runs/{self.acknowledged[-1]}")
                if status in (200, 201):
                    self.answered += 1
                else:
                    self.failures.append((time.time(), f"{status} {content[:120]!r}"))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((time.time(), repr(error)))
                connection.close()
            taken = time.monotonic() - begun
            self.slowest = max(self.slowest, taken)
            if ended.wait(max(0.0, pause - taken)):
                break
        connection.close()


class _Named(http.client.HTTPSConnection):
    """A connection to an address, whose certificate must have a name."""

    def __init__(self, address: str, port: int, name: str, context: ssl.SSLContext) -> None:
        super().__init__(address, port, timeout=30, context=context)
        self._name, self._tls = name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)
