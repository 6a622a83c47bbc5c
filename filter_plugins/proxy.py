"""Filters for the proxy: which tenants are behind which of its ports, and how their own account logs in."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit


def proxy_frontends(tenants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each port that the tenants' addresses have, with the names and hosts of those that are reached there."""
    ports: dict[int, list[dict[str, str]]] = {}
    for tenant in tenants:
        parts = urlsplit(tenant["ui_url"])
        ports.setdefault(parts.port or 443, []).append({"name": tenant["name"], "host": parts.hostname or ""})
    return [{"port": port, "tenants": behind} for port, behind in ports.items()]


def proxy_logins(passwords: Mapping[str, str], tenants: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the value of the header Authorization of each tenant's own account."""
    names = [tenant["name"] for tenant in tenants]
    return {name: "Basic " + base64.b64encode(f"admin:{passwords[name]}".encode()).decode() for name in names}


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"proxy_frontends": proxy_frontends, "proxy_logins": proxy_logins}
