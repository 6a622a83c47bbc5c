"""The worker of Kubernetes pools on a real API server: the host decides what a pod gets, and no run is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.cluster import run_jobs
from pgprefect.core.errors import ProblemError
from pgprefect.core.http import PrefectApi
from pgprefect.runs.taken_runs import resolve_taken_runs

from tests.api.conftest import AUTH_STRING
from tests.kubernetes.conftest import Typed
from tests.support.kubernetes import Cluster, Kubelet
from tests.support.pod_worker import IMAGE, NAME, NAMESPACE, POOL, PodSite
from tests.support.ports import free_port
from tests.support.waiting import wait_for

PASSWORD = AUTH_STRING.partition(":")[2]
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def jobs(cluster: Cluster, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.get(f"{JOBS}?labelSelector=prefect.io/flow-run-id={run}")["items"]
    return found


def pod_of(cluster: Cluster, kubelet: Kubelet, run: str) -> int:
    """Return the process that stands for the run's pod."""
    (pod,) = cluster.get(f"{PODS}?labelSelector=prefect.io/flow-run-id={run}")["items"]
    return kubelet.pods[pod["metadata"]["name"]].pid


def test_the_service_account_may_do_the_least(cluster: Cluster, token: str) -> None:
    def status(method: str, path: str, body: Any = None) -> int:
        return cluster.call(method, path, body, token)[0]

    assert {status("GET", path) for path in (JOBS, PODS)} == {200}
    assert status("POST", JOBS, {}) != 403 and status("DELETE", f"{JOBS}/none") == 404
    assert status("GET", f"{PODS}/none/log") == 404
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    for path in (secrets, f"{secrets}/prefect-api", "/api/v1/namespaces", "/api/v1/nodes", "/apis/batch/v1/jobs"):
        assert status("GET", path) == 403, path
    for namespace in ("default", "kube-system"):
        assert status("GET", JOBS.replace(NAMESPACE, namespace)) == 403
        assert status("POST", JOBS.replace(NAMESPACE, namespace), {}) == 403
    for path in (PODS, secrets, f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles"):
        assert status("POST", path, {}) == 403, path
    assert status("PATCH", f"{JOBS}/none", {}) == 403


@pytest.mark.usefixtures("kubelet")
def test_the_host_decides_what_a_pod_gets(cluster: Cluster, token: str, site: PodSite, typed: Typed) -> None:
    # Somebody with the API's password wants the node, and the Secrets of the namespace.
    template = site.api("GET", f"/work_pools/{POOL}")["base_job_template"]
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    pod.update(hostNetwork=True, hostPID=True, volumes=[{"name": "all", "hostPath": {"path": "/"}}])
    pod["containers"][0]["securityContext"] = {"privileged": True}
    pod["containers"][0]["env"] = [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "prefect-worker-token", "key": "token"}}},
        {"name": "OWN", "value": "of the template"},
    ]
    template["job_configuration"]["namespace"] = "kube-system"
    site.api("PATCH", f"/work_pools/{POOL}", {"base_job_template": template})
    site.start()
    run = site.begin(parameters={"gate": "may_end"}, job_variables={"env": {"OWN": "env"}})
    (job,) = jobs(cluster, run)
    text = json.dumps(job)
    for secret in (PASSWORD, json.dumps(PASSWORD)[1:-1], token):
        assert secret not in text
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert not {"hostNetwork", "hostPID", "volumes"} & pod.keys() and "serviceAccountName" not in pod
    assert not container["securityContext"]["privileged"] and container["image"] == IMAGE
    assert container["resources"]["limits"] == {"cpu": "100m", "memory": "256Mi"}
    assert [one["name"] for one in container["env"] if "valueFrom" in one] == ["PREFECT_API_AUTH_STRING"]
    seen = site.seen()
    assert (seen["OWN"], seen["DECLARED"], seen["PREFECT_API_AUTH_STRING"]) == ("env", "yes", AUTH_STRING)
    assert seen["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    given = {one["name"] for one in container["env"]}
    own = {name for name in given if name.startswith(("PREFECT_SERVER_", "PREFECT_WORKER_", "PREFECT_INTEGRATIONS_"))}
    assert not own and not {"UNDECLARED", "PREFECT_HOME", "KUBECONFIG", "PGPREFECT_CONTAINERS"} & given
    assert job["metadata"]["name"] in "".join(typed("kubernetes.md", "Look at the Jobs"))
    (site.folder / "may_end").touch()
    assert site.end(run)[0] == "COMPLETED"

    moving = site.run(job_variables={"image": "registry.example.com/flows:1.0"})
    state, message = site.end(moving)
    assert state == "CRASHED" and "is not pinned by its digest" in message and jobs(cluster, moving) == []


def test_a_run_outlives_its_worker_and_is_not_lost(
    cluster: Cluster, site: PodSite, kubelet: Kubelet, api_arguments: dict[str, str]
) -> None:
    client = PrefectApi(api_arguments["api_url"], AUTH_STRING)

    def take_up() -> list[str]:
        return [run.id for run in resolve_taken_runs(client, NAME, POOL, "its worker ended", ask)]

    def ask() -> Any:
        return run_jobs(site.kubeconfig)

    first = site.start()
    lives = site.begin(parameters={"gate": "may_end"})
    failed = site.begin(parameters={"gate": "never"})
    deleted = site.begin(parameters={"gate": "never"})
    first.send_signal(signal.SIGKILL)
    first.wait()
    os.kill(pod_of(cluster, kubelet, failed), signal.SIGKILL)
    wait_for(lambda: jobs(cluster, failed)[0]["status"].get("failed"))
    # Its pod says nothing more, as on a lost node: one that is told to end has Prefect schedule the run again.
    os.kill(pod_of(cluster, kubelet, deleted), signal.SIGSTOP)
    (job,) = jobs(cluster, deleted)
    cluster.call("DELETE", f"{JOBS}/{job['metadata']['name']}?propagationPolicy=Background")
    # What the worker's unit calls after it, and before the next one.
    assert sorted(take_up()) == sorted([failed, deleted]) and take_up() == []
    assert "its Job has ended (Failed: BackoffLimitExceeded)" in site.state(failed)[1]
    assert site.state(lives)[0] == "RUNNING"

    second = site.start()
    crashed = site.begin(parameters={"code": 3})
    assert site.end(crashed)[0] == "CRASHED"
    killed = site.begin(parameters={"gate": "never"})
    os.kill(pod_of(cluster, kubelet, killed), signal.SIGKILL)
    state, message = site.end(killed)
    assert state == "CRASHED" and "No active or succeeded pods" in message
    # It waits for none of its Jobs, which go on.
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0, site.said()
    assert site.state(lives)[0] == "RUNNING"
    (site.folder / "may_end").touch()
    assert site.end(lives)[0] == "COMPLETED"
    assert "Forbidden" not in site.log.read_text() and "403" not in site.log.read_text()


def test_a_pod_that_is_evicted_begins_again(cluster: Cluster, site: PodSite, kubelet: Kubelet) -> None:
    site.start()
    run = site.begin(parameters={"gate": "may_end"})
    (site.folder / "begun").unlink()
    os.kill(pod_of(cluster, kubelet, run), signal.SIGTERM)
    wait_for((site.folder / "begun").exists, site.said, 120)
    assert site.state(run)[0] == "RUNNING" and len(jobs(cluster, run)) == 2
    (site.folder / "may_end").touch()
    assert site.end(run)[0] == "COMPLETED"


def test_without_an_answer_of_the_cluster_nothing_is_resolved(
    token: str, site: PodSite, api_arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = PrefectApi(api_arguments["api_url"], AUTH_STRING)
    config = json.loads(Path(site.kubeconfig).read_text())
    monkeypatch.setenv("KUBECONFIG", site.kubeconfig)
    right, wrong = config["clusters"][0]["cluster"], {"server": f"https://127.0.0.1:{free_port()}"}
    cases = (
        (wrong, token, "refused"),
        (right, "wrong", "401"),
        ({"server": right["server"]}, token, "CERTIFICATE"),
    )
    for cluster_of, token_of, said in cases:
        config["clusters"][0]["cluster"], config["users"][0]["user"] = cluster_of, {"token": token_of}
        Path(site.kubeconfig).write_text(json.dumps(config))
        with pytest.raises(ProblemError) as failure:
            resolve_taken_runs(client, NAME, POOL, "its worker ended")
        (problem,) = failure.value.problems
        assert problem.code == "cluster_unreachable" and said in problem.message and "wrong" not in problem.message
