"""Consistency inside a tenant: its deployments with its work pools, and with the flows on the controller."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from pgprefect.core.errors import InputError
from pgprefect.schema.database_events import DatabaseEvent

from .code import Flows
from .environment import WORKER
from .suggestions import did_you_mean
from .table import ENTRYPOINT

# A pool's name becomes part of its workers' unit names when it has any.
_UNIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*")
_WHEN = ("cron", "interval", "rrule")


def check_code(tenants: Any, flows_with: Callable[[str], Flows]) -> Iterator[str]:
    """Yield what is wrong with the entrypoints of the deployments, also where other keys have mistakes.

    ``flows_with`` returns the flows as a pool with libraries of its own can import them; for an empty name, as others
    can. Code in a repository is not here; it is checked when its deployment is applied.
    """
    for number, tenant in enumerate(_mappings(tenants)):
        own = {str(pool.get("name")): pool.get("libraries") or "" for pool in _mappings(tenant.get("work_pools"))}
        for index, deployment in enumerate(_mappings(tenant.get("deployments"))):
            path = f"prefect_tenants[{number}].deployments[{index}]"
            if "source" not in deployment and not list(ENTRYPOINT.faults(path, deployment.get("entrypoint"))):
                flows = flows_with(str(own.get(str(deployment.get("work_pool")), "")))
                yield from flows.faults(path, {"flow": "", **deployment})


def _mappings(values: Any) -> list[Mapping[str, Any]]:
    """Return a list's entries as mappings; what is none is an empty one."""
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else ()
    return [entry if isinstance(entry, Mapping) else {} for entry in listed]


def check_tenants(tenants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the mistakes of tenants whose defaults are filled in."""
    for key in ("port", "schema"):
        yield from _check_twice(key, [tenant[key] for tenant in tenants])
    for number, tenant in enumerate(tenants):
        yield from _check_database_events(
            f"prefect_tenants[{number}].database_events", tenant.get("database_events", ())
        )
        yield from _check_pools(f"prefect_tenants[{number}].work_pools", tenant["work_pools"])
        queues = {
            f"{pool['name']}/{queue}"
            for pool in tenant["work_pools"]
            for queue in ("default", *(queue["name"] for queue in pool.get("queues") or ()))
        }
        for index, deployment in enumerate(tenant["deployments"]):
            path = f"prefect_tenants[{number}].deployments[{index}]"
            yield from _check_queue(path, deployment, queues)
            yield from _check_schedules(path, deployment.get("schedules") or ())


def check_placement(tenants: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the pools whose workers would run nowhere, or on a host that is no worker's."""
    workers = groups.get("prefect_worker", ())
    for number, tenant in enumerate(tenants):
        for index, pool in enumerate(tenant["work_pools"]):
            if not (group := pool.get("hosts")):
                continue
            here = f"prefect_tenants[{number}].work_pools[{index}].hosts is {group!r}, but"
            others = [host for host in groups.get(group, ()) if host not in workers]
            if group not in groups:
                near = did_you_mean(group, groups) or ": add the group with its hosts, or name another one."
                yield f"{here} the inventory has no such group{near}"
            elif not groups[group]:
                yield f"{here} that group has no hosts: add some, or name another one."
            elif others:
                yield f"{here} {', '.join(others)} of it is not in prefect_worker: add it there, or name another group."


def check_environments(tenants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with the environments that job variables and job templates give to runs."""
    for number, tenant in enumerate(tenants):
        for index, deployment in enumerate(tenant.get("deployments", ())):
            path = f"prefect_tenants[{number}].deployments[{index}]"
            env = deployment.get("job_variables", {}).get("env")
            if env is not None and "environment" in deployment:
                yield f"{path}.job_variables.env: it is what {path}.environment sets: keep one of the two."
            else:
                yield from _check_job_environment(f"{path}.job_variables.env", env)
        for index, pool in enumerate(tenant.get("work_pools", ())):
            path, found = f"prefect_tenants[{number}].work_pools[{index}]", pool
            for key in ("base_job_template", "variables", "properties", "env", "default"):
                path, found = f"{path}.{key}", found.get(key) if isinstance(found, Mapping) else None
            yield from _check_job_environment(path, found)


def _check_job_environment(path: str, env: Any) -> Iterator[str]:
    """Yield what the site sets itself; Prefect has null for a variable that is taken away."""
    if isinstance(env, Mapping):
        env = {name: "" if value is None else value for name, value in env.items()}
    yield from WORKER.faults(path, env or {})


def _check_twice(key: str, values: Sequence[Any]) -> Iterator[str]:
    """Yield the tenants that have another one's value, as a default or written down."""
    for number, value in enumerate(values):
        if (first := values.index(value)) != number:
            yield (
                f"prefect_tenants[{number}].{key} is {value!r}, as prefect_tenants[{first}] has it: "
                f"give each tenant a {key} of its own."
            )


def _check_database_events(path: str, events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for index, event in enumerate(events):
        try:
            DatabaseEvent.from_arguments(event)
        except InputError as error:
            yield f"{path}[{index}]: {error} Correct it in the inventory."


def _check_pools(path: str, pools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for index, pool in enumerate(pools):
        if pool["workers"] and not _UNIT_NAME.fullmatch(str(pool["name"])):
            yield (
                f"{path}[{index}].name is {pool['name']!r}, which cannot be part of the names of its workers' units: "
                "use letters, digits, '_', '.' and single inner '-', or set workers: 0."
            )


def _check_queue(path: str, deployment: Mapping[str, Any], queues: set[str]) -> Iterator[str]:
    used = f"{deployment['work_pool']}/{deployment.get('work_queue') or 'default'}"
    if used not in queues:
        key = "work_queue" if f"{deployment['work_pool']}/default" in queues else "work_pool"
        yield (
            f"{path}.{key}: the tenant's work_pools have no {used} (work pool/queue). "
            f"Declared are: {', '.join(sorted(queues))}."
        )


def _check_schedules(path: str, schedules: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for index, schedule in enumerate(schedules):
        if len([key for key in _WHEN if schedule.get(key) is not None]) != 1:
            yield f"{path}.schedules[{index}]: it needs exactly one of {', '.join(_WHEN)}"


def check_ports(
    tenants: Sequence[Mapping[str, Any]],
    database_port: int,
    health_ports: Collection[int],
    groups: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """Yield the ports of tenants that another part of the site has on the same host.

    ``health_ports`` are those of the workers' health checks.
    """
    servers = set(groups.get("prefect_server", ()))
    taken: dict[int, str] = {}
    beside = set(groups.get("postgresql", ())) & set(groups.get("prefect_worker", ()))
    if beside and database_port in health_ports:
        yield f"database_port is {database_port}, which the health check of a worker has: choose another port."
    if servers & set(groups.get("prefect_worker", ())):
        taken |= dict.fromkeys(health_ports, "the health check of a worker")
    if servers & set(groups.get("postgresql", ())):
        taken[database_port] = "PostgreSQL, by database_port"
    kinds = (("peer_port", "prefect_proxy", "another host's proxy, for the API"), ("redis_port", "redis", "Redis"))
    for key, name, what in kinds:
        if servers & set(groups.get(name, ())) and (name == "redis" or len(groups[name]) > 1):
            taken |= {tenant[key]: f"{what} of the tenant {tenant['name']}" for tenant in tenants}
    for number, tenant in enumerate(tenants):
        if other := taken.get(tenant["port"]):
            yield f"prefect_tenants[{number}].port is {tenant['port']}, which {other} has: choose another port."
