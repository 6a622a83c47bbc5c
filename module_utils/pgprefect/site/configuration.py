"""The site as the roles describe it to the command and to programs, in a file without secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..backup.copy import Target
from ..backup.sets import Keep
from ..core.connection import Login
from ..core.jobs import Job
from ..health.check import Health, Part, check_health
from ..health.thresholds import Thresholds
from ..schema.declaration import DECLARATION_ARGUMENTS, Declaration, DeclarationError, Tenant, declare
from ..schema.verify import Verification, verify

PATH = "/etc/prefect/pgprefect.json"


class ConfigurationError(Exception):
    """The file is missing, or is not as the roles write it; the message says what to do."""


@dataclass(frozen=True)
class Backups:
    """Where this site's backup sets are, what they hold and how many stay, and how they leave the host."""

    directory: str
    kinds: tuple[str, ...]
    keep: Keep
    copy: Target | None = None
    age_recipient: str = ""


@dataclass(frozen=True)
class Site:
    """``login`` is the one that this host has: the administrator's where the database runs, elsewhere a lesser one.

    ``tenants`` are as the file has them; ``health`` are thresholds and ``retention`` is a policy, both by name;
    ``jobs`` are those that this host runs by itself.
    """

    login: Login
    declaration: Declaration
    tenants: tuple[dict[str, Any], ...]
    virtualenv: str | None = None
    listen_addresses: tuple[str, ...] = ()
    health: Mapping[str, Any] = field(default_factory=dict)
    retention: Mapping[str, Any] = field(default_factory=dict)
    jobs: tuple[Job, ...] = ()
    backups: Backups | None = None

    @property
    def database(self) -> str:
        return self.declaration.database

    def tenant(self, name: str | None = None) -> Tenant:
        """Return a tenant by its name, or the first. Raises ConfigurationError."""
        found = [tenant for tenant in self.declaration.tenants if name in (None, tenant.name)]
        if not found:
            known = ", ".join(tenant.name for tenant in self.declaration.tenants)
            raise ConfigurationError(f"There is no tenant {name!r}; there are: {known}.")
        return found[0]

    def verify(self, login: Login | None = None) -> Verification:
        """Compare the database and its server with what the file declares, by this host's login or another one."""
        return verify(
            login or self.login,
            self.declaration,
            virtualenv=self.virtualenv,
            check_server=True,
            listen_addresses=self.listen_addresses,
        )

    def check_health(self, login: Login | None = None, timeout: float = 4.0) -> Health:
        """Ask the database, the servers and the workers, by this host's login or another one, within some seconds.

        Raises ThresholdError.
        """
        parts = [Part.from_arguments(tenant) for tenant in self.tenants]
        thresholds = Thresholds.from_arguments(self.health)
        return check_health(login or self.login, self.database, parts, timeout, thresholds, jobs=self.jobs)

    def job(self, name: str, tenant: str = "") -> Job | None:
        """Return a job that this host runs, for a tenant or for the whole site, or None."""
        return next((job for job in self.jobs if (job.name, job.tenant) == (name, tenant)), None)

    def login_as(self, role: str) -> Login:
        """Return the login of a role whose password this host has; the administrator needs no other."""
        return self.login if not self.login.host else replace(self.login, user=role)


def load(path: str = PATH) -> Site:
    """Read the site's file. Raises ConfigurationError."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        tenants = tuple(dict(tenant) for tenant in content["tenants"])
        declared = {name: content[name] for name in DECLARATION_ARGUMENTS if name in content}
        known = {column.name for column in fields(Login)}
        return Site(
            login=Login(**{name: value for name, value in content["login"].items() if name in known}),
            declaration=declare(**declared),
            tenants=tenants,
            virtualenv=content.get("virtualenv"),
            listen_addresses=tuple(content.get("listen_addresses") or ()),
            health=content.get("health") or {},
            retention=content.get("retention") or {},
            jobs=tuple(Job(**job) for job in content.get("jobs") or ()),
            backups=_backups(content.get("backups")),
        )
    except FileNotFoundError as error:
        message = f"{path} is not on this host: run site.yml, which writes it, or name another file with --config."
        raise ConfigurationError(message) from error
    except PermissionError as error:
        raise ConfigurationError(f"{path} can not be read by this user: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, DeclarationError) as error:
        message = f"{path} is not as the roles write it ({type(error).__name__}: {error}): run site.yml."
        raise ConfigurationError(message) from error


def _backups(content: Mapping[str, Any] | None) -> Backups | None:
    if not content:
        return None
    copy = content.get("copy")
    return Backups(
        directory=content["directory"],
        kinds=tuple(content["kinds"]),
        keep=Keep.from_arguments(content["keep"]),
        copy=Target(**copy) if copy else None,
        age_recipient=content.get("age_recipient") or "",
    )
