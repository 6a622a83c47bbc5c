"""A real API server of Kubernetes, and a Kubernetes pool of a real Prefect with a namespace in it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import AUTH_STRING, api, api_arguments, prefect_environment
from tests.support.kubernetes import PROGRAMS, Cluster, Kubelet, running_cluster
from tests.support.pages import sections
from tests.support.pod_worker import IMAGE, NAMESPACE, POOL, PodSite, declared_site
from tests.support.project import ROOT, VIRTUALENV

__all__ = ("api", "api_arguments", "prefect_environment")
Typed = Callable[[str, str], list[str]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def typed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Typed:
    """Type the commands of a page's section, as the cluster's administrator, in a checkout with an inventory."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in ("inventory", ".git"):
            (folder / path.name).symlink_to(path)
    inventory = folder / "inventory/mine"
    (inventory / ".secrets/tls").mkdir(parents=True)
    (inventory / ".secrets/prefect_api").write_text(f"{AUTH_STRING.partition(':')[2]}\n")
    (inventory / ".secrets/tls/ca.pem").write_text(cluster.authority)
    job = {"image": IMAGE, "namespace": NAMESPACE}
    pool = {"name": POOL, "type": "kubernetes", "workers": 0, "kubernetes": job}
    groups = {key: {"hosts": {"192.0.2.1": None}} for key in ("postgresql", "prefect_server", "prefect_worker")}
    variables = {"prefect_tenants": [{"name": "prefect", "work_pools": [pool]}]}
    (inventory / "hosts.yml").write_text(json.dumps({"all": {"children": groups, "vars": variables}}))
    config = folder / "administrator.json"
    config.write_text(json.dumps(cluster.kubeconfig()))
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "KUBECONFIG": str(config)}

    def type_(page: str, heading: str) -> list[str]:
        return [run(folder, environment, command) for _, command in sections(page)[heading]]

    return type_


def run(folder: Path, environment: dict[str, str], command: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def token(typed: Typed) -> str:
    """The token of the workers' service account, after the administrator has done what the page says."""
    return typed("kubernetes.md", "Prepare the cluster")[-1].strip()


@pytest.fixture
def kubelet(cluster: Cluster, site: PodSite) -> Iterator[Kubelet]:
    programs = f"{VIRTUALENV.resolve()}/bin:{os.environ['PATH']}"
    with Kubelet(cluster, NAMESPACE, programs, site.folder).running() as kubelet:
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
