"""A server of others: the only login is a role with CREATEROLE that owns the database, and no superuser."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.restore import choose, restore
from pgprefect.core.connection import Login
from pgprefect.core.sql import quote
from pgprefect.schema.plan import Blocked, apply
from pgprefect.schema.verify import verify

from tests.support.ansible import Result
from tests.support.backups import fingerprint
from tests.support.postgresql import Server
from tests.support.site import PASSWORD, TRADING_SQL, Site, declaration_of, disposable, migrate, pgprefect
from tests.support.verification import refusal

DENIED = "42501"
_numbers = itertools.count(1)


@dataclass
class Managed(Site):
    """A site's database on a server of others, with the login of its administrator."""

    @property
    def administrator(self) -> Login:
        return replace(self.server.login, user=self.declaration.administrator, password=PASSWORD)

    def apply(self, **arguments: Any) -> list[str]:
        return [str(change.statement) for change in apply(self.administrator, self.declaration, **arguments)]

    def arguments(self) -> dict[str, Any]:
        name = self.declaration.administrator
        login = {"login_user": name, "login_password": PASSWORD, "administrator": name}
        return {**super().arguments(), **login, "exclusive": True, "passwords": self.declaration.passwords}

    def problems(self) -> set[str]:
        """The codes of what verification finds, of the database and of the server."""
        found = verify(self.administrator, self.declaration, check_server=True)
        assert found.connection_test
        return {problem.code for problem in found.problems}


@contextlib.contextmanager
def made(server: Server) -> Iterator[Managed]:
    """What a provider makes: the role, and a database of its own."""
    name = f"managed{next(_numbers)}"
    declaration = replace(declaration_of(name, f"{name}_"), administrator=f"{name}_admin", exclusive=True)
    role, secret = quote(declaration.administrator), PASSWORD.replace("'", "''")
    server.sql("postgres", f"CREATE ROLE {role} LOGIN CREATEROLE PASSWORD '{secret}'")
    server.sql("postgres", f"CREATE DATABASE {name} OWNER {role} ENCODING 'UTF8' TEMPLATE template0")
    try:
        with disposable(Managed(server, declaration), roles=True) as site:
            assert isinstance(site, Managed)
            yield site
    finally:
        server.sql("postgres", f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
def empty(postgresql_server: Server) -> Iterator[Managed]:
    """As the provider leaves it."""
    with made(postgresql_server) as site:
        yield site


@pytest.fixture(scope="module")
def managed(postgresql_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """As declared, with the tables of a real Prefect and of the application."""
    with made(postgresql_server) as site:
        site.apply(app_schema_sql=TRADING_SQL)
        environment = {**site.environment(), "PGPREFECT_BACKUP_ROLE": site.declaration.backup}
        done = migrate(environment, tmp_path_factory.mktemp("managed"))
        assert "Migrations succeeded" in done.stdout, done.stdout
        revoked = pgprefect("revoke-secrets", environment=environment)
        assert revoked.returncode == 0, revoked.stderr
        yield site


def grants_own_roles(site: Managed) -> bool:
    """From PostgreSQL 16 on CREATEROLE is no right to grant PostgreSQL's own roles."""
    return site.server.sql("postgres", "SELECT current_setting('server_version_num')::int") < [(160000,)]


def test_its_administrator_makes_all_that_is_declared(run_module: Callable[..., Result], empty: Managed) -> None:
    arguments = {**empty.arguments(), "app_schema_sql": TRADING_SQL, "connection_limits": {empty.tenant.server: 40}}
    planned = run_module("prefect_schema", check=True, **arguments)
    assert planned["changed"] and not planned.get("failed"), planned
    done = run_module("prefect_schema", **arguments)
    assert done["changed"] and done["statements"] == planned["statements"], done
    assert PASSWORD not in str(done)
    for check in (True, False):
        again = run_module("prefect_schema", check=check, **arguments)
        assert (again["changed"], again["statements"]) == (False, []), again
    owners = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname IN ('public', 'prefect') ORDER BY 1"
    assert empty.sql(owners) == [(empty.declaration.app_owner,), (empty.tenant.owner,)]
    powers = "SELECT FROM pg_roles WHERE rolname = ANY(%s) AND (rolsuper OR rolcreaterole OR rolbypassrls)"
    assert empty.sql(powers, list(empty.declaration.roles)) == []


def test_each_role_may_what_it_may_on_a_server_of_our_own(managed: Managed) -> None:
    declaration, tenant = managed.declaration, managed.tenant
    for role, statement, outcome in (
        (declaration.app_login, "SELECT * FROM orders; SELECT id FROM flow_run", None),
        (declaration.app_login, "SELECT * FROM prefect.configuration", DENIED),
        (declaration.app_login, f"SET ROLE {quote(declaration.app_owner)}", DENIED),
        (tenant.server, "SELECT * FROM configuration; SELECT 'a' % 'b'", None),
        (tenant.server, "CREATE TABLE prefect.mine (id int)", DENIED),
        (tenant.server, "SELECT * FROM public.orders", DENIED),
        (tenant.migrator, "CREATE TABLE mine (id int); DROP TABLE prefect.mine", None),
        (tenant.migrator, "SELECT * FROM public.orders", DENIED),
        # By grants, because the administrator cannot give it pg_read_all_data on every server.
        (declaration.backup, "SELECT * FROM public.orders; SELECT * FROM prefect.configuration", None),
        (declaration.backup, "DELETE FROM public.orders", DENIED),
    ):
        assert refusal(managed, role, statement) == outcome, (role, statement)


def test_verification_says_what_it_looked_at(managed: Managed) -> None:
    found = verify(managed.administrator, managed.declaration, check_server=True)
    # The container of the tests has no TLS.
    assert {problem.code for problem in found.problems} == {"session_not_encrypted"}
    of_others = [text for text in found.not_checked if text.endswith("the server is one of others")]
    assert [text.partition(":")[0] for text in of_others] == [
        "access rules",
        "stored passwords",
        "settings",
        "superusers",
    ]
    monitor = [text for text in found.not_checked if "GRANT pg_monitor TO" in text]
    assert bool(monitor) != grants_own_roles(managed)
    as_monitor = replace(managed.administrator, user=managed.declaration.monitor)
    assert {problem.code for problem in verify(as_monitor, managed.declaration).problems} == set()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("REVOKE SELECT ON prefect.configuration FROM {backup}", "right_missing"),
        ("GRANT UPDATE ON public.orders TO {server}", "right_excess"),
        ("ALTER ROLE {server} IN DATABASE {database} SET search_path TO public", "search_path"),
        ("REVOKE {owner} FROM {administrator} CASCADE", "membership_missing"),
        ("ALTER SCHEMA prefect OWNER TO {administrator}", "schema_owner"),
    ],
)
def test_what_somebody_changed_is_found_and_put_back(managed: Managed, change: str, code: str) -> None:
    declaration, tenant = managed.declaration, managed.tenant
    names = {"backup": declaration.backup, "server": tenant.server, "owner": tenant.owner}
    names |= {"administrator": declaration.administrator, "database": declaration.database}
    as_administrator = managed.administrator
    statement = change.format_map({name: quote(value) for name, value in names.items()})
    managed.server.sql(managed.database, statement, user=as_administrator.user, password=PASSWORD)
    assert code in managed.problems()
    assert managed.apply() and managed.apply() == []
    assert managed.problems() == {"session_not_encrypted"}


def test_another_password_is_found_by_trying_it(run_module: Callable[..., Result], managed: Managed) -> None:
    role = managed.tenant.server
    managed.server.sql("postgres", f"ALTER ROLE {quote(role)} PASSWORD 'another'")
    planned = run_module("prefect_schema", check=True, **managed.arguments())
    assert planned["statements"] == [f"ALTER ROLE {role} PASSWORD '********'"]
    assert run_module("prefect_schema", **managed.arguments())["statements"] == planned["statements"]
    assert managed.sql("SELECT 1", role=role) == [(1,)]
    assert managed.apply() == []


def test_a_set_is_made_and_restored_without_a_superuser(managed: Managed, tmp_path: Path) -> None:
    managed.sql("INSERT INTO stock_info (symbol, name, currency, source) VALUES ('X', 'x', 'USD', 's')")
    managed.sql("INSERT INTO prefect.flow (name) VALUES ('kept')")
    before = fingerprint(managed)
    declaration = managed.declaration
    login = replace(managed.administrator, user=declaration.backup)
    made = back_up(login, managed.database, wanted_parts(declaration, ["full"]), tmp_path, "3.9.1")
    managed.sql("DELETE FROM stock_info; DELETE FROM prefect.flow; DROP TABLE prefect.log CASCADE")
    path = tmp_path / made.name
    parts = choose(made, declaration, ["app", "workflow"])
    rows = restore(managed.administrator, declaration, path, parts)
    assert rows["prefect.flow"] == 1 and fingerprint(managed) == before
    assert managed.problems() == {"session_not_encrypted"}
    assert managed.server.sql("postgres", "SELECT FROM pg_roles WHERE rolname = 'pgprefect_restore'") == []


def refused(site: Managed) -> dict[str, str]:
    with pytest.raises(Blocked) as blocked:
        site.apply()
    return {problem.code: problem.remedy for problem in blocked.value.problems}


def test_what_its_administrator_lacks_is_named_with_what_to_type(empty: Managed) -> None:
    """Each remedy is typed as it stands, by the server's superuser."""
    server, name = empty.server, empty.declaration.administrator
    before = "Let the server's administrator type: "
    server.sql("postgres", f"ALTER ROLE {name} NOCREATEROLE")
    server.sql("postgres", f"ALTER DATABASE {empty.database} OWNER TO postgres")
    server.sql("postgres", f"CREATE ROLE {empty.tenant.server} LOGIN")
    for codes in ({"login_not_administrator", "database_owner"}, {"role_not_administered"}):
        if codes == {"role_not_administered"} and grants_own_roles(empty):
            continue
        found = {code: remedy for code, remedy in refused(empty).items() if code in codes}
        assert set(found) == codes
        for remedy in found.values():
            assert remedy.startswith(before)
            server.sql("postgres", remedy.removeprefix(before))
    assert empty.apply() and empty.apply() == []


def test_a_database_that_cannot_be_created(empty: Managed) -> None:
    server, before = empty.server, "Let the server's administrator type: "
    server.sql("postgres", f"DROP DATABASE {empty.database}")
    found = refused(empty)
    assert set(found) == {"database_not_creatable"}
    assert server.sql("postgres", "SELECT FROM pg_roles WHERE rolname = %s", empty.tenant.owner) == []
    server.sql("postgres", found["database_not_creatable"].removeprefix(before))
    server.sql("postgres", f"DROP DATABASE {empty.database}")
    server.sql("postgres", f"ALTER ROLE {empty.declaration.administrator} CREATEDB")
    assert any(statement.startswith("CREATE DATABASE") for statement in empty.apply()) and empty.apply() == []
