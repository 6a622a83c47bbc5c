"""The database that the environment of a Prefect server names."""

from __future__ import annotations

import pytest
from pgprefect.core.connection import Login
from pgprefect.site import environment

from filter_plugins.text import env_quote
from tests.support.site import PASSWORD

SETTINGS = {
    "PREFECT_SERVER_DATABASE_HOST": "db",
    "PREFECT_SERVER_DATABASE_USER": "me",
    "PREFECT_SERVER_DATABASE_NAME": "mltrading",
    "PREFECT_SERVER_DATABASE_PASSWORD": PASSWORD,
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH": '"My schema", extensions',
}
TLS = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_TLS_"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("prefer", None)),
        ({f"{TLS}ENABLED": "true", f"{TLS}CA_FILE": "/ca"}, ("verify-full", "/ca")),
        ({f"{TLS}ENABLED": "true", f"{TLS}CHECK_HOSTNAME": "False"}, ("verify-ca", None)),
    ],
)
def test_settings_of_the_server(change: dict[str, str], expected: tuple[str, str | None]) -> None:
    login, database, schema = environment.database({**SETTINGS, **change})
    assert login == Login("db", 5432, "me", PASSWORD, *expected)
    assert (database, schema) == ("mltrading", "My schema")


@pytest.mark.parametrize("name", [name for name in SETTINGS if not name.endswith("PASSWORD")])
def test_a_missing_setting_is_named(name: str) -> None:
    with pytest.raises(environment.SettingMissing, match=name):
        environment.database({**SETTINGS, name: ""})


def test_a_file_of_the_roles_is_read_as_systemd_reads_it() -> None:
    text = f"#\n# Managed\n#\nA={env_quote(PASSWORD)}\nB=plain\n\nC={env_quote('')}\n"
    assert environment.parse(text) == {"A": PASSWORD, "B": "plain", "C": ""}
