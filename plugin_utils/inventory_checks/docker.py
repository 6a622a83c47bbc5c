"""Docker work pools: images that are pinned, volumes that do not hand over the host, and a way to the API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pgprefect.objects.docker_jobs import IMAGES, image_fault

from .forms import Form, matching, own_directory
from .job_pools import JobPools, is_loopback
from .suggestions import did_you_mean

Groups = Mapping[str, Sequence[str]]
_OF_ALL = ("/opt/prefect/flows", "/usr/share/zoneinfo", "/usr/share/ca-certificates", "/etc/ssl/certs")


def _image(value: Any) -> None:
    if fault := image_fault(str(value)):
        raise ValueError(fault)


def _volume(value: Any) -> None:
    found = re.fullmatch(r"([^:\s]+):(/[^:\s]+)(?::(ro|rw))?", str(value))
    if not found:
        raise ValueError("it does not read SOURCE:TARGET or SOURCE:TARGET:ro")
    source, target, mode = found.groups()
    if ".." in PurePosixPath(target).parts or target.startswith("/run/prefect"):
        raise ValueError("the target is the site's own, or has a part ..")
    if not source.startswith("/"):
        matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", "").check(source)
    elif not (mode == "ro" and any(PurePosixPath(source).is_relative_to(folder) for folder in _OF_ALL)):
        own_directory(source)


IMAGE = Form(IMAGES, _image)
_POOLS = JobPools(
    "docker",
    jobs="containers",
    least="its image",
    image=IMAGE,
    traps={
        "auto_remove": "a container that removes itself takes its exit code with it; those that ended well are removed",
        "privileged": "such a container is root of the host",
    },
)
VOLUME = Form("SOURCE:TARGET or SOURCE:TARGET:ro, of a volume's name or a directory that holds nothing else", _volume)
NETWORK = matching(
    r"(?!(?:host|bridge|none|default)$)[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "the name of a network of Docker"
)
MEMORY = matching(r"[1-9]\d{0,5}[MG]", "a size as 512M or 2G")
ADDRESS = matching(
    r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:\d{1,5})?|\[[0-9A-Fa-f:]+\](:\d{1,5})?", "a host, and a port if not HTTPS's own"
)


def check_docker(tenants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with the Docker pools of declared tenants, and with the deployments on them."""
    for number, tenant in enumerate(tenants):
        registries = [one["name"] for one in tenant.get("docker_registries", ())]
        for index, pool in enumerate(tenant.get("work_pools", ())):
            path = f"prefect_tenants[{number}].work_pools[{index}]"
            yield from _POOLS.check_pool(path, pool)
            yield from _check_job(f"{path}.docker", pool.get("docker", {}), registries)
        yield from _POOLS.check_deployments(f"prefect_tenants[{number}]", tenant)


def _check_job(path: str, job: Mapping[str, Any], registries: Sequence[str]) -> Iterator[str]:
    if job.get("networks") and "network_mode" in job:
        yield f"{path}: containers have networks or a network_mode: remove one of the two."
    registry = job.get("registry")
    if registry is not None and registry not in registries:
        near = did_you_mean(registry, registries) or ". Declare it there, or correct the name."
        yield f"{path}.registry is {registry!r}, but docker_registries of the tenant have no such name{near}"


def check_reach(tenants: Sequence[Mapping[str, Any]], groups: Groups) -> Iterator[str]:
    """Yield the Docker pools whose containers could not reach the API, of tenants whose defaults are filled in."""
    servers = groups.get("prefect_server", ())
    for number, tenant in enumerate(tenants):
        address = urlsplit(tenant["container_api_url"]).hostname or ""
        for index, pool in enumerate(tenant["work_pools"]):
            job = pool.get("docker")
            hosts = groups.get(pool.get("hosts") or "prefect_worker", ())
            here = [host for host in hosts if host in servers]
            if job and pool["workers"] and here and job.get("network_mode") != "host" and is_loopback(address):
                yield (
                    f"prefect_tenants[{number}].work_pools[{index}].docker: on {', '.join(here)} the API listens on "
                    f"{address}, where containers with a network of their own do not reach it: set network_mode: host, "
                    "or put a proxy before the API (docs/proxy.md)."
                )
