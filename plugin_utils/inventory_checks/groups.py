"""Groups of hosts: one that is missing or misspelt leaves its hosts out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

GROUPS = ("postgresql", "prefect_server", "prefect_worker")
OPTIONAL = ("prefect_proxy", "prefect_services", "redis", "monitoring")
_EXAMPLE = "Write it as in inventory/example/hosts.yml, each group with its hosts: {example}."


def check_groups(groups: Mapping[str, Sequence[str]], database_elsewhere: bool) -> Iterator[str]:
    """Yield a mistake for each group that is missing, empty or misspelt.

    ``postgresql`` may be empty where ``database_host`` says where the database is, and ``prefect_worker`` where it is
    written down as empty.
    """
    names = (*GROUPS, *OPTIONAL)
    others = [name for name in groups if name not in (*names, "all", "ungrouped")]
    meant = {other: difflib.get_close_matches(other, names, n=1, cutoff=0.85) for other in others}
    for name in names:
        hosts = set(groups.get(name, ()))
        for other in [other for other in others if meant[other] == [name]]:
            if left_out := [host for host in groups[other] if host not in hosts]:
                yield f"group {other}: {', '.join(left_out)} would be left out. The group's name is {name}."
                hosts.update(left_out)
        if (
            hosts
            or name in OPTIONAL
            or (name == "postgresql" and database_elsewhere)
            or (name == "prefect_worker" and name in groups)
        ):
            continue
        example = f"{{{name}: {{hosts: {{HOST: }}}}}}"
        hint = " Write {prefect_worker: {hosts: {}}} for a site without workers." if name == "prefect_worker" else ""
        state = "has no hosts" if name in groups else "is missing"
        yield f"group {name}: it {state} in the inventory. {_EXAMPLE.format(example=example)}{hint}"
