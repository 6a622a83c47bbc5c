"""What the database tests share beyond tests/conftest.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.core.sql import quote

from tests.support.project import VIRTUALENV
from tests.support.site import PASSWORD, Site, declaration_of, disposable, migrate


@pytest.fixture(autouse=True)
def restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which restores record what they prepare: this machine's own is none of the tests'."""
    folder = tmp_path / "restores"
    monkeypatch.setattr("pgprefect.backup.unfinished.FOLDER", folder)
    monkeypatch.setattr("pgprefect.health.leftovers.RESTORES", str(folder))
    return folder


@pytest.fixture(scope="session")
def naive_template(prefect_template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """What the published recipe leaves: Prefect's real tables in public, by the role that owns the database."""
    server, name = prefect_template.server, "template_naive"
    declaration = replace(declaration_of(name), app_schema_tables=())
    owner = declaration.app_owner
    server.sql("postgres", f"CREATE DATABASE {name} OWNER {owner}")
    site = Site(server, declaration)
    with disposable(site, roles=False):
        site.sql("CREATE EXTENSION pg_trgm; CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
        site.sql(
            f"ALTER SCHEMA public OWNER TO {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {declaration.app_login}"
        )
        environment = site.environment(role=declaration.app_login)
        environment["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"] = "prefect, public"
        done = migrate(environment, tmp_path_factory.mktemp("naive"))
        assert "Migrations succeeded" in done.stdout, done.stdout
        yield site


@pytest.fixture
def naive(naive_template: Site) -> Iterator[Site]:
    """A database with Prefect's tables in public."""
    server, name = naive_template.server, "naive"
    owner = naive_template.declaration.app_owner
    server.sql("postgres", f"CREATE DATABASE {quote(name)} TEMPLATE {naive_template.database} OWNER {owner}")
    with disposable(Site(server, replace(naive_template.declaration, database=name)), roles=False) as site:
        yield site


@pytest.fixture
def site_file(prefect: Site, tmp_path: Path) -> Path:
    """The site's file as the roles write it on a server's host: the login is the monitor's, with libpq's passfile."""
    passfile = tmp_path / "pgpass"
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    passfile.write_text("".join(f"*:*:*:{role}:{escaped}\n" for role in prefect.declaration.login_roles))
    passfile.chmod(0o600)
    declaration = prefect.declaration
    login = {"host": "127.0.0.1", "port": prefect.server.port, "user": declaration.monitor, "passfile": str(passfile)}
    site = {name: getattr(declaration, name) for name in ("database", "app_owner", "app_login", "monitor", "backup")}
    tenants = [{**vars(tenant), "api_url": "http://127.0.0.1:1/api", "workers": 0} for tenant in declaration.tenants]
    path = tmp_path / "pgprefect.json"
    path.write_text(
        json.dumps(
            {
                **site,
                "login": login,
                "tenants": tenants,
                "app_schema_tables": list(declaration.app_schema_tables),
                "virtualenv": str(VIRTUALENV),
            }
        )
    )
    return path
