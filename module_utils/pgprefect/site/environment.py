"""Settings in the environment, as the units have them: those of a Prefect server, and libpq's for the flows."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..core.connection import Login
from ..core.errors import PgprefectError
from ..core.sql import search_path_names

_PREFIX = "PREFECT_SERVER_DATABASE_"
_ARGUMENTS = f"{_PREFIX}SQLALCHEMY_CONNECT_ARGS_"
APPLICATION_NAME = f"{_ARGUMENTS}APPLICATION_NAME"


class SettingMissing(PgprefectError):
    """A setting is not in the environment."""


def parse(text: str) -> dict[str, str]:
    """Return the settings of a file that the roles have written for systemd: each a name with a quoted value."""
    settings = {}
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if sign and not name.startswith("#"):
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            settings[name.strip()] = value
    return settings


def database(environment: Mapping[str, str]) -> tuple[Login, str, str]:
    """Return the login, the database and the schema that a Prefect server with these settings uses.

    Raises SettingMissing.
    """
    login = Login(
        host=setting(environment, f"{_PREFIX}HOST"),
        port=int(environment.get(f"{_PREFIX}PORT", "5432")),
        user=setting(environment, f"{_PREFIX}USER"),
        password=environment.get(f"{_PREFIX}PASSWORD"),
        ssl_mode=_ssl_mode(environment),
        ca_file=environment.get(f"{_ARGUMENTS}TLS_CA_FILE"),
    )
    path = search_path_names(setting(environment, f"{_ARGUMENTS}SEARCH_PATH"))
    return login, setting(environment, f"{_PREFIX}NAME"), path[0]


def application(environment: Mapping[str, str]) -> tuple[Login, str] | None:
    """Return the login and the database that libpq's variables name, as workers give them to flows, or None."""
    if not environment.get("PGDATABASE"):
        return None
    login = Login(
        host=environment.get("PGHOST", ""),
        port=int(environment.get("PGPORT", "5432")),
        user=environment.get("PGUSER", ""),
        password=environment.get("PGPASSWORD"),
        ssl_mode=environment.get("PGSSLMODE", "prefer"),
        ca_file=environment.get("PGSSLROOTCERT"),
    )
    return login, environment["PGDATABASE"]


def setting(environment: Mapping[str, str], name: str) -> str:
    """Return a setting. Raises SettingMissing where it is absent or empty."""
    if not environment.get(name):
        raise SettingMissing(f"{name} is not set: run this with the environment file of a tenant's server.")
    return environment[name]


def _ssl_mode(environment: Mapping[str, str]) -> str:
    def is_true(name: str, default: str) -> bool:
        return environment.get(f"{_ARGUMENTS}TLS_{name}", default).lower() in ("true", "1", "yes", "on", "t", "y")

    if not is_true("ENABLED", "false"):
        return "prefer"
    return "verify-full" if is_true("CHECK_HOSTNAME", "true") else "verify-ca"
