"""Metrics of what several hosts share: the Redis of each tenant, and a PostgreSQL cluster of several members."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ..core.errors import ProblemError
from ..health.patroni import patroni
from ..health.redis import redis
from ..health.thresholds import Thresholds
from ..site.configuration import Patroni, Tenant
from ..site.patroni import LEADERS
from .exposition import Metric, Sample

WRITABLE = Metric("pgprefect_redis_writable", "1 where the Redis of a tenant takes writes.")
USED = Metric("pgprefect_redis_used_bytes", "Memory that the Redis of a tenant uses.")
ALLOWED = Metric("pgprefect_redis_allowed_bytes", "Memory that it may use.")
PRIMARIES = Metric("pgprefect_cluster_primaries", "Primaries of the cluster that Patroni of this host knows.")
READY = Metric("pgprefect_cluster_member_ready", "1 where a member is the primary, or could take over.")
ETCD_REACHED = Metric("pgprefect_cluster_etcd_reached", "1 where etcd of this host has a majority of its members.")


def redis_questions(tenant: Tenant, limits: Thresholds, timeout: float) -> dict[str, Callable[[], Iterator[Sample]]]:
    """Return the question to a tenant's Redis; none where this host does not use it."""
    return {"redis": partial(_redis, tenant, limits, timeout)} if tenant.redis else {}


def cluster_questions(
    cluster: Patroni | None, limits: Thresholds, timeout: float
) -> dict[str, Callable[[], Iterator[Sample]]]:
    """Return the question to Patroni; none where this host has no part of a cluster."""
    return {"members": partial(_members, cluster, limits, timeout)} if cluster else {}


def _redis(tenant: Tenant, limits: Thresholds, timeout: float) -> Iterator[Sample]:
    problems, details = redis(tenant, limits, timeout)
    refuses = [problem for problem in problems if problem.code == "redis_refuses"]
    if not details and not refuses:
        raise ProblemError(*problems)
    yield from WRITABLE(not refuses, tenant=tenant.name)
    yield from USED(details.get("used_bytes"), tenant=tenant.name)
    yield from ALLOWED(details.get("allowed_bytes"), tenant=tenant.name)


def _members(cluster: Patroni, limits: Thresholds, timeout: float) -> Iterator[Sample]:
    _problems, details = patroni(cluster, limits, timeout)
    # Where Patroni is silent, nobody is known to be the primary.
    yield from PRIMARIES(sum(member.get("role") in LEADERS for member in details.get("members", {}).values()))
    for name in cluster.members if details else ():
        yield from READY(name not in details["absent"], member=name)
    yield from ETCD_REACHED(details.get("reaches_etcd"))
