"""What all tests share: modules of library/ as Ansible runs them, and databases on a real PostgreSQL.

``postgresql_server`` is in a container for the whole session. On it
  - ``trading_database`` is the application's database with its tables, for the whole session, as libpq's variables for
    mltrading_app;
  - ``clean`` declares a database that is not there yet, with roles of its own;
  - ``prefect`` is a fresh database as declared, with the tables of a real Prefect and of the application;
  - ``released`` is the same for any release of Prefect that has a lock.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from pgprefect.core.prefect import MADE_HERE

from tests.support import ansible
from tests.support.ansible import Result
from tests.support.postgresql import Server, running_postgresql
from tests.support.project import DEFAULT, virtualenv_of
from tests.support.site import PASSWORD, TRADING_SQL, Site, declaration_of, disposable, migrated_site

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def run_module() -> Callable[..., Result]:
    """Run a module of library/ with its arguments, as Ansible would, and return its result."""
    return ansible.run_module


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    with running_postgresql("--tmpfs", "/var/lib/postgresql") as server:
        yield server


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


@pytest.fixture
def prefect(prefect_template: Site) -> Iterator[Site]:
    """A database as declared, with the tables of a real Prefect and of the application."""
    with copied(prefect_template) as site:
        yield site


@contextlib.contextmanager
def copied(template: Site) -> Iterator[Site]:
    server, name = template.server, f"prefect{next(_numbers)}"
    owner = template.declaration.app_owner
    server.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {template.database} OWNER {owner}")
    server.sql("postgres", f"COMMENT ON DATABASE {name} IS '{MADE_HERE}'")  # it is not in a copy
    with disposable(Site(server, replace(template.declaration, database=name)), roles=False) as site:
        site.apply()  # rights and settings of the database itself are not in a copy
        yield site


@pytest.fixture(scope="session")
def templates(
    prefect_template: Site, postgresql_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Site]:
    """Return the template of a release of Prefect that has a lock."""

    @functools.cache
    def template(release: str) -> Site:
        if release == DEFAULT:
            return prefect_template
        home = tmp_path_factory.mktemp("prefect")
        name = f"template_{release.replace('.', '_')}"
        return migrated_site(postgresql_server, name, home, virtualenv_of(release))

    return template


@pytest.fixture
def released(templates: Callable[[str], Site], release: str) -> Iterator[Site]:
    """``prefect``, with the tables of the release that a test is given."""
    with copied(templates(release)) as site:
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
