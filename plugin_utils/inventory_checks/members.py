"""One PostgreSQL cluster of several hosts: how many there must be, and what such a cluster cannot have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

PAGE = "docs/cluster.md"
# Written by Patroni alone.
PATRONI_SETTINGS = (
    *("cluster_name", "hot_standby", "wal_log_hints", "primary_conninfo", "primary_slot_name"),
    *("recovery_target_timeline", "restore_command", "synchronous_standby_names"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_members(
    groups: Mapping[str, Sequence[str]], get: Callable[[str], Any], one_postgresql: bool, own_certificate: bool
) -> Iterator[str]:
    """Yield a mistake for a number of hosts that makes no cluster, and for what does not fit a cluster.

    ``get`` returns a variable that the user has set, or None. ``one_postgresql`` says that the playbook knows one host
    only, and ``own_certificate`` that a host has a certificate of the user's own for PostgreSQL.
    """
    hosts = groups.get("postgresql", ())
    listed = f"The group postgresql has {len(hosts)} hosts ({', '.join(hosts)})"
    if not boolean(get("postgresql_patroni") or False, strict=False):
        if len(hosts) > 1:
            yield (
                f"{listed}, which would be databases that know nothing of each other: leave one of them, or make one "
                f"cluster of three hosts or more: postgresql_patroni: true ({PAGE})."
            )
        return
    if len(hosts) < 3 or len(hosts) % 2 == 0:
        yield (
            f"{listed}, and postgresql_patroni is true: a cluster needs an odd number of hosts, three or more, because "
            f"more than half of them decide who is the primary ({PAGE})."
        )
    if get("site_tls") != "private_ca" or own_certificate:
        yield (
            "postgresql_patroni is true, and the members know each other by certificates of the site's own authority: "
            f"set site_tls: private_ca, without certificates of your own for PostgreSQL ({PAGE})."
        )
    for name in hosts:
        if not _NAME.fullmatch(name):
            yield f"The host {name} of the group postgresql: a name has letters, digits, '.', '_' and '-' ({PAGE})."
    for name, reason in (
        ("database_host", "clients get the addresses of all members, and find the primary by themselves"),
        ("pgbackrest_enabled", "point-in-time recovery of a cluster of several hosts is not built yet"),
        ("postgresql_audit", "the audit of a cluster of several hosts is not built yet"),
    ):
        if get(name) not in (None, False, "false", "no"):
            yield f"{name} is {get(name)!r}, and postgresql_patroni is true: remove {name}; {reason} ({PAGE})."
    for name in sorted(set(map(str.lower, get("postgresql_settings") or {})) & set(PATRONI_SETTINGS)):
        yield f"postgresql_settings.{name}: with postgresql_patroni Patroni writes it: remove it ({PAGE})."
    if one_postgresql:
        yield (
            "The group postgresql has several hosts, and this playbook works on the one host of a database: "
            f"what to do instead is in {PAGE}."
        )
