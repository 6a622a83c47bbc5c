"""Consistency inside a tenant: its deployments with its work pools, and with the flows on the controller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .suggestions import did_you_mean

_WHEN = ("cron", "interval", "rrule")


def check_tenants(tenants: Sequence[Mapping[str, Any]], flows: Path | None) -> Iterator[str]:
    """Yield the mistakes of tenants whose defaults are filled in; ``flows`` is the folder of the flows, if known."""
    for number, tenant in enumerate(tenants):
        queues = {
            f"{pool['name']}/{queue}"
            for pool in tenant["work_pools"]
            for queue in ("default", *(queue["name"] for queue in pool.get("queues") or ()))
        }
        for index, deployment in enumerate(tenant["deployments"]):
            path = f"prefect_tenants[{number}].deployments[{index}]"
            yield from _check_queue(path, deployment, queues)
            yield from _check_schedules(path, deployment.get("schedules") or ())
            if flows:
                yield from _check_entrypoint(path, str(deployment["entrypoint"]), flows)


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


def _check_entrypoint(path: str, entrypoint: str, flows: Path) -> Iterator[str]:
    file, colon, function = entrypoint.partition(":")
    if not (file and colon and function):
        yield f"{path}.entrypoint: {entrypoint!r} must be file.py:function"
    elif not (flows / file).is_file():
        known = sorted(str(found.relative_to(flows)) for found in flows.rglob("*.py"))
        yield f"{path}.entrypoint: {file} is not in the folder of the flows, {flows}" + did_you_mean(file, known)
