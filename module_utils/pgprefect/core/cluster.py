"""The Jobs of flow runs in a Kubernetes cluster, asked of its API with a kubeconfig as the site writes it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from .containers import RunContainer, RunContainers
from .errors import ProblemError
from .problems import Problem

# Prefect's Kubernetes worker labels each Job with the run's identifier.
RUN_LABEL = "prefect.io/flow-run-id"
_SECONDS = 30


def run_jobs(path: str | None = None) -> RunContainers:
    """Return the Jobs of flow runs by the runs' identifiers.

    ``path`` is a kubeconfig in JSON with one cluster, one user with a token and one context, if not ``KUBECONFIG``.
    Raises ProblemError where the cluster does not say it.
    """
    with open(path or os.environ["KUBECONFIG"], encoding="utf-8") as file:
        config = json.load(file)
    cluster, context = config["clusters"][0]["cluster"], config["contexts"][0]["context"]
    address = f"{cluster['server'].rstrip('/')}/apis/batch/v1/namespaces/{context['namespace']}/jobs"
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Accept": "application/json"}
    request = urllib.request.Request(f"{address}?labelSelector={quote(RUN_LABEL)}", headers=headers)
    try:
        trust = ssl.create_default_context(cadata=_authority(cluster))
        with urllib.request.urlopen(request, timeout=_SECONDS, context=trust) as answer:
            return by_run(json.load(answer)["items"])
    except HTTPError as error:
        error.close()
        raise ProblemError(_unknown(address, f"{error.code} {error.reason}")) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ProblemError(_unknown(address, str(getattr(error, "reason", None) or error))) from error


def by_run(items: Iterable[Mapping[str, Any]]) -> RunContainers:
    """Return Jobs as the API lists them by run; of a run that has several, one that lives."""
    found: dict[str, RunContainer] = {}
    for item in items:
        conditions = (item.get("status") or {}).get("conditions") or []
        ended = [one for one in conditions if one["type"] in ("Complete", "Failed") and one["status"] == "True"]
        words = ": ".join(filter(None, (ended[0]["type"], ended[0].get("reason")))) if ended else "Active"
        job = RunContainer(alive=not ended, status=words)
        run = str(item["metadata"]["labels"][RUN_LABEL])
        if run not in found or job.alive:
            found[run] = job
    return found


def _authority(cluster: Mapping[str, Any]) -> str | None:
    """Return the authority of the cluster's certificate; None stands for those of the system."""
    data = cluster.get("certificate-authority-data")
    return base64.b64decode(data).decode() if data else None


def _unknown(address: str, reason: str) -> Problem:
    message = f"The cluster does not say which Jobs of flow runs it has ({address}: {reason})."
    remedy = "Check the pool's kubeconfig and the rights of its token (docs/kubernetes.md); the worker tries again."
    return Problem("cluster_unreachable", object=address, message=message, remedy=remedy)
