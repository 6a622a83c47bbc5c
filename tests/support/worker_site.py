"""A work pool with one worker, as a host of the site runs it, and a deployment on it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgprefect.core.http import is_ready

from tests.support.ports import free_port
from tests.support.project import ROOT, VIRTUALENV
from tests.support.waiting import wait_for

_WORKER = ROOT / "roles/prefect_worker/files/draining_worker.py"
_ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_FLOW = """
import os
import time
from pathlib import Path
from prefect import flow

@flow
def gated(code: int = 0, gate: str = ""):
    Path("begun").write_text("".join(f"{name}={value}\\n" for name, value in os.environ.items()))
    while gate and not Path(gate).exists():
        time.sleep(0.1)
    if code:
        os._exit(code)
"""


@dataclass
class WorkerSite:
    """The pool is there; ``folder`` is where the runs of its deployment begin, which is made with this.

    ``environment`` is the worker's besides what all of them have here.
    """

    api: Callable[..., Any]
    folder: Path
    environment: dict[str, str]
    pool: str
    name: str
    python_options: tuple[str, ...] = ("-I",)
    deployment: str = ""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environment |= {
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "DECLARED": "yes",
            "UNDECLARED": "no",
        }
        (self.folder / "gated.py").write_text(_FLOW)
        body = {
            "name": "gated",
            "flow_id": self.api("POST", "/flows/", {"name": "gated"})["id"],
            "work_pool_name": self.pool,
            "entrypoint": "gated.py:gated",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(self.folder)}}],
        }
        self.deployment = self.api("POST", "/deployments/", body)["id"]

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker as its unit does, and wait until it polls, or has ended."""
        command = [str(VIRTUALENV / "bin/python"), *self.python_options, str(_WORKER), self.pool, self.name, "3"]
        with self.log.open("ab") as log:
            worker = subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=log, stderr=log)
        self.workers.append(worker)
        health = f"http://127.0.0.1:{self.environment['PREFECT_WORKER_WEBSERVER_PORT']}/health"
        wait_for(lambda: is_ready(health) or worker.poll() is not None, self.said, 180)
        return worker

    def said(self) -> str:
        return self.log.read_text()[-6000:]

    def run(self, **body: Any) -> str:
        (self.folder / "begun").unlink(missing_ok=True)
        return str(self.api("POST", f"/deployments/{self.deployment}/create_flow_run", body)["id"])

    def begin(self, **body: Any) -> str:
        run = self.run(**body)
        wait_for(lambda: (self.folder / "begun").exists() or self.state(run)[0] in _ENDS, self.said, 120)
        assert (self.folder / "begun").exists(), self.said()
        return run

    def seen(self) -> dict[str, str]:
        """Return the environment of the run that began last."""
        return dict(line.split("=", 1) for line in (self.folder / "begun").read_text().splitlines() if "=" in line)

    def state(self, run: str) -> tuple[str, str]:
        found = self.api("GET", f"/flow_runs/{run}")["state"]
        return found["type"], found["message"] or ""

    def end(self, run: str) -> tuple[str, str]:
        wait_for(lambda: self.state(run)[0] in _ENDS, self.said, seconds=120)
        return self.state(run)

    def tidy(self) -> None:
        """End the workers and remove the pool."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        self.api("DELETE", f"/work_pools/{self.pool}")
