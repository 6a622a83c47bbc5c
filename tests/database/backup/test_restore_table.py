"""A single table's rows come from a set into a schema beside, and nothing else changes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pgprefect.backup import sets
from pgprefect.backup.restore_table import restore_table
from pgprefect.backup.sets import BackupError
from pgprefect.core.sql import quote
from pgprefect.schema.verify import verify

from bench.data import fill
from tests.support.backups import edit, fingerprint, make, put_back, schema_of, workflow
from tests.support.site import Site

ODD = 'Odd "name" $1'


@pytest.fixture
def filled(prefect: Site) -> Site:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 100)
    # What a table can have that a copy must not share: keys, triggers, heirs, settings of its columns.
    prefect.sql(f"""
        INSERT INTO stock_info (symbol, name, currency, source) VALUES ('A', 'a', 'EUR', 's'), ('B', 'é', 'EUR', 's');
        CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
        CREATE TABLE public.parent (n int DEFAULT 7 CHECK (n > 0), t text);
        CREATE TABLE public.{quote(ODD)} (id serial PRIMARY KEY, twice int GENERATED ALWAYS AS (n * 2) STORED)
            INHERITS (parent);
        ALTER TABLE public.{quote(ODD)} ALTER t SET STATISTICS 7, ALTER t SET STORAGE EXTERNAL;
        INSERT INTO public.{quote(ODD)} (n, t) VALUES (1, E'COPY public.x (a) FROM stdin;\\n\\\\.'), (2, NULL);
        ALTER TABLE public.parent OWNER TO {quote(prefect.declaration.app_owner)};
        ALTER TABLE public.{quote(ODD)} OWNER TO {quote(prefect.declaration.app_owner)};
        CREATE TRIGGER no BEFORE INSERT ON public.{quote(ODD)} FOR EACH ROW EXECUTE FUNCTION public.no();
    """)
    return prefect


def beside(site: Site, path: Path, table: str) -> str:
    return restore_table(site.server.login, site.declaration, path, table)


def sides(path: Path) -> tuple[str, str]:
    """The schemas in which the tables of the tenant and of the application come beside."""
    parts = {part.kind: part for part in sets.read_manifest(path).parts}
    return sets.staging_schema(path.name, parts["workflow"]), sets.staging_schema(path.name, parts["app"])


def test_rows_come_back_beside_and_nothing_else_changes(filled: Site, tmp_path: Path) -> None:
    path = tmp_path / make(filled, tmp_path).name
    side, app = sides(path)
    runs = filled.sql("SELECT * FROM prefect.flow_run ORDER BY id")
    odd = filled.sql(f"SELECT * FROM public.{quote(ODD)} ORDER BY id")
    filled.sql("UPDATE prefect.flow_run SET name = 'x', state_type = NULL; DROP TABLE public.stock_info CASCADE")
    before, schema = fingerprint(filled), schema_of(filled)

    assert beside(filled, path, "prefect.flow_run") == f"{side}.flow_run"
    beside(filled, path, "public.stock_info")  # the original of which is gone
    assert restore_table(filled.server.login, filled.declaration, path, f"public.{ODD}", dry_run=True)
    assert beside(filled, path, f"public.{quote(ODD)}") == f"{app}.{quote(ODD)}"
    assert (fingerprint(filled), schema_of(filled)) == (before, schema)
    assert filled.sql(f"SELECT * FROM {side}.flow_run ORDER BY id") == runs
    assert filled.sql(f"SELECT * FROM {app}.{quote(ODD)} ORDER BY id") == odd
    assert filled.sql(f"SELECT name FROM {app}.stock_info ORDER BY symbol") == [("a",), ("é",)]
    # They go back as they are, the types being those of the original.
    filled.sql(f"UPDATE prefect.flow_run AS r SET name = s.name, state_type = s.state_type"
               f" FROM {side}.flow_run AS s WHERE s.id = r.id")  # fmt: skip
    assert filled.sql("SELECT * FROM prefect.flow_run ORDER BY id") == runs


def test_it_is_the_owner_s_alone_and_no_business_of_verification(filled: Site, tmp_path: Path) -> None:
    path = tmp_path / make(filled, tmp_path).name
    (side, _), before = sides(path), verify(filled.server.login, filled.declaration)
    for table in ("flow_run", "flow_run_state", "task_run_state", "block_document"):
        beside(filled, path, f"prefect.{table}")
    owner = filled.tenant.owner
    owners = filled.sql("SELECT DISTINCT pg_get_userbyid(relowner), relacl::text FROM pg_class"
                        " WHERE relnamespace = %s::regnamespace AND relkind = 'r'", side)  # fmt: skip
    assert owners == [(owner, None)]
    assert filled.sql("SELECT pg_get_userbyid(nspowner), nspacl FROM pg_namespace WHERE nspname = %s", side) == [
        (owner, None)
    ]
    for role in (filled.declaration.app_login, filled.tenant.server, filled.declaration.monitor):
        with pytest.raises(Exception, match=f"permission denied for schema {side}"):
            filled.sql(f"SELECT * FROM {side}.flow_run", role=role)
    # Three of them are what tells Prefect's schema; this one is nobody's installation.
    assert verify(filled.server.login, filled.declaration) == before
    # The columns of Prefect's types would go with its schema, so they are named, and go first.
    with pytest.raises(BackupError, match=f"other schemas stand on what would be replaced: .*{side}.flow_run"):
        put_back(filled, path, "workflow")
    filled.sql(f"DROP SCHEMA {side} CASCADE")
    put_back(filled, path, "workflow")


def test_what_is_refused(filled: Site, tmp_path: Path) -> None:
    path = tmp_path / make(filled, tmp_path).name
    _, side = sides(path)
    for table in ("flow_run", "prefect.flow_runs", "prefect", ""):
        with pytest.raises(BackupError, match=r"it has prefect\.agent, .* public\.market_data") as failed:
            beside(filled, path, table)
        assert failed.value.problem.code == "restore_no_table"
    beside(filled, path, "public.stock_info")
    with pytest.raises(BackupError, match=f"The table {side}.stock_info exists already") as failed:
        beside(filled, path, "public.stock_info")
    assert failed.value.problem.code == "restore_table_exists"

    edit(path, lambda content: workflow(content)["rows"].update(flow_run=99))  # type: ignore[attr-defined]
    with pytest.raises(BackupError, match="the manifest says 99") as failed:
        beside(filled, path, "prefect.flow_run")
    assert failed.value.problem.code == "restore_failed"
    filled.sql("DROP SCHEMA prefect CASCADE")
    with pytest.raises(BackupError, match='schema "prefect" does not exist'):
        beside(filled, path, "prefect.deployment")
    assert filled.sql("SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'", side) == [
        ("stock_info",)
    ]
