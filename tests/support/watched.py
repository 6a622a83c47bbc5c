"""A site whose figures a real Prometheus has, with the page over it."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pgprefect.core.http import is_ready
from pgprefect.health.thresholds import Thresholds
from pgprefect.metrics.alerts import JOB, rules

from tests.support.ports import free_port
from tests.support.project import PROMETHEUS, ROOT
from tests.support.waiting import wait_for

PAGE = ROOT / "roles/prefect_prometheus/files/page"


@contextlib.contextmanager
def _serving(text: Callable[[], str]) -> Iterator[int]:
    """Serve a text that is made anew for each request, in the place of a node exporter; yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text().encode())

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@contextlib.contextmanager
def watched(text: Callable[[], str], ui_urls: dict[str, str], folder: Path) -> Iterator[str]:
    """Run a Prometheus that takes these figures each second; yield the address of its page."""
    shutil.copytree(PAGE, folder / "page")
    (folder / "page/site.json").write_text(json.dumps({"tenants": ui_urls}))
    (folder / "alerts.json").write_text(json.dumps(rules(Thresholds())))
    port = free_port()
    with _serving(text) as exporter:
        target = {"targets": [f"127.0.0.1:{exporter}"], "labels": {"instance": "box"}}
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.json"],
            "scrape_configs": [{"job_name": JOB, "static_configs": [target]}],
        }
        (folder / "prometheus.json").write_text(json.dumps(configuration))
        command = [
            str(PROMETHEUS),
            "--config.file=prometheus.json",
            "--storage.tsdb.path=data",
            "--web.user-assets=page",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
        with subprocess.Popen(command, cwd=folder) as prometheus:
            try:
                wait_for(lambda: is_ready(f"http://127.0.0.1:{port}/-/ready"))
                yield f"http://127.0.0.1:{port}/user/"
            finally:
                prometheus.terminate()
