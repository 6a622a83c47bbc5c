"""Work pools and their queues, as they are declared.

What is not declared is left alone: other pools and queues, and the fields that are None.
"""
# Annotations are not postponed here: options_of reads them.

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional, Union
from urllib.parse import quote

from ..core.errors import ProblemError
from ..core.http import PrefectApi
from ..core.problems import Problem
from .changes import (
    Fields,
    ObjectChange,
    Outcome,
    create,
    duplicates,
    limit_field,
    name_faults,
    reconcile,
    refuse,
    update,
)
from .docker_jobs import IMAGES, DockerJob, DockerRegistry, image_fault, job_template
from .kubernetes_jobs import POD_IMAGES, KubernetesJob, cluster_template, pod_image_fault
from .secret_blocks import REGISTRY, SecretBlocks


@dataclass(frozen=True)
class WorkQueue:
    """A queue of a pool; the priority 1 is served first, a limit of -1 takes the limit away."""

    name: str
    description: Optional[str] = None
    priority: Optional[int] = None
    concurrency_limit: Optional[int] = None
    paused: Optional[bool] = None


@dataclass(frozen=True)
class WorkPool:
    """A work pool; every pool has a queue ``default``, which need not be declared."""

    name: str
    type: str = "process"
    description: Optional[str] = None
    concurrency_limit: Optional[int] = None
    paused: Optional[bool] = None
    base_job_template: Optional[dict[str, Any]] = None
    docker: Optional[DockerJob] = None  # the containers of a pool of the type docker, instead of a template
    kubernetes: Optional[KubernetesJob] = None  # the same, of the pods of one of the type kubernetes
    queues: list[WorkQueue] = field(default_factory=list)


@dataclass(frozen=True)
class StoredPools:
    """Pools by name, and queues by the names of their pool and their own, as the API returns them."""

    pools: dict[str, Fields] = field(default_factory=dict)
    queues: dict[tuple[str, str], Fields] = field(default_factory=dict)


# What the server itself gives to each new pool.
_DEFAULT_QUEUE = {"name": "default", "priority": 1, "concurrency_limit": None, "is_paused": False}


def apply(
    api: PrefectApi,
    pools: Sequence[WorkPool],
    dry_run: bool = False,
    done: Optional[list[str]] = None,
    registries: Sequence[DockerRegistry] = (),
) -> Outcome:
    """Bring the declared work pools and queues to their declaration, and the blocks of registries that these use.

    Each change is added to ``done`` when it is made. A dry run changes nothing, and takes a server that it cannot reach
    for one without work pools.
    Raises ObjectsError, ApiError, or ProblemError if a pool is of another type.
    """
    refuse([*_faults(pools), *_docker_faults(pools, registries), *_kubernetes_faults(pools)])
    used = {pool.docker.registry for pool in pools if pool.docker}
    credentials = {registry.block: registry.data for registry in registries if registry.name in used}
    blocks, stored = SecretBlocks(api, REGISTRY), StoredPools()

    def read_all() -> None:
        nonlocal stored
        stored = read(api, pools)
        blocks.read(credentials)

    return reconcile(
        read=read_all,
        plan=lambda: [*blocks.plan(credentials), *plan(api, pools, stored)],
        ids=lambda: {name: pool["id"] for name, pool in stored.pools.items()},
        dry_run=dry_run,
        done=done,
    )


def read(api: PrefectApi, pools: Sequence[WorkPool]) -> StoredPools:
    """Return the declared pools and queues as they are, with one request each."""
    names = {"name": {"any_": [pool.name for pool in pools]}}
    found = {pool["name"]: pool for pool in api.filter("/work_pools/filter", work_pools=names)}
    queues = sorted({queue.name for pool in pools for queue in pool.queues})
    if not queues:
        return StoredPools(found)
    found_queues = api.filter("/work_queues/filter", work_queues={"name": {"any_": queues}})
    return StoredPools(found, {(queue["work_pool_name"], queue["name"]): queue for queue in found_queues})


def plan(api: PrefectApi, pools: Sequence[WorkPool], stored: StoredPools) -> list[ObjectChange]:
    """Return what must be changed so that the stored pools and queues are as declared."""
    changes: list[ObjectChange] = []
    for pool in pools:
        changes += _plan_pool(api, pool, stored.pools.get(pool.name))
        changes += _plan_queues(api, pool, stored)
    return changes


def _plan_pool(api: PrefectApi, pool: WorkPool, current: Optional[Fields]) -> Iterator[ObjectChange]:
    name, wanted = f"work pool {pool.name}", _wanted_fields(pool)
    if pool.base_job_template is not None:
        wanted["base_job_template"] = pool.base_job_template
    if pool.docker is not None:
        wanted["base_job_template"] = job_template(pool.docker)
    if pool.kubernetes is not None:
        wanted["base_job_template"] = cluster_template(pool.kubernetes)
    if current is None:
        body = {"name": pool.name, "type": pool.type, **wanted}
        yield create(name, body, partial(api.call, "POST", "/work_pools/", body))
    elif current["type"] != pool.type:
        message = (
            f"Work pool {pool.name} is of type {current['type']}, declared is {pool.type}: a pool's type cannot change."
        )
        remedy = (
            "Declare a pool of another name, or delete this one first: "
            f"prefect work-pool delete {shlex.quote(pool.name)}"
        )
        raise ProblemError(Problem("work_pool_type", object=name, message=message, remedy=remedy))
    else:
        yield from update(name, current, wanted, partial(api.call, "PATCH", _path(pool)))


def _plan_queues(api: PrefectApi, pool: WorkPool, stored: StoredPools) -> Iterator[ObjectChange]:
    priorities: Fields = {}
    for queue in pool.queues:
        name, wanted = f"queue {pool.name}/{queue.name}", _wanted_fields(queue)
        current = stored.queues.get((pool.name, queue.name))
        if current is None and pool.name not in stored.pools and queue.name == "default":
            current = _DEFAULT_QUEUE
        if current is None:
            body = {"name": queue.name, **wanted}
            yield create(name, body, partial(api.call, "POST", _path(pool) + "/queues", body))
        else:
            yield from update(name, current, wanted, partial(api.call, "PATCH", _queue_path(pool, queue.name)))
            priorities[queue.name] = current["priority"]
    wanted = {queue.name: queue.priority for queue in pool.queues if queue.priority is not None}
    set_all = partial(_set_priorities, api, pool, wanted)
    yield from update(f"queue priorities {pool.name}", priorities, wanted, set_all)


def _set_priorities(api: PrefectApi, pool: WorkPool, wanted: Fields, _differing: Fields) -> None:
    """Set all priorities, the first one first: the server moves the queues that have this priority or a later one."""
    for name, priority in sorted(wanted.items(), key=lambda item: int(item[1])):
        api.call("PATCH", _queue_path(pool, name), {"priority": priority})


def _wanted_fields(declared: Union[WorkPool, WorkQueue]) -> Fields:
    """Return the API's fields of what is declared."""
    fields = {"description": declared.description, "is_paused": declared.paused}
    given = {name: value for name, value in fields.items() if value is not None}
    return {**given, **limit_field(declared.concurrency_limit)}


def _path(pool: WorkPool) -> str:
    return "/work_pools/" + quote(pool.name, safe="")


def _queue_path(pool: WorkPool, queue: str) -> str:
    return f"{_path(pool)}/queues/{quote(queue, safe='')}"


def _faults(pools: Sequence[WorkPool]) -> Iterator[str]:
    yield from (f"Work pool {name} is declared twice." for name in duplicates(pool.name for pool in pools))
    for pool in pools:
        if pool.name.lower().startswith("prefect"):
            yield f"Work pool {pool.name}: the server reserves names that begin with 'prefect'; choose another."
        for name in duplicates(queue.name for queue in pool.queues):
            yield f"Queue {pool.name}/{name} is declared twice."
        for priority in duplicates(str(queue.priority) for queue in pool.queues if queue.priority is not None):
            yield f"Work pool {pool.name}: priority {priority} is given to two queues."
        yield from _field_faults(pool.name, pool)
        for queue in pool.queues:
            name = f"{pool.name}/{queue.name}"
            yield from _field_faults(name, queue)
            if queue.priority is not None and queue.priority < 1:
                yield f"{name}: priority must be 1 or more."


def _docker_faults(pools: Sequence[WorkPool], registries: Sequence[DockerRegistry]) -> Iterator[str]:
    known = [registry.name for registry in registries]
    yield from (f"Registry {name} is declared twice." for name in duplicates(known))
    for pool in pools:
        what, job = f"Work pool {pool.name}", pool.docker
        if job is None:
            continue
        yield from _job_faults(pool, "docker", image_fault(job.image), job.image, IMAGES)
        if job.networks and job.network_mode:
            yield f"{what}: of networks and network_mode give one."
        if job.registry and job.registry not in known:
            yield f"{what}: there is no registry {job.registry}; declare it in registries."


def _kubernetes_faults(pools: Sequence[WorkPool]) -> Iterator[str]:
    for pool in pools:
        if job := pool.kubernetes:
            yield from _job_faults(pool, "kubernetes", pod_image_fault(job.image), job.image, POD_IMAGES)


def _job_faults(pool: WorkPool, kind: str, fault: str, image: str, images: str) -> Iterator[str]:
    """Yield what is wrong with a pool that declares jobs of a type; ``fault`` is that of the image."""
    what = f"Work pool {pool.name}"
    if pool.type != kind or pool.base_job_template is not None:
        yield f"{what}: {kind} belongs to a pool of the type {kind}, without a base_job_template."
    if fault:
        yield f"{what}: the image {image!r} must be {images}: {fault}."


def _field_faults(name: str, declared: Union[WorkPool, WorkQueue]) -> Iterator[str]:
    yield from name_faults(name, declared.name)
    if (declared.concurrency_limit or 0) < -1:
        yield f"{name}: concurrency_limit must be 0 or more, or -1 for no limit."
