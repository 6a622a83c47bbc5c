"""Changes of a Prefect server's objects: the one source for the report, the diff, and what is executed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable

from ..core.errors import InputError
from ..core.http import ApiError, ApiUnreachable

# The schema of a flow's parameters is long and follows from the version, which is shown.
_HIDDEN = frozenset({"parameter_openapi_schema"})

# How the names of changes begin that are about objects with an identifier of their own.
_KINDS = ("variable", "concurrency limit", "block", "work pool", "deployment", "automation")

Fields = dict[str, Any]


class ObjectsError(InputError):
    """The declaration contradicts itself or Prefect's rules; the message names each fault."""


@dataclass(frozen=True)
class ObjectChange:
    """A request to the API, and the fields of the object that it changes."""

    action: str  # such as "create work pool default"
    object: str
    before: Mapping[str, Any] | None  # None for a new object
    after: Mapping[str, Any] | None  # None for an object that is deleted
    request: Callable[[], Any]

    def apply(self) -> Any:
        """Send the request and return its answer. Raises ApiError."""
        try:
            return self.request()
        except ApiError as error:
            message = f"Could not {self.action}. {error.problem.message}"
            raise ApiError(replace(error.problem, message=message)) from error


@dataclass(frozen=True)
class Outcome:
    """The changes that were made, or would be in a dry run, and the identifiers of the declared objects that exist.

    ``unreachable`` says why a dry run took the server for an empty one.
    """

    changes: list[ObjectChange]
    ids: dict[str, str]
    unreachable: ApiUnreachable | None = None

    @property
    def made(self) -> dict[str, str]:
        """The identifiers of the declared objects that were created, by the names that changes give them."""
        created = {change.object for change in self.changes if change.before is None}
        named = {f"{kind} {name}": identifier for kind in _KINDS for name, identifier in self.ids.items()}
        return {name: identifier for name, identifier in named.items() if name in created}

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a module does."""
        before = {change.object: shown(change.before) for change in self.changes if change.before is not None}
        after = {change.object: shown(change.after) for change in self.changes if change.after is not None}
        return {
            "changed": bool(self.changes),
            "actions": [change.action for change in self.changes],
            "diff": {"before": before, "after": after},
            "ids": self.ids,
        }


def create(name: str, after: Fields, request: Callable[[], Any]) -> ObjectChange:
    """Return the change that creates an object."""
    return ObjectChange(f"create {name}", object=name, before=None, after=after, request=request)


def update(
    name: str, current: Mapping[str, Any], wanted: Fields, request: Callable[[Fields], Any]
) -> Iterator[ObjectChange]:
    """Yield a change if any of the wanted fields differs; the request is given those that do."""
    after = {field: value for field, value in wanted.items() if not same(current.get(field), value)}
    if after:
        before = {field: current.get(field) for field in after}
        action = f"update {name}: {', '.join(sorted(after))}"
        yield ObjectChange(action, object=name, before=before, after=after, request=lambda: request(after))


def delete(name: str, before: Fields, request: Callable[[], Any]) -> ObjectChange:
    """Return the change that deletes an object."""
    return ObjectChange(f"delete {name}", object=name, before=before, after=None, request=request)


def reconcile(
    read: Callable[[], Any],
    plan: Callable[[], Iterable[ObjectChange]],
    ids: Callable[[], dict[str, str]],
    dry_run: bool,
    done: list[str] | None,
) -> Outcome:
    """Read a server's objects, plan their changes, and make them unless it is a dry run.

    Each change is added to ``done`` when it is made. A dry run takes a server that it cannot reach for an empty one.
    Raises ApiError.
    """
    unreachable = None
    try:
        read()
    except ApiUnreachable as error:
        if not dry_run:
            raise
        unreachable = error
    changes = list(plan())
    if changes and not dry_run:
        for change in changes:
            change.apply()
            if done is not None:
                done.append(change.action)
        read()
    return Outcome(changes, ids(), unreachable)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON: Python takes true for 1, JSON does not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def limit_field(limit: int | None) -> Fields:
    """Return the API's field of a declared concurrency limit: none if it is not declared, null for -1."""
    return {} if limit is None else {"concurrency_limit": None if limit == -1 else limit}


def name_faults(what: str, name: str) -> Iterator[str]:
    """Yield why a name is not allowed."""
    if not name.strip() or set(name) & set("/%&><"):
        yield f"{what}: a name must not be empty or contain one of the characters / % & > <."


def duplicates(values: Iterable[str]) -> list[str]:
    """Return the names that occur more than once."""
    values = list(values)
    return sorted({value for value in values if values.count(value) > 1})


def refuse(faults: list[str]) -> None:
    """Raise ObjectsError if there are faults."""
    if faults:
        raise ObjectsError(" ".join(faults))


def shown(fields: Mapping[str, Any]) -> Fields:
    """Return the fields of a change that are worth showing."""
    return {name: value for name, value in fields.items() if name not in _HIDDEN}
