"""Groups of hosts: one that is missing or misspelt leaves its hosts out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .variables import Definition

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


def check_addresses(definitions: Iterable[Definition], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a mistake for each address that is made of the host's name by a template, where there are several hosts.

    What one host of the site has another one do, as to send nothing to it while it restarts, Ansible would do on the
    first one: in a delegated task this name is that of the host whose task it is.
    """
    if len({host for name in (*GROUPS, *OPTIONAL) for host in groups.get(name, ())}) < 2:
        return
    for found in definitions:
        if re.fullmatch(r"ansible_(\w+_)?host", found.name) and "inventory_hostname" in str(found.value):
            yield (
                f"{found.name} ({found.where}): it is {found.value}, of which Ansible makes the wrong address where "
                "one host of the site has another one do something. Give each host its address, without a template."
            )
