"""A Patroni that answers what a test wants."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pgprefect.site.configuration import Patroni

# Of Patroni 3.0 and of 4.0, which has another word for a standby that follows.
LEADER = {"name": "db1", "role": "leader", "state": "running", "timeline": 2}
STANDBY = {"name": "db2", "role": "sync_standby", "state": "running", "timeline": 2, "lag": 0}
THIRD = {"name": "db3", "role": "replica", "state": "streaming", "timeline": 2, "lag": 16}


def receiving(*states: tuple[str, str]) -> list[dict[str, str]]:
    """Return standbys as the primary's Patroni lists them, each with what pg_stat_replication says."""
    return [{"application_name": name, "state": state} for name, state in states]


@contextlib.contextmanager
def answering(
    members: list[dict[str, Any]],
    majority: bool = True,
    synchronous: bool = True,
    standbys: list[dict[str, str]] | None = None,
    started: datetime = datetime(2026, 1, 31, tzinfo=UTC),
    **others: Any,
) -> Iterator[Patroni]:
    """Let a Patroni answer for its cluster, as the primary's does, with these standbys that receive WAL from it."""
    both = receiving(("db2", "streaming"), ("db3", "streaming"))
    about_primary = {"postmaster_start_time": started.isoformat(sep=" "), "replication": both}
    if standbys is not None:
        about_primary["replication"] = standbys
    answers: dict[str, tuple[int, Any]] = {
        "/health": (200, {"health": "true"}) if majority else (503, {"health": "false"}),
        "/patroni": (200, about_primary),
        "/config": (200, {"synchronous_mode": synchronous}),
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
        described = [{"api_url": f"{url}/patroni", **member} for member in members]
        answers["/cluster"] = 200, {"members": described, "scope": "15-main", **others}
        yield Patroni(url, "", url, "db1", ("db1", "db2", "db3"))
        server.shutdown()
