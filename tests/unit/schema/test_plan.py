"""Plans that need no server: for a new database, and for an old PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

from pgprefect.schema.catalog import Catalog, clean_database
from pgprefect.schema.plan import make_plan

from tests.support.site import PASSWORD, declaration_of


def test_plan_for_a_new_database_needs_no_server_and_shows_no_password() -> None:
    declaration = replace(
        declaration_of("new db"), passwords={"mltrading_app": PASSWORD}, app_schema_tables=("orders",)
    )
    changes = make_plan(clean_database(declaration), declaration, "CREATE TABLE orders ();").changes
    text = "\n".join(f"{change.statement} {change.before} {change.after} {change.message}" for change in changes)
    assert PASSWORD not in text and "SCRAM-SHA-256$" not in text and "'********'" in text
    statements = [str(change.statement) for change in changes]
    assert statements[:2] == [
        "CREATE ROLE mltrading_owner NOLOGIN",
        "CREATE DATABASE \"new db\" OWNER mltrading_owner ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0",
    ]
    assert any("orders is missing" in statement for statement in statements)
    assert 'REVOKE CONNECT, TEMPORARY ON DATABASE "new db" FROM PUBLIC CASCADE' in statements


def test_an_old_server_is_refused() -> None:
    found = make_plan(Catalog(server_version=130012), declaration_of("x"))
    assert [problem.code for problem in found.blockers] == ["server_too_old"] and found.changes == []


def test_before_postgresql_15_everybody_may_create_in_public() -> None:
    declaration = declaration_of("x")
    old = clean_database(declaration, Catalog(server_version=140000))
    statements = [str(change.statement) for change in make_plan(old, declaration).changes]
    assert "REVOKE USAGE, CREATE ON SCHEMA public FROM PUBLIC CASCADE" in statements
