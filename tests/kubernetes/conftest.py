"""A real API server of Kubernetes, and a Kubernetes pool of a real Prefect with a namespace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import AUTH_STRING, api, api_arguments, prefect_environment
from tests.support.cluster_checkout import Checkout
from tests.support.kubernetes import Cluster, Kubelet, running_cluster
from tests.support.pod_worker import IMAGE, NAMESPACE, POOL, PodSite, declared_site

__all__ = ("api", "api_arguments", "prefect_environment")
Typed = Callable[[str, str], list[str]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def typed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """Type the commands of a page's section, with an inventory that declares the pool of these tests."""
    checkout = Checkout(tmp_path_factory.mktemp("checkout"), cluster)
    pool = {"name": POOL, "type": "kubernetes", "workers": 0, "kubernetes": {"image": IMAGE, "namespace": NAMESPACE}}
    groups = {key: {"hosts": {"192.0.2.1": None}} for key in ("postgresql", "prefect_server", "prefect_worker")}
    checkout.declare({"children": groups, "vars": {"prefect_tenants": [{"name": "prefect", "work_pools": [pool]}]}})
    (checkout.inventory / ".secrets/tls").mkdir(parents=True)
    (checkout.inventory / ".secrets/prefect_api").write_text(f"{AUTH_STRING.partition(':')[2]}\n")
    (checkout.inventory / ".secrets/tls/ca.pem").write_text(cluster.authority)
    return checkout.typed


@pytest.fixture(scope="session")
def token(typed: Typed) -> str:
    """The token of the workers' service account, after the administrator has done what the page says."""
    return typed("kubernetes.md", "Prepare the cluster")[-1].strip()


@pytest.fixture
def kubelet(cluster: Cluster, site: PodSite) -> Iterator[Kubelet]:
    with Kubelet(cluster, NAMESPACE, site.folder).running() as kubelet:
        yield kubelet


@pytest.fixture
def site(
    cluster: Cluster,
    token: str,
    api: Callable[..., Any],
    api_arguments: dict[str, str],
    prefect_environment: dict[str, str],
    run_module: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> Iterator[PodSite]:
    config = cluster.kubeconfig(token)
    made = declared_site(api, api_arguments, run_module, prefect_environment, config, tmp_path)
    yield made
    made.tidy()
    assert cluster.call("DELETE", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs?propagationPolicy=Background")[0] == 200
