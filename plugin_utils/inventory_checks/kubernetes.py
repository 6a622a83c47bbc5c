"""Kubernetes work pools: images that are pinned, a kubeconfig that is complete in itself, and a way to the API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pgprefect.objects.docker_jobs import VARIABLES
from pgprefect.objects.kubernetes_jobs import POD_IMAGES, pod_image_fault

from filter_plugins.kubeconfigs import plain_kubeconfig

from .docker import is_loopback
from .forms import Form, matching


def _image(value: Any) -> None:
    if fault := pod_image_fault(str(value)):
        raise ValueError(fault)


def _kubeconfig(value: Any) -> None:
    plain_kubeconfig(str(value), "default")


IMAGE = Form(POD_IMAGES, _image)
KUBECONFIG = Form(
    "the content of a kubeconfig with the token of a service account", _kubeconfig, lines=True, secret=True
)
NAME = matching(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a name of Kubernetes': lower-case letters, digits and '-', 63 at most"
)
NAMESPACE = matching(
    r"(?!(?:default|kube-.*)$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "the name of a namespace that holds nothing else, so not default or kube-system",
)
CPU = matching(r"[1-9]\d{0,2}|[1-9]\d{0,5}m", "a number of CPUs as 2, or of thousandths as 500m")


def check_kubernetes(tenants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with the Kubernetes pools of declared tenants, and with the deployments on them."""
    for number, tenant in enumerate(tenants):
        pools = set()
        for index, pool in enumerate(tenant.get("work_pools", ())):
            yield from _check_pool(f"prefect_tenants[{number}].work_pools[{index}]", pool)
            if "kubernetes" in pool:
                pools.add(pool["name"])
        for index, deployment in enumerate(tenant.get("deployments", ())):
            if deployment["work_pool"] in pools:
                yield from _check_deployment(f"prefect_tenants[{number}].deployments[{index}]", deployment)


def _check_pool(path: str, pool: Mapping[str, Any]) -> Iterator[str]:
    is_cluster, job = pool.get("type", "process") == "kubernetes", pool.get("kubernetes")
    has_workers = pool.get("workers", 1) != 0
    if job is None:
        if is_cluster and has_workers:
            yield f"{path}.kubernetes is missing, which says what its pods get: set it, at least image and namespace."
        return
    if not is_cluster:
        yield f"{path}.kubernetes: it belongs to a pool of the type kubernetes: set type: kubernetes, or remove it."
    if "base_job_template" in pool:
        yield f"{path}.base_job_template: kubernetes makes the template: remove one of the two."
    if "kubeconfig" not in job and has_workers:
        yield (
            f"{path}.kubernetes.kubeconfig is missing, by which its workers reach the cluster: set it, or workers: 0 "
            "until the cluster has what playbooks/kubernetes_manifest.yml writes (docs/kubernetes.md)."
        )


def _check_deployment(path: str, deployment: Mapping[str, Any]) -> Iterator[str]:
    for name, value in deployment.get("job_variables", {}).items():
        here = f"{path}.job_variables.{name}"
        if name.partition(".")[0] not in VARIABLES:
            yield (
                f"{here}: the pool decides this for all of its pods, in kubernetes of the pool. A deployment may set "
                f"{', '.join(VARIABLES)}: remove it."
            )
        elif name == "image":
            yield from IMAGE.faults(here, value)
    if deployment.get("source", {}).get("credentials"):
        yield (
            f"{path}.source.credentials: pods get no credentials of git: put the code into the image, take a "
            "repository that needs none, or another pool."
        )


def check_way_of_pods(tenants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the Kubernetes pools whose pods could not reach the API, of tenants whose defaults are filled in."""
    for number, tenant in enumerate(tenants):
        address = urlsplit(tenant["container_api_url"]).hostname or ""
        for index, pool in enumerate(tenant["work_pools"]):
            if "kubernetes" in pool and pool["workers"] and is_loopback(address):
                yield (
                    f"prefect_tenants[{number}].work_pools[{index}].kubernetes: the API listens on {address}, where "
                    "pods do not reach it: put a proxy before the API (docs/proxy.md)."
                )
