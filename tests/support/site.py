"""A database as declared, with the tables of a real Prefect and of the application."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.prefect import server_environment
from pgprefect.core.sql import quote
from pgprefect.schema.declaration import Declaration, declare
from pgprefect.schema.plan import apply
from pgprefect.site.configuration import Tenant

from tests.support.postgresql import Rows, Server
from tests.support.project import ROOT, VIRTUALENV

TRADING_SQL = (ROOT / "roles/prefect_database/files/trading.sql").read_text()
TRADING_TABLES = ("market_data", "stock_info", "system_logs", "trading_signals", "orders", "portfolios")
# Everything that has a meaning in URLs, shells, SQL, systemd or INI files, and a letter beyond ASCII.
PASSWORD = "p@ss/w#r%d: ';\"\\$x é"


@dataclass
class Site:
    """One declared database on a server."""

    server: Server
    declaration: Declaration

    @property
    def database(self) -> str:
        return self.declaration.database

    @property
    def tenant(self) -> Tenant:
        return self.declaration.tenants[0]

    def apply(self, **arguments: Any) -> list[str]:
        """Make the database as declared; return the statements that this took."""
        return [str(change.statement) for change in apply(self.server.login, self.declaration, **arguments)]

    def sql(self, statement: str, *values: Any, role: str | None = None) -> Rows:
        """Run SQL as the superuser, or logged in as a declared role."""
        user, password = (role, self.declaration.passwords[role]) if role else ("postgres", None)
        return self.server.sql(self.database, statement, *values, user=user, password=password)

    def arguments(self) -> dict[str, Any]:
        """The declaration and the login, as the modules take them."""
        declared = {
            name: getattr(self.declaration, name)
            for name in ("database", "app_owner", "app_login", "monitor", "backup", "extensions_schema")
        }
        return {
            **self.server.module_arguments(),
            **declared,
            "extensions": list(self.declaration.extensions),
            "app_schema_tables": list(self.declaration.app_schema_tables),
            "app_schemas": list(self.declaration.app_schemas),
            "tenants": [vars(tenant) for tenant in self.declaration.tenants],
        }

    def environment(self, tenant: Tenant | None = None, role: str | None = None, home: str = "/") -> dict[str, str]:
        """The environment of a Prefect server that uses this database, as the migrator unless another role is given."""
        tenant = tenant or self.tenant
        role = role or tenant.migrator
        login = replace(self.server.login, user=role, password=self.declaration.passwords[role])
        path = (tenant.schema, self.declaration.extensions_schema)
        return {
            **server_environment(login, self.database, path, home),
            "PATH": os.environ["PATH"],
            "PGPREFECT_SERVER_ROLE": tenant.server,
        }


def declaration_of(database: str, prefix: str = "", tenants: tuple[str, ...] = ("prefect",)) -> Declaration:
    """Declare a database; a prefix gives it roles that no other one has."""
    declaration = declare(
        database=database,
        app_owner=f"{prefix}mltrading_owner",
        app_login=f"{prefix}mltrading_app",
        monitor=f"{prefix}prefect_monitor",
        backup=f"{prefix}prefect_backup",
        tenants=[
            {
                "name": f"tenant{number}",
                "schema": schema,
                **{role: f"{prefix}{schema}_{role}" for role in ("owner", "migrator", "server")},
            }
            for number, schema in enumerate(tenants)
        ],
        app_schema_tables=TRADING_TABLES,
    )
    return replace(declaration, passwords=dict.fromkeys(declaration.login_roles, PASSWORD))


@contextlib.contextmanager
def disposable(site: Site, roles: bool) -> Iterator[Site]:
    """Drop a site's database in the end, and its roles when no other site has them."""
    try:
        yield site
    finally:
        site.server.sql("postgres", f"DROP DATABASE IF EXISTS {quote(site.database)} WITH (FORCE)")
        for role in site.declaration.roles if roles else ():
            site.server.sql("postgres", f"DROP ROLE IF EXISTS {quote(role)}")


def migrate(environment: dict[str, str], home: Path, virtualenv: Path = VIRTUALENV) -> subprocess.CompletedProcess[str]:
    """Run the migration of the real Prefect."""
    if not virtualenv.exists():
        pytest.fail(f"{virtualenv} is missing: box/controller prefect all makes it.")
    return subprocess.run(
        [virtualenv / "bin/prefect", "server", "database", "upgrade", "-y"],
        env={**environment, "HOME": str(home), "PREFECT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def pgprefect(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command pgprefect in Prefect's virtualenv."""
    return subprocess.run(
        [VIRTUALENV / "bin/python", "-m", "pgprefect", *arguments],
        env={**environment, "PYTHONPATH": str(ROOT / "module_utils")},
        capture_output=True,
        text=True,
        check=False,
    )


def migrated_site(server: Server, database: str, home: Path, virtualenv: Path = VIRTUALENV) -> Site:
    """Make a database as declared, with the tables of a real Prefect and of the application."""
    site = Site(server, declaration_of(database))
    site.apply(app_schema_sql=TRADING_SQL)
    done = migrate(site.environment(), home, virtualenv)
    assert "Migrations succeeded" in done.stdout, done.stdout
    revoked = pgprefect("revoke-secrets", environment=site.environment())
    assert revoked.returncode == 0, revoked.stderr
    return site
