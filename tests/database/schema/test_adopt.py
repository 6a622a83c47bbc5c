"""How a database in which Prefect's own migration ran among an application's tables comes to the design."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.sql import quote
from pgprefect.schema.adopt import adopt
from pgprefect.schema.plan import Blocked
from pgprefect.schema.verify import verify

from bench.data import fill
from tests.support.ansible import Result
from tests.support.postgresql import Rows, Server, docker, running_postgresql
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import PASSWORD, TRADING_SQL, Site, declaration_of, disposable, migrate, pgprefect
from tests.support.verification import codes, everything
from tests.support.waiting import wait_for

SOLO = "solo"

# What an application builds upon Prefect's tables when they are its neighbours, and what else can have an owner.
APPLICATION = """
CREATE VIEW runs_of_today AS SELECT name, state_type FROM flow_run;
CREATE TABLE reports (id serial PRIMARY KEY, flow_run_id uuid REFERENCES flow_run, state state_type, title text);
CREATE INDEX reports_title ON reports USING gin (title gin_trgm_ops);
INSERT INTO reports (flow_run_id, state, title) SELECT id, state_type, 'Report of ' || name FROM flow_run LIMIT 3;
CREATE SEQUENCE tickets;
CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
CREATE TYPE side AS ENUM ('buy', 'sell');
CREATE TYPE level AS (price price, volume bigint);
CREATE FUNCTION "Odd {name}"(public.level) RETURNS bigint LANGUAGE sql RETURN 1;
CREATE MATERIALIZED VIEW symbols AS SELECT symbol FROM stock_info;
CREATE AGGREGATE total(bigint) (sfunc = int8pl, stype = bigint);
CREATE PROCEDURE forget() LANGUAGE sql AS 'DELETE FROM reports';
CREATE FUNCTION old_runs() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
AS 'SELECT count(*) FROM flow_run';
CREATE FUNCTION count_runs() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.flow_run';
INSERT INTO stock_info (symbol, name, currency, source) VALUES ('AAPL', 'Apple', 'USD', 'test');
"""

_numbers = itertools.count(1)


@dataclass
class Naive(Site):
    """``owner`` has everything: a superuser, or the one role that all log in as."""

    owner: str

    def adopt(self, **arguments: Any) -> list[str]:
        return [str(change.statement) for change in adopt(self.server.login, self.declaration, **arguments).changes]


def naive_template(server: Server, owner: str, password: str, home: Path) -> str:
    name = f"template_of_{owner}"
    server.sql("postgres", f"CREATE DATABASE {name} OWNER {owner}")
    environment = {
        **Site(server, declaration_of(name)).environment(),
        "PREFECT_SERVER_DATABASE_USER": owner,
        "PREFECT_SERVER_DATABASE_PASSWORD": password,
    }
    del environment["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"]
    done = migrate(environment, home)
    assert "Migrations succeeded" in done.stdout, done.stdout
    with contextlib.closing(server.connect(name, owner, password)) as connection, connection.cursor() as cursor:
        cursor.execute(TRADING_SQL)
        fill(connection, "public", 100)
        cursor.execute(APPLICATION)
    return name


@pytest.fixture(scope="session")
def templates(postgresql_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    postgresql_server.sql("postgres", f"CREATE ROLE {SOLO} LOGIN PASSWORD 'solo'")
    passwords = {"postgres": postgresql_server.password, SOLO: "solo"}
    home = tmp_path_factory.mktemp("adopt")
    names = {owner: naive_template(postgresql_server, owner, word, home) for owner, word in passwords.items()}
    yield names
    for name in names.values():
        postgresql_server.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")
    postgresql_server.sql("postgres", f"DROP ROLE {SOLO}")


@contextlib.contextmanager
def copy_of(server: Server, templates: dict[str, str], owner: str) -> Iterator[Naive]:
    number = next(_numbers)
    declared = replace(declaration_of(f"adopted{number}", f"adopt{number}_"), exclusive=True)
    site = Naive(server, declared, owner)
    server.sql("postgres", f"CREATE DATABASE {site.database} TEMPLATE {templates[owner]} OWNER {owner}")
    with disposable(site, roles=True):
        yield site


@pytest.fixture(params=["postgres", pytest.param(SOLO, marks=pytest.mark.thorough)])
def either(postgresql_server: Server, templates: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Naive]:
    """A naive installation, once of a superuser and once of a single login."""
    with copy_of(postgresql_server, templates, request.param) as site:
        yield site


@pytest.fixture
def naive(postgresql_server: Server, templates: dict[str, str]) -> Iterator[Naive]:
    """A naive installation of a single login."""
    with copy_of(postgresql_server, templates, SOLO) as site:
        yield site


def rows(site: Site) -> dict[str, int]:
    """How many rows each table has."""
    tables = site.sql("SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^pg_|information_schema'")
    return {name: site.sql(f"SELECT count(*) FROM {quote((schema, name))}")[0][0] for schema, name in tables}


def indexes(site: Site) -> Rows:
    """All valid indexes, and which of them are trigram ones."""
    return site.sql(
        "SELECT c.relname, i.relname, pg_get_indexdef(i.oid) ~ 'gin_trgm_ops' FROM pg_index JOIN pg_class i "
        "ON i.oid = indexrelid JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE indisvalid AND nspname !~ '^pg_' ORDER BY 1, 2"
    )


def placed(site: Site) -> Rows:
    """Where each thing is, beside what ``everything`` tells."""
    return site.sql(
        "SELECT relnamespace::regnamespace::text, relname::text, reloptions::text FROM pg_class UNION ALL "
        "SELECT typnamespace::regnamespace::text, typname, typowner::regrole::text FROM pg_type UNION ALL "
        "SELECT pronamespace::regnamespace::text, proname, proowner::regrole::text FROM pg_proc UNION ALL "
        "SELECT extnamespace::regnamespace::text, extname, '' FROM pg_extension ORDER BY 1, 2, 3"
    )


def refused(site: Naive) -> dict[str, str]:
    """The remedies by code, of a refusal that left everything as it was."""
    before = everything(site), placed(site)
    with pytest.raises(Blocked) as blocked:
        site.adopt()
    assert (everything(site), placed(site)) == before
    assert all(problem.severity == "error" for problem in blocked.value.problems)
    return {problem.code: problem.remedy for problem in blocked.value.problems}


def test_a_naive_installation_comes_to_the_design(
    run_module: Callable[..., Result], either: Naive, tmp_path: Path
) -> None:
    before = rows(either), indexes(either)
    assert before[0]["flow_run"] == 100 and before[0]["reports"] == 3
    assert sum(trigram for _, _, trigram in before[1]) > 1

    untouched = everything(either), placed(either)
    kinds = {change.code for change in adopt(either.server.login, either.declaration, dry_run=True).changes}
    assert {"prefect_in_public", "extension_schema", "database_owner", "owner_differs", "view_reads_prefect"} < kinds
    planned = run_module("prefect_adopt", check=True, **either.arguments())
    assert planned["changed"] and (everything(either), placed(either)) == untouched
    assert "ALTER TABLE public.flow_run SET SCHEMA prefect" in planned["statements"]
    assert "table public.flow_run\n" in planned["diff"]["before"]
    assert "table prefect.flow_run\n" in planned["diff"]["after"]
    functions = ["function public.count_runs()", "function public.old_runs()"]
    assert [(problem["code"], problem["object"]) for problem in planned["problems"]] == [
        ("function_names_prefect", function) for function in functions
    ]

    done = run_module("prefect_adopt", **either.arguments())
    assert done["changed"] and done["statements"] == planned["statements"]
    assert done["diff"] == planned["diff"] and done["problems"] == planned["problems"]
    assert (rows(either), indexes(either)) == before

    # Nothing bars the declaration any more, and with it all is as a new site would be.
    either.apply()
    report = verify(either.server.login, either.declaration, virtualenv=str(VIRTUALENV))
    assert codes(either, notices=False) == set() and report.not_checked == []
    assert either.apply() == []
    assert (rows(either), indexes(either)) == before
    for check in (True, False):
        again = run_module("prefect_adopt", check=check, **either.arguments())
        assert not again["changed"] and again["statements"] == [] and again["problems"] == []

    # The real Prefect, as the declared roles.
    current = pgprefect("revision", "--require-current", environment=either.environment())
    assert current.returncode == 0, current.stderr
    upgraded = migrate(either.environment(), tmp_path)
    assert "Migrations succeeded" in upgraded.stdout, upgraded.stdout
    assert rows(either) == before[0]
    server = either.tenant.server
    assert either.sql("UPDATE flow_run SET name = 'x' RETURNING true", role=server) == [(True,)] * 100
    assert either.sql("DELETE FROM log RETURNING true", role=server)

    # The application: its objects, what of them reads Prefect's, and its data.
    app = either.declaration.app_login
    assert either.sql("SELECT count(*) FROM runs_of_today WHERE state_type = 'COMPLETED'", role=app)[0][0] > 10
    assert either.sql("SELECT count(*) FROM reports JOIN flow_run f ON f.id = flow_run_id", role=app) == [(3,)]
    insert = "INSERT INTO reports (state, title) VALUES ('FAILED', 'One') RETURNING id"
    assert either.sql(insert, role=app) == [(4,)]
    assert either.sql("SELECT total(id) FROM reports WHERE title ILIKE '%report%'", role=app) == [(6,)]
    assert either.sql("SELECT nextval('tickets')", role=app) == [(1,)]
    assert either.sql("""SELECT public."Odd {name}"((1, 2))""", role=app) == [(1,)]
    assert either.sql("SELECT has_table_privilege(%s, 'prefect.flow_run', 'SELECT')", SOLO) == [(False,)]


def test_prefect_apart_already_but_owned_by_one_login(prefect: Site) -> None:
    site = Naive(prefect.server, prefect.declaration, SOLO)
    prefect.sql("CREATE ROLE other; ALTER ROLE other LOGIN")
    try:
        for schema in ("public", "prefect", "extensions"):
            site.sql(f"ALTER SCHEMA {schema} OWNER TO other")
            for (name,) in site.sql("SELECT tablename FROM pg_tables WHERE schemaname = %s", schema):
                site.sql(f"ALTER TABLE {quote((schema, name))} OWNER TO other")
        site.sql(f"ALTER TYPE prefect.state_type OWNER TO other; ALTER DATABASE {site.database} OWNER TO other")
        with pytest.raises(Blocked):
            site.apply()
        statements = site.adopt()
        assert "ALTER SCHEMA extensions OWNER TO CURRENT_USER" in statements
        assert not [statement for statement in statements if "SET SCHEMA" in statement]
        site.apply()
        assert codes(site, notices=False) == set()
        assert site.adopt() == []
    finally:
        site.sql("DROP OWNED BY other; DROP ROLE other")


def test_there_is_nothing_to_adopt(prefect: Site, clean: Site) -> None:
    """A site as declared, and a database that is yet to be filled, whose application has tables of the same names."""
    assert Naive(prefect.server, prefect.declaration, "").adopt() == []
    clean.apply(app_schema_sql=TRADING_SQL)
    clean.sql(
        f"SET ROLE {clean.declaration.app_owner}; CREATE TABLE log (line text); CREATE TABLE flow_run (id int);"
        "CREATE TABLE alembic_version (version text); CREATE TYPE worker_status AS ENUM ('busy')"
    )
    assert Naive(clean.server, clean.declaration, "").adopt() == []


def test_a_table_of_the_administrators_beside_a_running_prefect(prefect: Site) -> None:
    """Prefect does not notice, so it may go on."""
    prefect.sql("CREATE TABLE public.by_hand (id int)")
    listener = prefect.server.connect(prefect.database, prefect.tenant.server, PASSWORD)
    with listener.cursor() as cursor:
        cursor.execute('LISTEN "prefect_automation_changes"')
    site = Naive(prefect.server, prefect.declaration, "postgres")
    assert site.adopt() == ["ALTER TABLE public.by_hand OWNER TO mltrading_owner"]
    listener.close()
    site.apply()
    assert codes(site, notices=False) == set()


NOTE = "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
REFUSALS = {
    "another column": ("prefect_table_unclear", "ALTER TABLE log RENAME COLUMN message TO text"),
    "an application's table": (
        "prefect_table_unclear",
        "DROP TABLE automation_held_event; CREATE TABLE automation_held_event (id int)",
    ),
    "a column more": ("prefect_table_unclear", "ALTER TABLE variable ADD COLUMN mine int"),
    "another type": ("prefect_table_unclear", "ALTER TABLE flow ALTER COLUMN name TYPE text"),
    "another label": ("prefect_table_unclear", "ALTER TYPE worker_status ADD VALUE 'BUSY'"),
    "a table is missing": ("prefect_tables_incomplete", "ALTER TABLE csrf_token RENAME TO csrf"),
    "an enum is missing": ("prefect_tables_incomplete", "ALTER TYPE worker_status RENAME TO my_status"),
    "a view instead": (
        "prefect_table_unclear",
        "ALTER TABLE csrf_token RENAME TO csrf; CREATE VIEW csrf_token AS SELECT * FROM csrf",
    ),
    "prefect in both": ("prefect_in_both", "CREATE SCHEMA prefect; CREATE TABLE prefect.flow_run (id uuid)"),
    "a table in the target": ("target_schema_taken", "CREATE SCHEMA prefect; CREATE TABLE prefect.mine (id int)"),
    "a function in the target": (
        "target_schema_taken",
        "CREATE SCHEMA prefect; CREATE FUNCTION prefect.mine() RETURNS int LANGUAGE sql RETURN 1",
    ),
    "another program's alembic_version": (
        "alembic_version_foreign",
        "ALTER TABLE alembic_version RENAME COLUMN version_num TO version",
    ),
    "an empty alembic_version": ("alembic_version_foreign", "DELETE FROM alembic_version"),
    "no alembic_version": ("alembic_version_foreign", "DROP TABLE alembic_version"),
    "a shared alembic_version": ("alembic_version_shared", "INSERT INTO alembic_version VALUES ('1a2b3c')"),
    "an unknown revision": ("revision_unknown", "UPDATE alembic_version SET version_num = '1a2b3c'"),
    "a revision without Prefect": (
        "prefect_tables_incomplete",
        "DROP TABLE reports; DROP VIEW runs_of_today; DROP TABLE flow_run CASCADE",
    ),
    "a materialized view": (
        "view_loses_prefect",
        "CREATE MATERIALIZED VIEW finished AS SELECT id FROM flow_run WHERE end_time IS NOT NULL",
    ),
    "a view elsewhere": (
        "view_loses_prefect",
        "CREATE SCHEMA other; CREATE VIEW other.runs AS SELECT id FROM flow_run; ALTER VIEW other.runs OWNER TO solo",
    ),
    "a trigger": (
        "trigger_on_prefect",
        f"{NOTE}; CREATE TRIGGER note AFTER INSERT ON flow_run FOR EACH ROW EXECUTE FUNCTION note()",
    ),
    "a superuser of the application": ("role_superuser", "CREATE ROLE {app_login} SUPERUSER"),
    "no such extension": ("extension_unavailable", ""),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_clear_is_refused(run_module: Callable[..., Result], naive: Naive, case: str) -> None:
    code, statement = REFUSALS[case]
    if statement:
        naive.sql(statement.format(**vars(naive.declaration)))
    else:
        naive.declaration = replace(naive.declaration, extensions=("pg_trgm", "no_such"))
    assert code in refused(naive)
    for check in (True, False):
        result = run_module("prefect_adopt", check=check, **naive.arguments())
        assert result["failed"]
        problem = next(problem for problem in result["problems"] if problem["code"] == code)
        assert problem["message"] in result["msg"] and problem["remedy"] in result["msg"]


def test_the_message_says_which_columns(naive: Naive) -> None:
    naive.sql("ALTER TABLE log RENAME COLUMN message TO text; ALTER TABLE log ALTER level TYPE bigint")
    with pytest.raises(Blocked, match=r"public.log .* lacks message and has text besides and has another level\. It"):
        naive.adopt()


def test_remedies_lead_on(naive: Naive) -> None:
    """Followed to the letter, where they are SQL."""
    naive.sql(
        "CREATE SCHEMA prefect; CREATE TABLE prefect.flow_run (id uuid); CREATE FUNCTION note() RETURNS trigger "
        "LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.reports (title) VALUES (NEW.name); RETURN NULL; END';"
        "CREATE TRIGGER note AFTER UPDATE ON flow_run FOR EACH ROW EXECUTE FUNCTION note()"
    )
    naive.sql(refused(naive)["prefect_in_both"].partition("not needed: ")[2])
    naive.sql(f"CREATE SCHEMA prefect AUTHORIZATION {SOLO}")
    naive.sql(refused(naive)["trigger_on_prefect"].partition("or: ")[2])
    naive.adopt()
    naive.apply()
    assert codes(naive, notices=False) == {"object_foreign"}  # the trigger, which stays named
    naive.sql("UPDATE flow_run SET name = 'told' WHERE name = 'run-1'", role=naive.tenant.server)
    assert naive.sql("SELECT count(*) FROM reports WHERE title = 'told'") == [(1,)]


def test_a_running_prefect_is_refused(naive: Naive, tmp_path: Path) -> None:
    environment = {
        **naive.environment(),
        "PREFECT_SERVER_DATABASE_USER": SOLO,
        "PREFECT_SERVER_DATABASE_PASSWORD": "solo",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HOME": str(tmp_path),
        "PREFECT_HOME": str(tmp_path),
    }
    del environment["PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH"]
    listens = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^LISTEN'"
    server = subprocess.Popen(
        [VIRTUALENV / "bin/prefect", "server", "start", "--port", "4987"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: server.poll() is not None or naive.sql(listens) == [(1,)])
        assert server.poll() is None
        before = placed(naive)
        with pytest.raises(Blocked, match="Prefect seems to be running") as blocked:
            naive.adopt()
        assert [problem.code for problem in blocked.value.problems] == ["prefect_running"]
        planned = adopt(naive.server.login, naive.declaration, dry_run=True)
        assert planned.changes and placed(naive) == before
        assert [(problem.code, problem.severity) for problem in planned.warnings] == [
            ("prefect_running", "warning"),
            ("function_names_prefect", "warning"),
            ("function_names_prefect", "warning"),
        ]
    finally:
        server.terminate()
        server.wait()
    assert naive.adopt()


def test_an_idle_session_of_prefects_pool_is_known(naive: Naive) -> None:
    """A server without services listens to nothing; its sessions end with a ROLLBACK. The application's may stay."""
    application = naive.server.connect(naive.database)
    pool = naive.server.connect(naive.database, SOLO, "solo")
    with application.cursor() as cursor, pool.cursor() as other:
        cursor.execute("SELECT count(*) FROM orders")
        other.execute("ROLLBACK;")
        assert set(refused(naive)) == {"prefect_running"}
        pool.close()
        assert naive.adopt()
    application.close()


def test_a_failure_half_way_leaves_all_as_it_was(naive: Naive) -> None:
    """Another session holds the last of Prefect's tables longer than a statement may wait."""
    holder = naive.server.connect(naive.database)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM worker")
    started = time.monotonic()
    assert "that holds the lock" in refused(naive)["statement_refused"]
    assert time.monotonic() - started < 30
    holder.close()
    assert naive.adopt()


def test_a_migration_that_runs_now(naive: Naive) -> None:
    """Not even its revision can be read."""
    holder = naive.server.connect(naive.database)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE alembic_version")
    assert set(refused(naive)) == {"adoption_stopped"}
    holder.close()


def test_only_one_run_at_a_time(naive: Naive) -> None:
    holder = naive.server.connect(naive.database)
    holder.autocommit = False
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE pg_catalog.pg_default_acl IN SHARE UPDATE EXCLUSIVE MODE")
    assert set(refused(naive)) == {"another_run"}
    holder.close()


def test_wrong_input(run_module: Callable[..., Result], clean: Site) -> None:
    missing = run_module("prefect_adopt", **clean.arguments())
    assert missing["failed"] and [problem["code"] for problem in missing["problems"]] == ["database_missing"]
    wrong = run_module("prefect_adopt", **{**clean.arguments(), "app_owner": "pg_x"})
    assert wrong["failed"] and "'pg_x' is reserved" in wrong["msg"]
    assert PASSWORD not in str(wrong)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[Naive, Callable[..., str]]]:
    """A host of its own with a naive installation, and its playbook, which returns what it says."""
    with running_postgresql() as server:
        database = naive_template(server, "postgres", server.password, tmp_path)
        site = Naive(server, replace(declaration_of(database), exclusive=True), "postgres")
        inventory = tmp_path / "inventory"
        inventory.mkdir()
        connection = {"ansible_connection": "community.docker.docker", "ansible_user": "root"}
        hosts = {"hosts": {"database": {"ansible_docker_host": server.container, **connection}}}
        variables = {"app_database": database, "app_schema": "trading"}
        groups = {
            "postgresql": hosts,
            "prefect_server": hosts,
            "prefect_worker": {"hosts": {}},
            "all": {"vars": variables},
        }
        (inventory / "hosts.json").write_text(json.dumps(groups))

        def play(*arguments: str, succeeds: bool = True) -> str:
            done = subprocess.run(
                [
                    Path(sys.executable).with_name("ansible-playbook"),
                    "--inventory",
                    inventory,
                    "playbooks/adopt_database.yml",
                    *arguments,
                ],
                cwd=ROOT,
                env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert (done.returncode == 0) == succeeds, done.stdout
            # Long lines are folded.
            return " ".join(done.stdout.split())

        yield site, play


@pytest.mark.thorough
def test_the_playbook(host: tuple[Naive, Callable[..., str]]) -> None:
    site, play = host
    before, untouched = rows(site), (everything(site), placed(site))
    folder = "/var/backups/prefect-adoption"

    def backups() -> list[str]:
        found = docker("exec", "--user", "root", site.server.container, "find", folder, "-printf", "%m %u %p\\n")
        return sorted(found.splitlines())

    # The plan alone, wrong input, and a Prefect that runs.
    for arguments in ((), ("--check", "--diff"), ("--check", "-e", "adopt_confirm=true")):
        said = play(*arguments)
        assert "ALTER TABLE public.flow_run SET SCHEMA prefect" in said
        assert "playbooks/adopt_database.yml -e adopt_confirm=true" in said
        assert f"changed={int('--check' in arguments)} " in said
    assert "table prefect.flow_run" in play("--check", "--diff")
    assert "say -e adopt_confirm=true" in play("-e", "adopt_confirm=perhaps", succeeds=False)
    assert "over the local socket" in play("-e", "prefect_database_login_host=x", succeeds=False)
    pool = site.server.connect(site.database)
    with pool.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM flow_run")
    assert "Prefect seems to be running" in play("-e", "adopt_confirm=true", succeeds=False)
    pool.close()
    assert (everything(site), placed(site)) == untouched

    # No backup, no adoption.
    docker("exec", "--user", "root", site.server.container, "sh", "-c", "chmod 0 /usr/bin/pg_restore")
    assert "Permission denied" in play("-e", "adopt_confirm=true", succeeds=False)
    assert backups() == [f"700 postgres {folder}"]
    assert (everything(site), placed(site)) == untouched
    docker("exec", "--user", "root", site.server.container, "sh", "-c", "chmod 755 /usr/bin/pg_restore")

    said = play("-e", "adopt_confirm=true")
    first, backup = backups()[::-1] if backups()[0].startswith("600") else backups()
    mode, owner, path = backup.split()
    assert first == f"700 postgres {folder}" and (mode, owner) == ("600", "postgres")
    assert path.startswith(f"{folder}/{site.database}-before-adoption-") and path.endswith(".dump") and path in said
    assert rows(site) == before
    assert "apart as declared" in said

    # What the backup holds is the database as it was.
    site.server.sql("postgres", "CREATE DATABASE restored")
    docker("exec", site.server.container, "pg_restore", "--dbname", "restored", "--exit-on-error", path)
    assert rows(replace(site, declaration=replace(site.declaration, database="restored"))) == before

    # A second time there is nothing to do, and no backup is made.
    said = play("-e", "adopt_confirm=true")
    assert "Nothing is to be adopted" in said and "changed=0 " in said
    assert len(backups()) == 2
