"""Where a real Prefect's migration puts its tables, and whether verification knows each case by its own code."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pgprefect.core.connection import Login
from pgprefect.core.sql import quote
from pgprefect.schema.declaration import declare
from pgprefect.schema.plan import Blocked
from pgprefect.schema.verify import verify

from tests.support.ansible import Result
from tests.support.postgresql import Server
from tests.support.project import PREFECT_TABLES
from tests.support.site import PASSWORD, TRADING_TABLES, Site, declaration_of, disposable, migrate, pgprefect
from tests.support.verification import codes, errors, refusal

TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = %s AND tableowner = %s"


def test_verification_as_a_module(run_module: Callable[..., Result], prefect: Site) -> None:
    result = run_module("prefect_schema_verify", check=True, **prefect.arguments())
    assert result["verified"] and result["connection_test"] and not result["changed"]
    assert result["problems"] == []
    assert result["search_path"] == "public, prefect"
    assert result["public_schema"] == {
        "exists": True,
        "owner": "mltrading_owner",
        "tables": sorted(TRADING_TABLES),
    }
    assert result["prefect_schema"] == result["tenants"]["tenant0"]
    assert result["prefect_schema"]["owner"] == "prefect_owner"
    assert len(result["prefect_schema"]["tables"]) == PREFECT_TABLES
    assert result["prefect_schema"]["search_path"] == "prefect, extensions"
    assert result["search_paths"]["prefect_migrator"] == "prefect, extensions"
    prefect.sql("GRANT ALL ON ALL TABLES IN SCHEMA prefect TO mltrading_app")
    result = run_module("prefect_schema_verify", **prefect.arguments())
    assert not result["verified"]
    assert {problem["code"] for problem in result["problems"]} == {"right_excess"}
    prefect.sql("".join(problem["remedy"] for problem in result["problems"]))
    assert errors(prefect) == set()


def test_verification_of_a_stopped_server(run_module: Callable[..., Result], clean: Site) -> None:
    result = run_module("prefect_schema_verify", **{**clean.arguments(), "login_port": 1})
    assert not result["verified"] and not result["connection_test"] and not result["public_schema"]["exists"]
    assert [problem["code"] for problem in result["problems"]] == ["connection_failed"]


def test_verification_while_a_table_is_locked(prefect: Site) -> None:
    holder = prefect.server.connect(prefect.database)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE prefect.alembic_version")
    report = verify(prefect.server.login, prefect.declaration, timeout=0.2)
    holder.close()
    assert report.connection_test and not report.verified
    assert [problem.code for problem in report.problems] == ["verification_stopped"]


def test_verification_needs_no_superuser(prefect: Site) -> None:
    prefect.sql("GRANT TRUNCATE ON prefect.flow TO prefect_server")
    login = Login("127.0.0.1", prefect.server.port, prefect.declaration.monitor, PASSWORD)
    report = verify(login, prefect.declaration)
    assert [problem.code for problem in report.problems] == ["right_excess"]
    assert report.tenants["tenant0"].revision


def test_naive_installation_in_public(naive: Site) -> None:
    """Refused with the way out; and the way out, followed to the letter, leads there."""
    assert naive.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(PREFECT_TABLES + 1,)]
    assert {"prefect_in_public", "extension_schema"} <= errors(naive)
    with pytest.raises(Blocked) as blocked:
        naive.apply()
    remedies = {problem.code: problem.remedy for problem in blocked.value.problems}
    assert set(remedies) == {"prefect_in_public", "extension_schema"}
    assert "orders" not in remedies["prefect_in_public"]
    naive.sql(remedies["prefect_in_public"].partition("application's own: ")[2])
    naive.sql(remedies["extension_schema"].partition(" and add")[0])
    naive.apply()
    assert naive.apply() == []
    assert errors(naive) == set()
    assert naive.sql(TABLES, "prefect", "prefect_owner") == [(PREFECT_TABLES,)]
    assert naive.sql("SELECT * FROM public.orders") == [(1,)]
    current = pgprefect("revision", "--require-current", environment=naive.environment())
    assert current.returncode == 0, current.stderr


def test_two_tenants_keep_apart(prefect: Site, tmp_path: Path) -> None:
    second = declaration_of("x", tenants=("prefect", "research"))
    site = Site(prefect.server, replace(second, database=prefect.database))
    site.apply()
    tenant = site.declaration.tenants[1]
    try:
        done = migrate(site.environment(tenant), tmp_path)
        assert "Migrations succeeded" in done.stdout, done.stdout
        # Readers could read the new tables' secrets until they are sealed; verification and the next run see that.
        assert "right_excess" in errors(site)
        assert pgprefect("revoke-secrets", environment=site.environment(tenant)).returncode == 0
        assert errors(site) == set()
        assert site.apply() == []
        assert site.sql(TABLES, "research", "research_owner") == [(PREFECT_TABLES,)]
        assert refusal(site, "research_server", "SELECT * FROM flow_run") is None
        for role in ("research_server", "research_migrator"):
            assert refusal(site, role, "SELECT * FROM prefect.flow_run") == "42501"
            assert refusal(site, role, "SELECT * FROM public.orders") == "42501"
        for role in ("prefect_server", "prefect_migrator"):
            assert refusal(site, role, "SELECT * FROM research.flow_run") == "42501"
        assert refusal(site, "prefect_monitor", "SELECT id FROM research.flow_run") is None
        assert codes(prefect) == {"prefect_undeclared"}  # declared with the first one alone
    finally:
        prefect.server.sql("postgres", f"DROP DATABASE {prefect.database} WITH (FORCE)")
        for role in (tenant.owner, tenant.migrator, tenant.server):
            prefect.server.sql("postgres", f"DROP ROLE {role}")


def test_names_that_need_quotes_beside_another_application(postgresql_server: Server, tmp_path: Path) -> None:
    """The application has an alembic_version and an enum of the same name as Prefect's; both stay its own."""
    schema = 'My "Odd" Schema, 100% {it}'
    odd = declare(
        database=f"Odd {schema}",
        app_owner="Größe",
        app_login="App; --",
        monitor="select",
        backup="Backup\\",
        tenants=[{"name": "odd", "schema": schema, "owner": "user", "migrator": "Mi 'g' %s", "server": 'Ser "v" {er}'}],
        extensions_schema="Ext,ensions",
    )
    odd = replace(odd, passwords=dict.fromkeys(odd.login_roles, PASSWORD), connection_limits={odd.app_login: 5})
    with disposable(Site(postgresql_server, odd), roles=True) as site:
        site.apply()
        site.sql(
            "CREATE TABLE public.alembic_version (version_num text); INSERT INTO public.alembic_version VALUES ('abc');"
            "CREATE TYPE public.deployment_status AS ENUM ('mine')"
        )
        done = migrate(site.environment(), tmp_path)
        assert "Migrations succeeded" in done.stdout, done.stdout
        sealed = pgprefect("revoke-secrets", environment=site.environment())
        assert sealed.returncode == 0, sealed.stderr
        assert len(sealed.stdout.splitlines()) == 28  # of 6 tables, and of columns of 4, for both readers
        assert site.apply(), "the application's table needs its grants"
        assert site.apply() == []
        assert errors(site) == set()
        assert site.sql(TABLES, schema, site.tenant.owner) == [(PREFECT_TABLES,)]
        assert site.sql("SELECT * FROM public.alembic_version") == [("abc",)]
        assert site.sql("SELECT enum_range(NULL::public.deployment_status)::text") == [("{mine}",)]
        assert site.sql("SHOW search_path", role=site.declaration.app_login) == [(f"public, {quote(schema)}",)]
        current = pgprefect("revision", "--require-current", environment=site.environment(role=site.tenant.server))
        assert current.returncode == 0, current.stderr


@dataclass(frozen=True)
class Placement:
    """A real migration under a search path, in a declared database that somebody changed before.

    ``says`` is part of what Prefect says, ``tables`` how many it leaves in its schema, and ``codes`` what verification
    finds, but for the search path and the rights that the change itself is about.
    """

    search_path: str
    before: str
    says: str
    tables: int
    codes: set[str]


PUBLIC_VISIBLE = "GRANT USAGE, CREATE ON SCHEMA public TO {owner}"
APPLICATIONS_VERSION = (
    "CREATE TABLE public.alembic_version (version_num varchar(32)); "
    "ALTER TABLE public.alembic_version OWNER TO {app_owner}; GRANT ALL ON public.alembic_version TO {owner}"
)
PLACEMENTS = {
    "extensions without usage": Placement(
        "prefect, extensions",
        "REVOKE USAGE ON SCHEMA extensions FROM {owner}",
        'operator class "gin_trgm_ops" does not exist',
        21,
        {"extension_invisible", "prefect_tables_incomplete"},
    ),
    "pg_trgm in public": Placement(
        "prefect",
        "ALTER EXTENSION pg_trgm SET SCHEMA public",
        'operator class "gin_trgm_ops" does not exist',
        21,
        {"extension_schema", "extension_invisible", "prefect_tables_incomplete"},
    ),
    "no extension": Placement(
        "prefect",
        "DROP EXTENSION pg_trgm",
        'permission denied to create extension "pg_trgm"',
        21,
        {"extension_missing", "extension_invisible", "prefect_tables_incomplete"},
    ),
    "another application's alembic_version": Placement(
        "prefect, public",
        f"{PUBLIC_VISIBLE}; {APPLICATIONS_VERSION}; INSERT INTO public.alembic_version VALUES ('abc')",
        "Can't locate revision identified by 'abc'",
        0,
        {"alembic_version_visible", "extension_invisible", "prefect_tables_missing"},
    ),
    "another application's empty alembic_version": Placement(
        "prefect, public, extensions",
        f"{PUBLIC_VISIBLE}; {APPLICATIONS_VERSION}",
        "Migrations succeeded",
        PREFECT_TABLES - 1,
        {"alembic_version_visible", "alembic_version_missing", "prefect_tables_incomplete"},
    ),
    "another application's enum": Placement(
        "prefect, public, extensions",
        f"{PUBLIC_VISIBLE}; CREATE TYPE public.deployment_status AS ENUM ('READY', 'NOT_READY')",
        "Migrations succeeded",
        PREFECT_TABLES,
        {"enum_foreign"},
    ),
}


@pytest.fixture(scope="module")
def placed(
    postgresql_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Site, subprocess.CompletedProcess[str]]]]:
    """All placements, migrated at the same time, with what Prefect said."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        running = {}
        for number, (name, placement) in enumerate(PLACEMENTS.items()):
            declaration = replace(declaration_of(f"placed{number}", f"p{number}_"), app_schema_tables=())
            site = stack.enter_context(disposable(Site(postgresql_server, declaration), roles=True))
            site.apply()
            tenant = site.tenant
            site.sql(placement.before.format(**{**vars(declaration), **vars(tenant)}))
            for role in (tenant.migrator, tenant.server):
                path = f"ALTER ROLE {role} IN DATABASE {site.database} SET search_path TO {placement.search_path}"
                site.sql(path)
            environment = site.environment()
            environment["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"] = placement.search_path
            running[name] = (site, pool.submit(migrate, environment, tmp_path_factory.mktemp("placed")))
        yield {name: (site, future.result()) for name, (site, future) in running.items()}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_each_placement_is_known_by_its_codes(
    placed: dict[str, tuple[Site, subprocess.CompletedProcess[str]]], name: str
) -> None:
    site, done = placed[name]
    placement = PLACEMENTS[name]
    assert placement.says in done.stdout
    assert (done.returncode == 0) == ("succeeded" in placement.says)
    assert site.sql(TABLES, "prefect", site.tenant.owner) == [(placement.tables,)]
    assert codes(site) - {"search_path", "right_missing", "right_excess", "right_inherited"} == placement.codes


def test_without_its_schema_all_goes_into_public_and_stays_there(naive: Site, tmp_path: Path) -> None:
    assert naive.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(PREFECT_TABLES + 1,)]
    assert {"schema_missing", "prefect_in_public"} <= errors(naive)
    naive.sql(f"CREATE SCHEMA prefect AUTHORIZATION {naive.declaration.app_login}")
    environment = naive.environment(role=naive.declaration.app_login)
    environment["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"] = "prefect, public"
    assert "Migrations succeeded" in migrate(environment, tmp_path).stdout
    assert naive.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'prefect'") == [(0,)]
    assert {"prefect_in_public", "prefect_tables_missing", "alembic_version_visible"} <= errors(naive)


PLACED = [
    ("alembic_version_missing", "ALTER TABLE prefect.alembic_version SET SCHEMA public"),
    ("alembic_version_in_public", "CREATE TABLE public.alembic_version AS TABLE prefect.alembic_version"),
    ("owner_differs", "CREATE SEQUENCE prefect.numbers"),
    ("owner_differs", "CREATE TYPE public.mood AS ENUM ('good')"),
    ("prefect_tables_incomplete", "DROP TABLE prefect.saved_search"),
    ("prefect_tables_missing", "DROP SCHEMA prefect CASCADE; CREATE SCHEMA prefect"),
    ("app_table_in_prefect", "ALTER TABLE public.orders SET SCHEMA prefect"),
    ("table_unknown", "CREATE TABLE prefect.notes (id int)"),
    ("app_table_missing", "ALTER TABLE public.orders RENAME TO old_orders"),
    ("app_table_owner", "ALTER TABLE public.orders OWNER TO postgres"),
    (
        "prefect_undeclared",
        (
            "CREATE SCHEMA workflow; CREATE TABLE workflow.flow_run (); CREATE TABLE workflow.flow_run_state ();"
            "CREATE TABLE workflow.task_run_state ()"
        ),
    ),
    (
        "security_definer_path",
        "CREATE FUNCTION prefect.f() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
    ),
    (
        "enum_foreign",
        (
            "CREATE TYPE public.deployment_status AS ENUM ('READY', 'NOT_READY'); ALTER TABLE prefect.deployment "
            "ALTER status DROP DEFAULT, ALTER status TYPE public.deployment_status USING NULL"
        ),
    ),
]


@pytest.mark.parametrize(("code", "statement"), PLACED)
def test_what_stands_in_the_wrong_place_is_known_by_its_code(prefect: Site, code: str, statement: str) -> None:
    assert codes(prefect) == set()
    prefect.sql(statement)
    assert code in codes(prefect)


def test_a_function_with_its_own_search_path_is_no_problem(prefect: Site) -> None:
    prefect.sql("CREATE FUNCTION public.f(text) RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'")
    prefect.apply()
    found = verify(prefect.server.login, prefect.declaration).problems
    assert [(problem.code, problem.object) for problem in found] == [
        ("security_definer_path", "function public.f(text)"),
        ("owner_differs", "routine public.f(text)"),
    ]
    prefect.sql("".join(problem.remedy for problem in found))
    assert codes(prefect) == set()


def test_a_foreign_alembic_version_is_no_problem(prefect: Site) -> None:
    prefect.sql("CREATE TABLE public.alembic_version (version int, other text)")
    prefect.apply()
    assert errors(prefect) == set()


def test_rights_and_members_that_nobody_declared(prefect: Site) -> None:
    prefect.sql(
        "CREATE ROLE analyst; GRANT SELECT ON prefect.flow_run TO analyst; CREATE ROLE dba; GRANT prefect_owner TO dba"
    )
    try:
        assert codes(prefect) == {"grant_undeclared", "owner_member"}
        assert errors(prefect) == set()
        assert prefect.apply() == []  # they stay
        assert prefect.sql("SELECT has_table_privilege('analyst', 'prefect.flow_run', 'SELECT')") == [(True,)]
    finally:
        prefect.sql("DROP OWNED BY analyst, dba; DROP ROLE analyst, dba")


def test_rights_through_a_group(prefect: Site) -> None:
    prefect.sql("CREATE ROLE helpers; GRANT DELETE ON prefect.flow_run TO helpers; GRANT helpers TO mltrading_app")
    try:
        assert "right_inherited" in errors(prefect)
        assert refusal(prefect, "mltrading_app", "DELETE FROM prefect.flow_run") is None  # so it is true
    finally:
        prefect.sql("DROP OWNED BY helpers; DROP ROLE helpers")
