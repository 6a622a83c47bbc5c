"""Filters that complete what a user writes about tenants; the check of the inventory refuses what has no form."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

_FIRST_PORT = 4200
_PEER_PORTS = 1000  # above the tenant's own one: where a proxy takes what another one sends to its host's API
_REDIS_PORTS = 2200  # above the tenant's own one
_HEALTH_PORTS = range(8100, 8400)  # of workers
# What a pool may say of its workers in place of the worker role's variables.
_WORKER_KEYS = ("memory_max", "cpu_weight", "limit", "libraries", "docker", "kubernetes")
# What git reads of the workers' environment.
_GIT_VARIABLES = (
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
    *("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"),
)
Groups = Mapping[str, Sequence[str]]
# What each role gets of a tenant.
_VIEWS = {
    "database": ("name", "schema", "owner", "migrator", "server", "relay", "database_events"),
    "server": ("name", "schema", "migrator", "server", "port", "api_url", "ui_url", "event_retention", "redis_port"),
    "objects": (
        *("name", "api_url", "variables", "concurrency_limits", "work_pools", "deployments", "automations"),
        *("planned_objects", "own_blocks"),
    ),
    "events": ("name", "api_url", "relay", "outbox", "database_events"),
    "retention": ("name", "schema", "server", "migrator"),
    "proxy": ("name", "port", "ui_url", "peer_port"),
    "redis": ("name", "redis_port"),
    "monitoring": ("name", "schema", "api_url", "workers", "pool_workers", "scaled_pools", "redis"),
    "pgprefect": (
        *("name", "schema", "owner", "migrator", "server", "api_url", "api_ca_file"),
        *("workers", "pool_workers", "scaled_pools", "event_retention", "redis", "relay", "database_events"),
    ),
}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ui_url(tenant: Mapping[str, Any], first: bool, site: str, port: int) -> str:
    """Return where browsers reach a tenant.

    An address with a port, and one of a proxy with TLS, is the first tenant's as it stands.
    """
    if own := tenant.get("ui_url"):
        return str(own).rstrip("/")
    if "api_url" in tenant:
        return str(tenant["api_url"]).rstrip("/").removesuffix("/api")
    parts = urlsplit(site or "http://127.0.0.1")
    if first and (parts.port or parts.scheme == "https"):
        return site.rstrip("/")
    return f"{parts.scheme}://{_bracketed(parts.hostname or '')}:{port}"


def _api_url(tenant: Mapping[str, Any], api_host: str, port: int, local: bool, proxied_url: str) -> str:
    """Return where a host reaches the API: directly on the API's own host, else by its proxy."""
    if not local and tenant.get("api_url"):
        return str(tenant["api_url"]).rstrip("/")
    if not local and proxied_url:
        return f"{proxied_url}/api"
    return f"http://{_bracketed(api_host)}:{port}/api"


def _declared_pools(tenant: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    pools: Sequence[Mapping[str, Any]] = tenant.get("work_pools", [{"name": "default"}])
    return pools


def _with_workers(pool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pool with the most workers that a host runs for it, and the least, and without what is secret."""
    workers = pool.get("workers", 1)
    least, most = (workers.get("min", 0), workers.get("max", 1)) if isinstance(workers, Mapping) else (workers, workers)
    given = {key: value for key, value in pool.items() if key != "environment"}
    if "kubernetes" in pool:
        given["kubernetes"] = {key: value for key, value in pool["kubernetes"].items() if key != "kubeconfig"}
    return {**given, "workers": int(most), "min_workers": int(least)}


def _without_environment(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deployment with its environment as Prefect has it: the job variable env."""
    given = {key: value for key, value in deployment.items() if key != "environment"}
    if "environment" in deployment:
        env = {name: str(value) for name, value in deployment["environment"].items()}
        given["job_variables"] = {**given.get("job_variables", {}), "env": env}
    return given


def _hosts(pool: Mapping[str, Any], groups: Groups | None) -> list[str] | None:
    """Return the hosts that run a pool's workers; None stands for all worker hosts."""
    return list((groups or {}).get(pool["hosts"], ())) if pool.get("hosts") else None


def _runs_on(pool: Mapping[str, Any], host: str, groups: Groups | None) -> bool:
    hosts = _hosts(pool, groups)
    return hosts is None or host in hosts


def _container_address(tenant: Mapping[str, Any], pool: Mapping[str, Any]) -> dict[str, str]:
    """Return where the containers or pods of a pool reach the API; a pool of processes has none."""
    if not is_contained(pool):
        return {}
    shared = pool.get("docker", {}).get("network_mode") == "host"
    return {"container_api_url": str(tenant["api_url" if shared else "container_api_url"])}


def is_contained(pool: Mapping[str, Any]) -> bool:
    """Return whether the runs of a pool or worker are in containers or pods, and not in processes of its host."""
    return "docker" in pool or "kubernetes" in pool


def _is_scaled(pool: Mapping[str, Any]) -> bool:
    return bool(pool["workers"] > pool["min_workers"])


def _planned_objects(tenant: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of what is declared and an automation may name, as prefect_automations takes them."""
    pools = _declared_pools(tenant)
    return {
        "deployments": [f"{one['flow']}/{one['name']}" for one in tenant.get("deployments", ())],
        "work_pools": [pool["name"] for pool in pools],
        "work_queues": [f"{pool['name']}/{queue['name']}" for pool in pools for queue in pool.get("queues", ())],
        "blocks": [*(f"{one['type']}/{one['name']}" for one in tenant.get("blocks", ())), *_own_blocks(tenant)],
    }


def _own_blocks(tenant: Mapping[str, Any]) -> list[str]:
    """Return the blocks that the site makes of a tenant's credentials, as type/name."""
    tokens = [f"secret/git-{one['name']}" for one in tenant.get("git_credentials", ()) if one.get("token")]
    registries = [f"docker-registry-credentials/registry-{one['name']}" for one in tenant.get("docker_registries", ())]
    return tokens + registries


def prefect_tenants(
    tenants: Sequence[Mapping[str, Any]],
    api_host: str = "127.0.0.1",
    ui_url: str = "",
    worker_hosts: int = 1,
    groups: Groups | None = None,
    local: bool = True,
    proxy: str = "",
    api_ca_file: str = "",
) -> list[dict[str, Any]]:
    """Return the tenants with every default filled in.

    ``api_host`` is the address at which this host reaches the API, which runs here where it is ``local``; ``ui_url`` is
    the address at which browsers reach the UI, where a port counts for the first tenant only; ``worker_hosts`` is how
    many hosts run the workers of a pool that names no group of ``groups``; ``proxy`` is the address of the site's own
    proxy, if it has one; ``api_ca_file`` has the authorities of the APIs' certificates.
    """
    site_url = ui_url or (f"https://{_bracketed(proxy)}" if proxy else "")
    resolved: list[dict[str, Any]] = []
    for index, tenant in enumerate(tenants):
        name = tenant["name"]
        schema = tenant.get("schema", name)
        port = int(tenant.get("port", _FIRST_PORT))
        pools = [_with_workers(pool) for pool in _declared_pools(tenant)]
        own_ui_url = _ui_url(tenant, index == 0, site_url, port)
        counts = {}
        for pool in pools:
            hosts = _hosts(pool, groups)
            counts[pool["name"]] = pool["min_workers"] * (worker_hosts if hosts is None else len(hosts))
        resolved.append(
            {
                "name": name,
                "schema": schema,
                "owner": f"{schema}_owner",
                "migrator": f"{schema}_migrator",
                "server": f"{schema}_server",
                # Only for a tenant that has database events.
                "relay": f"{schema}_relay" if tenant.get("database_events") else "",
                "outbox": f"{schema}_outbox",
                "database_events": list(tenant.get("database_events", [])),
                "port": port,
                "peer_port": port + _PEER_PORTS,
                "redis": local and bool((groups or {}).get("redis")),
                "redis_port": port + _REDIS_PORTS,
                "api_url": _api_url(tenant, api_host, port, local, own_ui_url if proxy else ""),
                # Where a container with a network of its own reaches it: on no host by loopback.
                "container_api_url": _api_url(tenant, api_host, port, False, own_ui_url if proxy else ""),
                "api_ca_file": api_ca_file,
                "ui_url": own_ui_url,
                "event_retention": tenant.get("event_retention", "P90D"),
                "work_pools": pools,
                # What must be online: of a pool that is scaled only the least.
                "workers": sum(counts.values()),
                "pool_workers": counts,
                "scaled_pools": [pool["name"] for pool in pools if _is_scaled(pool)],
                "deployments": [_without_environment(one) for one in tenant.get("deployments", [])],
                **{key: list(tenant.get(key, ())) for key in ("variables", "concurrency_limits", "automations")},
                "planned_objects": _planned_objects(tenant),
                "own_blocks": _own_blocks(tenant),
            }
        )
    return resolved


def prefect_workers(
    tenants: Sequence[Mapping[str, Any]], host: str = "", groups: Groups | None = None, proxied: bool = False
) -> list[dict[str, Any]]:
    """Return the workers of one host: one per tenant, pool and number, each with a port for its health check.

    Where several hosts have the API, they ask whichever of them the proxy finds, also on one of these hosts.
    """
    workers = [
        {
            "instance": f"{tenant['name']}-{pool['name']}-{number}",
            "tenant": tenant["name"],
            "pool": pool["name"],
            "api_url": tenant["container_api_url" if proxied else "api_url"],
            "ui_url": tenant["ui_url"],
            "scaled": number > pool["min_workers"],
            **{key: pool[key] for key in _WORKER_KEYS if key in pool},
            **_container_address(tenant, pool),
        }
        for tenant in tenants
        for pool in tenant["work_pools"]
        if _runs_on(pool, host, groups)
        for number in range(1, pool["workers"] + 1)
    ]
    ports = _health_ports([worker["instance"] for worker in workers])
    return [{**worker, "health_port": ports[worker["instance"]]} for worker in workers]


def _health_ports(instances: Sequence[str]) -> dict[str, int]:
    """Return a port for each worker, which seldom depends on what other workers the host has.

    Else a further worker would move the others, which run, to other ports.
    """
    ports: dict[str, int] = {}
    for instance in instances:
        first = zlib.crc32(instance.encode())
        choice = (_HEALTH_PORTS[(first + step) % len(_HEALTH_PORTS)] for step in range(len(_HEALTH_PORTS)))
        ports[instance] = next(port for port in choice if port not in ports.values())
    return ports


def tenant_environments(tenants: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by tenant the environment variables that its declaration gives to its server.

    They may be secrets, so they are not in what `prefect_tenants` returns.
    """
    return {tenant["name"]: dict(tenant.get("environment", {})) for tenant in tenants}


def pool_environments(tenants: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by tenant and pool the environment variables that the declaration gives to the pool's workers."""
    return {
        tenant["name"]: {
            pool["name"]: {**tenant.get("environment", {}), **pool.get("environment", {})}
            for pool in _declared_pools(tenant)
        }
        for tenant in tenants
    }


def git_credentials(tenants: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return by tenant what logs in to its repositories; these are secrets, so `prefect_tenants` does not have them."""
    return _with_secrets(tenants, "git_credentials")


def docker_registries(tenants: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return by tenant the registries of images, with the passwords, which `prefect_tenants` does not have."""
    return _with_secrets(tenants, "docker_registries")


def prefect_blocks(tenants: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return by tenant its blocks, with their secrets, which `prefect_tenants` does not have."""
    return _with_secrets(tenants, "blocks")


def cluster_namespaces(tenants: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the Kubernetes pools with their tenants' names before their own, and the namespaces of their pods."""
    return [
        {"pool": f"{tenant['name']}-{pool['name']}", "namespace": pool["kubernetes"]["namespace"]}
        for tenant in tenants
        for pool in tenant["work_pools"]
        if "kubernetes" in pool
    ]


def pool_kubeconfigs(tenants: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return by tenant and pool the kubeconfigs, which `prefect_tenants` does not have."""
    return {
        tenant["name"]: {
            pool["name"]: pool["kubernetes"]["kubeconfig"]
            for pool in _declared_pools(tenant)
            if "kubeconfig" in pool.get("kubernetes", {})
        }
        for tenant in tenants
    }


def _with_secrets(tenants: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    return {tenant["name"]: [dict(one) for one in tenant.get(key, ())] for tenant in tenants}


def git_environments(
    tenants: Sequence[Mapping[str, Any]], environment: Mapping[str, Any], no_proxy: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return by tenant the variables of its workers that git needs on the server's host, too.

    ``environment`` is that of all workers.
    """
    bypass = dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(no_proxy))
    found = {}
    for tenant in tenants:
        given = {**environment, **tenant.get("environment", {})}
        wanted = {name: str(value) for name, value in given.items() if name in _GIT_VARIABLES}
        found[tenant["name"]] = {**wanted, **bypass}
    return found


def git_keys(
    tenants: Sequence[Mapping[str, Any]], workers: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return by tenant the deploy keys that a host's workers need, for tenants that have any."""
    here = {worker["tenant"] for worker in workers if not is_contained(worker)}
    keys = {name: [one for one in given if one.get("key")] for name, given in git_credentials(tenants).items()}
    return {name: found for name, found in keys.items() if found and name in here}


def needs_git(tenants: Sequence[Mapping[str, Any]], workers: Sequence[Mapping[str, Any]], serves: bool = False) -> bool:
    """Return whether a host needs git: it serves, or runs a worker of, a deployment whose code is in a repository."""
    pools = {(worker["tenant"], worker["pool"]) for worker in workers if not is_contained(worker)}
    return any(
        "source" in deployment and (serves or (tenant["name"], deployment["work_pool"]) in pools)
        for tenant in tenants
        for deployment in tenant["deployments"]
    )


def tenant_views(tenants: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return by role what it gets of each tenant."""
    return {role: [{key: tenant[key] for key in keys} for tenant in tenants] for role, keys in _VIEWS.items()}


def prefect_scaled_pools(
    tenants: Sequence[Mapping[str, Any]], host: str = "", groups: Groups | None = None
) -> list[dict[str, Any]]:
    """Return the pools of one host whose workers are scaled, with the least and the most workers of a host.

    ``hosts`` are those that share a pool's work; without them all worker hosts do.
    """
    return [
        {
            "tenant": tenant["name"],
            "pool": pool["name"],
            "min": pool["min_workers"],
            "max": pool["workers"],
            **({} if (hosts := _hosts(pool, groups)) is None else {"hosts": hosts}),
        }
        for tenant in tenants
        for pool in tenant["work_pools"]
        if _is_scaled(pool) and _runs_on(pool, host, groups)
    ]


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "prefect_tenants": prefect_tenants,
            "prefect_workers": prefect_workers,
            "prefect_scaled_pools": prefect_scaled_pools,
            "tenant_views": tenant_views,
            "tenant_environments": tenant_environments,
            "pool_environments": pool_environments,
            "cluster_namespaces": cluster_namespaces,
            "pool_kubeconfigs": pool_kubeconfigs,
            "docker_registries": docker_registries,
            "prefect_blocks": prefect_blocks,
            "git_credentials": git_credentials,
            "git_environments": git_environments,
            "git_keys": git_keys,
            "needs_git": needs_git,
        }
