"""A relay of database events and the Prefect server that it sends to, as processes that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pgprefect.core.http import PrefectApi, is_ready

from tests.support.ports import free_port
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import PASSWORD, Site
from tests.support.waiting import wait_for

AUTH_STRING = "admin:secret"


class Program:
    """A process that is started, killed and started again; its output is appended to a file."""

    def __init__(self, command: Sequence[str | Path], environment: dict[str, str], log: Path) -> None:
        self._command, self._environment, self.log = command, environment, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def kill(self) -> None:
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.terminate()
        return self.process.wait(60)


class PrefectServer(Program):
    """A Prefect server on the database of a site, with a password."""

    def __init__(self, site: Site, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        environment = {
            **site.environment(role=site.tenant.server),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_API_AUTH_STRING": AUTH_STRING,
            # No worker takes the runs, and to mark thousands of them as late is a load of its own.
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
            "HOME": str(home),
            "PREFECT_HOME": str(home),
        }
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        super().__init__([VIRTUALENV / "bin/prefect", *words], environment, home / "server.log")
        self.api = PrefectApi(self.url, AUTH_STRING)

    def start(self) -> None:
        super().start()
        wait_for(lambda: is_ready(f"{self.url}/ready"), self.log.read_text, 180)

    def deployment(self, flow: str = "check-risk-limits", name: str = "on-order", **settings: Any) -> str:
        """Create a deployment, and return its identifier."""
        flow_id = self.api.call("POST", "/flows/", {"name": flow})["id"]
        body = {"name": name, "flow_id": flow_id, "enforce_parameter_schema": False, **settings}
        return str(self.api.call("POST", "/deployments/", body)["id"])


def relay_of(site: Site, api_url: str, log: Path, rate: float = 1000) -> Program:
    """Return the relay of the first tenant, which runs as its unit runs it."""
    tenant = site.tenant
    told = {"outbox": tenant.outbox, "events": tenant.database_events, "rate": rate, "keep_days": 7}
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "module_utils"),
        "PREFECT_API_URL": api_url,
        "PREFECT_API_AUTH_STRING": AUTH_STRING,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(site.server.port),
        "PGDATABASE": site.database,
        "PGUSER": tenant.relay,
        "PGPASSWORD": PASSWORD,
        "PGPREFECT_RELAY": json.dumps(told),
    }
    return Program([VIRTUALENV / "bin/python", "-m", "pgprefect", "relay"], environment, log)


@contextlib.contextmanager
def running(program: Program) -> Iterator[Program]:
    program.start()
    try:
        yield program
    finally:
        program.stop()
