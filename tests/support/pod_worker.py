"""A Kubernetes pool with one worker, as the site makes them, of which runs are started."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pgprefect.core.http import is_ready

from filter_plugins.kubeconfigs import plain_kubeconfig
from filter_plugins.workers import pod_settings
from tests.support.kubernetes import free_port
from tests.support.project import ROOT, VIRTUALENV
from tests.support.waiting import wait_for

WORKER = ROOT / "roles/prefect_worker/files/draining_worker.py"
NAME = "host-tenant-cluster-1"
POOL = "cluster"
NAMESPACE = "prefect-flows"
IMAGE = "registry.example.com/flows@sha256:" + 64 * "1"
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_FLOW = """
import os
import time
from pathlib import Path
from prefect import flow

@flow
def in_a_pod(code: int = 0, gate: str = ""):
    Path("begun").write_text("".join(f"{name}={value}\\n" for name, value in os.environ.items()))
    while gate and not Path(gate).exists():
        time.sleep(0.1)
    if code:
        os._exit(code)
"""


@dataclass
class PodSite:
    """The pool is declared, and so is a deployment; ``folder`` is where its pods run."""

    api: Callable[..., Any]
    folder: Path
    environment: dict[str, str]
    deployment: str = ""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    @property
    def kubeconfig(self) -> str:
        return self.environment["KUBECONFIG"]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker as its unit does, and wait until it polls."""
        command = [str(VIRTUALENV / "bin/python"), str(WORKER), POOL, NAME, "3"]
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
        wait_for(lambda: (self.folder / "begun").exists() or self.state(run)[0] in ENDS, self.said, 120)
        assert (self.folder / "begun").exists(), self.said()
        return run

    def seen(self) -> dict[str, str]:
        """Return the environment of the run that began last."""
        return dict(line.split("=", 1) for line in (self.folder / "begun").read_text().splitlines() if "=" in line)

    def state(self, run: str) -> tuple[str, str]:
        found = self.api("GET", f"/flow_runs/{run}")["state"]
        return found["type"], found["message"] or ""

    def end(self, run: str) -> tuple[str, str]:
        wait_for(lambda: self.state(run)[0] in ENDS, self.said, seconds=120)
        return self.state(run)

    def tidy(self) -> None:
        """End the workers and remove the pool."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        self.api("DELETE", f"/work_pools/{POOL}")


def declared_site(
    api: Callable[..., Any],
    declare: Callable[..., dict[str, Any]],
    prefect_environment: Mapping[str, str],
    kubeconfig: Mapping[str, Any],
    folder: Path,
) -> PodSite:
    """Declare a pool by the module prefect_work_pools, and write what its worker's unit gets."""
    job = {"image": IMAGE, "namespace": NAMESPACE, "memory": "256M", "cpu": "100m"}
    pools = [{"name": POOL, "type": "kubernetes", "kubernetes": job}]
    assert declare(pools=pools)["actions"] == [f"create work pool {POOL}"]
    assert not declare(pools=pools)["changed"]
    config = folder / "kubeconfig.json"
    config.write_text(json.dumps(plain_kubeconfig(json.dumps(kubeconfig), NAMESPACE)))
    (folder / "in_a_pod.py").write_text(_FLOW)
    worker = {"kubernetes": job, "container_api_url": prefect_environment["PREFECT_API_URL"]}
    variables = yaml.safe_load((ROOT / "roles/prefect_worker/vars/main.yml").read_text())
    of_the_role = variables["__prefect_worker_kubernetes_env"]
    environment = {
        **prefect_environment,
        **{name: value for name, value in of_the_role.items() if name.startswith("PREFECT_") and "{{" not in value},
        "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": NAMESPACE,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "KUBECONFIG": str(config),
        "PGPREFECT_CONTAINERS": json.dumps(pod_settings(worker, ["DECLARED"], False)),
        "DECLARED": "yes",
        "UNDECLARED": "no",
    }
    site = PodSite(api, folder, environment)
    body = {
        "name": "in-a-pod",
        "flow_id": api("POST", "/flows/", {"name": "in-a-pod"})["id"],
        "work_pool_name": POOL,
        "entrypoint": "in_a_pod.py:in_a_pod",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
    }
    site.deployment = api("POST", "/deployments/", body)["id"]
    return site
