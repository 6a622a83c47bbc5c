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
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from pgprefect.core.http import is_ready
from pgprefect.health.thresholds import Thresholds
from pgprefect.metrics.alerts import JOB, rules

from tests.support.ports import free_port
from tests.support.project import PROMETHEUS, ROOT
from tests.support.waiting import wait_for

PAGE = ROOT / "roles/prefect_prometheus/files/page"


@contextlib.contextmanager
def serving(text: Callable[[], str]) -> Iterator[int]:
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
def running_prometheus(exporter: int, folder: Path, content: dict[str, Any], interval: str = "1s") -> Iterator[str]:
    """Run a Prometheus with these rules that asks the exporter of this port so often; yield its address."""
    (folder / "alerts.json").write_text(json.dumps(content))
    port = free_port()
    target = {"targets": [f"127.0.0.1:{exporter}"], "labels": {"instance": "box"}}
    configuration = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["alerts.json"],
        "scrape_configs": [{"job_name": JOB, "static_configs": [target]}],
    }
    (folder / "prometheus.json").write_text(json.dumps(configuration))
    (folder / "page").mkdir(exist_ok=True)
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
            yield f"http://127.0.0.1:{port}"
        finally:
            prometheus.terminate()


@contextlib.contextmanager
def watched(text: Callable[[], str], ui_urls: dict[str, str], folder: Path) -> Iterator[str]:
    """Run a Prometheus that takes these figures each second; yield the address of its page."""
    shutil.copytree(PAGE, folder / "page")
    (folder / "page/site.json").write_text(json.dumps({"tenants": ui_urls}))
    with serving(text) as exporter, running_prometheus(exporter, folder, rules(Thresholds())) as prometheus:
        yield f"{prometheus}/user/"


def asked(prometheus: str, expression: str) -> list[Any]:
    """Return what a Prometheus answers, series by series."""
    with urlopen(f"{prometheus}/api/v1/query?{urlencode({'query': expression})}", timeout=10) as answer:
        return list(json.loads(answer.read())["data"]["result"])
