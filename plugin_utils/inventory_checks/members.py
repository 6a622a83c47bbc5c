"""One PostgreSQL database on several hosts: how many there must be, and what does not fit it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

PAGE, STANDBY_PAGE = "docs/cluster.md", "docs/standby.md"
# Written by Patroni, or by the role of the standby, alone.
MEMBERS_SETTINGS = (
    *("cluster_name", "hot_standby", "wal_log_hints", "primary_conninfo", "primary_slot_name"),
    *("recovery_target_timeline", "restore_command", "synchronous_standby_names"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SLOT_BYTES = 63 - len("prefect_standby_")


def check_members(
    groups: Mapping[str, Sequence[str]], get: Callable[[str], Any], one_postgresql: bool, own_certificate: bool
) -> Iterator[str]:
    """Yield a mistake for a number of hosts that makes no database, and for what does not fit one of several hosts.

    ``get`` returns a variable that the user has set, or None. ``one_postgresql`` says that the playbook knows one host
    only, and ``own_certificate`` that a host has a certificate of the user's own for PostgreSQL.
    """
    hosts = groups.get("postgresql", ())
    listed = f"The group postgresql has {len(hosts)} hosts ({', '.join(hosts)})"
    patroni, replica = (
        boolean(get(name) or False, strict=False) for name in ("postgresql_patroni", "postgresql_replica")
    )
    if patroni and replica:
        yield (
            "postgresql_patroni and postgresql_replica are both true: of two hosts a person decides which one is the "
            f"primary ({STANDBY_PAGE}), of three Patroni does ({PAGE}). Leave one of them."
        )
    elif patroni:
        if len(hosts) < 3 or len(hosts) % 2 == 0:
            yield (
                f"{listed}, and postgresql_patroni is true: a cluster needs an odd number of hosts, three or more, "
                f"because more than half of them decide who is the primary ({PAGE})."
            )
        yield from _misfits("postgresql_patroni", PAGE, hosts, get, one_postgresql, own_certificate)
        yield from _own_repositories(get)
    elif replica:
        if len(hosts) != 2:
            yield (
                f"{listed}, and postgresql_replica is true: a database with a standby has two "
                f"({STANDBY_PAGE}); three or more are Patroni's ({PAGE})."
            )
        if len({re.sub("[^a-z0-9]", "_", name.lower()) for name in hosts}) < len(hosts):
            yield f"{listed}, whose names have the same letters and digits: rename one ({STANDBY_PAGE})."
        if long := [name for name in hosts if len(name) > _SLOT_BYTES]:
            yield f"The host {long[0]} of the group postgresql: a name has {_SLOT_BYTES} letters ({STANDBY_PAGE})."
        yield from _misfits("postgresql_replica", STANDBY_PAGE, hosts, get, one_postgresql, own_certificate)
        if boolean(get("pgbackrest_enabled") or False, strict=False):
            yield (
                "pgbackrest_enabled is true, and postgresql_replica is true: remove pgbackrest_enabled; point-in-time "
                f"recovery of a database with a standby is not built yet ({STANDBY_PAGE})."
            )
    elif len(hosts) > 1:
        yield (
            f"{listed}, which would be databases that know nothing of each other: leave one of them, make the second "
            f"one a standby: postgresql_replica: true ({STANDBY_PAGE}), or make one cluster of three hosts or more: "
            f"postgresql_patroni: true ({PAGE})."
        )


def _own_repositories(get: Callable[[str], Any]) -> Iterator[str]:
    repository = get("pgbackrest_repository") or {}
    if not isinstance(repository, Mapping):
        return  # another check says so
    on_the_host = repository.get("type", "path") == "path" and "path" not in repository
    if on_the_host and boolean(get("pgbackrest_enabled") or False, strict=False):
        yield (
            "pgbackrest_enabled is true, and pgbackrest_repository does not say where: each host would keep a part of "
            "the WAL alone, and none of them could restore. Set a store (type: s3, or sftp), or the path of a disk of "
            f"another machine that is mounted on all hosts of the group postgresql ({PAGE})."
        )


def _misfits(
    switch: str,
    page: str,
    hosts: Sequence[str],
    get: Callable[[str], Any],
    one_postgresql: bool,
    own_certificate: bool,
) -> Iterator[str]:
    if get("site_tls") != "private_ca" or own_certificate:
        yield (
            f"{switch} is true, and the hosts know each other by certificates of the site's own authority: "
            f"set site_tls: private_ca, without certificates of your own for PostgreSQL ({page})."
        )
    for name in hosts:
        if not _NAME.fullmatch(name):
            yield f"The host {name} of the group postgresql: a name has letters, digits, '.', '_' and '-' ({page})."
    for name, reason in (
        ("database_host", "clients get the addresses of all hosts, and find the primary by themselves"),
        ("postgresql_audit", "the audit of a database of several hosts is not built yet"),
    ):
        if get(name) not in (None, False, "false", "no"):
            yield f"{name} is {get(name)!r}, and {switch} is true: remove {name}; {reason} ({page})."
    for name in sorted(set(map(str.lower, get("postgresql_settings") or {})) & set(MEMBERS_SETTINGS)):
        yield f"postgresql_settings.{name}: with {switch} the site writes it: remove it ({page})."
    if one_postgresql:
        yield (
            "The group postgresql has several hosts, and this playbook works on the one host of a database: "
            f"what to do instead is in {page}."
        )
