"""Several processes that serve one tenant: on several hosts, or on one. They need something between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_POOL_BESIDES = 2  # connections that a process opens besides its pool, to listen and to vacuum


def check_several_servers(
    groups: Mapping[str, Sequence[str]],
    processes: int,
    *,
    authority: bool,
    named: bool,
) -> Iterator[str]:
    """Yield the mistakes of a site with several processes for a tenant, or with Redis.

    ``processes`` are those of each API on a host, ``authority`` is whether the site has one of its own, and ``named``
    whether the user has said by which names the proxies are reached.
    """
    servers, redis = groups.get("prefect_server", ()), groups.get("redis", ())
    services, proxies = groups.get("prefect_services", ()), groups.get("prefect_proxy", ())
    if not redis:
        if len(servers) > 1:
            yield (
                f"group prefect_server: {', '.join(servers)} would each run every tenant's server without knowing of "
                "each other: name a host in the group redis, which they share, or leave one server."
            )
        elif processes > 1:
            yield (
                f"prefect_server_processes is {processes}, but processes share what they know by Redis: name a host in "
                "the group redis, which may be the server's own, or set it to 1."
            )
        elif services:
            yield (
                f"group prefect_services: {', '.join(services)} would run the background services a second time, "
                "because without Redis each server runs them: name a host in the group redis, or empty this group."
            )
    if len(redis) > 1:
        yield (
            f"group redis: it has {', '.join(redis)}, but a tenant has one Redis: leave one host. "
            "docs/several_servers.md says what happens when it is lost."
        )
    if others := [host for host in services if host not in servers]:
        yield (
            f"group prefect_services: {', '.join(others)} is not in prefect_server: background services run beside an "
            "API. Name hosts of that group, or leave the group out: then the first of them runs the services."
        )
    if redis and "prefect_services" in groups and not services:
        yield "group prefect_services: it is empty, so that nobody would run the background services: leave it out."
    remote = [host for host in servers if host not in redis]
    if redis and remote and not authority:
        yield (
            f"site_tls is not private_ca, but Redis on {redis[0]} and {', '.join(remote)} prove to each other by "
            "certificates of the site's authority who they are: set site_tls to private_ca."
        )
    if len(servers) > 1 and proxies:
        if missing := [host for host in servers if host not in proxies]:
            yield (
                f"group prefect_proxy: {', '.join(missing)} of prefect_server is not in it. Where several hosts have "
                "the servers, the proxy of each takes what the others send to its own: name all of them, or none."
            )
        if not named:
            yield (
                "prefect_ui_url is missing: with several proxies it must be an address with https:// whose name leads "
                "to all of them, as by several records in your DNS."
            )


def check_connections(
    tenants: Sequence[Mapping[str, Any]], limits: Mapping[str, Any], processes: int, pool: int
) -> Iterator[str]:
    """Yield the tenants whose server's role may open fewer connections than its processes do, which are so many."""
    needed = processes * (pool + _POOL_BESIDES)
    for role in dict.fromkeys(tenant["server"] for tenant in tenants):
        if role in limits and int(limits[role]) < needed:
            yield (
                f"prefect_database_connection_limits.{role} is {limits[role]}, but its {processes} processes open up "
                f"to {needed}, {pool} of prefect_server_pool_size and {_POOL_BESIDES} more each: raise it, lower that, "
                "or leave it out."
            )
