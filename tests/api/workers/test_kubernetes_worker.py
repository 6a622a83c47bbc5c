"""The worker of Kubernetes pools against recorded answers of a real API server; tests/kubernetes has it on one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.cluster import run_jobs
from pgprefect.core.errors import ProblemError
from pgprefect.core.http import PrefectApi
from pgprefect.runs.taken_runs import resolve_taken_runs

from tests.api.conftest import AUTH_STRING
from tests.support.certificates import Authority
from tests.support.kubernetes_answers import RUN_LABEL, RecordedCluster
from tests.support.pod_worker import IMAGE, NAME, NAMESPACE, POOL, PodSite, declared_site
from tests.support.ports import free_port
from tests.support.waiting import wait_for

TOKEN = "w0rker-t0ken"
PASSWORD = AUTH_STRING.partition(":")[2]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RecordedCluster]:
    authority = Authority("recorded")
    cluster = RecordedCluster("127.0.0.1", free_port(), authority.certificate, TOKEN)
    with cluster.serving(tmp_path, authority):
        yield cluster


@pytest.fixture
def site(
    cluster: RecordedCluster,
    api: Callable[..., Any],
    api_arguments: dict[str, str],
    prefect_environment: dict[str, str],
    run_module: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> Iterator[PodSite]:
    config = cluster.kubeconfig(TOKEN)
    made = declared_site(api, api_arguments, run_module, prefect_environment, config, tmp_path)
    yield made
    made.tidy()


def test_a_run_is_a_job_as_declared_and_its_failure_is_reported(
    cluster: RecordedCluster, site: PodSite, api_arguments: dict[str, str]
) -> None:
    site.start()
    run = site.run(job_variables={"env": {"OWN": "env"}})
    wait_for(lambda: cluster.created, site.said, 120)
    site.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING", "name": "Running"}})
    cluster.fails.set()
    state, message = site.end(run)
    assert state == "CRASHED" and "No active or succeeded pods" in message, site.said()
    text = json.dumps(cluster.created)
    for secret in (PASSWORD, json.dumps(PASSWORD)[1:-1], TOKEN):
        assert secret not in text
    assert cluster.created["metadata"]["labels"][RUN_LABEL] == run
    (container,) = cluster.created["spec"]["template"]["spec"]["containers"]
    assert container["image"] == IMAGE and not container["securityContext"]["privileged"]
    environment = {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}
    reference = {"secretKeyRef": {"name": "prefect-api", "key": "auth-string"}}
    assert environment["PREFECT_API_AUTH_STRING"] == reference and environment["OWN"] == "env"
    assert not {"UNDECLARED", "PREFECT_HOME", "KUBECONFIG", "PGPREFECT_CONTAINERS"} & environment.keys()
    # No more than the namespace, the objects that the role names, and what each account may ask.
    paths = {path for path in cluster.asked if "/namespaces/" in path}
    assert {path.partition("/namespaces/")[2].split("/")[0] for path in paths} == {NAMESPACE}

    client = PrefectApi(api_arguments["api_url"], AUTH_STRING)
    found = run_jobs(site.kubeconfig)
    assert not found[run].alive and found[run].status == "Failed: BackoffLimitExceeded"
    assert resolve_taken_runs(client, NAME, POOL, "its worker ended", lambda: found) == []


def test_without_an_answer_of_the_cluster_nothing_is_resolved(
    site: PodSite, api_arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(Path(site.kubeconfig).read_text())
    config["users"][0]["user"]["token"] = "wrong"
    Path(site.kubeconfig).write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", site.kubeconfig)
    with pytest.raises(ProblemError) as failure:
        resolve_taken_runs(PrefectApi(api_arguments["api_url"], AUTH_STRING), NAME, POOL, "its worker ended")
    (problem,) = failure.value.problems
    assert problem.code == "cluster_unreachable" and "401" in problem.message and "wrong" not in problem.message
    assert "The cluster does not say which Jobs of flow runs it has" in problem.message
