"""Prefect's Kubernetes worker, held to what the inventory declares for its host.

Who may use Prefect's API may change a work pool and a deployment, and so what Prefect's worker asks the cluster for: a
privileged pod, a directory of its node, any Secret of the namespace, or another cluster. Here the host decides: the Job
is the one that its own file declares, in the cluster of its own kubeconfig. A run has its image, which must be named by
its digest, its command, its labels and variables of its environment, and no more.

The worker does not wait for its Jobs: a thread, Prefect's observer, reports those that fail or disappear. What happens
while no worker watches is seen by pgprefect/runs/taken_runs.py at the next start.
"""

from __future__ import annotations

import abc
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

from flow_environment import REPOSITORY, flow_environment, not_pinned
from pgprefect.objects.kubernetes_jobs import AUTHORITY_FILE, KubernetesJob, job_manifest
from prefect.exceptions import InfrastructureNotFound
from prefect.workers.base import BaseWorker

RUN_LABEL = "prefect.io/flow-run-id"
_OBSERVER = "prefect-kubernetes-observer"
_SECRET = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"


def restrict(job: Any, flow_run_id: str, declared: Mapping[str, Any]) -> None:
    """Hold a job of Prefect's to what is declared for the host. Raises ValueError for an image that is not pinned."""
    asked = job.job_manifest
    container = asked["spec"]["template"]["spec"]["containers"][0]
    if not REPOSITORY.fullmatch(str(container.get("image"))):
        raise not_pinned(str(container.get("image")))
    given = {one["name"]: one["value"] for one in container.get("env") or () if one.get("value") is not None}
    # By Prefect's own settings, without which it would write the password into the Job.
    secret = {"name": os.environ[f"{_SECRET}_NAME"], "key": os.environ[f"{_SECRET}_KEY"]}
    env = flow_environment(given, declared)
    if declared["authority"]:
        env["PREFECT_API_SSL_CERT_FILE"] = AUTHORITY_FILE
    manifest = job_manifest(KubernetesJob(**declared["job"]), declared["authority"])
    labels = {**asked["metadata"].get("labels", {}), RUN_LABEL: flow_run_id}
    manifest["metadata"].update(labels=labels, generateName=asked["metadata"]["generateName"])
    manifest["spec"]["template"]["metadata"] = {"labels": labels}
    manifest["spec"]["template"]["spec"]["containers"][0].update(
        image=container["image"],
        args=container.get("args"),
        env=[{"name": name, "value": str(value)} for name, value in env.items()]
        + [{"name": "PREFECT_API_AUTH_STRING", "valueFrom": {"secretKeyRef": secret}}],
    )
    job.job_manifest, job.namespace, job.cluster_config = manifest, declared["job"]["namespace"], None


def contained(base: type[BaseWorker[Any, Any, Any]], declared: Mapping[str, Any]) -> type[BaseWorker[Any, Any, Any]]:
    """Return a Kubernetes worker like Prefect's that keeps to what is declared."""

    class ClusterWorker(base, abc.ABC):  # type: ignore[valid-type, misc]
        async def get_and_submit_flow_runs(self) -> Any:
            # The cluster may have ended it, by an answer that it does not expect, and Prefect would go on without.
            if not any(thread.name == _OBSERVER for thread in threading.enumerate()):
                print(f"Worker {self.name!r} starts again, because nothing watches its Jobs any more.", flush=True)
                signal.raise_signal(signal.SIGTERM)
                return []
            return await super().get_and_submit_flow_runs()

        async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> Any:
            restrict(configuration, str(flow_run.id), declared)
            return await super().run(flow_run, configuration, task_status)

        async def kill_infrastructure(self, infrastructure_pid: str, configuration: Any, *args: Any, **kw: Any) -> None:
            namespace = declared["job"]["namespace"]
            if infrastructure_pid.partition(":")[0] != namespace:
                raise InfrastructureNotFound(f"the Job {infrastructure_pid} is not in the namespace {namespace}")
            configuration.cluster_config = None
            await super().kill_infrastructure(infrastructure_pid, configuration, *args, **kw)

    return ClusterWorker
