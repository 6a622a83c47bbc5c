"""Environment variables that a user gives to servers, workers and flows: none of them replaces what the site sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load

from . import forms
from .specification import read

_ROOT = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BYTES = 100_000  # of a value; Linux starts no program with more than 131072 for one variable
_LEVEL = forms.matching("(?i)debug|info|warning|error|critical", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
# With a wrong one a service would not start, or would silently have UTC.
_KNOWN_VALUES = {
    "TZ": forms.TIMEZONE,
    "PREFECT_LOGGING_LEVEL": _LEVEL,
    "PREFECT_LOGGING_SERVER_LEVEL": _LEVEL,
    "PREFECT_SERVER_LOGGING_LEVEL": _LEVEL,
}
# What counts instead of one that the site sets: Prefect's other names of a setting, and what wins over it.
REPLACES = {
    **{
        f"PREFECT_API_DATABASE_{key}": f"PREFECT_SERVER_DATABASE_{key}"
        for key in ("DRIVER", "HOST", "PORT", "NAME", "USER", "PASSWORD", "MIGRATE_ON_START")
    },
    "PREFECT_SQLALCHEMY_POOL_SIZE": "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE",
    "PREFECT_SQLALCHEMY_MAX_OVERFLOW": "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS",
    "PREFECT_MESSAGING_BROKER": "PREFECT_SERVER_EVENTS_MESSAGING_BROKER",
    "PREFECT_MESSAGING_CACHE": "PREFECT_SERVER_EVENTS_MESSAGING_CACHE",
    "PREFECT_EVENTS_RETENTION_PERIOD": "PREFECT_SERVER_EVENTS_RETENTION_PERIOD",
    "PREFECT_UI_API_URL": "PREFECT_SERVER_UI_API_URL",
    "PREFECT_UI_STATIC_DIRECTORY": "PREFECT_SERVER_UI_STATIC_DIRECTORY",
    "PREFECT_UI_SERVE_BASE": "PREFECT_SERVER_UI_SERVE_BASE",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "PREFECT_SERVER_EPHEMERAL_ENABLED",
    "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "PREFECT_SERVER_DATABASE_HOST",
    "PREFECT_API_DATABASE_CONNECTION_URL": "PREFECT_SERVER_DATABASE_HOST",
    "PREFECT_API_KEY": "PREFECT_API_AUTH_STRING",
    "PGHOSTADDR": "PGHOST",
    "PGSERVICE": "PGHOST",
}


@cache
def own_variables(role: str) -> dict[str, str]:
    """Return what a role sets in the environment of its units: the templates of the values by the variables' names.

    They are read from the role, so that nothing is listed twice.
    """
    variables = yaml_load((_ROOT / f"roles/{role}/vars/main.yml").read_text())
    own: dict[str, str] = {}
    pending, seen = [f"__{role}_env_file"], set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name not in variables:
            continue
        seen.add(name)
        if isinstance(variables[name], Mapping):
            own |= variables[name]
        else:
            pending += _NAME.findall(variables[name])
    return own


@cache
def _settable(template: str) -> str:
    """Return the variables from which the value of one that the site sets follows, or an empty text."""
    specification = read(_ROOT)
    tenant = specification.site["prefect_tenants"]["options"]
    keys = [key for key in re.findall(r"\bitem\.(\w+)", template) if key in tenant and key != "name"]
    found = [f"{key} of the tenant" for key in keys]
    for word in _NAME.findall(template):
        if re.search("_passwords?$", word):
            found.append("prefect_secrets")
        elif word in specification.wiring:
            found += specification.sources(word)
        elif word in specification.roles:
            found.append(word)
    return " or ".join(dict.fromkeys(found))


def _value(value: Any) -> None:
    # YAML reads `no`, 1.10 and 12:30 as something else than what stands there.
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("put it in quotes" if isinstance(value, (bool, float)) else "it is no text")
    if not str(value).isprintable():
        raise ValueError("it has a line break or another character that cannot be printed")
    if len(str(value).encode()) > _BYTES:
        raise ValueError(f"it has more than {_BYTES} bytes")


@dataclass(frozen=True)
class Environment(forms.Form):
    """A mapping of environment variables for the units of some roles; their values may be secrets."""

    roles: tuple[str, ...] = ()

    def faults(self, path: str, value: Any) -> Iterator[str]:
        """Yield what is wrong with each variable; its value is not shown."""
        if not isinstance(value, Mapping):
            yield forms.refusal(path, value, self.allowed, secret=True)
            return
        for name, entry in value.items():
            inner = f"{path}.{name}" if str(name).isprintable() else f"{path}[{str(name)!r}]"
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                yield (
                    f"{inner}: this is no name of an environment variable, which must be a text of letters, digits "
                    "and '_', without a digit at its beginning: correct the name in the inventory."
                )
            elif reason := self._refused(name):
                yield f"{inner}: {reason}"
            else:
                yield from _VALUE.faults(inner, entry)
                known = _KNOWN_VALUES.get(name)
                if known and isinstance(entry, str):
                    yield from known.faults(inner, entry)

    def _refused(self, name: str) -> str:
        """Return why the site keeps a variable for itself, and what to do; an empty text for any other."""
        # Prefect reads the names of its settings in any case.
        upper = name.upper()
        meant = REPLACES.get(upper, upper)
        for role in self.roles:
            own = {known.upper(): template for known, template in own_variables(role).items()}
            group = [known for known in own if upper.startswith("PREFECT") and known.startswith(f"{upper}_")]
            if meant not in own and not group:
                continue
            if meant not in own:
                return f"it sets {group[0]} and others, which the site sets itself: name each setting by itself."
            instead = _settable(str(own[meant]))
            remedy = f"set {instead} instead." if instead else "remove it."
            if meant != upper:
                return f"it counts instead of {meant}, which the site sets itself: {remedy}"
            return f"the site sets this variable itself: {remedy}"
        return ""


_VALUE = replace(forms.SCALAR, allowed="a text or a whole number", check=_value, secret=True)
_ALLOWED = "a mapping of environment variables and their values, as {TZ: Europe/Berlin}"
SERVER = Environment(_ALLOWED, secret=True, roles=("prefect_server",))
WORKER = Environment(_ALLOWED, secret=True, roles=("prefect_worker",))
TENANT = Environment(_ALLOWED, secret=True, roles=("prefect_server", "prefect_worker"))
