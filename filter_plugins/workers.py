"""Filters for the workers of a host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_MEGABYTE = 1024**2
_RUN = 256  # MB: a process of Prefect's takes 100, and a flow's data as much again
_CONTAINER = "1G"  # the memory of a container that says nothing else
# Where a container finds what is for it alone, and the authority of the API's certificate.
_FILES = "/run/prefect"
_AUTHORITY = "/run/prefect-api-authority.pem"
_DATABASE_AUTHORITY = "/run/prefect-database-authority.pem"


def run_limit(memory_max: str, memory_mb: int, workers: float, container: str = "") -> int:
    """Return how many runs a worker may have: one for each 256 MB, of which the worker itself takes one.

    Where its runs are in containers, one for each memory of a ``container``.
    The memory is ``memory_max``, in systemd's notation, or the worker's share of the host's memory where that is less.
    """
    share = int(int(memory_mb) / max(workers, 1))
    allowed = min(share, _megabytes(str(memory_max), int(memory_mb)))
    return max(1, allowed // _megabytes(container, int(memory_mb)) if container else allowed // _RUN - 1)


def worker_limits(
    workers: Sequence[Mapping[str, Any]], limit: int, memory_max: str, memory_mb: int, simultaneous: int
) -> dict[str, int]:
    """Return how many runs each worker of a host may have, by its instance.

    A worker's own limit and memory win over those that are given, which count for all others. Each has a share of the
    host's memory that fits to its own one, where ``simultaneous`` of them run.
    """
    sizes = [min(int(memory_mb), _megabytes(_memory_max(worker, memory_max), int(memory_mb))) for worker in workers]
    together = sum(sizes) * int(simultaneous) / max(len(sizes), 1)
    return {
        worker["instance"]: int(worker.get("limit") or limit)
        or run_limit(_memory_max(worker, memory_max), memory_mb, together / max(size, 1), _container_memory(worker))
        for worker, size in zip(workers, sizes, strict=True)
    }


def pool_limits(pools: Sequence[Mapping[str, Any]], limits: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return pools whose workers are scaled, each with how many runs one of these may have."""
    return [{**pool, "run_limit": limits[f"{pool['tenant']}-{pool['pool']}-1"]} for pool in pools]


def _memory_max(worker: Mapping[str, Any], memory_max: str) -> str:
    return str(worker.get("memory_max") or memory_max)


def _container_memory(worker: Mapping[str, Any]) -> str:
    return str(worker["docker"].get("memory", _CONTAINER)) if "docker" in worker else ""


def container_settings(
    worker: Mapping[str, Any],
    variables: Sequence[str],
    files: str,
    flows: str,
    api_ca_file: str = "",
    database_ca_file: str = "",
) -> dict[str, Any]:
    """Return what the containers of a worker get, as docker_worker.py takes it.

    ``variables`` are those of the worker's environment that they get too, ``files`` the host's folder with what is for
    them alone, and ``flows`` that of the flows' code.
    """
    job = worker["docker"]
    networks = list(job.get("networks", ()))
    volumes = [f"{files}:{_FILES}:ro", f"{flows}:{flows}:ro", *job.get("volumes", ())]
    env = {"PREFECT_API_URL": worker["container_api_url"], "PREFECT_PROFILES_PATH": f"{_FILES}/profiles.toml"}
    if api_ca_file:
        volumes.append(f"{api_ca_file}:{_AUTHORITY}:ro")
        env["PREFECT_API_SSL_CERT_FILE"] = _AUTHORITY
    if job.get("database_login"):
        env |= {"PGSERVICEFILE": f"{_FILES}/pg_service.conf", "PGSERVICE": "application"}
        volumes += [f"{database_ca_file}:{_DATABASE_AUTHORITY}:ro"] if database_ca_file else []
    return {
        "type": "docker",
        "image": job["image"],
        "networks": networks,
        "network_mode": None if networks else job.get("network_mode", "bridge"),
        "volumes": volumes,
        "mem_limit": str(job.get("memory", _CONTAINER)),
        "variables": list(variables),
        "env": env,
    }


def pod_settings(worker: Mapping[str, Any], variables: Sequence[str], authority: bool) -> dict[str, Any]:
    """Return what the pods of a worker get, as kubernetes_worker.py takes it.

    ``variables`` are those of the worker's environment that they get too, and an ``authority`` is that of the API's
    certificate, which the cluster has in a ConfigMap.
    """
    return {
        "type": "kubernetes",
        "job": dict(worker["kubernetes"]),
        "authority": authority,
        "variables": list(variables),
        "env": {"PREFECT_API_URL": worker["container_api_url"]},
    }


def container_files(
    worker: Mapping[str, Any], api_password: str, login: Mapping[str, Any], database_ca_file: str = ""
) -> dict[str, str]:
    """Return the files that the containers of a worker get, with the secrets that no environment is to show.

    ``login`` has libpq's parameters of the application's login.
    """
    # A text of JSON is one of TOML.
    api = json.dumps(f"admin:{api_password}")
    files = {"profiles.toml": f'active = "site"\n\n[profiles.site]\nPREFECT_API_AUTH_STRING = {api}\n'}
    if worker["docker"].get("database_login"):
        tls = {"sslmode": "verify-full", "sslrootcert": _DATABASE_AUTHORITY} if database_ca_file else {}
        lines = [f"{name}={value}\n" for name, value in {**login, **tls}.items()]
        files["pg_service.conf"] = "".join(["[application]\n", *lines])
    return files


def worker_user(worker: Mapping[str, Any]) -> str:
    """Return the user of a worker. Whoever may use Docker is root, so no flow of the host runs as that one."""
    kind = "docker" if "docker" in worker else "cluster" if "kubernetes" in worker else "prefect"
    return f"{kind}-{worker['tenant']}"


def simultaneous_workers(workers: Sequence[Mapping[str, Any]], memory_max: str, memory_mb: int) -> int:
    """Return how many of a host's workers run at the same time: those that are scaled only as the memory has room."""
    least = sum(not worker.get("scaled") for worker in workers)
    sizes = [_megabytes(_memory_max(worker, memory_max), int(memory_mb)) for worker in workers]
    fitting = int(memory_mb) * len(sizes) // max(1, sum(sizes))
    return max(least, min(len(workers), fitting), 1)


def worker_weights(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the share of each worker host in the work of pools that are scaled."""
    return {host: int(hostvars[host].get("prefect_worker_weight", 1)) for host in hosts}


def deploy_key_folders(
    keys: Mapping[str, Sequence[Mapping[str, Any]]], folder: str, tenants: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return deploy keys by tenant as folders of the module file_tree, which only the tenant's workers read.

    ``tenants`` are those that have such a folder, which is emptied where they have no keys any more.
    """
    folders = []
    for tenant, declared in keys.items():
        files = {}
        for one in declared:
            files[one["name"]] = one["key"].strip() + "\n"
            files[f"{one['name']}.known_hosts"] = "".join(f"{line}\n" for line in one["known_hosts"])
        rights = {"group": f"prefect-{tenant}", "mode": "0640", "folder_mode": "0750", "folder_exact": True}
        folders.append({"path": f"{folder}/{tenant}", "files": files, "only": True, **rights})
    return folders + [{"path": f"{folder}/{tenant}", "only": True} for tenant in tenants if tenant not in keys]


def _megabytes(size: str, memory_mb: int) -> int:
    if size == "infinity":
        return memory_mb
    if size.endswith("%"):
        return memory_mb * int(size[:-1]) // 100
    number, unit = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTPE]?)", size).groups()  # type: ignore[union-attr]
    return int(float(number) * 1024 ** " KMGTPE".index(unit or " ") // _MEGABYTE)


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "worker_limits": worker_limits,
            "pool_limits": pool_limits,
            "simultaneous_workers": simultaneous_workers,
            "worker_weights": worker_weights,
            "deploy_key_folders": deploy_key_folders,
            "worker_user": worker_user,
            "container_settings": container_settings,
            "pod_settings": pod_settings,
            "container_files": container_files,
        }
