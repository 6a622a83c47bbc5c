"""A whole site with a Kubernetes pool, made as the page says: its pods reach the API by the site's own proxy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from tests.support.cluster_checkout import Checkout
from tests.support.hosts import changed, start_run
from tests.support.kubernetes import Kubelet, running_cluster
from tests.support.pod_worker import IMAGE, NAMESPACE
from tests.support.ports import free_port
from tests.support.postgresql import docker
from tests.support.project import ROOT

CONTAINER = "prefect-kubernetes"
IN_THE_IMAGE = "flows-of-the-image"
DEFAULT_POOL = {"name": "default"}
WORKER = "prefect-worker@prefect-cluster-1"
KUBECONFIG = "/etc/prefect/clusters/prefect-cluster-1/kubeconfig.json"
SITE = ".venv/bin/ansible-playbook -i inventory/mine site.yml"
FLOW = """
import os
from prefect import flow

@flow(log_prints=True)
def where():
    print("secret", os.environ.get("FROM_SECRET"), "of the API", os.environ["PREFECT_API_URL"])
    for path in ("/etc/prefect/clusters", "/etc/prefect/clusters/prefect-cluster-1/kubeconfig.json"):
        try:
            open(path).close()
        except OSError as error:
            print(error.strerror)
"""


@dataclass(frozen=True)
class KubernetesSite:
    """A host with everything, and the checkout from which it is made."""

    checkout: Checkout
    host: Host
    token: str

    def run(self, deployment: str) -> str:
        """Have a run complete and return what it logged."""
        run = start_run(self.host, f"where/{deployment}", "--watch", "--watch-timeout 300")
        return str(self.host.check_output(f"prefect flow-run logs {run}"))

    def journal(self) -> str:
        return str(self.host.check_output(f"journalctl --no-pager --unit {WORKER}"))


def address() -> str:
    return docker("inspect", "--format", "{{.NetworkSettings.Networks.bridge.IPAddress}}", CONTAINER)


def declare(checkout: Checkout, *pools: dict[str, Any]) -> None:
    host = {
        "ansible_connection": "community.docker.docker",
        "ansible_docker_host": CONTAINER,
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": False,
        "private_address": address(),
    }
    names = [pool["name"] for pool in pools]
    deployments = [{"name": name, "flow": "where", "entrypoint": "where.py:where", "work_pool": name} for name in names]
    variables = {
        "postgresql_memory_mb": 1024,
        "site_tls": "private_ca",
        "prefect_flows": str(checkout.folder / IN_THE_IMAGE),
        "prefect_tenants": [{"name": "prefect", "work_pools": list(pools), "deployments": deployments}],
    }
    groups = ("postgresql", "prefect_server", "prefect_proxy", "prefect_worker")
    children = {group: {"hosts": {"one": None}} for group in groups}
    checkout.declare({"hosts": {"one": host}, "children": children, "vars": variables})


def pool_of(chosen: dict[str, Any], **of_the_job: Any) -> dict[str, Any]:
    job = {"image": IMAGE, "namespace": NAMESPACE, "memory": "256M", "cpu": "100m", "environment_secret": "flows"}
    return {"name": "cluster", "type": "kubernetes", "kubernetes": {**job, **of_the_job}, **chosen}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        checkout = Checkout(tmp_path_factory.mktemp("checkout"), cluster)
        (checkout.folder / IN_THE_IMAGE).mkdir()
        (checkout.folder / IN_THE_IMAGE / "where.py").write_text(FLOW)
        try:
            start = f".venv/bin/ansible-playbook -i {ROOT}/inventory/box molecule/shared/create.yml"
            checkout.run(f"BOX_NAME={CONTAINER} BOX_PORT={free_port()} {start}")
            yield checkout
        finally:
            docker("rm", "--force", "--volumes", CONTAINER)


@pytest.fixture(scope="module")
def site(checkout: Checkout) -> KubernetesSite:
    declare(checkout, DEFAULT_POOL, pool_of({"workers": 0}))
    checkout.run(SITE)
    token = checkout.typed("kubernetes.md", "Prepare the cluster")[-1].strip()
    checkout.run(f"kubectl --namespace {NAMESPACE} create secret generic flows --from-literal=FROM_SECRET=s3cret")
    declare(checkout, DEFAULT_POOL, pool_of({}, kubeconfig=json.dumps(checkout.cluster.kubeconfig(token))))
    foreseen = checkout.run(f"{SITE} --check --diff")
    done = checkout.run(f"{SITE} --diff")
    assert token not in foreseen and token not in done
    return KubernetesSite(checkout, testinfra.get_host(f"docker://{CONTAINER}"), token)


@pytest.fixture
def kubelet(checkout: Checkout, tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(checkout.cluster, NAMESPACE, tmp_path, checkout.folder / IN_THE_IMAGE).running() as kubelet:
        yield kubelet


@pytest.mark.usefixtures("kubelet")
def test_a_run_in_a_pod_reaches_the_api_by_the_proxy(site: KubernetesSite) -> None:
    said = site.run("cluster")
    assert f"secret s3cret of the API https://{address()}/api" in said and said.count("No such file") == 2, (
        site.journal()
    )
    assert "Permission denied" in site.run("default")


def test_a_second_run_changes_nothing(site: KubernetesSite) -> None:
    assert changed(site.checkout.run(SITE)) == [0]
    assert '"overall_status": "healthy"' in site.host.check_output("pgprefect health --json")


def test_only_the_pool_s_worker_knows_the_token(site: KubernetesSite) -> None:
    host = site.host
    assert site.token in host.check_output(f"runuser -u cluster-prefect -- cat {KUBECONFIG}")
    assert host.run(f"runuser -u prefect-prefect -- cat {KUBECONFIG}").rc != 0
    assert host.check_output(f"systemctl show {WORKER} --property User --value") == "cluster-prefect"
    places = (
        site.journal(),
        host.check_output("ps -eo args"),
        host.check_output("cat /etc/systemd/system/prefect*.service /etc/systemd/system/prefect*.d/*"),
        host.check_output("prefect work-pool inspect cluster"),
    )
    assert not [place for place in places if site.token in place]


def test_a_pool_that_is_gone_leaves_nothing(site: KubernetesSite) -> None:
    declare(site.checkout, DEFAULT_POOL)
    site.checkout.run(SITE)
    assert not site.host.file(KUBECONFIG).exists and not site.host.service(WORKER).is_running
    assert (
        site.host.run("systemctl list-units --all --plain 'prefect-worker@prefect-cluster-*' | grep -q cluster").rc != 0
    )
