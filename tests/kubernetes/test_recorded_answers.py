"""The answers that tests/api/workers/test_kubernetes_worker.py replays are those of a real API server."""

from __future__ import annotations

import json
import ssl
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgprefect.objects.kubernetes_jobs import KubernetesJob, job_manifest

from tests.support.kubernetes import Cluster, Kubelet
from tests.support.kubernetes_answers import ANSWERS, RUN_LABEL
from tests.support.pod_worker import IMAGE, NAMESPACE
from tests.support.waiting import wait_for

JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DISCOVERY = ("/version", "/api", "/apis", "/api/v1", "/apis/batch/v1", "/apis/apiextensions.k8s.io/v1")
KEPT = ("pods", "events", "namespaces", "jobs", "customresourcedefinitions")


def test_the_recorded_answers_are_those_of_the_server(cluster: Cluster, token: str, tmp_path: Path) -> None:
    """Remove the file, and this test records it anew."""
    with Kubelet(cluster, NAMESPACE, tmp_path).running():
        answers = record(cluster, token)
    if not ANSWERS.exists():
        ANSWERS.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n")
    recorded = json.loads(ANSWERS.read_text())
    assert set(shape(answers)) == set(shape(recorded))


def record(cluster: Cluster, token: str) -> dict[str, Any]:
    """Have a Job fail, and return all that the server says of it."""

    def ask(method: str, path: str, body: Any = None, token: str = token) -> Any:
        return without_managers(cluster.call(method, path, body, token)[1])

    run = str(uuid.uuid4())
    chosen = f"?labelSelector={RUN_LABEL}={run}"
    empty = {"jobs": ask("GET", JOBS + chosen), "pods": ask("GET", PODS + chosen)}
    manifest = job_manifest(KubernetesJob(IMAGE, NAMESPACE))
    labels = {RUN_LABEL: run, "prefect.io/flow-run-name": "recorded"}
    manifest["metadata"].update(generateName="recorded-", labels=labels)
    manifest["spec"]["template"]["metadata"] = {"labels": labels}
    manifest["spec"]["template"]["spec"]["containers"][0].update(args=["false"], env=[{"name": "A", "value": "b"}])
    created = ask("POST", JOBS, manifest)
    wait_for(lambda: ask("GET", JOBS + chosen)["items"][0]["status"].get("conditions"))
    discovery = {path: ask("GET", path) for path in DISCOVERY}
    for answer in discovery.values():
        if "resources" in answer:
            answer["resources"] = [one for one in answer["resources"] if one["name"].split("/")[0] in KEPT]
        if "groups" in answer:
            answer["groups"] = [one for one in answer["groups"] if one["name"] in ("batch", "apiextensions.k8s.io")]
            for group in answer["groups"]:
                group["versions"] = [one for one in group["versions"] if one["version"] == "v1"]
    return {
        "run": run,
        "discovery": discovery,
        "empty": empty,
        "created": created,
        "watched": {
            "jobs": list(watched(cluster, token, JOBS + chosen, empty["jobs"])),
            "pods": list(watched(cluster, token, PODS + chosen, empty["pods"])),
        },
        "ended": {"jobs": ask("GET", JOBS + chosen), "pods": ask("GET", PODS + chosen)},
        "not_found": ask("GET", f"{JOBS}/none"),
        "unauthorized": ask("GET", JOBS, token="wrong"),
    }


def watched(cluster: Cluster, token: str, path: str, listed: Any) -> Iterator[Any]:
    """Yield what a watch says has happened since a list."""
    address = f"{cluster.server}{path}&watch=true&timeoutSeconds=1"
    address += f"&resourceVersion={listed['metadata']['resourceVersion']}"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
    trust = ssl.create_default_context(cadata=cluster.authority)
    with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
        for line in answer:
            yield without_managers(json.loads(line))


def without_managers(value: Any) -> Any:
    """Leave out who wrote which field, which is most of an object."""
    if isinstance(value, dict):
        return {key: without_managers(one) for key, one in value.items() if key != "managedFields"}
    return [without_managers(one) for one in value] if isinstance(value, list) else value


def shape(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of all keys; the entries of a list are taken together."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield f"{path}.{key}"
            yield from shape(one, f"{path}.{key}")
    elif isinstance(value, list):
        for one in value:
            yield from shape(one, f"{path}[]")
