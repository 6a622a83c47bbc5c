"""Measure the API behind the site's proxy with TLS against the API asked directly, request by request in turn.

HAProxy runs with the role's own configuration, in a container on this machine's network. Run it with
``PYTHONPATH=module_utils .venv/bin/python -m bench.proxy``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pgprefect.core.http import get

from bench.support import DURABLE, prefect_database, prefect_server
from tests.support.certificates import Authority
from tests.support.proxy import write_configuration

PORT = 28443
REQUESTS = 2000
FOLDER = "/etc/prefect/proxy"  # in the container, as on a host
START = (
    "apt-get install --yes --no-install-recommends haproxy >/dev/null && mkdir -p /run/prefect-proxy && "
    f"exec haproxy -f {FOLDER}/people.cfg -f {FOLDER}/haproxy.cfg"
)


def configure(folder: Path, api_port: int) -> None:
    """Write a certificate, and the role's files."""
    write_configuration(folder, {"prefect": (api_port, f"https://127.0.0.1:{PORT}")}, prefect_proxy_http_port=0)
    authority = Authority()
    (folder / "ca.pem").write_text(authority.certificate)
    (folder / "certificate.pem").write_text("".join(authority.issue("127.0.0.1")))


def answers(url: str, ca_file: str) -> bool:
    """Return whether the API answers behind the proxy."""
    try:
        get(url, 5, ca_file)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running_proxy(folder: Path) -> Iterator[str]:
    """Start HAProxy in a container, and yield the API's address behind it."""
    command = ["docker", "run", "--detach", "--network=host", f"--volume={folder}:{FOLDER}:ro"]
    command += [f"--env=PREFECT_PROXY_CERTIFICATE={FOLDER}/certificate.pem", "ansible-prefect-host:bookworm"]
    container = subprocess.run([*command, "sh", "-c", START], check=True, text=True, stdout=subprocess.PIPE).stdout
    url = f"https://127.0.0.1:{PORT}/api"
    try:
        ends = time.monotonic() + 120
        while not answers(f"{url}/ready", str(folder / "ca.pem")):
            assert time.monotonic() < ends, subprocess.run(["docker", "logs", container.strip()], check=False)
            time.sleep(0.5)
        yield url
    finally:
        subprocess.run(["docker", "rm", "--force", container.strip()], check=True, stdout=subprocess.DEVNULL)


class Client:
    """A connection that stays open, as those of Prefect's client."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self.path = f"{parts.path}/flow_runs/filter"
        self.connection = (
            http.client.HTTPSConnection(parts.netloc, context=context)
            if context
            else http.client.HTTPConnection(parts.netloc)
        )

    def ask(self) -> float:
        """Request the newest runs, as the UI does, and return the seconds that it took."""
        body = json.dumps({"limit": 20, "sort": "EXPECTED_START_TIME_DESC"})
        started = time.perf_counter()
        self.connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        return time.perf_counter() - started


def milliseconds(taken: list[float], share: float) -> float:
    return sorted(taken)[int(len(taken) * share)] * 1000


def main() -> None:
    """Measure, and print both sides."""
    with prefect_database(DURABLE) as site, prefect_server(site) as direct, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configure(folder, urlsplit(direct).port or 0)
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        with running_proxy(folder) as proxied:
            clients = {"directly": Client(direct), "by the proxy": Client(proxied, context)}
            for client in clients.values():
                for _ in range(100):
                    client.ask()
            taken: dict[str, list[float]] = {who: [] for who in clients}
            for _ in range(REQUESTS):
                for who, client in clients.items():
                    taken[who].append(client.ask())
    print(f"\n{REQUESTS} requests for the newest runs, in turn\n{'':<14}  {'p50 ms':>8}  {'p99 ms':>8}")
    for who, times in taken.items():
        print(f"{who:<14}  {milliseconds(times, 0.5):>8.2f}  {milliseconds(times, 0.99):>8.2f}")


if __name__ == "__main__":
    main()
