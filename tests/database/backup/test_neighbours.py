"""A restore takes nothing from other schemas: it is refused before anything is changed, or puts back what it took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.backup.examine import examine
from pgprefect.backup.restore import choose, restore
from pgprefect.backup.sets import BackupError, Dump, read_manifest
from pgprefect.cli.main import main
from pgprefect.core.sql import quote

from tests.support.backups import fingerprint, make, put_back, schema_of
from tests.support.kinds import each_third
from tests.support.project import VIRTUALENV
from tests.support.site import Site

# What stands elsewhere, and how the refusal names it.
NEIGHBOURS = {
    "policy": (
        "CREATE POLICY own_only ON bi.salary AS RESTRICTIVE USING (public.norm(who) = current_user)",
        "policy own_only on table bi.salary",
    ),
    "unique index": ("CREATE UNIQUE INDEX salary_who ON bi.salary (public.norm(who))", "index bi.salary_who"),
    "view": ("CREATE VIEW bi.v AS SELECT n FROM public.base", "view bi.v"),
    "materialized view": ("CREATE MATERIALIZED VIEW bi.m AS SELECT n FROM public.base", "materialized view bi.m"),
    "rule": ("CREATE RULE r AS ON UPDATE TO bi.salary DO ALSO DELETE FROM public.base", "rule r on table bi.salary"),
    "foreign key": ("CREATE TABLE bi.f (n int REFERENCES public.base)", "constraint f_n_fkey on table bi.f"),
    "check": (
        "ALTER TABLE bi.salary ADD CONSTRAINT small CHECK (public.norm(who) <> 'x')",
        "constraint small on table bi.salary",
    ),
    "exclusion": (
        "ALTER TABLE bi.salary ADD CONSTRAINT one EXCLUDE (public.norm(who) WITH =)",
        "constraint one on table bi.salary",
    ),
    "default": (
        "ALTER TABLE bi.salary ALTER amount SET DEFAULT nextval('public.numbers')",
        "default value for column amount of table bi.salary",
    ),
    "generated column": (
        "ALTER TABLE bi.salary ADD low text GENERATED ALWAYS AS (public.norm(who)) STORED",
        "column low of table bi.salary",
    ),
    "column of a type": ("ALTER TABLE bi.salary ADD mood public.mood", "column mood of table bi.salary"),
    "column of a row type": ("ALTER TABLE bi.salary ADD base public.base", "column base of table bi.salary"),
    "function with an argument": (
        "CREATE FUNCTION bi.f(public.mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function bi.f(public.mood)",
    ),
    "function with a body that is known": (
        "CREATE FUNCTION bi.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.base; END",
        "function bi.f()",
    ),
    "trigger": (
        "CREATE TRIGGER t BEFORE INSERT ON bi.salary FOR EACH ROW EXECUTE FUNCTION public.watch()",
        "trigger t on table bi.salary",
    ),
    "event trigger": (
        "CREATE EVENT TRIGGER {name} ON ddl_command_end WHEN TAG IN ('COMMENT') EXECUTE FUNCTION public.event()",
        "event trigger {name}",
    ),
    "cast": (
        "CREATE CAST (public.mood AS int) WITH FUNCTION public.number(public.mood)",
        "cast from public.mood to integer",
    ),
    "operator": (
        "CREATE OPERATOR bi.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = public.same)",
        "operator bi.===(text,text)",
    ),
    "aggregate": (
        "CREATE AGGREGATE bi.last(text) (SFUNC = public.second, STYPE = text)",
        "function bi.last(text)",
    ),
    "domain": ("CREATE DOMAIN bi.low AS text CHECK (VALUE = public.norm(VALUE))", "constraint low_check"),
    "partition": (
        "CREATE TABLE bi.part PARTITION OF public.parent FOR VALUES FROM (1) TO (2)",
        "table bi.part",
    ),
    "heir": ("CREATE TABLE bi.heir () INHERITS (public.base)", "table bi.heir"),
    "statistics": ("CREATE STATISTICS bi.st ON n, t FROM public.base", "statistics object bi.st"),
    "text search": (
        """CREATE TEXT SEARCH CONFIGURATION bi.c (COPY = pg_catalog.simple);
        ALTER TEXT SEARCH CONFIGURATION bi.c ALTER MAPPING FOR word WITH public.dictionary""",
        "text search configuration bi.c",
    ),
    "foreign data wrapper": (
        """CREATE FUNCTION public.options(text[], oid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE FOREIGN DATA WRAPPER w VALIDATOR public.options""",
        "foreign-data wrapper w",
    ),
    "collation in an index": (
        'CREATE INDEX low ON bi.salary (who COLLATE public."c")',
        "index bi.low",
    ),
    "operator class in an index": (
        "CREATE INDEX low ON bi.salary USING btree (amount public.mine)",
        "index bi.low",
    ),
}


@pytest.fixture
def city(prefect: Site) -> Site:
    prefect.sql(f"""
        CREATE FUNCTION public.norm(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(t)';
        CREATE FUNCTION public.watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE FUNCTION public.event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE FUNCTION public.same(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
        CREATE FUNCTION public.second(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $2';
        CREATE TYPE public.mood AS ENUM ('sad', 'ok');
        CREATE FUNCTION public.number(public.mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
        CREATE TABLE public.base (n int PRIMARY KEY, t text);
        CREATE TABLE public.parent (n int) PARTITION BY RANGE (n);
        CREATE SEQUENCE public.numbers;
        CREATE COLLATION public."c" (locale = 'C');
        CREATE TEXT SEARCH DICTIONARY public.dictionary (TEMPLATE = pg_catalog.simple);
        ALTER TABLE public.base OWNER TO {quote(prefect.declaration.app_owner)};
        CREATE SCHEMA bi;
        CREATE TABLE bi.salary (who text, amount int);
        INSERT INTO bi.salary VALUES ('mltrading_app', 1), ('boss', 2);
        ALTER TABLE bi.salary ENABLE ROW LEVEL SECURITY;
        CREATE POLICY everybody ON bi.salary USING (true);
        GRANT USAGE ON SCHEMA bi TO mltrading_app; GRANT SELECT ON bi.salary TO mltrading_app;
    """)
    return prefect


def of_public(site: Site, path: Path) -> list[Dump]:
    """The schema public alone; bi is in the set too, unless it was made before."""
    return choose(read_manifest(path), site.declaration, ["app"], schemas=["public"])


def describe(site: Site) -> list[tuple[object, ...]]:
    """All that the database records of objects and of what they depend on."""
    return site.sql("""
        SELECT pg_describe_object(classid, objid, objsubid), pg_describe_object(refclassid, refobjid, refobjsubid)
        FROM pg_depend WHERE objid >= 16384 ORDER BY 1, 2""")


@pytest.mark.parametrize("kind", each_third(NEIGHBOURS))
def test_what_stands_elsewhere_is_named_before_anything_is_changed(city: Site, tmp_path: Path, kind: str) -> None:
    statement, name = (text.replace("{name}", city.database) for text in NEIGHBOURS[kind])
    if kind == "operator class in an index":
        city.sql("""
            CREATE OPERATOR CLASS public.mine FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
            OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int)""")
    path = tmp_path / make(city, tmp_path, "app").name
    city.sql(statement)
    before, objects = fingerprint(city), describe(city)
    parts = of_public(city, path)
    with pytest.raises(BackupError, match="stand on what would be replaced") as predicted:
        examine(city.server.login, city.declaration, path, parts, str(VIRTUALENV))
    with pytest.raises(BackupError) as refused:
        restore(city.server.login, city.declaration, path, parts, str(VIRTUALENV))
    assert refused.value.problems == predicted.value.problems
    problem = next(problem for problem in refused.value.problems if problem.code == "restore_dependents")
    assert name in problem.message
    assert (fingerprint(city), describe(city)) == (before, objects)


def test_what_is_in_the_set_comes_back_in_the_same_transaction(city: Site, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    city.declaration = replace(city.declaration, app_schemas=("public",))
    before = older / make(city, older, "app").name  # of the time before bi was backed up
    city.declaration = replace(city.declaration, app_schemas=())
    city.sql(NEIGHBOURS["policy"][0] + ";" + NEIGHBOURS["unique index"][0])
    seen = "SELECT who FROM bi.salary"
    app = city.declaration.app_login
    path = tmp_path / make(city, tmp_path, "app").name
    city.sql("DROP POLICY own_only ON bi.salary")
    put_back(city, path, "app")
    assert city.sql(seen, role=app) == [(app,)]
    assert city.sql("SELECT indisunique FROM pg_index WHERE indexrelid = 'bi.salary_who'::regclass") == [(True,)]
    with pytest.raises(BackupError, match=r"policy own_only on table bi\.salary") as failed:
        put_back(city, before, "app")
    assert failed.value.problem.code == "restore_dependents"
    assert city.sql(seen, role=app) == [(app,)]


def test_a_publication_gets_its_tables_back(city: Site, tmp_path: Path) -> None:
    city.sql("""
        CREATE PUBLICATION cdc FOR TABLE prefect.flow_run, prefect.flow (id, name) WHERE (name = 'a{}'), bi.salary;
        CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION whole FOR TABLES IN SCHEMA prefect""")
    members = "SELECT * FROM pg_publication_tables ORDER BY 1, 2, 3"
    before, path = city.sql(members), tmp_path / make(city, tmp_path, "workflow").name
    parts = choose(read_manifest(path), city.declaration, ["workflow"])
    found = examine(city.server.login, city.declaration, path, parts)
    assert [(note.code, note.object) for note in found.notes] == [("restore_published", "publication cdc")] * 2
    put_back(city, path, "workflow")
    assert city.sql(members) == before
    city.sql("CREATE TABLE prefect.other (n int); ALTER PUBLICATION cdc ADD TABLE prefect.other")
    with pytest.raises(BackupError, match=r"cdc has the table prefect\.other, which is not in the set") as failed:
        put_back(city, path, "workflow")
    assert failed.value.problem.code == "restore_publication"


def test_a_subscription_would_lose_a_table(city: Site, tmp_path: Path) -> None:
    path = tmp_path / make(city, tmp_path, "app").name
    city.sql("CREATE SUBSCRIPTION sub CONNECTION 'host=192.0.2.1' PUBLICATION p WITH (connect = false);"
             " INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
             " SELECT oid, 'public.base'::regclass, 'r' FROM pg_subscription")  # fmt: skip
    try:
        with pytest.raises(BackupError, match="receives rows by the subscription sub") as failed:
            put_back(city, path, "app")
        assert failed.value.problem.code == "restore_subscription"
    finally:
        city.sql("ALTER SUBSCRIPTION sub DISABLE; ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub")


def test_what_refers_without_a_dependency_is_said(city: Site, tmp_path: Path) -> None:
    path = tmp_path / make(city, tmp_path, "app").name
    city.sql("""
        CREATE TABLE bi.watched (t regclass); CREATE TABLE public.newer (n int);
        CREATE FUNCTION bi.newer() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.newer';
        CREATE FUNCTION bi.older() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.orders'""")
    parts = of_public(city, path)
    notes = {note.code: note.message for note in examine(city.server.login, city.declaration, path, parts).notes}
    assert "bi.watched.t" in notes["restore_object_numbers"]
    assert "bi.newer() names public.newer" in notes["restore_named"]


def test_a_dry_run_ends_as_the_restore_does(
    city: Site, site_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "sets"
    home.mkdir()
    make(city, home, "app")
    login = {"host": "127.0.0.1", "port": city.server.port, "user": "postgres", "password": city.server.password}
    backups = {"directory": str(home), "kinds": ["full"], "keep": {}}
    site_file.write_text(json.dumps({**json.loads(site_file.read_text()), "login": login, "backups": backups}))

    def run(*arguments: str) -> tuple[int, str]:
        status = main(["--config", str(site_file), "restore", "--schema", "public", *arguments])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    status, text = run("--dry-run")
    assert status == 0 and "It would replace public" in text
    city.sql(NEIGHBOURS["policy"][0] + ";" + NEIGHBOURS["unique index"][0])
    predicted, refused = run("--dry-run"), run("--yes", "--no-safety-set")
    assert predicted == refused
    assert predicted[0] == 2 and "own_only" in predicted[1] and "salary_who" in predicted[1]


def test_what_a_set_has_planted_gets_no_more_rights_than_its_owner(prefect: Site, tmp_path: Path) -> None:
    """What runs while the set is loaded resets its role, tries what it wants, and says as whom it ran."""
    app, declaration = quote(prefect.declaration.app_owner), prefect.declaration
    prefect.sql(f"""
        CREATE FUNCTION public.plant() RETURNS boolean LANGUAGE plpgsql AS $$
            DECLARE role text; done text := ''; BEGIN
            IF session_user = 'postgres' THEN RETURN true; END IF;  -- at home
            RESET ROLE;
            FOREACH role IN ARRAY ARRAY['{prefect.tenant.owner}', 'postgres'] LOOP
                BEGIN EXECUTE format('SET ROLE %I', role); done := done || ' ' || role;
                EXCEPTION WHEN insufficient_privilege THEN NULL; END;
            END LOOP;
            BEGIN ALTER ROLE {quote(declaration.app_login)} SUPERUSER; done := done || ' superuser';
            EXCEPTION WHEN insufficient_privilege THEN NULL; END;
            IF done <> '' THEN RAISE EXCEPTION 'planted code was %', done; END IF;
            SET ROLE {app};
            RETURN true; END $$;
        CREATE TABLE public.trap (t text CHECK (public.plant()));
        INSERT INTO public.trap VALUES ('x');
        ALTER TABLE public.trap OWNER TO {app}; ALTER FUNCTION public.plant OWNER TO {app}""")
    path = tmp_path / make(prefect, tmp_path, "full").name
    put_back(prefect, path, "app", "workflow")
    assert prefect.sql("SELECT t FROM public.trap") == [("x",)]
    assert prefect.sql("SELECT rolname FROM pg_roles WHERE rolsuper OR rolname = 'pgprefect_restore'") == [
        ("postgres",)
    ]


def test_an_extension_in_the_application_s_schema(prefect: Site, tmp_path: Path) -> None:
    owner = quote(prefect.declaration.app_owner)
    prefect.sql(f"""
        CREATE EXTENSION citext SCHEMA public; CREATE TABLE public.mail (m public.citext PRIMARY KEY);
        INSERT INTO public.mail VALUES ('A'); ALTER TABLE public.mail OWNER TO {owner}""")
    prefect.apply()  # its rights
    before, schema = fingerprint(prefect), schema_of(prefect)
    path = tmp_path / make(prefect, tmp_path, "app").name
    prefect.sql("DELETE FROM public.mail")
    put_back(prefect, path, "app")
    assert fingerprint(prefect) == before
    assert set(schema_of(prefect)) ^ set(schema) == set()
    prefect.sql("DROP EXTENSION citext CASCADE")
    put_back(prefect, path, "app")
    assert prefect.sql("SELECT count(*) FROM public.mail WHERE m = 'a'") == [(1,)]
    aside = f"{prefect.database}_aside"
    try:
        put_back(prefect, path, "app", into=aside)
        assert prefect.server.sql(aside, "SELECT count(*) FROM public.mail WHERE m = 'a'") == [(1,)]
    finally:
        prefect.server.sql("postgres", f"DROP DATABASE IF EXISTS {aside} WITH (FORCE)")
