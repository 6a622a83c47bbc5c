"""Kubernetes work pools: what the inventory may say of them, and what workers, pods, Prefect and the cluster get."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from pgprefect.core.cluster import by_run
from pgprefect.core.errors import InputError
from pgprefect.objects import work_pools
from pgprefect.objects.kubernetes_jobs import AUTHORITY_FILE, KubernetesJob, cluster_template, job_manifest

from filter_plugins.kubeconfigs import plain_kubeconfig
from filter_plugins.tenants import (
    cluster_namespaces,
    git_keys,
    pool_kubeconfigs,
    prefect_tenants,
    prefect_workers,
)
from filter_plugins.workers import pod_settings, worker_user
from plugin_utils.inventory_checks.kubernetes import check_kubernetes, check_way_of_pods
from plugin_utils.inventory_checks.specification import read
from plugin_utils.inventory_checks.values import check_value
from tests.support.inventories import run
from tests.support.project import ROOT

SPECIFICATION = read(ROOT)
DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example.com:5000/team/flows@{DIGEST}"
AUTHORITY = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()
TOKEN = "t0ken-s3cret"
CONFIG: dict[str, Any] = {
    "current-context": "second",
    "contexts": [
        {"name": "first", "context": {"cluster": "one", "user": "admin"}},
        {"name": "second", "context": {"cluster": "two", "user": "worker", "namespace": "elsewhere"}},
    ],
    "clusters": [
        {"name": "one", "cluster": {"server": "https://one.example.com"}},
        {"name": "two", "cluster": {"server": "https://two.example.com:6443", "certificate-authority-data": AUTHORITY}},
    ],
    "users": [
        {"name": "admin", "user": {"exec": {"command": "id"}}},
        {"name": "worker", "user": {"token": TOKEN, "exec": {"command": "id"}}},
    ],
}
PATH = "prefect_tenants[0].work_pools[0]"
JOB = "prefect_tenants[0].deployments[0].job_variables"


def kubernetes(**keys: Any) -> dict[str, Any]:
    job = {"image": IMAGE, "namespace": "flows", "kubeconfig": yaml.safe_dump(CONFIG), **keys}
    given = {key: value for key, value in job.items() if value is not None}
    return {"name": "cluster", "type": "kubernetes", "kubernetes": given}


POOL = kubernetes()


def faults(pool: dict[str, Any], deployment: dict[str, Any] | None = None) -> list[str]:
    made = {"name": "d", "flow": "f", "entrypoint": "f.py:f", "work_pool": "cluster", **(deployment or {})}
    given = [{"name": "prefect", "work_pools": [pool], "deployments": [made]}]
    return [*check_value("prefect_tenants", given, SPECIFICATION.options["prefect_tenants"]), *check_kubernetes(given)]


@pytest.mark.parametrize(
    "pool",
    [
        POOL,
        kubernetes(memory="512M", cpu="500m", service_account="flows", image_pull_secret="registry"),
        kubernetes(environment_secret="market-data", cpu=2, kubeconfig=json.dumps(CONFIG)),
        {**kubernetes(kubeconfig=None), "workers": 0},
        {"name": "cluster", "type": "kubernetes", "workers": 0},  # its workers are elsewhere
    ],
)
def test_what_can_work_is_accepted(pool: dict[str, Any]) -> None:
    assert faults(pool, {"job_variables": {"image": IMAGE, "env": {"A": "b"}}}) == []


def broken(**changes: Any) -> str:
    """The kubeconfig with other keys in its current context's cluster and user."""
    config = json.loads(json.dumps(CONFIG))
    for kind, change in changes.items():
        config[f"{kind}s"][1][kind] = change
    return yaml.safe_dump(config)


SERVER = {"server": "https://two.example.com"}
REFUSED = [
    (kubernetes(image="registry.example.com/flows:1.2"), f"{PATH}.kubernetes.image", "a tag moves"),
    (kubernetes(image=DIGEST), f"{PATH}.kubernetes.image", "says nothing to a cluster"),
    (kubernetes(namespace="kube-system"), f"{PATH}.kubernetes.namespace", "holds nothing else"),
    (kubernetes(namespace="Flows"), f"{PATH}.kubernetes.namespace", "the name of a namespace"),
    (kubernetes(memory="1Gi"), f"{PATH}.kubernetes.memory", "a size as 512M or 2G"),
    (kubernetes(cpu="0.5"), f"{PATH}.kubernetes.cpu", "500m"),
    (kubernetes(service_account="a b"), f"{PATH}.kubernetes.service_account", "a name of Kubernetes'"),
    (kubernetes(privileged=True), f"{PATH}.kubernetes.privileged", "unknown key"),
    (kubernetes(kubeconfig="a: ["), f"{PATH}.kubernetes.kubeconfig", "it is no YAML"),
    (kubernetes(kubeconfig="flows"), f"{PATH}.kubernetes.kubeconfig", "it is no kubeconfig"),
    (kubernetes(kubeconfig="a: b"), f"{PATH}.kubernetes.kubeconfig", "no current-context"),
    (kubernetes(kubeconfig=broken(user={"exec": {}})), f"{PATH}.kubernetes.kubeconfig", "its user has no token"),
    (kubernetes(kubeconfig=broken(cluster={"server": "http://x"})), f"{PATH}.kubernetes.kubeconfig", "https://"),
    (
        kubernetes(kubeconfig=broken(cluster={**SERVER, "insecure-skip-tls-verify": True})),
        f"{PATH}.kubernetes.kubeconfig",
        "certificate-authority-data",
    ),
    (
        kubernetes(kubeconfig=broken(cluster={**SERVER, "certificate-authority-data": "x"})),
        f"{PATH}.kubernetes.kubeconfig",
        "no certificate in base64",
    ),
    (kubernetes(kubeconfig=None), f"{PATH}.kubernetes.kubeconfig is missing", "workers: 0"),
    ({**POOL, "type": "process"}, f"{PATH}.kubernetes:", "set type: kubernetes"),
    ({**POOL, "base_job_template": {"variables": {}}}, f"{PATH}.base_job_template", "remove one of the two"),
    ({"name": "cluster", "type": "kubernetes"}, f"{PATH}.kubernetes is missing", "image and namespace"),
]


@pytest.mark.parametrize(("pool", "begin", "reason"), REFUSED)
def test_what_cannot_work_is_refused_by_name(pool: dict[str, Any], begin: str, reason: str) -> None:
    (found,) = faults(pool)
    assert found.startswith(begin) and reason in found
    assert TOKEN not in found


@pytest.mark.parametrize(
    ("deployment", "begin", "reason"),
    [
        ({"job_variables": {"job_manifest": {}}}, f"{JOB}.job_manifest", "the pool decides this"),
        ({"job_variables": {"namespace": "kube-system"}}, f"{JOB}.namespace", "the pool decides this"),
        ({"job_variables": {"image": "python:3"}}, f"{JOB}.image", "a tag moves"),
        (
            {"source": {"git": "https://git.example.com/x.git", "ref": "main", "credentials": "web"}},
            "prefect_tenants[0].deployments[0].source.credentials",
            "pods get no credentials",
        ),
    ],
)
def test_a_deployment_cannot_take_more_than_its_pool(deployment: dict[str, Any], begin: str, reason: str) -> None:
    (found,) = faults(POOL, deployment)
    assert found.startswith(begin) and reason in found


@pytest.mark.parametrize(
    ("host", "workers", "reached"), [("127.0.0.1", 1, False), ("192.0.2.1", 1, True), ("::1", 0, True)]
)
def test_pods_must_reach_the_api(host: str, workers: int, reached: bool) -> None:
    found = list(
        check_way_of_pods(prefect_tenants([{"name": "a", "work_pools": [{**POOL, "workers": workers}]}], host))
    )
    assert (found == []) is reached
    assert reached or (found[0].startswith(f"{PATH}.kubernetes: the API listens on") and "docs/proxy.md" in found[0])


def test_a_kubeconfig_is_reduced_to_its_current_context() -> None:
    plain = plain_kubeconfig(yaml.safe_dump(CONFIG), "flows")
    assert plain["clusters"] == [{"name": "prefect", "cluster": CONFIG["clusters"][1]["cluster"]}]
    assert plain["users"] == [{"name": "prefect", "user": {"token": TOKEN}}]
    assert plain["contexts"][0]["context"]["namespace"] == "flows" and "exec" not in json.dumps(plain)


def test_a_worker_gets_what_its_pool_declares_and_no_other_sees_its_token() -> None:
    given = {"name": "prefect", "work_pools": [POOL, {"name": "default"}]}
    given["git_credentials"] = [{"name": "deploy", "key": "k", "known_hosts": ["h"]}]
    resolved = prefect_tenants([given], "192.0.2.1")
    assert TOKEN not in json.dumps(resolved) and TOKEN in pool_kubeconfigs([given])["prefect"]["cluster"]
    worker, other = prefect_workers(resolved)
    assert [worker_user(one) for one in (worker, other)] == ["cluster-prefect", "prefect-prefect"]
    assert git_keys([given], [worker]) == {} and git_keys([given], [other]).keys() == {"prefect"}
    assert pod_settings(worker, ["TZ"], True) == {
        "type": "kubernetes",
        "job": {"image": IMAGE, "namespace": "flows"},
        "authority": True,
        "variables": ["TZ"],
        "env": {"PREFECT_API_URL": "http://192.0.2.1:4200/api"},
    }


def test_the_manifest_of_a_job_gives_a_pod_little() -> None:
    manifest = job_manifest(KubernetesJob(IMAGE, "flows", memory="512M"))
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "512Mi"}
    assert not pod["automountServiceAccountToken"] and not {"hostNetwork", "volumes", "serviceAccountName"} & pod.keys()
    assert not container["securityContext"]["privileged"] and manifest["spec"]["backoffLimit"] == 0

    manifest = job_manifest(KubernetesJob(IMAGE, "flows", "1G", "1", "reader", "login", "more"), authority=True)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] == "reader" and pod["automountServiceAccountToken"]
    assert pod["imagePullSecrets"] == [{"name": "login"}]
    assert container["envFrom"] == [{"secretRef": {"name": "more"}}]
    assert AUTHORITY_FILE.startswith(container["volumeMounts"][0]["mountPath"])


def test_the_template_leaves_a_deployment_no_more_than_its_variables() -> None:
    template = cluster_template(KubernetesJob(IMAGE, "flows"))
    assert set(template["variables"]["properties"]) == {"command", "env", "image", "labels", "name"}
    text = json.dumps(template["job_configuration"])
    assert {word.split(" }}")[0] for word in text.split("{{ ")[1:]} == {"command", "env", "image", "labels", "name"}
    assert "valueFrom" not in text


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (work_pools.WorkPool("p", kubernetes=KubernetesJob(IMAGE, "f")), "belongs to a pool of the type kubernetes"),
        (
            work_pools.WorkPool("p", "kubernetes", base_job_template={}, kubernetes=KubernetesJob(IMAGE, "f")),
            "without a base_job_template",
        ),
        (work_pools.WorkPool("p", "kubernetes", kubernetes=KubernetesJob("flows:1", "f")), "a tag moves"),
    ],
)
def test_the_module_refuses_the_same(pool: work_pools.WorkPool, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        work_pools.apply(None, [pool])  # type: ignore[arg-type]


def test_the_cluster_s_manifest_gives_the_least() -> None:
    """The real API server says in tests/kubernetes what these rights allow."""
    (item,) = cluster_namespaces(prefect_tenants([{"name": "prefect", "work_pools": [POOL, {"name": "default"}]}]))
    assert item == {"pool": "prefect-cluster", "namespace": "flows"}
    objects = manifest_objects(item)
    assert [one["kind"] for one in objects] == ["Namespace", "ServiceAccount", "Secret", "Role", "RoleBinding"]
    assert {one["metadata"].get("namespace", "flows") for one in objects} == {"flows"}
    (role,) = [one for one in objects if one["kind"] == "Role"]
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert "secrets" not in {resource for resource, _ in granted} and ("pods", "create") not in granted


def manifest_objects(item: dict[str, str]) -> list[dict[str, Any]]:
    text = (ROOT / "templates/kubernetes_manifest.yml.j2").read_text()
    made = jinja2.Template(text, undefined=jinja2.StrictUndefined).render(item=item, ansible_managed="Ansible")
    return [one for one in yaml.safe_load_all(made) if one]


def test_of_a_run_with_several_jobs_the_one_that_lives_counts() -> None:
    def job(run: str, **status: Any) -> dict[str, Any]:
        return {"metadata": {"labels": {"prefect.io/flow-run-id": run}}, "status": status}

    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    found = by_run(
        [
            job("a", conditions=[{"type": "Suspended", "status": "True"}]),
            job("a", conditions=[failed]),
            job("b", conditions=[failed]),
            job("b", conditions=[{**failed, "type": "Complete", "reason": None}], succeeded=1),
            job("c"),
        ]
    )
    assert {run: one.alive for run, one in found.items()} == {"a": True, "b": False, "c": True}
    assert found["b"].status == "Failed: BackoffLimitExceeded"


def test_the_role_gives_a_worker_its_cluster_and_only_client_settings(tmp_path: Path) -> None:
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROOT / f"roles/prefect_worker/{kind}/main.yml") for kind in ("defaults", "vars")],
        "tasks": [
            {
                "ansible.builtin.copy": {"dest": str(tmp_path / "told.json"), "content": "{{ told }}"},
                "vars": {
                    "item": "{{ prefect_worker_workers[0] }}",
                    "told": "{{ [__prefect_worker_env_file, __prefect_worker_cluster_folders] }}",
                },
            }
        ],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    tenants = [{"name": "prefect", "work_pools": [{**POOL, "environment": {"MINE": "x"}}]}]
    variables = {
        "ansible_managed": "Ansible",
        "ansible_facts": {"memtotal_mb": 8000, "distribution_release": "bookworm"},
        "prefect_worker_workers": prefect_workers(prefect_tenants(tenants, "192.0.2.1")),
        "prefect_worker_kubeconfigs": pool_kubeconfigs(tenants),
        "prefect_worker_pool_environments": {"prefect": {"cluster": {"MINE": "x"}}},
        "prefect_worker_api_passwords": {"prefect": "api-s3cret"},
        "prefect_worker_virtualenv": "/opt/prefect/x",
    }
    code, said = run(tmp_path, {}, "--extra-vars", json.dumps(variables), playbook=str(tmp_path / "play.yml"))
    assert code == 0, said
    text, (folder,) = json.loads((tmp_path / "told.json").read_text())
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    environment = {name: value.strip('"').replace('\\"', '"') for name, value in lines.items()}
    assert environment["KUBECONFIG"] == f"{folder['path']}/kubeconfig.json"
    assert folder["path"] == "/etc/prefect/clusters/prefect-cluster-1"
    assert (folder["group"], folder["mode"], folder["folder_mode"]) == ("cluster-prefect", "0640", "0750")
    config = json.loads(folder["files"]["kubeconfig.json"])
    assert config == plain_kubeconfig(yaml.safe_dump(CONFIG), "flows")
    told = json.loads(environment["PGPREFECT_CONTAINERS"])
    assert told["job"]["namespace"] == "flows" and "MINE" in told["variables"] and not told["authority"]
    assert TOKEN not in text and environment["PREFECT_API_AUTH_STRING"] == "admin:api-s3cret"
    namespaces = environment["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"]
    assert namespaces == "flows" and sum(name.startswith("PREFECT_INTEGRATIONS_") for name in environment) == 3
