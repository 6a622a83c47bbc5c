"""Declarations: what is refused, and who may do what."""

from __future__ import annotations

from typing import Any

import pytest
from pgprefect.schema.declaration import DeclarationError, declare

from tests.support.site import declaration_of

ARGUMENTS: dict[str, Any] = {
    "database": "mltrading",
    "app_owner": "mltrading_owner",
    "app_login": "mltrading_app",
    "monitor": "prefect_monitor",
    "backup": "prefect_backup",
    "tenants": [
        {
            "name": "prefect",
            "schema": "prefect",
            "owner": "prefect_owner",
            "migrator": "prefect_migrator",
            "server": "prefect_server",
            "port": 4200,
        }
    ],
}
TENANT = ARGUMENTS["tenants"][0]


def with_tenant(**change: Any) -> dict[str, Any]:
    return {"tenants": [{**TENANT, **change}]}


REFUSED = [
    ({"administrator": "prefect_owner"}, "the administrator 'prefect_owner' is another declared role too"),
    ({"administrator": "pg_admin"}, "the role name 'pg_admin' is reserved"),
    ({"tenants": []}, "tenants is empty"),
    (with_tenant(schema=""), r"tenants\[0\] has no schema"),
    (with_tenant(schema="public"), "schema 'public' is declared twice"),
    (with_tenant(schema="extensions"), "schema 'extensions' is declared twice"),
    (with_tenant(schema="pg_mine"), "'pg_mine' is reserved"),
    (with_tenant(schema="information_schema"), "reserved"),
    (with_tenant(schema="x" * 64), "longer than 63 bytes"),
    (with_tenant(schema="é" * 32), "longer than 63 bytes"),
    (with_tenant(schema="a\0b"), "NUL"),
    (with_tenant(server="prefect_owner"), "role 'prefect_owner' is declared twice"),
    (with_tenant(server="a,b"), "comma"),
    (with_tenant(server="a=b"), "equals sign"),
    ({"tenants": [TENANT, TENANT]}, "tenant 'prefect' is declared twice"),
    ({"app_owner": "pg_monitor"}, "reserved"),
    ({"app_login": "public"}, "reserved"),
    ({"backup": ""}, "a role has an empty name"),
    ({"database": ""}, "a database has an empty name"),
    ({"extensions": [""]}, "an? extension has an empty name"),
    ({"connection_limits": {"nobody": 5}}, "connection_limits names 'nobody'"),
    ({"connection_limits": {"prefect_server": "many"}}, "'many'"),
    ({"connection_limits": {"prefect_server": -2}}, "-2"),
    ({"passwords": {"nobody": "x"}}, "passwords names 'nobody'"),
    ({"passwords": {"prefect_owner": "x"}}, "passwords names 'prefect_owner'"),
    ({"passwords": {"prefect_server": ""}}, "'prefect_server' cannot be used: the password is empty"),
    ({"passwords": {"prefect_server": "a\nb"}}, "control character"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_wrong_declaration_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    declare(**ARGUMENTS)
    with pytest.raises(DeclarationError, match=words):
        declare(**{**ARGUMENTS, **change})


def test_all_faults_are_named_at_once_and_no_password() -> None:
    change = {"app_login": "none", "passwords": {"prefect_server": "secret\a"}, "connection_limits": {"nobody": 1}}
    with pytest.raises(DeclarationError) as refused:
        declare(**{**ARGUMENTS, **change})
    message = str(refused.value)
    assert all(word in message for word in ("'none'", "prefect_server", "nobody")) and "secret" not in message


def test_prefect_never_sees_public() -> None:
    paths = declaration_of("x", tenants=("one", "two")).search_paths
    assert paths["mltrading_app"] == ("public", "one")
    assert all("public" not in path for role, path in paths.items() if role != "mltrading_app")


def test_readers_never_read_secrets() -> None:
    declaration = declare(**ARGUMENTS)
    for table in ("configuration", "block_document", "csrf_token"):
        assert set(declaration.rights("table", "prefect", table)) == {"prefect_server"}
        assert set(declaration.rights("table", "public", table)) == {"mltrading_app"}  # only a name there
    assert set(declaration.rights("table", "prefect", "log")) == {"prefect_server", "mltrading_app", "prefect_monitor"}
    assert declaration.rights("column", "prefect", "log") == {}
