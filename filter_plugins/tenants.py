"""Filters that complete what a user writes about tenants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleFilterError

# A tenant's name becomes part of unit, file and worker names.
_TENANT_NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")
# A pool's name becomes part of its workers' unit names when it has any.
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*")
# ISO 8601, because Prefect refuses a bare number of seconds.
_RETENTION = re.compile(r"P(?=\d|T\d)(\d+W)?(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?")
_TENANT_KEYS = ("name", "port", "schema", "ui_url", "event_retention", "work_pools", "deployments")
_FIRST_PORT = 4200
# Room for the longest suffix in PostgreSQL's 63 bytes.
_SCHEMA_BYTES = 63 - len("_migrator")


def _refuse(where: str, what: str, remedy: str) -> AnsibleFilterError:
    return AnsibleFilterError(f"{where}: {what}. {remedy}")


def _check_schema(where: str, schema: Any) -> None:
    # A file of the controller is named after its role, and asyncpg cannot log in as one whose name has ',' or '='.
    allowed = f"a schema is 1 to {_SCHEMA_BYTES} bytes without '/', ',', '=', control characters or the prefix pg_"
    if (
        not isinstance(schema, str)
        or not 0 < len(schema.encode()) <= _SCHEMA_BYTES
        or any(character in schema for character in "/,=")
        or not schema.isprintable()
        or schema.startswith("pg_")
        or schema in ("public", "extensions", "information_schema")
    ):
        raise _refuse(
            f"{where}.schema",
            f"{schema!r} cannot be a tenant's schema",
            f"Choose another: {allowed}, and none of public, extensions, information_schema.",
        )


def _integer(where: str, value: Any, low: int, high: int) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or not low <= int(text) <= high:
        raise _refuse(where, f"{value!r} is not allowed", f"Give a whole number from {low} to {high}.")
    return int(text)


def _work_pools(where: str, pools: Any) -> list[dict[str, Any]]:
    if not isinstance(pools, Sequence) or isinstance(pools, str):
        raise _refuse(where, "is not a list", "Give a list of work pools, each with a name.")
    resolved = []
    for index, pool in enumerate(pools):
        here = f"{where}[{index}]"
        if not isinstance(pool, Mapping) or not pool.get("name"):
            raise _refuse(here, "has no name", "Give each work pool a name.")
        workers = _integer(f"{here}.workers", pool.get("workers", 1), 0, 100)
        if workers and not _POOL_NAME.fullmatch(str(pool["name"])):
            raise _refuse(
                f"{here}.name",
                f"{pool['name']!r} cannot be part of a unit's name",
                "Use letters, digits, '_', '.' and single inner '-', or set workers: 0.",
            )
        resolved.append({**pool, "workers": workers})
    return resolved


def prefect_tenants(
    tenants: Any, api_host: str = "127.0.0.1", ui_url: str = "", worker_hosts: int = 1
) -> list[dict[str, Any]]:
    """Return the tenants with every default filled in.

    ``api_host`` is the address at which this host reaches the API; ``ui_url`` is the address at which browsers reach
    the UI, where a port counts for the first tenant only; ``worker_hosts`` is how many hosts run each pool's workers.

    Raises AnsibleFilterError, which names the variable, its value and what is allowed.
    """
    if not isinstance(tenants, Sequence) or isinstance(tenants, str) or not tenants:
        raise _refuse(
            "prefect_tenants", "is not a list of at least one tenant", "Example: [{name: prefect, port: 4200}]"
        )
    api_host = f"[{api_host}]" if ":" in api_host else api_host
    resolved: list[dict[str, Any]] = []
    for index, tenant in enumerate(tenants):
        where = f"prefect_tenants[{index}]"
        if not isinstance(tenant, Mapping):
            raise _refuse(where, f"{tenant!r} is not a mapping", "Example: {name: research, port: 4300}")
        if unknown := sorted(set(tenant) - set(_TENANT_KEYS)):
            raise _refuse(where, f"unknown keys {', '.join(unknown)}", f"Allowed: {', '.join(_TENANT_KEYS)}.")
        name = tenant.get("name")
        if not isinstance(name, str) or not _TENANT_NAME.fullmatch(name):
            raise _refuse(
                f"{where}.name",
                f"{name!r} cannot name a tenant",
                "Use 1 to 24 lower-case letters, digits and '_', a letter first; 'schema' may be set apart.",
            )
        if index and "port" not in tenant:
            raise _refuse(f"{where}.port", "is missing", "Give every tenant after the first a port of its own.")
        port = _integer(f"{where}.port", tenant.get("port", _FIRST_PORT), 1024, 65535)
        schema = tenant.get("schema", name)
        _check_schema(where, schema)
        retention = tenant.get("event_retention", "P90D")
        if not isinstance(retention, str) or not _RETENTION.fullmatch(retention) or retention.endswith("T"):
            raise _refuse(
                f"{where}.event_retention", f"{retention!r} is not a duration", "Use ISO 8601, as P90D or PT36H."
            )
        url = tenant.get("ui_url") or ui_url
        if url and urlsplit(url).port is None and "ui_url" not in tenant:
            url = f"{url}:{port}"
        elif url and index and "ui_url" not in tenant:
            parts = urlsplit(url)
            url = f"{parts.scheme}://{parts.hostname}:{port}"
        pools = _work_pools(f"{where}.work_pools", tenant.get("work_pools", [{"name": "default"}]))
        resolved.append(
            {
                "name": name,
                "schema": schema,
                "owner": f"{schema}_owner",
                "migrator": f"{schema}_migrator",
                "server": f"{schema}_server",
                "port": port,
                "api_url": f"http://{api_host}:{port}/api",
                "ui_url": (url or f"http://127.0.0.1:{port}").rstrip("/"),
                "event_retention": retention,
                "work_pools": pools,
                "workers": worker_hosts * sum(pool["workers"] for pool in pools),
                "pool_workers": {pool["name"]: worker_hosts * pool["workers"] for pool in pools},
                "deployments": list(tenant.get("deployments", [])),
            }
        )
    for key in ("name", "port", "schema"):
        values = [tenant[key] for tenant in resolved]
        if doubles := sorted({str(value) for value in values if values.count(value) > 1}):
            raise _refuse(
                "prefect_tenants", f"{key} {', '.join(doubles)} is used twice", f"Give each tenant a {key} of its own."
            )
    return resolved


def prefect_workers(tenants: Sequence[Mapping[str, Any]], first_health_port: int = 8100) -> list[dict[str, Any]]:
    """Return the workers of one host: one per tenant, pool and number, each with a port for its health check."""
    workers = [
        {
            "instance": f"{tenant['name']}-{pool['name']}-{number}",
            "tenant": tenant["name"],
            "pool": pool["name"],
            "api_url": tenant["api_url"],
            "ui_url": tenant["ui_url"],
        }
        for tenant in tenants
        for pool in tenant["work_pools"]
        for number in range(1, pool["workers"] + 1)
    ]
    return [{**worker, "health_port": int(first_health_port) + index} for index, worker in enumerate(workers)]


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"prefect_tenants": prefect_tenants, "prefect_workers": prefect_workers}
