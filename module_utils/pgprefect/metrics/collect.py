"""Collection of all metrics of a host within a bounded time, also where a part of the site is dead.

The questions run in groups as those of health do, each with a thread and at most one connection of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from .. import __version__
from ..core.connection import Login
from ..core.errors import ProblemError
from ..core.questions import ask_within, connect_to_ask
from ..health.probes import SchemaDead
from ..health.thresholds import Thresholds
from ..site.configuration import Site
from . import database, jobs, runs
from .exposition import Metric, Sample

INFO = Metric("pgprefect_info", "Version of pgprefect.")
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


def collect(site: Site, timeout: float, login: Login | None = None) -> Collection:
    """Collect the metrics of a site by this host's login or another one, within ``timeout`` seconds.

    Raises ThresholdError.
    """
    limits = Thresholds.from_arguments(site.health)
    groups = [
        *(Group("runs", runs.questions(tenant, limits), tenant.name) for tenant in site.tenants),
        Group("database", database.questions(site.tenants, limits)),
        Group("jobs", jobs.questions(site), database=False),
    ]
    groups = [group for group in groups if group.questions]
    started = time.monotonic()
    threads = [
        threading.Thread(
            target=_put, args=(group, login or site.observer, site.database, started + timeout * 0.9), daemon=True
        )
        for group in groups
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, started + timeout - time.monotonic()))
    samples = [*INFO(1, version=__version__), *TIMESTAMP(time.time())]
    errors = []
    for group in groups:
        # A late thread may still add to its lists.
        late = group.seconds is None
        found = [*group.errors, f"{group.title}: no answer within {timeout:g} seconds"] if late else group.errors
        labels = {"group": group.name, "tenant": group.tenant}
        samples += SUCCESS(not found, **labels)
        samples += SECONDS(time.monotonic() - started if group.seconds is None else group.seconds, **labels)
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
        for left, (name, question) in zip(range(len(group.questions), 0, -1), group.questions.items()):
            # What is left of the time is shared by the questions to come, so that a locked table harms its own alone.
            share = (deadline - time.monotonic()) / left
            try:
                asked = question(partial(ask_within, connection, seconds=share)) if connection else question()
                group.samples += list(asked)
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


def _reason(error: Exception) -> str:
    """Return why something could not be collected, in one line without the statement."""
    text = error.problem.message if isinstance(error, ProblemError) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
