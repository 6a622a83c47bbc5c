"""Filters for the backup sets of the hosts of one database, each of which makes its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

_SAFETY = "-safety"
_MANIFEST = re.compile(r"/(\d{8}T\d{6}Z(?:-safety)?)/manifest\.json$")


def sets_found(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the names of the sets that the role prefect_backup has found on each host, the oldest first."""
    found = {}
    for host in hosts:
        paths = [file["path"] for file in hostvars[host].get("__prefect_backup_found", {}).get("files", [])]
        found[host] = sorted(match[1] for path in paths if (match := _MANIFEST.search(path)))
    return found


def set_elsewhere(found: Mapping[str, Sequence[str]], here: str, wanted: str = "") -> dict[str, Any]:
    """Return the ``name`` of a set that other hosts have and that a restore here lacks, with these ``hosts``.

    Without a wanted one that is the newest of all, where the newest here is older by more than a day. ``newest`` is the
    one here. Returns nothing where this host has what it takes, or where nobody has it.
    """
    newest = {host: name for host, names in found.items() if (name := _newest(names))}
    own, name = newest.get(here, ""), wanted or max(newest.values(), default="")
    hosts = [host for host, names in found.items() if name in names]
    if not hosts or here in hosts or (not wanted and own and _time(name) - _time(own) <= timedelta(days=1)):
        return {}
    return {"name": name, "hosts": hosts, "newest": own}


def _newest(names: Sequence[str]) -> str:
    return max((name for name in names if not name.endswith(_SAFETY)), default="")


def _time(name: str) -> datetime:
    return datetime.strptime(name, "%Y%m%dT%H%M%SZ")


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"set_elsewhere": set_elsewhere, "sets_found": sets_found}
