"""The variables that something reads: the site's, the roles', and those that the wiring sets for the roles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load

SITE = "site"
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class Specification:
    """The variables that an inventory may set, with their argument specs, and those that the wiring sets.

    ``defaults`` are the roles', as their files have them.
    """

    site: Mapping[str, Any]
    roles: Mapping[str, Any]
    wiring: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """Return every variable that something reads, with its argument spec."""
        return {**self.roles, **self.site}

    @property
    def free(self) -> list[str]:
        """Return the variables that an inventory may set."""
        return [name for name in self.options if name not in self.wiring]

    def sources(self, wired: str) -> list[str]:
        """Return the nearest variables from which a wired variable follows, through internal ones."""
        names, seen = {wired}, set[str]()
        while names:
            seen |= names
            names = {word for name in names for word in _NAME.findall(str(self.wiring.get(name, "")))} - seen
            if found := [name for name in self.free if name in names]:
                return found
            names &= set(self.wiring)
        return []


@cache
def read(root: Path) -> Specification:
    """Read the roles' argument specs and the wiring of the repository."""
    specs = {path.parent.parent.name: _options(path) for path in root.glob("roles/*/meta/argument_specs.yml")}
    wiring, defaults = (
        _merged(root, files) for files in ("playbooks/group_vars/all/*.yml", "roles/*/defaults/main.yml")
    )
    roles = {name: spec for role, options in specs.items() if role != SITE for name, spec in options.items()}
    return Specification(site=specs[SITE], roles=roles, wiring=wiring, defaults=defaults)


def _merged(root: Path, files: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in root.glob(files):
        found |= yaml_load(path.read_text()) or {}
    return found


def _options(path: Path) -> dict[str, Any]:
    # All entry points of a role have the same options.
    options: dict[str, Any] = next(iter(yaml_load(path.read_text())["argument_specs"].values()))["options"]
    return options
