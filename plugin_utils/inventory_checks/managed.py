"""A site whose PostgreSQL is a server of others: what it must name, and what such a server cannot give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

PAGE = "docs/managed.md"


def check_managed(
    groups: Mapping[str, Sequence[str]], get: Callable[[str], Any], own_postgresql: bool
) -> Iterator[str]:
    """Yield a mistake for each variable that such a site lacks, or that needs a PostgreSQL of the site's own.

    ``get`` returns a variable that the user has set, or None. ``own_postgresql`` says that the playbook needs one.
    """
    if groups.get("postgresql"):
        if get("database_administrator") is not None:
            yield (
                "database_administrator is for a server of others, but the group postgresql has hosts: remove it, or "
                f"empty the group ({PAGE})."
            )
        return
    if get("database_host") is None:
        return  # the missing group is a mistake of its own
    if own_postgresql:
        yield (
            "The group postgresql is empty, and this playbook works on the host of the site's own PostgreSQL, as its "
            f"superuser: what to do instead on a server of others is in {PAGE}."
        )
    for name, meaning in (
        ("database_administrator", "the name and the password of the role that manages the database there"),
        ("database_ca_file", "the authority of its certificate, by which every client proves who answers"),
    ):
        if not get(name):
            yield f"{name} is missing: the group postgresql is empty, so a server of others needs {meaning} ({PAGE})."
    if boolean(get("postgresql_audit") or False, strict=False):
        yield (
            "postgresql_audit is true, but the group postgresql is empty, and the audit is in the files of a cluster "
            f"of the site's own: remove it, and use the provider's pgaudit ({PAGE})."
        )
    if boolean(get("pgbackrest_enabled") or False, strict=False):
        yield (
            "pgbackrest_enabled is true, but the group postgresql is empty, and point-in-time recovery archives a "
            f"cluster of the site's own: remove it, and use the provider's ({PAGE})."
        )
