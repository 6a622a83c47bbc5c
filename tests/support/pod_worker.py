"""A Kubernetes pool with one worker, as the site makes them, of which runs are started."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from filter_plugins.kubeconfigs import plain_kubeconfig
from filter_plugins.workers import pod_settings
from tests.support.project import ROOT
from tests.support.worker_site import WorkerSite

NAME = "host-tenant-cluster-1"
POOL = "cluster"
NAMESPACE = "prefect-flows"
IMAGE = "registry.example.com/flows@sha256:" + 64 * "1"


class PodSite(WorkerSite):
    """Its pods run in the folder."""

    @property
    def kubeconfig(self) -> str:
        return self.environment["KUBECONFIG"]


def declared_site(
    api: Callable[..., Any],
    api_arguments: Mapping[str, str],
    run_module: Callable[..., dict[str, Any]],
    prefect_environment: Mapping[str, str],
    kubeconfig: Mapping[str, Any],
    folder: Path,
) -> PodSite:
    """Declare a pool by the module prefect_work_pools, and write what its worker's unit gets."""
    job = {"image": IMAGE, "namespace": NAMESPACE, "memory": "256M", "cpu": "100m"}
    declared = {**api_arguments, "pools": [{"name": POOL, "type": "kubernetes", "kubernetes": job}]}
    assert run_module("prefect_work_pools", **declared)["actions"] == [f"create work pool {POOL}"]
    assert not run_module("prefect_work_pools", **declared)["changed"]
    config = folder / "kubeconfig.json"
    config.write_text(json.dumps(plain_kubeconfig(json.dumps(kubeconfig), NAMESPACE)))
    worker = {"kubernetes": job, "container_api_url": prefect_environment["PREFECT_API_URL"]}
    variables = yaml.safe_load((ROOT / "roles/prefect_worker/vars/main.yml").read_text())
    of_the_role = variables["__prefect_worker_kubernetes_env"]
    environment = {
        **prefect_environment,
        **{name: value for name, value in of_the_role.items() if name.startswith("PREFECT_") and "{{" not in value},
        "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": NAMESPACE,
        "KUBECONFIG": str(config),
        "PGPREFECT_CONTAINERS": json.dumps(pod_settings(worker, ["DECLARED"], False)),
    }
    # Without -I it finds pgprefect by PYTHONPATH; on a host it is in the virtualenv.
    return PodSite(api, folder, environment, POOL, NAME, python_options=())
