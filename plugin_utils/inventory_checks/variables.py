"""Names of variables: one that nothing reads is misspelt, one that the wiring sets has no effect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .specification import Specification
from .suggestions import did_you_mean

# A variable whose name begins like this is ours.
PREFIXES = ("app_", "backup_", "database_", "pgbackrest_", "pgprefect_", "postgresql_", "prefect_")


@dataclass(frozen=True)
class Definition:
    """A variable that the user set, and where: `group all`, `host worker-1`, `--extra-vars`."""

    name: str
    value: Any
    where: str
    host: str = ""  # one for which the definition counts


def check_names(
    definitions: Iterable[Definition], specification: Specification, others: Collection[str]
) -> Iterator[str]:
    """Yield a mistake for each name that is misspelt or without effect; ``others`` are names that others read."""
    places: dict[str, list[str]] = {}
    for definition in definitions:
        places.setdefault(definition.name, []).append(definition.where)
    for name, where in sorted(places.items()):
        if not name.startswith(PREFIXES) or name in others:
            continue
        here = f"{name} ({', '.join(where)})"
        if name not in specification.options:
            yield f"{here}: nothing reads this variable" + (
                did_you_mean(name, specification.free)
                or ". Remove it, or list it in site_other_variables if something else reads it."
            )
        elif name in specification.wiring:
            sources = " or ".join(specification.sources(name))
            yield f"{here}: the playbooks set this variable. " + (
                f"Set {sources} instead." if sources else "Remove it."
            )
