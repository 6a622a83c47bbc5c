"""The jobs of Kubernetes work pools: what an inventory says of their pods, and the manifest and template that follow.

A worker of the site takes the manifest from its own host, see kubernetes_worker.py of the role prefect_worker: the
template says it to Prefect and to people, and lets a deployment choose what is left.
"""
# Annotations are not postponed here: options_of reads them.

from dataclasses import dataclass
from typing import Optional

from .changes import Fields
from .docker_jobs import VARIABLES, image_fault, job_variables

POD_IMAGES = "REPOSITORY@sha256:... with the image's digest"
# Where a pod finds the authority of the API's certificate, which the cluster's administrator puts into a ConfigMap.
AUTHORITY = "prefect-api-authority"
AUTHORITY_FILE = "/run/prefect-api/ca.pem"
_KEPT_SECONDS = 86_400  # so long a Job that has ended can be looked at


@dataclass(frozen=True)
class KubernetesJob:
    """The pods of a pool. Names are those of objects of the namespace."""

    image: str
    namespace: str
    memory: str = "1G"
    cpu: str = "1"
    service_account: Optional[str] = None
    image_pull_secret: Optional[str] = None
    environment_secret: Optional[str] = None


def pod_image_fault(image: str) -> str:
    """Return why an image is not one that a cluster can pull by its digest, or nothing."""
    if image.startswith("sha256:"):
        return "the identifier of an image of one host says nothing to a cluster"
    return image_fault(image)


def job_manifest(job: KubernetesJob, authority: bool = False) -> Fields:
    """Return the manifest of a run's Job, without what belongs to the run.

    With an ``authority`` the pod has that of the API's certificate, in AUTHORITY_FILE.
    """
    size = {"cpu": job.cpu, "memory": f"{job.memory}i"}
    container: Fields = {
        "name": "prefect-job",
        "image": job.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": size, "limits": dict(size)},
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod: Fields = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": job.service_account is not None,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    if job.service_account:
        pod["serviceAccountName"] = job.service_account
    if job.image_pull_secret:
        pod["imagePullSecrets"] = [{"name": job.image_pull_secret}]
    if job.environment_secret:
        container["envFrom"] = [{"secretRef": {"name": job.environment_secret}}]
    if authority:
        folder = AUTHORITY_FILE.rpartition("/")[0]
        container["volumeMounts"] = [{"name": AUTHORITY, "mountPath": folder, "readOnly": True}]
        pod["volumes"] = [{"name": AUTHORITY, "configMap": {"name": AUTHORITY}}]
    # The second try is Prefect's, which knows whether a run may have one.
    spec = {"backoffLimit": 0, "ttlSecondsAfterFinished": _KEPT_SECONDS, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": job.namespace}, "spec": spec}


def cluster_template(job: KubernetesJob) -> Fields:
    """Return the base job template of a pool. What is no variable in it no deployment can change."""
    manifest = job_manifest(job)
    manifest["metadata"].update(labels="{{ labels }}", generateName="{{ name }}-")
    pod = manifest["spec"]["template"]["spec"]
    pod["containers"][0].update(image="{{ image }}", env="{{ env }}", args="{{ command }}")
    # Prefect looks for the two there, where they mean nothing.
    pod.update(parallelism=1, completions=1)
    configuration = {name: "{{ " + name + " }}" for name in VARIABLES if name != "image"}
    properties = job_variables(job.image, POD_IMAGES)
    return {
        "job_configuration": {**configuration, "namespace": job.namespace, "job_manifest": manifest},
        "variables": {"type": "object", "properties": properties},
    }
