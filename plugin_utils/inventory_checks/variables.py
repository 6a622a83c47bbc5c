"""Names of variables: one that nothing reads is misspelt, one that the wiring sets has no effect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .specification import Specification
from .suggestions import did_you_mean

# Variables of earlier checkouts, and the first words of others.
RENAMED = {
    "prefect_server_health_thresholds": "prefect_monitoring_thresholds",
    "prefect_server_retention": "prefect_retention_policy",
    "prefect_server_statistics_days": "prefect_monitoring_statistics_days",
}
RENAMED_PREFIXES = {"postgresql_pitr_": "pgbackrest_", "prefect_server_retention_": "prefect_retention_"}
# A name that is as near to one of ours is misspelt in its first word.
_NEAR = 0.9

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
        if name in others:
            continue
        here = f"{name} ({', '.join(where)})"
        if name in specification.wiring and name.startswith((*PREFIXES, "__")):
            sources = " or ".join(specification.sources(name))
            yield f"{here}: the playbooks set this variable. " + (
                f"Set {sources} instead." if sources else "Remove it."
            )
        elif name in specification.options:
            continue
        elif name.startswith(PREFIXES):
            yield f"{here}: nothing reads this variable" + (
                _new_name(name, specification.free)
                or did_you_mean(name, specification.free)
                or ". Remove it, or list it in site_other_variables if something else reads it."
            )
        elif near := did_you_mean(name, specification.free, cutoff=_NEAR):
            yield f"{here}: nothing of this site reads this variable{near} If not, list it in site_other_variables."


def _new_name(name: str, known: Collection[str]) -> str:
    """Return `; it is called NAME now.` for a variable that had another name before, else an empty text."""
    for before, now in RENAMED_PREFIXES.items():
        if name.startswith(before) and now + name.removeprefix(before) in known:
            return f"; it is called {now + name.removeprefix(before)} now."
    return f"; it is called {RENAMED[name]} now." if name in RENAMED else ""
