"""A real Prefect server in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.http import PrefectApi, is_ready

from tests.support.ports import free_port
from tests.support.project import VIRTUALENV
from tests.support.waiting import wait_for

Api = Callable[..., Any]


@contextlib.contextmanager
def running_server(
    home: Path, environment: Mapping[str, str], *options: str, virtualenv: Path = VIRTUALENV
) -> Iterator[Api]:
    """Start a server with this environment, and give a function that makes a request: method, path, body."""
    if not virtualenv.exists():
        pytest.fail(f"{virtualenv} is missing: box/controller prefect makes it.")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    given = {
        "PATH": os.environ["PATH"],
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        **environment,
        "HOME": str(home),
        "PREFECT_HOME": str(home),
    }
    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [virtualenv / "bin/prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), *options],
            env=given,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: server.poll() is not None or is_ready(f"{url}/ready"), log.read_text, 180)
        assert server.poll() is None, log.read_text()
        yield PrefectApi(url).call
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
