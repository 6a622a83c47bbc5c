"""Filters that choose among a site's secrets, which are known by the names of their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def _api_secret(tenant: Mapping[str, Any]) -> str:
    return f"{tenant['name']}_api"


def _redis_secret(tenant: Mapping[str, Any]) -> str:
    return f"{tenant['name']}_redis"


def api_secrets(tenants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the secrets that are the passwords of the tenants' APIs."""
    return [_api_secret(tenant) for tenant in tenants]


def secret_files(names: Sequence[str], folder: str, check_mode: bool = False) -> list[str]:
    """Return the file of each secret; in check mode one that is not there yet is made and not kept."""
    files = [Path(folder, name) for name in names]
    return [str(file) if not check_mode or file.exists() else "/dev/null" for file in files]


def api_passwords(secrets: Mapping[str, str], tenants: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the password of each tenant's API by the tenant's name."""
    return {tenant["name"]: secrets[_api_secret(tenant)] for tenant in tenants}


def redis_secrets(tenants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the secrets that are the passwords of the tenants' instances of Redis."""
    return [_redis_secret(tenant) for tenant in tenants]


def redis_passwords(secrets: Mapping[str, str], tenants: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the password of each tenant's instance of Redis by the tenant's name."""
    return {tenant["name"]: secrets[_redis_secret(tenant)] for tenant in tenants}


def secrets_of(secrets: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the secrets of these names, and no other."""
    return {name: secrets[name] for name in names}


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "api_secrets": api_secrets,
            "secret_files": secret_files,
            "api_passwords": api_passwords,
            "redis_secrets": redis_secrets,
            "redis_passwords": redis_passwords,
            "secrets_of": secrets_of,
        }
