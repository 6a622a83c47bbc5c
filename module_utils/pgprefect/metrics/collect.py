"""Collection of all metrics of a host within a bounded time, also where a part of the site is dead.

The questions run in groups as those of health do, each with a thread and at most one connection of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from .. import __version__
from ..core.connection import Login
from ..core.errors import ProblemError
from ..core.questions import ask_within, connect_to_ask, side_by_side, with_shares
from ..health.api import api
from ..health.probes import SchemaDead
from ..health.thresholds import Thresholds
from ..site.configuration import Site, Tenant
from . import database, jobs, runs, shared
from .exposition import Metric, Sample

INFO = Metric("pgprefect_info", "Version of pgprefect.")
API_READY = Metric("pgprefect_api_ready", "1 where a Prefect server answers and reaches its database.")
SUCCESS = Metric("pgprefect_collect_success", "1 where all metrics of a group were collected.")
SECONDS = Metric("pgprefect_collect_seconds", "Seconds that collecting a group took.")
TIMESTAMP = Metric("pgprefect_collect_timestamp_seconds", "When the metrics were collected.")


@dataclass
class Group:
    """Questions that are put one after the other; without ``database`` they need no connection."""

    name: str
    questions: Mapping[str, Callable[..., Iterable[Sample]]]
    tenant: str = ""
    database: bool = True
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float | None = None  # None until all questions have been put

    @property
    def title(self) -> str:
        """The group in words."""
        return f"{self.name} of tenant {self.tenant}" if self.tenant else self.name


@dataclass(frozen=True)
class Collection:
    """The samples, what could not be collected and why, and whether anything could."""

    samples: list[Sample]
    errors: list[str]
    anything: bool


def collect(site: Site, timeout: float) -> Collection:
    """Collect the metrics of a site by this host's login, within ``timeout`` seconds.

    Raises ThresholdError.
    """
    limits = Thresholds.from_arguments(site.health)
    groups = [
        *(Group("runs", runs.questions(tenant, limits), tenant.name) for tenant in site.tenants),
        Group("database", database.questions(site.tenants, limits)),
        *(
            Group("api", {"ready": partial(_api, tenant, timeout / 2)}, tenant.name, database=False)
            for tenant in site.tenants
            if tenant.api_url
        ),
        *(
            Group("redis", shared.redis_questions(tenant, limits, timeout / 2), tenant.name, database=False)
            for tenant in site.tenants
        ),
        Group("cluster", shared.cluster_questions(site.patroni, limits, timeout / 2), database=False),
        Group("jobs", jobs.questions(site), database=False),
    ]
    groups = [group for group in groups if group.questions]
    started = time.monotonic()
    works = [partial(_put, group, site.observer, site.database, started + timeout * 0.9) for group in groups]
    side_by_side(works, started + timeout)
    samples = [*INFO(1, version=__version__), *TIMESTAMP(time.time())]
    errors = []
    for group in groups:
        # A late thread may still set its seconds, and add to its lists.
        seconds, found = group.seconds, list(group.errors)
        if seconds is None:
            seconds = time.monotonic() - started
            found.append(f"{group.title}: no answer within {timeout:g} seconds")
        labels = {"group": group.name, "tenant": group.tenant}
        samples += SUCCESS(not found, **labels)
        samples += SECONDS(seconds, **labels)
        errors += found
    collected = [sample for group in groups for sample in list(group.samples)]
    return Collection([*samples, *collected], errors, bool(collected))


def _put(group: Group, login: Login, database: str, deadline: float) -> None:
    """Put the questions of a group until the deadline."""
    started = time.monotonic()
    connection = None
    try:
        if group.database:
            connection = connect_to_ask(login, database, deadline - started)
        for (name, question), share in with_shares(group.questions.items(), deadline):
            ask = partial(ask_within, connection, seconds=share)
            try:
                group.samples += list(question(ask) if connection else question())
            except Exception as error:
                # Whatever it was, the other questions are still put.
                group.errors.append(f"{group.title}, {name}: {_reason(error)}")
                if isinstance(error, SchemaDead) or (connection and connection.closed):
                    break
    except Exception as error:
        group.errors.append(f"{group.title}: {_reason(error)}")
    finally:
        group.seconds = time.monotonic() - started
        if connection:
            connection.close()


def _api(tenant: Tenant, timeout: float) -> Iterable[Sample]:
    problems, _details = api(tenant, timeout)
    return API_READY(not problems, tenant=tenant.name)


def _reason(error: Exception) -> str:
    """Return why something could not be collected, in one line without the statement."""
    text = error.problem.message if isinstance(error, ProblemError) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
