"""prefect_schema on a real PostgreSQL: what it makes, what it takes back, and what it refuses to touch."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from pgprefect.core.connection import Login
from pgprefect.schema.plan import Blocked, apply
from pgprefect.schema.verify import verify

from tests.support.ansible import Result
from tests.support.postgresql import Server
from tests.support.site import PASSWORD, TRADING_SQL, TRADING_TABLES, Site
from tests.support.verification import codes, errors, everything, refusal

DENIED = "42501"

# role, statement, what it must come to: None is success.
ATTEMPTS = [
    ("mltrading_app", "SELECT * FROM orders; SELECT id, parameters FROM flow_run", None),  # by the search path
    ("mltrading_app", "SELECT job_variables FROM flow_run", DENIED),
    ("mltrading_app", "SELECT * FROM deployment", DENIED),
    (
        "mltrading_app",
        "INSERT INTO stock_info (symbol, name, currency, source) VALUES ('X', 'x', 'USD', 's')",
        None,
    ),
    ("mltrading_app", "DELETE FROM portfolios", None),
    ("mltrading_app", "SELECT * FROM prefect.log, prefect.task_run", None),
    ("mltrading_app", "SELECT * FROM prefect.configuration", DENIED),
    ("mltrading_app", "SELECT * FROM prefect.block_document", DENIED),
    ("mltrading_app", "SELECT * FROM prefect.csrf_token", DENIED),
    ("mltrading_app", "UPDATE prefect.flow_run SET name = name", DENIED),
    ("mltrading_app", "DELETE FROM prefect.flow", DENIED),
    ("mltrading_app", "TRUNCATE orders", DENIED),
    ("mltrading_app", "DROP TABLE orders", DENIED),
    ("mltrading_app", "CREATE TABLE public.mine (id int)", DENIED),
    ("mltrading_app", "CREATE SCHEMA mine", DENIED),
    ("mltrading_app", "CREATE TEMPORARY TABLE mine (id int)", DENIED),
    ("mltrading_app", "SET ROLE prefect_owner", DENIED),
    ("prefect_server", "SELECT * FROM configuration; SELECT * FROM flow_run", None),
    ("prefect_server", "UPDATE work_pool SET name = name; DELETE FROM log", None),
    ("prefect_server", "SELECT 'a' % 'b'", None),  # pg_trgm's operator
    ("prefect_server", "CREATE TABLE prefect.mine (id int)", DENIED),
    ("prefect_server", "ALTER TABLE prefect.flow ADD mine int", DENIED),
    ("prefect_server", "DROP TABLE prefect.flow", DENIED),
    ("prefect_server", "TRUNCATE prefect.flow", DENIED),
    ("prefect_server", "SELECT * FROM public.orders", DENIED),
    ("prefect_server", "CREATE TABLE public.mine (id int)", DENIED),
    ("prefect_server", "SET ROLE prefect_owner", DENIED),
    ("prefect_migrator", "CREATE TABLE mine (id int); DROP TABLE prefect.mine", None),
    ("prefect_migrator", "SELECT * FROM public.orders", DENIED),
    ("prefect_migrator", "CREATE TABLE public.mine (id int)", DENIED),
    ("prefect_migrator", "DROP TABLE public.orders", DENIED),
    ("prefect_migrator", "CREATE EXTENSION hstore", DENIED),
    ("prefect_monitor", "SELECT id FROM prefect.flow_run; SELECT query FROM pg_stat_activity", None),
    ("prefect_monitor", "SELECT * FROM prefect.configuration", DENIED),
    ("prefect_monitor", "SELECT * FROM public.orders", DENIED),
    ("prefect_monitor", "DELETE FROM prefect.log", DENIED),
    ("prefect_backup", "SELECT * FROM public.orders; SELECT * FROM prefect.configuration", None),
    ("prefect_backup", "DELETE FROM public.orders", DENIED),
]


@pytest.mark.parametrize(("role", "statement", "outcome"), ATTEMPTS)
def test_what_each_role_may_do(prefect_template: Site, role: str, statement: str, outcome: str | None) -> None:
    assert refusal(prefect_template, role, statement) == outcome


def test_a_role_without_connect_stays_outside(prefect_template: Site) -> None:
    server = prefect_template.server
    server.sql("postgres", "CREATE ROLE stranger LOGIN PASSWORD 'x'")
    try:
        with pytest.raises(Exception, match="permission denied for database"):
            server.sql(prefect_template.database, "SELECT", user="stranger", password="x")
    finally:
        server.sql("postgres", "DROP ROLE stranger")


def test_the_next_migration_needs_no_grant(prefect: Site) -> None:
    prefect.sql("CREATE TABLE brand_new (id serial)", role="prefect_migrator")
    assert prefect.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'brand_new'") == [("prefect_owner",)]
    assert refusal(prefect, "prefect_server", "INSERT INTO brand_new DEFAULT VALUES") is None
    assert refusal(prefect, "mltrading_app", "SELECT * FROM brand_new") is None
    assert refusal(prefect, "prefect_monitor", "SELECT * FROM prefect.brand_new") is None
    assert refusal(prefect, "mltrading_app", "INSERT INTO brand_new DEFAULT VALUES") == DENIED
    assert prefect.apply() == []


def test_functions_are_not_for_everybody(prefect: Site) -> None:
    prefect.sql("SET ROLE mltrading_owner; CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    prefect.sql("GRANT USAGE ON SCHEMA public TO prefect_server")
    assert refusal(prefect, "mltrading_app", "SELECT f()") is None
    assert refusal(prefect, "prefect_server", "SELECT public.f()") == DENIED


def test_module_on_a_clean_server(run_module: Callable[..., Result], clean: Site) -> None:
    arguments = {**clean.arguments(), "passwords": clean.declaration.passwords, "app_schema_sql": TRADING_SQL}
    arguments["connection_limits"] = {clean.tenant.server: 40}
    before = everything(clean)
    planned = run_module("prefect_schema", check=True, **arguments)
    assert planned["changed"] and everything(clean) == before
    done = run_module("prefect_schema", **arguments)
    assert done["changed"] and done["statements"] == planned["statements"]
    assert done["diff"] == planned["diff"]
    for text in (str(planned), str(done), docker_logs(clean.server)):
        assert PASSWORD not in text and PASSWORD.replace("'", "''") not in text
    assert sorted(clean.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")) == sorted(
        (table,) for table in TRADING_TABLES
    )
    assert clean.sql("SHOW search_path", role=clean.declaration.app_login) == [("public, prefect",)]
    assert clean.sql("SELECT current_user", role=clean.tenant.migrator) == [(clean.tenant.owner,)]
    for check in (True, False):
        again = run_module("prefect_schema", check=check, **arguments)
        assert (again["changed"], again["statements"], again["diff"]) == (False, [], {"before": "", "after": ""})


def test_a_failure_in_the_middle_says_what_was_done(run_module: Callable[..., Result], clean: Site) -> None:
    """The database stays, because it cannot be made in a transaction, and so do the roles before it."""
    result = run_module("prefect_schema", **clean.arguments(), app_schema_sql="SELECT 1 / 0")
    assert result["failed"] and result["changed"]
    assert "division by zero" in result["msg"] and "everything was rolled back" in result["msg"]
    assert result["changes"][-2].startswith("CREATE DATABASE") and PASSWORD not in str(result)
    assert clean.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'prefect'") == [(0,)]


def docker_logs(server: Server) -> str:
    """All that PostgreSQL logged: this one logs every statement."""
    run = subprocess.run(["docker", "logs", server.container], capture_output=True, text=True, check=True)
    assert "ALTER DEFAULT PRIVILEGES" in run.stderr
    return run.stdout + run.stderr


def test_only_the_declared_database_is_touched_and_only_its_rights(clean: Site) -> None:
    """A database with data, another schema, a role of somebody else's, and another application's alembic_version."""
    owner = clean.declaration.app_owner
    server = clean.server
    server.sql("postgres", f"CREATE ROLE {owner} LOGIN CREATEDB PASSWORD 'own'; CREATE ROLE analyst LOGIN")
    server.sql("postgres", f"CREATE DATABASE {clean.database} OWNER {owner}")
    clean.sql(
        "CREATE TABLE alembic_version (version_num text PRIMARY KEY); INSERT INTO alembic_version VALUES ('abc');"
        "CREATE TYPE deployment_status AS ENUM ('mine'); CREATE TABLE log (id serial, text text);"
        "INSERT INTO log (text) SELECT 'line ' || n FROM generate_series(1, 100) n;"
        "GRANT SELECT ON log TO analyst; CREATE SCHEMA other; CREATE TABLE other.t AS SELECT 1 AS a;"
        "GRANT USAGE ON SCHEMA other TO PUBLIC; GRANT SELECT ON other.t TO PUBLIC"
    )
    dump = ["exec", server.container, "pg_dump", "--data-only", "--restrict-key=x", clean.database]
    before = subprocess.run(["docker", *dump], capture_output=True, check=True).stdout
    clean.apply()
    assert clean.apply() == []
    try:
        assert subprocess.run(["docker", *dump], capture_output=True, check=True).stdout == before
        assert clean.sql("SELECT rolcanlogin, rolcreatedb FROM pg_roles WHERE rolname = %s", owner) == [(True, True)]
        assert clean.sql("SELECT has_table_privilege('analyst', 'log', 'SELECT')") == [(True,)]
        assert clean.sql("SELECT has_table_privilege('analyst', 'other.t', 'SELECT')") == [(True,)]
        assert clean.sql("SELECT text FROM log WHERE id = 1", role=clean.declaration.app_login) == [("line 1",)]
        assert clean.sql("INSERT INTO log (text) VALUES ('x')", role=clean.declaration.app_login) == []
        assert refusal(clean, clean.tenant.migrator, "SELECT * FROM public.alembic_version") == DENIED
    finally:
        server.sql(clean.database, "DROP OWNED BY analyst; DROP ROLE analyst")


DRIFT = [
    ("right_excess", "GRANT SELECT ON ALL TABLES IN SCHEMA prefect TO PUBLIC"),
    ("right_excess", "GRANT CREATE ON SCHEMA public TO PUBLIC"),
    ("right_excess", "GRANT CONNECT ON DATABASE {database} TO PUBLIC"),
    ("right_excess", "GRANT SELECT ON prefect.configuration TO mltrading_app"),
    ("right_excess", "GRANT SELECT (value, key) ON prefect.configuration TO prefect_monitor"),
    ("right_excess", "GRANT SELECT ON prefect.flow TO mltrading_app WITH GRANT OPTION"),
    ("right_excess", "GRANT ALL ON ALL TABLES IN SCHEMA public TO mltrading_app"),
    ("right_excess", "GRANT CREATE ON DATABASE {database} TO prefect_server"),
    ("right_missing", "REVOKE INSERT ON prefect.log FROM prefect_server"),
    ("right_missing", "REVOKE USAGE ON SCHEMA extensions FROM prefect_owner"),
    ("default_right_excess", "ALTER DEFAULT PRIVILEGES FOR ROLE prefect_owner GRANT SELECT ON TABLES TO PUBLIC"),
    ("default_right_excess", "ALTER DEFAULT PRIVILEGES FOR ROLE prefect_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC"),
    (
        "default_right_missing",
        "ALTER DEFAULT PRIVILEGES FOR ROLE prefect_owner IN SCHEMA prefect REVOKE INSERT ON TABLES FROM prefect_server",
    ),
    ("search_path", "ALTER ROLE prefect_server IN DATABASE {database} SET search_path TO prefect, public"),
    ("search_path", "ALTER ROLE mltrading_app IN DATABASE {database} RESET search_path"),
    ("role_setting", "ALTER ROLE prefect_migrator IN DATABASE {database} RESET role"),
    ("object_owner", "ALTER TABLE prefect.flow OWNER TO postgres"),
    ("object_owner", "ALTER TABLE prefect.log OWNER TO prefect_server"),
    ("object_owner", "ALTER TYPE prefect.state_type OWNER TO postgres"),
    ("schema_owner", "ALTER SCHEMA prefect OWNER TO postgres"),
    ("schema_owner", "ALTER SCHEMA public OWNER TO pg_database_owner"),
    ("app_table_missing", "DROP TABLE orders"),
    ("extension_missing", "DROP EXTENSION pg_trgm CASCADE"),
    ("schema_missing", "DROP SCHEMA extensions CASCADE"),
]


@pytest.mark.parametrize(("code", "statement"), DRIFT)
def test_drift_is_found_and_taken_back(prefect: Site, code: str, statement: str) -> None:
    assert errors(prefect) == set()
    prefect.sql(statement.format(database=prefect.database))
    assert code in errors(prefect)
    assert prefect.apply(app_schema_sql=TRADING_SQL)
    # Indexes went with the extension; only a person should take the time to make them again.
    assert errors(prefect) == ({"index_missing"} if "CASCADE" in statement else set())
    for problem in verify(prefect.server.login, prefect.declaration).problems:
        prefect.sql(problem.remedy)
    assert errors(prefect) == set()
    assert prefect.apply(app_schema_sql=TRADING_SQL) == []


ROLE_DRIFT = [
    ("role_attributes", "ALTER ROLE {server} CREATEDB CREATEROLE BYPASSRLS"),
    ("role_attributes", "ALTER ROLE {owner} LOGIN"),
    ("role_attributes", "ALTER ROLE {app_login} NOLOGIN"),
    ("role_connection_limit", "ALTER ROLE {server} CONNECTION LIMIT 1"),
    ("role_password", "ALTER ROLE {server} PASSWORD 'another'"),
    ("role_password", "SET password_encryption = md5; ALTER ROLE {server} PASSWORD 'p'"),
    ("membership_missing", "REVOKE {owner} FROM {migrator}"),
    ("membership_excess", "GRANT {app_owner} TO {server}"),
    ("membership_excess", "GRANT pg_read_all_data TO {server}"),
    ("membership_excess", "GRANT {owner} TO {app_login}"),
    ("role_missing", "DROP OWNED BY {backup}; DROP ROLE {backup}"),
    ("role_missing", "DROP OWNED BY {server}; DROP ROLE {server}"),
]


@pytest.mark.parametrize(("code", "statement"), ROLE_DRIFT)
def test_role_drift_is_found_and_taken_back(clean: Site, code: str, statement: str) -> None:
    clean.declaration = replace(clean.declaration, app_schema_tables=(), connection_limits={clean.tenant.server: 7})
    clean.apply()
    assert codes(clean) == {"prefect_tables_missing"}
    clean.sql(statement.format(**{**vars(clean.declaration), **vars(clean.tenant)}))
    assert code in codes(clean)
    assert len(clean.apply()) >= 1
    assert codes(clean) == {"prefect_tables_missing"}
    assert clean.sql("SELECT current_user", role=clean.tenant.server) == [(clean.tenant.server,)]


def test_a_group_of_the_application_stays(clean: Site) -> None:
    clean.apply()
    clean.sql(f"CREATE ROLE {clean.database}_group; GRANT {clean.database}_group TO {clean.declaration.app_login}")
    assert clean.apply() == []
    clean.sql(f"DROP ROLE {clean.database}_group")


BARRIERS = [
    ("database_owner", "", "CREATE DATABASE {database}", ""),
    ("database_encoding", "", "CREATE DATABASE {database} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0", ""),
    ("role_superuser", "", "CREATE ROLE {server} SUPERUSER", ""),
    ("schema_owner", "{app_owner}", "", "CREATE SCHEMA prefect AUTHORIZATION {app_owner}"),
    ("schema_owner", "{app_owner}", "", "CREATE SCHEMA extensions AUTHORIZATION {app_owner}"),
    ("extension_schema", "{app_owner}", "", "CREATE EXTENSION pg_trgm"),
    (
        "prefect_in_public",
        "{app_owner}",
        "",
        "CREATE TABLE flow_run (); CREATE TABLE flow_run_state (); CREATE TABLE task_run_state (); CREATE TABLE log ()",
    ),
]


@pytest.mark.parametrize(("code", "owner", "cluster", "database"), BARRIERS)
def test_a_barrier_stops_before_anything_is_changed(
    run_module: Callable[..., Result], clean: Site, code: str, owner: str, cluster: str, database: str
) -> None:
    names = {**vars(clean.declaration), **vars(clean.tenant)}
    if owner:
        clean.server.sql("postgres", f"CREATE ROLE {owner}".format(**names))
        clean.server.sql("postgres", f"CREATE DATABASE {{database}} OWNER {owner}".format(**names))
    if cluster:
        clean.server.sql("postgres", cluster.format(**names))
    if database:
        clean.sql(database.format(**names))
    before = everything(clean)
    for check in (True, False):
        result = run_module("prefect_schema", check=check, **clean.arguments())
        assert result["failed"]
        problem = next(problem for problem in result["problems"] if problem["code"] == code)
        assert problem["message"] in result["msg"] and problem["remedy"] in result["msg"]
    assert everything(clean) == before


def test_all_barriers_are_named_at_once(clean: Site) -> None:
    clean.server.sql("postgres", f"CREATE DATABASE {clean.database}")
    clean.sql(f"CREATE EXTENSION pg_trgm; CREATE ROLE {clean.declaration.app_login} SUPERUSER")
    clean.declaration = replace(clean.declaration, extensions=("pg_trgm", "no_such"))
    with pytest.raises(Blocked) as blocked:
        clean.apply()
    assert {problem.code for problem in blocked.value.problems} == {
        "database_owner",
        "extension_schema",
        "extension_unavailable",
        "role_superuser",
    }


def test_the_remedy_for_the_owner_is_the_variable(clean: Site) -> None:
    owner = f"{clean.database}_legacy"
    clean.server.sql("postgres", f"CREATE ROLE {owner} LOGIN")
    clean.server.sql("postgres", f"CREATE DATABASE {clean.database} OWNER {owner}")
    with pytest.raises(Blocked, match=f"belongs to the role {owner}"):
        clean.apply()
    clean.declaration = replace(clean.declaration, app_owner=owner)
    clean.apply()
    assert clean.apply() == []


def test_another_login_than_a_superuser_is_refused(prefect: Site) -> None:
    role = prefect.tenant.migrator
    login = Login("127.0.0.1", prefect.server.port, role, PASSWORD)
    with pytest.raises(Blocked) as blocked:
        apply(replace(login), replace(prefect.declaration, database=prefect.database))
    assert [problem.code for problem in blocked.value.problems] == ["login_not_superuser"]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"login_password": "wrong"}, "login_refused", ["postgres", "127.0.0.1", "password"]),
        ({"login_user": "nobody_here"}, "login_refused", ["nobody_here", "127.0.0.1"]),
        ({"login_port": 1}, "connection_failed", ["127.0.0.1:1", "refused"]),
        ({"login_ssl_mode": "require"}, "connection_failed", ["SSL"]),
    ],
)
def test_a_wrong_login_says_what_to_do(
    run_module: Callable[..., Result], clean: Site, change: dict[str, Any], code: str, words: list[str]
) -> None:
    result = run_module("prefect_schema", **{**clean.arguments(), **change})
    assert [problem["code"] for problem in result["problems"]] == [code]
    assert all(word in result["msg"] for word in words)


def test_verification_of_a_missing_database(clean: Site) -> None:
    assert codes(clean) == {"database_missing"}


def test_a_script_that_fails_leaves_nothing(clean: Site) -> None:
    with pytest.raises(Blocked) as blocked:
        clean.apply(app_schema_sql="CREATE TABLE half (id int); SELECT 1/0")
    assert blocked.value.problems[0].code == "statement_refused"
    assert "division by zero" in blocked.value.problems[0].message
    assert clean.sql("SELECT count(*) FROM pg_class WHERE relname = 'half'") == [(0,)]
    clean.apply(app_schema_sql=TRADING_SQL)
    assert clean.apply() == []


def test_a_right_that_somebody_else_gave_away_is_told(clean: Site) -> None:
    clean.apply(app_schema_sql=TRADING_SQL)
    lender = f"{clean.database}_lender"
    clean.sql(f"CREATE ROLE {lender}; GRANT USAGE ON SCHEMA public TO {lender}")
    clean.sql(f"GRANT SELECT ON orders TO {lender} WITH GRANT OPTION")
    clean.sql(f"SET ROLE {lender}; GRANT SELECT ON orders TO PUBLIC")
    with pytest.raises(Blocked) as blocked:
        clean.apply()
    assert blocked.value.problems[0].code == "change_without_effect"
    clean.sql(f"REVOKE GRANT OPTION FOR SELECT ON orders FROM {lender} CASCADE")  # what its remedy says
    assert clean.apply() == []
    clean.sql(f"DROP OWNED BY {lender}; DROP ROLE {lender}")


def test_no_login_role_can_keep_a_run_out(clean: Site) -> None:
    """Any role may take any advisory lock, and those that it may take on the catalog stand in nobody's way."""
    clean.apply()
    hostile = clean.server.connect(clean.database, clean.declaration.app_login, PASSWORD)
    with contextlib.closing(hostile), hostile.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext('pgprefect'))")
        cursor.execute("BEGIN; LOCK TABLE pg_catalog.pg_default_acl IN ACCESS SHARE MODE")
        clean.sql(f"ALTER ROLE {clean.tenant.server} CONNECTION LIMIT 3")
        clean.declaration = replace(clean.declaration, connection_limits={clean.tenant.server: 7})
        assert clean.apply() == [f"ALTER ROLE {clean.tenant.server} CONNECTION LIMIT 7"]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("LOCK TABLE pg_catalog.pg_default_acl IN SHARE UPDATE EXCLUSIVE MODE")


def test_a_database_that_existed_keeps_what_everybody_has_there(clean: Site) -> None:
    """A dashboard that comes in by PUBLIC's rights still does, until the inventory asks for a database of its own."""
    grafana, database = f"{clean.database}_grafana", clean.database
    owner = clean.declaration.app_owner
    for statement in (
        f"CREATE ROLE {grafana} LOGIN PASSWORD 'graphs'",
        f"CREATE ROLE {owner}",
        f"CREATE DATABASE {database} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8'",
    ):
        clean.server.sql("postgres", statement)
    clean.sql("CREATE TABLE public.quotes (id int); GRANT SELECT ON quotes TO PUBLIC")
    question = "SELECT count(*) FROM public.quotes"
    clean.apply()
    clean.server.connect(database, grafana, "graphs").cursor().execute(question)
    assert "database_open" in codes(clean)
    clean.declaration = replace(clean.declaration, exclusive=True)
    clean.apply()
    with pytest.raises(psycopg2.OperationalError, match="does not have CONNECT privilege"):
        clean.server.connect(database, grafana, "graphs")
    assert "database_open" not in codes(clean)


def test_a_database_that_was_made_here_is_closed_again(clean: Site) -> None:
    changes = apply(clean.server.login, clean.declaration)
    assert "database_unmarked" in [change.code for change in changes]
    clean.sql(f"CREATE TABLE public.quotes (id int); GRANT CONNECT ON DATABASE {clean.database} TO PUBLIC")
    assert f"REVOKE CONNECT ON DATABASE {clean.database} FROM PUBLIC CASCADE" in clean.apply()


def test_only_one_run_at_a_time(clean: Site) -> None:
    clean.apply()
    holder = clean.server.connect(clean.database)
    with holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE pg_catalog.pg_default_acl IN SHARE UPDATE EXCLUSIVE MODE")
    with pytest.raises(Blocked) as blocked:
        clean.apply()
    assert [problem.code for problem in blocked.value.problems] == ["another_run"]
    holder.close()
    assert clean.apply() == []
