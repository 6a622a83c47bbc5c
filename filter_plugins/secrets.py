"""Filters that choose among a site's secrets, which are known by the names of their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def _name(tenant: Mapping[str, Any], of: str) -> str:
    return f"{tenant['name']}_{of}"


def tenant_secrets(tenants: Sequence[Mapping[str, Any]], of: str) -> list[str]:
    """Return the names of the secrets that are the passwords of something that each tenant has: api or redis."""
    return [_name(tenant, of) for tenant in tenants]


def secret_files(names: Sequence[str], folder: str, check_mode: bool = False) -> list[str]:
    """Return the file of each secret; in check mode one that is not there yet is made and not kept."""
    files = [Path(folder, name) for name in names]
    return [str(file) if not check_mode or file.exists() else "/dev/null" for file in files]


def tenant_passwords(secrets: Mapping[str, str], tenants: Sequence[Mapping[str, Any]], of: str) -> dict[str, str]:
    """Return the passwords of something that each tenant has, api or redis, by the tenant's name."""
    return {tenant["name"]: secrets[_name(tenant, of)] for tenant in tenants}


def secrets_of(secrets: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the secrets of these names, and no other."""
    return {name: secrets[name] for name in names}


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "tenant_secrets": tenant_secrets,
            "secret_files": secret_files,
            "tenant_passwords": tenant_passwords,
            "secrets_of": secrets_of,
        }
