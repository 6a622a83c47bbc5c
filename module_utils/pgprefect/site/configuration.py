"""The site as the roles describe it to the command and to programs, in a file without secrets."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..core.connection import Login
from ..core.errors import InputError, PgprefectError
from ..core.jobs import Job

PATH = "/etc/prefect/pgprefect.json"


class ConfigurationError(PgprefectError):
    """The site's file is missing, or is not as the roles write it; the message says what to do."""


@dataclass(frozen=True)
class Tenant:
    """One Prefect server: its part of the database, its API, and the workers that should be online.

    ``pool_workers`` counts the workers of each work pool where that is known, and ``scaled_pools`` have more while they
    have more to do; ``event_retention`` is an ISO 8601 duration. ``api_url`` is empty where this host cannot reach the
    API, which then listens on loopback elsewhere. ``api_ca_file`` has the authorities of the API's
    certificate, where these are not the system's. ``redis`` says whether this host has processes of it that share
    what they know by Redis. ``relay`` is the role that sends its ``database_events``, which are
    as ``schema.database_events.DatabaseEvent`` takes them.
    """

    name: str
    schema: str
    owner: str = ""
    migrator: str = ""
    server: str = ""
    api_url: str = ""
    api_ca_file: str = ""
    workers: int = 0
    pool_workers: Mapping[str, int] = field(default_factory=dict)
    event_retention: str = ""
    scaled_pools: tuple[str, ...] = ()
    redis: bool = False
    relay: str = ""
    database_events: tuple[Mapping[str, Any], ...] = ()

    @property
    def outbox(self) -> str:
        """The name of the schema of its outbox, and of the role that owns it; both are there if it has a relay."""
        return f"{self.schema}_outbox"

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Tenant:
        """Make a tenant of names and values, as they come from JSON or a module; other names are ignored.

        Raises KeyError, TypeError and ValueError.
        """
        pools = {str(pool): int(count) for pool, count in (arguments.get("pool_workers") or {}).items()}
        return cls(
            name=str(arguments["name"]),
            schema=str(arguments["schema"]),
            **{role: str(arguments.get(role) or "") for role in ("owner", "migrator", "server", "relay")},
            api_url=str(arguments.get("api_url") or "").rstrip("/"),
            api_ca_file=str(arguments.get("api_ca_file") or ""),
            workers=int(arguments.get("workers") or sum(pools.values())),
            pool_workers=pools,
            event_retention=str(arguments.get("event_retention") or ""),
            scaled_pools=tuple(map(str, arguments.get("scaled_pools") or ())),
            redis=bool(arguments.get("redis")),
            database_events=tuple(map(dict, arguments.get("database_events") or ())),
        )


@dataclass(frozen=True)
class Keep:
    """The backup sets to keep: the newest ones, and the newest of so many days, weeks and months that have one."""

    last: int = 3
    daily: int = 7
    weekly: int = 4
    monthly: int = 6

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Keep:
        """Make it of names and numbers. Raises InputError for an unknown name or a number out of range."""
        known = asdict(cls())
        for name, count in arguments.items():
            if name not in known:
                raise InputError(f"keep.{name} is not known; there are: {', '.join(known)}.")
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 1000:
                raise InputError(f"keep.{name} is {count!r}; it must be a whole number from 0 to 1000.")
        keep = cls(**{**known, **arguments})
        if not any(asdict(keep).values()):
            raise InputError("keep is 0 for last, daily, weekly and monthly; at least one must be above 0.")
        return keep


@dataclass(frozen=True)
class CopyTarget:
    """The place to which sets are copied.

    ``target`` is written as the tool (rsync or rclone) understands it; ``folder`` has the files with which the tool
    logs in.
    """

    tool: str
    target: str
    folder: str
    port: int = 22

    @property
    def name(self) -> str:
        """The name under which a set records that it was copied here."""
        return f"{self.tool} {self.target}"


@dataclass(frozen=True)
class Backups:
    """The site's backup sets: where they are, what they hold, how many stay, how they leave the host.

    ``drill_directory`` is where one is tried out. ``passfile`` has the password of the backup's role where it does not
    log in as its namesake.
    """

    directory: str
    kinds: tuple[str, ...]
    keep: Keep
    copy: CopyTarget | None = None
    age_recipient: str = ""
    drill_directory: str = "/var/lib/prefect-drill"
    passfile: str | None = None


@dataclass(frozen=True)
class Certificate:
    """A file of certificates, and the ``address`` (HOST:PORT) where a service shows the first one, if one does.

    ``protocol`` is ``postgresql``, or ``tls`` where TLS begins at once.
    """

    file: str
    address: str = ""
    protocol: str = "tls"


@dataclass(frozen=True)
class Patroni:
    """This host's part of a cluster of several: its Patroni's ``url`` and ``ca_file``, and all ``members``.

    Its own is ``name``, and at ``etcd_url`` its etcd says how it is.
    """

    url: str
    ca_file: str
    etcd_url: str
    name: str
    members: tuple[str, ...]

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Patroni:
        """Make it of names and values. Raises KeyError."""
        url, ca_file, etcd_url, name = (str(arguments[key]) for key in ("url", "ca_file", "etcd_url", "name"))
        return cls(url, ca_file, etcd_url, name, tuple(map(str, arguments["members"])))


@dataclass(frozen=True)
class Site:
    """The site as this host knows it.

    ``login`` is the one that this host has: the administrator's where the database runs, and on the first server's host
    where the database is on a server of others; elsewhere a lesser one. The administrator changes and compares the
    catalog; what reads or writes tables logs in as the role that may. ``declared`` has the arguments of
    ``schema.declaration.declare``. ``health`` are thresholds and ``retention`` is a policy, both by name. ``jobs`` are
    those that this host runs by itself, and ``certificates`` those that it has. ``audit_log`` is the log with the
    audit trail, where this host has one, and ``patroni`` its part of a cluster of several hosts. ``members`` are the
    hosts of a database that has several, by their addresses.
    """

    login: Login
    declared: Mapping[str, Any]
    tenants: tuple[Tenant, ...]
    virtualenv: str | None = None
    listen_addresses: tuple[str, ...] = ()
    health: Mapping[str, Any] = field(default_factory=dict)
    retention: Mapping[str, Any] = field(default_factory=dict)
    jobs: tuple[Job, ...] = ()
    backups: Backups | None = None
    certificates: tuple[Certificate, ...] = ()
    audit_log: str = ""
    patroni: Patroni | None = None
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """The name of the declared database."""
        return str(self.declared["database"])

    @property
    def release(self) -> str | None:
        """The release of Prefect, by which its virtualenv is called: RELEASE+CHECKSUM, with that of its packages."""
        return os.path.basename(self.virtualenv).partition("+")[0] if self.virtualenv else None

    def tenant(self, name: str | None = None) -> Tenant:
        """Return a tenant by its name, or the first. Raises ConfigurationError."""
        found = [tenant for tenant in self.tenants if name in (None, tenant.name)]
        if not found:
            known = ", ".join(tenant.name for tenant in self.tenants)
            raise ConfigurationError(f"There is no tenant {name!r}; there are: {known}.")
        return found[0]

    def job(self, name: str, tenant: str = "") -> Job | None:
        """Return a job that this host runs, for a tenant or for the whole site, or None."""
        return next((job for job in self.jobs if (job.name, job.tenant) == (name, tenant)), None)

    @property
    def administers(self) -> bool:
        """Say whether this host logs in as the administrator, so that its jobs are this host's."""
        return not self.login.host or self.login.user == self.declared.get("administrator")

    def login_as(self, role: str) -> Login:
        """Return the login of a role: one whose password this host has, or any where the database runs (for root)."""
        return replace(self.login, user=role)

    @property
    def backup(self) -> Login:
        """The login of the backup, as the operating system's user that owns the sets has it."""
        login = self.login_as(str(self.declared["backup"]))
        passfile = self.backups.passfile if self.backups else None
        return replace(login, passfile=passfile) if passfile else login

    @property
    def observer(self) -> Login:
        """The login that reads Prefect's tables and the server's figures: the monitor's, where this host has it."""
        return self.login_as(str(self.declared["monitor"])) if self.administers else self.login

    @property
    def application(self) -> Login:
        """The login that reads the application's tables."""
        return self.login_as(str(self.declared["app_login"])) if self.administers else self.login


_NOT_DECLARED = (
    "login",
    "virtualenv",
    "listen_addresses",
    "health",
    "retention",
    "jobs",
    "backups",
    "certificates",
    "audit_log",
    "patroni",
    "members",
)


def load(path: str = PATH) -> Site:
    """Read the site's file. Raises ConfigurationError."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        known = {column.name for column in fields(Login)}
        site = Site(
            login=Login(**{name: value for name, value in content["login"].items() if name in known}),
            declared={name: value for name, value in content.items() if name not in _NOT_DECLARED},
            tenants=tuple(map(Tenant.from_arguments, content["tenants"])),
            virtualenv=_installed(content.get("virtualenv")),
            listen_addresses=tuple(content.get("listen_addresses") or ()),
            health=content.get("health") or {},
            retention=content.get("retention") or {},
            jobs=tuple(Job(**job) for job in content.get("jobs") or ()),
            backups=_backups(content.get("backups")),
            certificates=tuple(Certificate(**one) for one in content.get("certificates") or ()),
            audit_log=str(content.get("audit_log") or ""),
            patroni=Patroni.from_arguments(content["patroni"]) if content.get("patroni") else None,
            members=dict(content.get("members") or {}),
        )
        if not site.tenants or not site.database:
            raise ValueError("it declares no tenant or no database")
    except FileNotFoundError as error:
        message = f"{path} is not on this host: run site.yml, which writes it, or name another file with --config."
        raise ConfigurationError(message) from error
    except PermissionError as error:
        raise ConfigurationError(f"{path} cannot be read by this user: {error.strerror}. Run this as root.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{path} is not as the roles write it ({type(error).__name__}: {error}): run site.yml."
        raise ConfigurationError(message) from error
    return site


def _installed(virtualenv: str | None) -> str | None:
    """Return the declared virtualenv, or, until the host has made it, the one beside it that this runs from."""
    if virtualenv and not os.path.isdir(virtualenv) and os.path.dirname(sys.prefix) == os.path.dirname(virtualenv):
        return sys.prefix
    return virtualenv


def _backups(content: Mapping[str, Any] | None) -> Backups | None:
    if not content:
        return None
    copy = content.get("copy")
    return Backups(
        directory=content["directory"],
        kinds=tuple(content["kinds"]),
        keep=Keep.from_arguments(content["keep"]),
        copy=CopyTarget(**copy) if copy else None,
        age_recipient=content.get("age_recipient") or "",
        drill_directory=content.get("drill_directory") or Backups.drill_directory,
        passfile=content.get("passfile"),
    )
