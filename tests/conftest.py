"""What all tests share.

``run_module`` runs a module of library/ as Ansible would. ``postgresql_server`` is a real PostgreSQL in a container for
the whole session; PostgreSQL 17 with ``POSTGRESQL_SUITE=trixie``. On it
  - ``trading_database`` is the application's database with its tables, for the whole session, as libpq's variables for
    mltrading_app;
  - ``clean`` declares a database that is not there yet, with roles of its own;
  - ``prefect`` is a fresh database as declared, with the tables of a real Prefect and of the application.
Prefect's commands come from the virtualenv $PREFECT_VIRTUALENV, or .venv-prefect.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ansible.module_utils
import psycopg2
import pytest
from ansible.module_utils.testing import patch_module_args
from pgprefect.core.connection import Login
from pgprefect.core.prefect import server_environment
from pgprefect.core.sql import quote
from pgprefect.schema.declaration import Declaration, declare
from pgprefect.schema.plan import apply
from pgprefect.site.configuration import Tenant

ROOT = Path(__file__).parents[1]
VIRTUALENV = Path(os.environ.get("PREFECT_VIRTUALENV", ROOT / ".venv-prefect"))
SUITE = os.environ.get("POSTGRESQL_SUITE", "bookworm")
TRADING_SQL = (ROOT / "roles/prefect_database/files/trading.sql").read_text()
TRADING_TABLES = ("market_data", "stock_info", "system_logs", "trading_signals", "orders", "portfolios")
# Everything that has a meaning in URLs, shells, SQL, systemd or INI files, and a letter beyond ASCII.
PASSWORD = "p@ss/w#r%d: ';\"\\$x é"

Result = dict[str, Any]
Rows = list[tuple[Any, ...]]
_numbers = itertools.count(1)


ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


@pytest.fixture(scope="session")
def run_module() -> Callable[..., Result]:
    """Run a module of library/ with its arguments, as Ansible would, and return its result."""

    def run(name: str, *, check: bool = False, **arguments: Any) -> Result:
        module = importlib.import_module(f"library.{name}")
        output = io.StringIO()
        with (
            patch_module_args({**arguments, "_ansible_check_mode": check, "_ansible_diff": True}),
            contextlib.redirect_stdout(output),
            pytest.raises(SystemExit),
        ):
            module.main()
        result: Result = json.loads(output.getvalue())
        return result

    return run


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server in a container, and its superuser."""

    container: str
    port: int
    password: str

    @property
    def login(self) -> Login:
        return Login("127.0.0.1", self.port, "postgres", self.password)

    def connect(self, database: str, user: str = "postgres", password: str | None = None) -> Any:
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=user,
            password=self.password if password is None else password,
            connect_timeout=5,
        )
        connection.autocommit = True
        return connection

    def sql(
        self, database: str, statement: str, *values: Any, user: str = "postgres", password: str | None = None
    ) -> Rows:
        """Run SQL on a connection of its own and return the rows, if it makes any."""
        with contextlib.closing(self.connect(database, user, password)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        with contextlib.suppress(psycopg2.OperationalError):
            self.sql("postgres", "SELECT")
            return True
        return False

    def module_arguments(self) -> dict[str, Any]:
        return {"login_host": "127.0.0.1", "login_port": self.port, "login_password": self.password}


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


def migrate(environment: dict[str, str], home: Path) -> subprocess.CompletedProcess[str]:
    """Run the migration of the real Prefect."""
    if not VIRTUALENV.exists():
        pytest.fail(f"{VIRTUALENV} is missing: box/controller prefect makes it.")
    return subprocess.run(
        [VIRTUALENV / "bin/prefect", "server", "database", "upgrade", "-y"],
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


def run_tasks(
    folder: Path, variables: dict[str, Any], *tasks: dict[str, Any], arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine as a playbook of the folder does."""
    content = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}
    playbook = folder / "play.yml"
    playbook.write_text(json.dumps([content]))
    python = "ansible_python_interpreter=/usr/bin/python3"  # a path without spaces, wherever the checkout is
    return subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", "-c", "local", "-e", python, *arguments, playbook],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def wait_for(condition: Callable[[], Any], said: Callable[[], object] = str, seconds: float = 60) -> Any:
    """Wait until a condition holds and return it; fail with what is said then. Slow machines need long limits."""
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, f"Not within {seconds} s. {said()}"
        time.sleep(0.05)
    return met


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def database_image() -> str:
    """Build the image of tests/database, and return its name."""
    image = f"ansible-prefect-postgresql:{SUITE}"
    base = f"BASE=ansible-prefect-host:{SUITE}"
    command = ["docker", "build", "--quiet", "--build-arg", base, "--tag", image, str(ROOT / "tests/database")]
    # What it says is shown only where it fails: each time it warns that its builder is an old one.
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return image


@contextlib.contextmanager
def running_postgresql(*options: str) -> Iterator[Server]:
    """A PostgreSQL in a container of its own; ``options`` are docker's."""
    image = database_image()
    password = secrets.token_urlsafe(12)
    environment = f"POSTGRES_PASSWORD={password}"
    publish = ("--publish", "127.0.0.1::5432")
    container = docker("run", "--detach", "--rm", "--env", environment, *publish, *options, image)
    try:
        port = int(docker("port", container, "5432").rpartition(":")[2])
        server = Server(container, port, password)
        wait_for(server.answers, lambda: docker("logs", container))
        yield server
    finally:
        docker("rm", "--force", "--volumes", container)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    with running_postgresql() as server:
        yield server


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


@pytest.fixture
def clean(postgresql_server: Server) -> Iterator[Site]:
    """A declared database of which nothing is there yet, with roles of its own."""
    number = next(_numbers)
    with disposable(Site(postgresql_server, declaration_of(f"clean{number}", f"c{number}_")), roles=True) as site:
        yield site


@pytest.fixture(scope="session")
def prefect_template(postgresql_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The database that ``prefect`` copies: migrating takes seconds, copying a tenth of one."""
    return migrated_site(postgresql_server, "template_prefect", tmp_path_factory.mktemp("prefect"))


def migrated_site(server: Server, database: str, home: Path) -> Site:
    """Make a database as declared, with the tables of a real Prefect and of the application."""
    site = Site(server, declaration_of(database))
    site.apply(app_schema_sql=TRADING_SQL)
    done = migrate(site.environment(), home)
    assert "Migrations succeeded" in done.stdout, done.stdout
    sealed = pgprefect("seal", environment=site.environment())
    assert sealed.returncode == 0, sealed.stderr
    return site


@pytest.fixture
def prefect(prefect_template: Site) -> Iterator[Site]:
    """A database as declared, with the tables of a real Prefect and of the application."""
    server, name = prefect_template.server, f"prefect{next(_numbers)}"
    owner = prefect_template.declaration.app_owner
    server.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {prefect_template.database} OWNER {owner}")
    with disposable(Site(server, replace(prefect_template.declaration, database=name)), roles=False) as site:
        site.apply()  # rights and settings of the database itself are not in a copy
        yield site


@pytest.fixture(scope="session")
def trading_database(postgresql_server: Server) -> Iterator[dict[str, str]]:
    """libpq's variables of mltrading_app for the application's database; its tables are there and empty."""
    site = Site(postgresql_server, declaration_of("trading"))
    site.apply(app_schema_sql=TRADING_SQL)
    with disposable(site, roles=False):
        yield {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(postgresql_server.port),
            "PGUSER": site.declaration.app_login,
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": site.database,
        }
