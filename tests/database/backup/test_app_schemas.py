"""A set holds what the application is: all its schemas, what they count, and what it lacks stands in its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.backup.contents import differences, refreshed
from pgprefect.backup.restore import choose, restore
from pgprefect.backup.restore_table import restore_table
from pgprefect.backup.sets import BackupError, Manifest, check, read_manifest
from pgprefect.core.sql import quote
from pgprefect.schema.verify import verify

from tests.support.backups import edit, login, make, put_back
from tests.support.site import Site
from tests.support.verification import errors

OUTSIDE = """
    CREATE SCHEMA arch;
    CREATE TABLE public.tick (d date, v int) PARTITION BY RANGE (d);
    CREATE TABLE public.tick_26 PARTITION OF public.tick FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE arch.tick_27 PARTITION OF public.tick FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
    INSERT INTO public.tick SELECT '2026-03-01', g FROM generate_series(1, 8000) g;
    INSERT INTO public.tick SELECT '2027-03-01', g FROM generate_series(1, 100) g;
    CREATE SCHEMA billing; CREATE TABLE billing.invoice AS SELECT g AS id FROM generate_series(1, 500) g;
"""


@pytest.fixture
def wide(prefect: Site) -> Site:
    prefect.sql(OUTSIDE)
    return prefect


def parts_of(manifest: Manifest) -> dict[str | None, int]:
    return {part.schema: sum(part.rows.values()) for part in manifest.parts if part.kind == "app"}


def test_all_schemas_of_the_application_are_in_the_set_and_come_back(wide: Site, tmp_path: Path) -> None:
    manifest = make(wide, tmp_path, "full")
    assert parts_of(manifest) == {"public": 8000, "arch": 100, "billing": 500}
    [public] = [part for part in manifest.parts if part.schema == "public"]
    assert public.parents == {"tick": 8100} and manifest.not_included == {}
    assert [part.file.partition(".")[0] for part in manifest.files] == ["app", "workflow-tenant0", "globals"]
    path = tmp_path / manifest.name
    assert check(path) == manifest
    count = "SELECT (SELECT count(*) FROM public.tick), (SELECT count(*) FROM billing.invoice)"

    wide.sql("DELETE FROM public.tick; DELETE FROM billing.invoice")
    put_back(wide, path, "app")
    assert wide.sql(count) == [(8100, 500)]
    # One of them alone; the others stay as they are.
    wide.sql("DELETE FROM public.tick WHERE d < '2027-01-01'; DROP TABLE billing.invoice")
    chosen = choose(manifest, wide.declaration, ["app"], schemas=["billing"])
    assert restore(wide.server.login, wide.declaration, path, chosen) == {"billing.invoice": 500}
    assert wide.sql(count) == [(100, 500)]
    assert wide.sql("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'billing'") == [("postgres",)]
    # Half of a table is refused.
    with pytest.raises(BackupError, match=r"stand on what would be replaced: table arch\.tick_27"):
        restore(
            wide.server.login, wide.declaration, path, choose(manifest, wide.declaration, ["app"], schemas=["public"])
        )
    with pytest.raises(BackupError, match="has no schema other"):
        choose(manifest, wide.declaration, ["app"], schemas=["other"])
    assert restore_table(wide.server.login, wide.declaration, path, "billing.invoice").endswith("_app.invoice")

    aside = f"{wide.database}_aside"
    try:
        put_back(wide, path, "app", "workflow", into=aside)
        assert wide.server.sql(aside, count) == [(8100, 500)]
    finally:
        wide.server.sql("postgres", f"DROP DATABASE IF EXISTS {aside} WITH (FORCE)")


def test_what_is_not_declared_is_named_and_half_a_table_fails_the_backup(wide: Site, tmp_path: Path) -> None:
    wide.declaration = replace(wide.declaration, app_schemas=("arch",))
    wide.apply()
    wide.sql("CREATE SCHEMA empty; CREATE SCHEMA restored_20261125t020000z_app; SELECT lo_from_bytea(0, 'abc')")
    wide.sql("CREATE TABLE restored_20261125t020000z_app.t (n int)")
    assert make(wide, tmp_path).not_included == {"schemas": ["billing"]}
    assert make(wide, tmp_path, "app").not_included == {"schemas": ["billing", "prefect"]}
    only = make(wide, tmp_path, "workflow").not_included
    assert only == {"schemas": ["public", "arch", "billing"], "large objects": ["1"]}
    warnings = {(problem.code, problem.object) for problem in verify(wide.server.login, wide.declaration).problems}
    assert ("schema_not_backed_up", "schema billing") in warnings
    assert wide.sql("SELECT nspname FROM pg_namespace WHERE nspowner = 'mltrading_owner'::regrole ORDER BY 1") == [
        ("arch",), ("public",)]  # fmt: skip

    wide.declaration = replace(wide.declaration, app_schemas=("billing",))
    with pytest.raises(BackupError, match=r"arch\.tick_27 is a part of the table public\.tick") as failed:
        make(wide, tmp_path, "app")
    assert failed.value.problem.code == "backup_torn"
    assert "backup_torn" in errors(wide)
    assert len(list(tmp_path.glob("2*"))) == 3
    # The remedy that it names.
    wide.sql(failed.value.problem.remedy.partition(" or ")[2])
    make(wide, tmp_path, "app")


def test_a_schema_of_another_owner_has_a_dump_of_its_own(wide: Site, tmp_path: Path) -> None:
    wide.sql("CREATE ROLE biller; ALTER SCHEMA billing OWNER TO biller; ALTER TABLE billing.invoice OWNER TO biller;"
             " CREATE VIEW billing.ticks AS SELECT count(*) FROM public.tick; ALTER VIEW billing.ticks OWNER TO biller;"
             " GRANT USAGE ON SCHEMA public TO biller; GRANT SELECT ON public.tick TO biller")  # fmt: skip
    try:
        manifest = make(wide, tmp_path, "full")
        assert {part.schema: part.file.partition(".")[0] for part in manifest.parts if part.kind == "app"} == {
            "public": "app", "arch": "app", "billing": "app-billing"}  # fmt: skip
        wide.sql("DELETE FROM public.tick; DELETE FROM billing.invoice")
        put_back(wide, tmp_path / manifest.name, "app")
        assert wide.sql("SELECT (SELECT count(*) FROM billing.invoice), t.* FROM billing.ticks t") == [(500, 8100)]
        owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'billing.invoice'::regclass"
        assert wide.sql(owner) == [("biller",)]
    finally:
        wide.server.sql("postgres", f"DROP DATABASE {wide.database} WITH (FORCE)")
        wide.server.sql("postgres", "DROP ROLE biller")


def test_views_on_schemas_of_other_owners_come_back_but_not_in_a_circle(wide: Site, tmp_path: Path) -> None:
    """The owner of the view is restored after the owner of the table, whose grants it needs."""
    owner = quote(wide.declaration.app_owner)
    wide.sql(f"""
        CREATE ROLE biller; ALTER SCHEMA billing OWNER TO biller; ALTER TABLE billing.invoice OWNER TO biller;
        GRANT USAGE ON SCHEMA billing TO {owner}; GRANT SELECT ON billing.invoice TO {owner};
        CREATE VIEW public.due AS SELECT id FROM billing.invoice; ALTER VIEW public.due OWNER TO {owner}""")
    copy = f"{wide.database}_copy"
    try:
        manifest = make(wide, tmp_path, "full")
        [public] = [part for part in manifest.parts if part.schema == "public"]
        assert "billing" in public.needs
        wide.sql("DELETE FROM billing.invoice")
        put_back(wide, tmp_path / manifest.name, "app")
        put_back(wide, tmp_path / manifest.name, "app", into=copy)
        assert wide.sql("SELECT count(*) FROM public.due") == wide.server.sql(copy, "SELECT count(*) FROM public.due")
        assert wide.sql("SELECT count(*) FROM public.due") == [(500,)]

        wide.sql("""
            GRANT USAGE ON SCHEMA public TO biller; GRANT SELECT ON public.tick TO biller;
            CREATE VIEW billing.ticks AS SELECT v FROM public.tick; ALTER VIEW billing.ticks OWNER TO biller""")
        manifest = make(wide, tmp_path, "app")
        with pytest.raises(BackupError, match="need each other") as failed:  # the dry run chooses in the same way
            choose(manifest, wide.declaration, ["app"])
        assert failed.value.problem.code == "restore_circular"
    finally:
        for database in (wide.database, copy):
            wide.server.sql("postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        wide.server.sql("postgres", "DROP ROLE biller")


def test_row_security_does_not_stop_a_backup(prefect: Site, tmp_path: Path) -> None:
    prefect.sql(f"""
        CREATE TABLE public.secret (n int); INSERT INTO public.secret VALUES (1), (2);
        ALTER TABLE public.secret OWNER TO {quote(prefect.declaration.app_owner)};
        ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE public.secret FORCE ROW LEVEL SECURITY;
        ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY;
        CREATE POLICY one ON public.secret USING (n = 1)""")
    prefect.apply()
    manifest = make(prefect, tmp_path, "app")
    assert manifest.parts[0].rows["secret"] == 2
    prefect.sql("DELETE FROM public.secret")
    put_back(prefect, tmp_path / manifest.name, "app")
    assert prefect.sql("SELECT count(*) FROM public.secret") == [(2,)]
    assert verify(prefect.server.login, prefect.declaration).problems == []


@pytest.mark.parametrize("taken", ["NOBYPASSRLS", "NOLOGIN"])
def test_the_remedies_for_the_backup_s_role_do_not_contradict_each_other(
    prefect: Site, tmp_path: Path, taken: str
) -> None:
    """Each remedy that a problem names is applied, until none is left; then a backup succeeds."""
    role = quote(prefect.declaration.backup)
    database = quote(prefect.database)
    prefect.sql(f"""
        ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY; ALTER ROLE {role} {taken} CREATEDB;
        ALTER ROLE {role} IN DATABASE {database} RESET ALL; REVOKE pg_read_all_data FROM {role};
        REVOKE CONNECT ON DATABASE {database} FROM {role}""")
    applied = []
    for _ in range(5):
        remedies = [problem.remedy for problem in verify(prefect.server.login, prefect.declaration).problems]
        applied += remedies
        for remedy in remedies:
            prefect.sql(remedy)
        if not remedies:
            break
    assert verify(prefect.server.login, prefect.declaration).problems == []
    assert len(applied) == len(set(applied)) > 3
    assert prefect.apply() == []
    make(prefect, tmp_path, "app")


def test_views_sequences_and_parents_are_counted_and_compared(prefect: Site, tmp_path: Path) -> None:
    app = quote(prefect.declaration.app_owner)
    prefect.sql("""
        CREATE TABLE public.base (id int GENERATED ALWAYS AS IDENTITY, n int);
        INSERT INTO public.base (n) VALUES (1), (2);
        CREATE SEQUENCE public."Odd 'one'" START 7;
        CREATE SEQUENCE public.down INCREMENT -1; SELECT nextval('public.down');
        CREATE MATERIALIZED VIEW public.full AS SELECT * FROM public.base;
        CREATE MATERIALIZED VIEW public.unfilled AS SELECT * FROM public.base WITH NO DATA;
        CREATE MATERIALIZED VIEW public.stale AS SELECT * FROM public.base;
        INSERT INTO public.base (n) VALUES (3);
        REFRESH MATERIALIZED VIEW public.full""")
    for name in ("base", "full", "unfilled", "stale"):
        prefect.sql(f"ALTER TABLE public.{name} OWNER TO {app}")
    manifest = make(prefect, tmp_path, "app")
    [part] = manifest.parts
    assert part.views == {"full": 3, "stale": 2, "unfilled": None}
    assert part.sequences["public.base_id_seq"] == [3, True] and part.sequences["public.down"] == [-1, True]
    assert part.sequences["public.\"Odd 'one'\""] == [7, False]
    put_back(prefect, tmp_path / manifest.name, "app")
    with prefect.server.connect(prefect.database) as connection:
        assert list(differences(connection, part)) == []
        assert refreshed(connection, part) == {"stale": [2, 3]}
    for change, said in (
        ("SELECT setval('public.down', -5)", r"the sequence public.down has [-5, True], the manifest says [-1, True]"),
        ("REFRESH MATERIALIZED VIEW public.unfilled", "the materialized view public.unfilled is populated"),
        ("DROP MATERIALIZED VIEW public.full", "the materialized view public.full is missing"),
    ):
        prefect.sql(change)
        with prefect.server.connect(prefect.database) as connection:
            assert said in list(differences(connection, part))


def test_an_older_set_is_read_and_restored(prefect: Site, tmp_path: Path) -> None:
    prefect.sql("CREATE TABLE public.old (n int); CREATE TABLE public.heir () INHERITS (public.old);"
                " INSERT INTO public.old VALUES (1); INSERT INTO public.heir VALUES (2)")  # fmt: skip
    path = tmp_path / make(prefect, tmp_path, "full").name

    def as_before(content: dict[str, object]) -> None:
        for name in ("settings", "comment", "publications", "not_included"):
            del content[name]
        parts = content["parts"]
        assert isinstance(parts, list)
        for part in parts:
            for name in ("parents", "views", "sequences", "owner", "owners", "roles", "privileged"):
                del part[name]
            if "old" in part["rows"]:
                part["rows"]["old"] = 2  # with those of its heirs

    edit(path, as_before)
    assert read_manifest(path).files
    assert put_back(prefect, path, "app", "workflow")["public.old"] == 2


def test_a_backup_without_its_right_fails_instead_of_counting_less(prefect: Site, tmp_path: Path) -> None:
    prefect.sql("CREATE TABLE public.secret (n int); INSERT INTO public.secret VALUES (1), (2);"
                " ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY")  # fmt: skip
    prefect.sql(f"ALTER ROLE {quote(prefect.declaration.backup)} NOBYPASSRLS")
    try:
        with pytest.raises(BackupError, match="row-level security"):
            make(prefect, tmp_path, "app")
        assert "role_attributes" in errors(prefect)
    finally:
        prefect.apply()
    assert login(prefect)


def test_what_can_not_be_restored_is_said_before(prefect: Site) -> None:
    prefect.sql("CREATE FUNCTION public.native(int) RETURNS int LANGUAGE internal AS 'int4up'")
    prefect.sql("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
                " CREATE FOREIGN TABLE public.far (n int) SERVER s")  # fmt: skip
    found = verify(prefect.server.login, prefect.declaration)
    assert "not_restorable" in {problem.code for problem in found.problems}
    assert "rows of foreign tables (public.far): they are in no backup set" in found.not_checked
