"""Kubernetes work pools: images that are pinned, a kubeconfig that is complete in itself, and a way to the API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pgprefect.objects.kubernetes_jobs import POD_IMAGES, pod_image_fault

from filter_plugins.kubeconfigs import plain_kubeconfig

from .forms import Form, matching
from .job_pools import JobPools, is_loopback


def _image(value: Any) -> None:
    if fault := pod_image_fault(str(value)):
        raise ValueError(fault)


def _kubeconfig(value: Any) -> None:
    plain_kubeconfig(str(value), "default")


IMAGE = Form(POD_IMAGES, _image)
_POOLS = JobPools("kubernetes", jobs="pods", least="image and namespace", image=IMAGE)
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
        for index, pool in enumerate(tenant.get("work_pools", ())):
            path = f"prefect_tenants[{number}].work_pools[{index}]"
            yield from _POOLS.check_pool(path, pool)
            job = pool.get("kubernetes")
            if job is not None and "kubeconfig" not in job and pool.get("workers", 1) != 0:
                yield (
                    f"{path}.kubernetes.kubeconfig is missing, by which its workers reach the cluster: set it, or "
                    "workers: 0 until the cluster has what playbooks/kubernetes_manifest.yml writes "
                    "(docs/kubernetes.md)."
                )
        yield from _POOLS.check_deployments(f"prefect_tenants[{number}]", tenant)


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
