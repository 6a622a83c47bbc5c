"""Variables, as they are declared. Variables that are not declared are left alone."""
# Annotations are not postponed here: options_of reads them.

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

from ..core.http import PrefectApi
from .changes import Fields, ObjectChange, Outcome, create, duplicates, reconcile, refuse, update

VARIABLE_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,254}")
_BYTES = 5000  # of a value as JSON, the most that Prefect takes


@dataclass(frozen=True)
class Variable:
    """A variable; its value is anything that JSON has."""

    name: str
    value: Any
    tags: list[str] = field(default_factory=list)


class VariableStore:
    """The declared variables that a server has."""

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self.stored: dict[str, Fields] = {}  # by name, as the API returns them

    def read(self, declared: Sequence[Variable]) -> None:
        """Read them from the server. Raises ApiError."""
        names = {"name": {"any_": [variable.name for variable in declared]}}
        self.stored = {one["name"]: one for one in self.api.filter("/variables/filter", variables=names)}

    def plan(self, declared: Sequence[Variable]) -> Iterator[ObjectChange]:
        """Yield what must be changed so that the stored variables are as declared."""
        for variable in declared:
            name, wanted = f"variable {variable.name}", {"value": variable.value, "tags": sorted(set(variable.tags))}
            stored = self.stored.get(variable.name)
            if stored is None:
                body = {"name": variable.name, **wanted}
                yield create(name, body, partial(self.api.call, "POST", "/variables/", body))
            else:
                current = {**stored, "tags": sorted(stored["tags"])}
                yield from update(name, current, wanted, partial(self.api.call, "PATCH", f"/variables/{stored['id']}"))


def apply(
    api: PrefectApi, declared: Sequence[Variable], dry_run: bool = False, done: Optional[list[str]] = None
) -> Outcome:
    """Bring the declared variables to their declaration.

    Each change is added to ``done`` when it is made. A dry run changes nothing, and takes a server that it cannot reach
    for one without variables. Raises ObjectsError, ApiError.
    """
    refuse(list(_faults(declared)))
    store = VariableStore(api)
    return reconcile(
        read=lambda: store.read(declared),
        plan=lambda: store.plan(declared),
        ids=lambda: {name: one["id"] for name, one in store.stored.items()},
        dry_run=dry_run,
        done=done,
    )


def value_fault(value: Any) -> str:
    """Return why Prefect does not take a variable's value, or nothing."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
    except (ValueError, TypeError, RecursionError) as error:
        return f"JSON cannot have it: {error}"
    return f"as JSON it has {size} bytes, and the most is {_BYTES}" if size > _BYTES else ""


def _faults(declared: Sequence[Variable]) -> Iterator[str]:
    yield from (f"Variable {name} is declared twice." for name in duplicates(one.name for one in declared))
    for variable in declared:
        if not VARIABLE_NAME.fullmatch(variable.name):
            yield f"Variable {variable.name!r}: a name has 1 to 255 small letters, digits, '_' and inner '-'."
        if fault := value_fault(variable.value):
            yield f"Variable {variable.name}: {fault}."
