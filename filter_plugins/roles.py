"""Filters that read the roles of this repository."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def role_defaults(roles: str) -> dict[str, Any]:
    """Return the defaults of all roles in a folder by the names of their variables; templates in them stay text."""
    defaults: dict[str, Any] = {}
    for path in sorted(Path(roles).glob("*/defaults/main.yml")):
        defaults |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return defaults


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"role_defaults": role_defaults}
