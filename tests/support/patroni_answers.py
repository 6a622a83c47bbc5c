"""A Patroni that answers what a test wants."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

from pgprefect.site.configuration import Patroni

# Of Patroni 3.0 and of 4.0, which has another word for a standby that follows.
LEADER = {"name": "db1", "role": "leader", "state": "running", "timeline": 2}
STANDBY = {"name": "db2", "role": "sync_standby", "state": "running", "timeline": 2, "lag": 0}
THIRD = {"name": "db3", "role": "replica", "state": "streaming", "timeline": 2, "lag": 16}


@contextlib.contextmanager
def answering(members: list[dict[str, Any]], majority: bool = True, **others: Any) -> Iterator[Patroni]:
    answers = {
        "/cluster": (200, {"members": members, "scope": "15-main", **others}),
        "/health": (200, {"health": "true"}) if majority else (503, {"health": "false"}),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Patroni(url, "", url, "db1", ("db1", "db2", "db3"))
        server.shutdown()
