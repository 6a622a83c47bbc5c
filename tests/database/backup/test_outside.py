"""What stands outside the dumps comes back too, or is named; and what only a superuser may do is apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pgprefect.backup import remains, unfinished
from pgprefect.backup.examine import examine
from pgprefect.backup.restore import choose
from pgprefect.backup.sets import BackupError, read_manifest
from pgprefect.core.problems import Problem
from pgprefect.core.sql import quote
from pgprefect.health.leftovers import leftovers, places
from pgprefect.schema.verify import verify

from tests.support.backups import edit, fingerprint, make, put_back
from tests.support.site import Site


def notes(site: Site, path: Path, *kinds: str, into: str | None = None) -> list[Problem]:
    manifest = read_manifest(path)
    return examine(
        site.server.login, site.declaration, path, choose(manifest, site.declaration, kinds), into=into
    ).notes


@pytest.fixture
def settled(prefect: Site) -> Iterator[Site]:
    """A database with a role, settings, a comment and a publication that no declaration has."""
    database = quote(prefect.database)
    prefect.sql(f"""
        CREATE ROLE grafana LOGIN; CREATE ROLE keeper; GRANT SELECT ON public.market_data TO grafana;
        CREATE POLICY few ON public.orders TO keeper USING (true);
        CREATE TABLE public.kept (n int); ALTER TABLE public.kept OWNER TO keeper;
        CREATE FUNCTION public.f(a int, OUT b int) LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION public.f OWNER TO keeper;
        CREATE TABLE public.ours (n int); ALTER TABLE public.ours OWNER TO {quote(prefect.declaration.app_owner)};
        ALTER DATABASE {database} SET timezone = 'UTC';
        ALTER DATABASE {database} SET log_min_duration_statement = '1s';
        ALTER ROLE {quote(prefect.declaration.app_login)} IN DATABASE {database} SET statement_timeout = '30s';
        ALTER ROLE keeper IN DATABASE {database} SET search_path = "Odd one", public;
        COMMENT ON DATABASE {database} IS 'prices';
        CREATE PUBLICATION cdc FOR TABLE public.kept, public.ours (n) WITH (publish = 'insert');
        CREATE PUBLICATION part FOR TABLE public.kept WHERE (n > 1);
    """)
    prefect.apply()
    try:
        yield prefect
    finally:
        prefect.server.sql("postgres", f"DROP DATABASE {database} WITH (FORCE)")
        prefect.server.sql("postgres", "DROP ROLE IF EXISTS grafana; DROP ROLE IF EXISTS keeper")


SETTINGS = """
    SELECT setrole::regrole::text, setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
    WHERE datname = current_database() ORDER BY 1"""
PUBLISHED = "SELECT pubname, tablename, attnames FROM pg_publication_tables WHERE pubname = 'cdc' ORDER BY 1, 2"


def test_a_new_database_gets_all_of_it(settled: Site, tmp_path: Path) -> None:
    path = tmp_path / make(settled, tmp_path, "full").name
    before = [settled.sql(question) for question in (SETTINGS, PUBLISHED)]
    rights = "SELECT relacl::text, pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'public.{}'::regclass"
    owned = [settled.sql(rights.format(table)) for table in ("market_data", "kept")]
    # The cluster is lost: neither roles nor database are there.
    settled.sql("DROP PUBLICATION cdc; DROP PUBLICATION part; DROP OWNED BY grafana, keeper")
    settled.server.sql("postgres", "DROP ROLE grafana; DROP ROLE keeper")
    aside = f"{settled.database}_aside"
    said = notes(settled, path, "app", "workflow", into=aside)
    assert {note.object for note in said if note.code == "restore_role_missing"} == {"role grafana", "role keeper"}
    assert [note.object for note in said if note.code == "restore_publication_created"] == ["publication cdc"]
    assert [note.object for note in said if note.code == "restore_publication_left"] == ["publication part"]
    [left] = [note for note in said if note.code == "restore_setting_left"]
    assert "log_min_duration_statement" in left.message and left.remedy.startswith(f"ALTER DATABASE {aside} SET ")
    try:
        put_back(settled, path, "app", "workflow", into=aside)

        def there(question: str) -> list[tuple[Any, ...]]:
            return settled.server.sql(aside, question)

        after = dict(there(SETTINGS))
        assert after.pop("-") == ["TimeZone=UTC"]
        expected: dict[Any, Any] = dict(before[0])
        expected.pop("-")
        assert {role: set(entries) for role, entries in after.items()} == {
            role: set(entries) for role, entries in expected.items()
        }
        assert there(PUBLISHED) == before[1]
        assert [there(rights.format(table)) for table in ("market_data", "kept")] == owned
        assert there("SELECT rolcanlogin FROM pg_roles WHERE rolname IN ('grafana', 'keeper')") == [(False,)] * 2
        assert there("SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid = 'public.f(int)'::regprocedure") == [
            ("keeper",)
        ]
        assert there("SELECT shobj_description(oid, 'pg_database') FROM pg_database"
                     " WHERE datname = current_database()") == [("prices (Made by ansible-prefect)",)]  # fmt: skip
    finally:
        settled.server.sql("postgres", f"DROP DATABASE IF EXISTS {aside} WITH (FORCE)")


def test_what_only_a_superuser_can_create_is_refused_by_name(prefect: Site, tmp_path: Path) -> None:
    prefect.sql("CREATE FUNCTION public.native(int) RETURNS int LANGUAGE internal AS 'int4up'")
    path, before = tmp_path / make(prefect, tmp_path).name, fingerprint(prefect)
    with pytest.raises(BackupError, match=r"Only a superuser can create function public\.native\(integer\)") as failed:
        put_back(prefect, path, "app")
    assert failed.value.problem.code == "restore_needs_superuser"
    assert fingerprint(prefect) == before
    put_back(prefect, path, "workflow")


def test_nothing_is_given_to_a_superuser(prefect: Site, tmp_path: Path) -> None:
    prefect.sql("CREATE TABLE public.admins (n int)")
    path = tmp_path / make(prefect, tmp_path).name
    [note] = notes(prefect, path, "app")
    assert note.code == "restore_owner_differs" and "table public.admins" in note.message
    put_back(prefect, path, "app")
    assert prefect.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'admins'") == [
        (prefect.declaration.app_owner,)
    ]


def test_a_schema_of_somebody_else(prefect: Site, tmp_path: Path) -> None:
    path = tmp_path / make(prefect, tmp_path).name
    prefect.sql("CREATE ROLE stranger; ALTER SCHEMA prefect OWNER TO stranger")
    try:
        with pytest.raises(BackupError, match="The schema prefect belongs to stranger") as failed:
            put_back(prefect, path, "workflow")
        assert failed.value.problem.code == "restore_schema_owner"
    finally:
        prefect.sql(f"ALTER SCHEMA prefect OWNER TO {quote(prefect.tenant.owner)}; DROP ROLE stranger")


def test_an_extension_that_was_moved_is_said(prefect: Site, tmp_path: Path) -> None:
    path = tmp_path / make(prefect, tmp_path).name
    edit(path, lambda content: content["extensions"].update(pg_trgm="public"))
    assert [note.code for note in notes(prefect, path, "workflow")] == ["restore_extension_moved"]


def test_what_can_not_be_completed_is_said(prefect: Site, tmp_path: Path) -> None:
    prefect.sql("CREATE TABLE public.two (n int, m int); CREATE PUBLICATION two FOR TABLE public.two (n, m)")
    path = tmp_path / make(prefect, tmp_path).name
    prefect.sql("ALTER TABLE public.two ADD later int; ALTER PUBLICATION two SET TABLE public.two (n, later)")
    with pytest.raises(BackupError, match=r"restored .* but not all .*ALTER PUBLICATION two ADD TABLE") as failed:
        put_back(prefect, path, "app")
    assert failed.value.problem.code == "restore_incomplete"
    assert unfinished.read() is None


def test_a_killed_restore_is_seen_and_its_remains_go(prefect: Site, tmp_path: Path) -> None:
    """As it is after a power cut: the record is there, the role, what was prepared, and no process."""
    path = tmp_path / make(prefect, tmp_path).name
    left = {
        "set": path.name,
        "database": prefect.database,
        "created": False,
        "started": "2026-11-25T02:00:00+00:00",
        "roles": ["dead"],
        "schemas": {"half": "postgres"},
        "uses": [["prefect", prefect.declaration.app_owner]],
    }
    unfinished.FOLDER.mkdir(parents=True, exist_ok=True)
    (unfinished.FOLDER / unfinished.FILE).write_text(json.dumps(left))
    prefect.sql("CREATE ROLE pgprefect_restore LOGIN; CREATE ROLE dead; CREATE SCHEMA half;"
                f" GRANT USAGE ON SCHEMA prefect TO {quote(prefect.declaration.app_owner)};"
                f" GRANT {quote(prefect.tenant.owner)} TO pgprefect_restore")  # fmt: skip
    (unfinished.FOLDER / "restore.json.new").write_text("{")
    (tmp_path / ".partial-20261126T020000Z").mkdir()
    looked_at = places(str(tmp_path), "")
    backup, killed = leftovers(looked_at)[0]
    assert "restore that was killed" in killed.message and ".partial-20261126T020000Z" in backup.message
    with unfinished.only_restore():
        assert leftovers(looked_at)[0] == [backup]  # it runs
        with pytest.raises(BackupError, match="Another restore") as failed:
            put_back(prefect, path, "workflow")
        assert failed.value.problem.code == "restore_running"
    remains.clear(prefect.server.login, tmp_path, tmp_path / "none")
    assert leftovers(looked_at)[0] == []
    assert prefect.sql("SELECT rolname FROM pg_roles WHERE rolname IN ('dead', 'pgprefect_restore')") == []
    assert prefect.sql("SELECT FROM pg_namespace WHERE nspname = 'half'") == []
    assert [statement for statement in prefect.apply() if "PASSWORD" not in statement] == []


def test_what_a_restore_lent_before_another_host_became_the_primary_goes_with_the_next(
    prefect: Site, tmp_path: Path
) -> None:
    """The record of the first one is on the host that was the primary then."""
    path = tmp_path / make(prefect, tmp_path).name
    owners = ", ".join(map(quote, (prefect.declaration.app_owner, prefect.tenant.owner)))
    prefect.sql("CREATE ROLE pgprefect_restore LOGIN; CREATE ROLE pgprefect_restore_uses;"
                " GRANT USAGE ON SCHEMA prefect, public TO pgprefect_restore_uses;"
                f" GRANT pgprefect_restore_uses TO {owners}")  # fmt: skip
    put_back(prefect, path, "workflow")
    assert prefect.sql("SELECT rolname FROM pg_roles WHERE starts_with(rolname, 'pgprefect_restore')") == []
    assert verify(prefect.server.login, prefect.declaration).problems == []
