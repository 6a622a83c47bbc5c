"""Global concurrency limits, as they are declared; one named ``tag:NAME`` limits the task runs with that tag.

Limits of tags are made as the server keeps them: Prefect's older interface for tags shows the same ones, but cannot
change all of them. Limits that are not declared are left alone, and so are the slots that are taken.
"""
# Annotations are not postponed here: options_of reads them.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Optional

from ..core.http import PrefectApi
from .changes import Fields, ObjectChange, Outcome, create, duplicates, name_faults, reconcile, refuse, update

DEPLOYMENTS = "deployment:"  # how the limits begin that the server makes for deployments
_PATH = "/v2/concurrency_limits"


@dataclass(frozen=True)
class ConcurrencyLimit:
    """A limit; with a decay it limits a rate, slots per second, and not how much is at the same time."""

    name: str
    limit: int
    active: Optional[bool] = None
    slot_decay_per_second: float = 0.0


class LimitStore:
    """The concurrency limits that a server has."""

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self.stored: dict[str, Fields] = {}  # by name, as the API returns them

    def read(self) -> None:
        """Read all of them from the server, which has no filter for names. Raises ApiError."""
        self.stored = {limit["name"]: limit for limit in self.api.filter(f"{_PATH}/filter")}

    def plan(self, declared: Sequence[ConcurrencyLimit]) -> Iterator[ObjectChange]:
        """Yield what must be changed so that the stored limits are as declared."""
        for one in declared:
            name = f"concurrency limit {one.name}"
            wanted: Fields = {"limit": one.limit, "slot_decay_per_second": one.slot_decay_per_second}
            if one.active is not None:
                wanted["active"] = one.active
            stored = self.stored.get(one.name)
            if stored is None:
                body = {"name": one.name, **wanted}
                yield create(name, body, partial(self.api.call, "POST", f"{_PATH}/", body))
            else:
                yield from update(name, stored, wanted, partial(self.api.call, "PATCH", f"{_PATH}/{stored['id']}"))


def apply(
    api: PrefectApi, declared: Sequence[ConcurrencyLimit], dry_run: bool = False, done: Optional[list[str]] = None
) -> Outcome:
    """Bring the declared concurrency limits to their declaration.

    Each change is added to ``done`` when it is made. A dry run changes nothing, and takes a server that it cannot reach
    for one without limits. Raises ObjectsError, ApiError.
    """
    refuse(list(_faults(declared)))
    store = LimitStore(api)
    return reconcile(
        read=store.read,
        plan=lambda: store.plan(declared),
        ids=lambda: {one.name: store.stored[one.name]["id"] for one in declared if one.name in store.stored},
        dry_run=dry_run,
        done=done,
    )


def _faults(declared: Sequence[ConcurrencyLimit]) -> Iterator[str]:
    yield from (f"Concurrency limit {name} is declared twice." for name in duplicates(one.name for one in declared))
    for one in declared:
        what = f"Concurrency limit {one.name}"
        yield from name_faults(what, one.name)
        if one.name.startswith(DEPLOYMENTS):
            yield f"{what}: the server makes limits of deployments; set concurrency_limit of the deployment."
        if one.limit < 0:
            yield f"{what}: limit must be 0 or more."
        if not 0 <= one.slot_decay_per_second < float("inf"):
            yield f"{what}: slot_decay_per_second must be 0 or more."
        if one.name.startswith("tag:") and one.slot_decay_per_second:
            yield f"{what}: a limit of a tag has no slot_decay_per_second."
