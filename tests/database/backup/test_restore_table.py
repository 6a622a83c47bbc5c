"""A single table's rows come from a set into a schema beside, and nothing else changes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pgprefect.backup import sets
from pgprefect.backup.restore_table import PutBack, restore_table
from pgprefect.backup.restore_table import put_back as copy_back
from pgprefect.backup.sets import BackupError
from pgprefect.core.sql import quote
from pgprefect.schema.verify import verify

from bench.data import fill
from tests.support.backups import edit, fingerprint, make, put_back, schema_of, workflow
from tests.support.site import TRADING_SQL, Site

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


ORDER = "INSERT INTO orders (client_order_id, portfolio, symbol, side, quantity) VALUES (%s, 'p', 'A', 'buy', 1)"


def back(site: Site, path: Path, table: str) -> PutBack:
    return copy_back(site.server.login, site.declaration, path, table)


def test_the_rows_of_a_dropped_table_go_back_and_the_next_one_follows_them(filled: Site, tmp_path: Path) -> None:
    """The example's orders: their key is an identity, which takes no value, and whose sequence was lost too."""
    app = filled.declaration.app_login
    filled.sql("INSERT INTO portfolios VALUES ('p', 'EUR', 1, 0.1, 1, 1)")
    for number in range(5):
        filled.sql(ORDER, f"order {number}", role=app)
    filled.sql("DELETE FROM orders WHERE client_order_id = 'order 4'")  # its number is used all the same
    path, before = tmp_path / make(filled, tmp_path).name, filled.sql("SELECT * FROM orders ORDER BY id")
    filled.sql("DROP TABLE public.orders")
    filled.apply(app_schema_sql=TRADING_SQL)
    table = beside(filled, path, "public.orders")
    assert back(filled, path, "public.orders") == PutBack(rows=4, taken=0)
    assert filled.sql("SELECT * FROM orders ORDER BY id") == before
    filled.sql(ORDER, "next", role=app)
    assert filled.sql("SELECT id FROM orders WHERE client_order_id = 'next'") == [(6,)]
    assert filled.sql("SELECT to_regclass(%s), to_regnamespace(%s)", table, table.partition(".")[0]) == [(None, None)]


def test_a_row_whose_key_is_taken_is_not_lost(filled: Site, tmp_path: Path) -> None:
    filled.sql("INSERT INTO portfolios VALUES ('p', 'EUR', 1, 0.1, 1, 1)")
    for number in range(3):
        filled.sql(ORDER, f"order {number}")
    path = tmp_path / make(filled, tmp_path).name
    filled.sql("DROP TABLE public.orders")
    filled.apply(app_schema_sql=TRADING_SQL)
    filled.sql(ORDER, "in between")  # as number 1
    table = beside(filled, path, "public.orders")
    assert back(filled, path, "public.orders") == PutBack(rows=2, taken=1)
    assert filled.sql("SELECT id, client_order_id FROM orders ORDER BY id") == [
        (1, "in between"), (2, "order 1"), (3, "order 2")]  # fmt: skip
    assert filled.sql(f"SELECT client_order_id FROM {table} WHERE id = 1") == [("order 0",)]
    filled.sql("DELETE FROM orders WHERE id = 1")
    assert back(filled, path, "public.orders") == PutBack(rows=1, taken=0)


def test_rows_without_a_key_and_with_generated_columns_go_back(filled: Site, tmp_path: Path) -> None:
    app = quote(filled.declaration.app_owner)
    filled.sql(f"""
        CREATE TABLE public.heap (n int, twice int GENERATED ALWAYS AS (n * 2) STORED, j json, s serial, p point);
        INSERT INTO public.heap (n, j) VALUES (1, '{{"a": 1}}'), (2, NULL); INSERT INTO public.heap SELECT * FROM (
            SELECT 3) AS three; INSERT INTO public.heap (n, s) VALUES (4, 9), (4, 9);
        ALTER TABLE public.heap OWNER TO {app};
        DROP TRIGGER no ON public.{quote(ODD)}""")
    path = tmp_path / make(filled, tmp_path).name
    rows = "SELECT n, twice, j::text, s FROM public.heap ORDER BY n, s"
    before, odd = filled.sql(rows), filled.sql(f"SELECT * FROM public.{quote(ODD)} ORDER BY id")
    filled.sql("""
        DELETE FROM public.heap WHERE n IN (1, 2);
        DELETE FROM public.heap WHERE ctid = (SELECT max(ctid) FROM public.heap WHERE n = 4);
        SELECT setval('public.heap_s_seq', 1)""")
    filled.sql(f"DELETE FROM public.{quote(ODD)}")
    for table, count in (("public.heap", 3), (f"public.{quote(ODD)}", 2)):
        beside(filled, path, table)
        assert back(filled, path, table) == PutBack(rows=count, taken=0)
    assert filled.sql(rows) == before
    assert filled.sql(f"SELECT * FROM public.{quote(ODD)} ORDER BY id") == odd
    assert filled.sql("SELECT nextval('public.heap_s_seq')") == [(10,)]

    filled.sql("ALTER TABLE public.heap DROP COLUMN j")
    beside(filled, path, "public.heap")
    with pytest.raises(BackupError, match=r"The table public\.heap lacks j\.") as failed:
        back(filled, path, "public.heap")
    assert failed.value.problem.code == "restore_table_differs"
