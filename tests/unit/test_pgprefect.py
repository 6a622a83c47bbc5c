"""What is pure in pgprefect: declarations, passwords, migrations' files, settings, and the plan for a new database."""

from __future__ import annotations

import ast
import base64
import os
import pwd
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pgprefect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgprefect import manager
from pgprefect.cli import backup as backup_commands
from pgprefect.cli.main import main
from pgprefect.core.connection import ConnectionFailed, Login, connect
from pgprefect.core.scram import PasswordRefused, saslprep, scram_verifier, verifier_matches
from pgprefect.core.sql import Value, quote, search_path_names
from pgprefect.schema import revision
from pgprefect.schema.catalog import Catalog, clean_database
from pgprefect.schema.declaration import DeclarationError, declare
from pgprefect.schema.plan import make_plan
from pgprefect.site import environment

from tests.conftest import PASSWORD, ROOT, declaration_of

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


# From RFC 7677's example, whose client and server messages these keys produce.
def test_scram_verifier_of_the_standard() -> None:
    verifier = scram_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_printable_ascii_is_taken_as_it_is(password: str) -> None:
    assert saslprep(password) == password
    verifier = scram_verifier(password, iterations=1)
    assert verifier_matches(verifier, password) and not verifier_matches(verifier, password + "x")


@pytest.mark.parametrize("stored", [None, "", "md5abc", "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$1:!$a:b", "a$b$c$d"])
def test_other_hashes_do_not_match(stored: str | None) -> None:
    assert not verifier_matches(stored, "password")


# The examples of RFC 4013, and the two rules on right-to-left text.
@pytest.mark.parametrize(
    ("password", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")],
)
def test_saslprep(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared
    assert verifier_matches(scram_verifier(password, iterations=1), prepared)


@pytest.mark.parametrize(
    "password", ["", "\u00ad", "\a", "\u0627\u0031", "\u0627a\u0628", "\ue000", "\u0221", "\ud800"]
)
def test_passwords_that_clients_would_not_agree_on(password: str) -> None:
    with pytest.raises(PasswordRefused):
        saslprep(password)


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


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("prefect", "prefect"),
        ("Prefect", '"Prefect"'),
        ("user", '"user"'),
        ('a"b', '"a""b"'),
        ("1a", '"1a"'),
        ("", '""'),
        (("a", "B"), 'a."B"'),
    ],
)
def test_quote(name: str | tuple[str, ...], quoted: str) -> None:
    assert quote(name) == quoted


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("prefect, extensions", ["prefect", "extensions"]),
        ('"My, ""odd"" one",public', ['My, "odd" one', "public"]),
        ("Prefect", ["prefect"]),
        ('"$user", public', ["$user", "public"]),
        ("", []),
    ],
)
def test_search_path_names(path: str, names: list[str]) -> None:
    assert search_path_names(path) == names


def test_values_are_shown_as_sql() -> None:
    from pgprefect.core.sql import Statement

    shown = str(Statement("SELECT {}, {}, {}", (Value("it's"), Value(5), Value("x", secret=True))))
    assert shown == "SELECT 'it''s', 5, '********'"


def migrations(folder: Path, *files: str) -> str:
    target = folder / "lib/python3.11/site-packages/prefect/server/database/_migrations/versions/postgresql"
    target.mkdir(parents=True)
    for number, text in enumerate(files):
        (target / f"{number}.py").write_text(text)
    return str(folder)


FIRST = '"""Add a table\n\nRevision ID: a1\nrevision = nonsense\n"""\nrevision = "a1"\ndown_revision = None\n'
SECOND = "revision: str = 'b2'\ndown_revision: str | None = 'a1'\n"
BRANCH = 'revision = "c3"\ndown_revision = "a1"\n'
MERGE = 'revision = "d4"\ndown_revision = (\n    "b2",\n    "c3",\n)\n'


@pytest.mark.parametrize(
    ("stored", "state", "pending"),
    [
        ([], "empty", 4),
        (["a1"], "behind", 3),
        (["b2"], "behind", 2),
        (["b2", "c3"], "behind", 1),
        (["d4"], "current", 0),
        (["e5"], "unknown", 0),
        (["d4", "e5"], "unknown", 0),
    ],
)
def test_revisions(tmp_path: Path, stored: list[str], state: str, pending: int) -> None:
    found = revision.compare(stored, revision.installed_migrations(migrations(tmp_path, FIRST, SECOND, BRANCH, MERGE)))
    assert (found.state, found.pending, found.head) == (state, pending, "d4")
    assert found.current == (", ".join(stored) or None)


@pytest.mark.parametrize(
    ("files", "words"),
    [((), "no Prefect server"), (("x = 1",), "not a migration"), ((FIRST, SECOND, BRANCH), "2 newest migrations")],
)
def test_migrations_that_can_not_be_read(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    with pytest.raises(revision.RevisionError, match=words):
        revision.compare([], revision.installed_migrations(migrations(tmp_path, *files)))


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


def test_over_the_unix_socket_root_becomes_the_role_for_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PostgreSQL's peer method sees is the user at the moment of connecting."""
    import psycopg2

    monkeypatch.setattr(psycopg2, "connect", lambda **_arguments: pytest.fail(str(os.geteuid()), pytrace=False))
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = pwd.getpwnam("nobody")
    with pytest.raises(pytest.fail.Exception, match=f"^{nobody.pw_uid}$"):
        connect(Login(user="nobody"), "x")
    assert os.geteuid() == 0
    for login in (Login(user="nobody", host="h"), Login(user="nobody", password="p"), Login(user="no_such_user")):
        with pytest.raises(pytest.fail.Exception, match=r"^0$"):
            connect(login, "x")


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ConnectionFailed) as failed:
        connect(Login(), "x")
    assert failed.value.problem.code == "driver_missing" and "python3-psycopg2" in failed.value.problem.remedy


def test_the_package_needs_neither_ansible_nor_prefect_nor_a_driver_to_be_imported() -> None:
    paths = [path.relative_to(ROOT / "module_utils") for path in (ROOT / "module_utils/pgprefect").rglob("*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.stem not in ("__init__", "__main__")]
    assert len(modules) > 30
    program = (
        f"import sys; sys.modules.update(dict.fromkeys(['ansible', 'prefect', 'psycopg2']))\n"
        f"import importlib\nfor name in {modules}: importlib.import_module(name)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT / "module_utils", check=True)


def test_the_command_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgprefect", "--help"],
        cwd=ROOT / "module_utils",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "revision" in done.stdout and "seal" in done.stdout


def test_the_command_starts_itself_and_nothing_of_the_folder_in_which_it_runs(tmp_path: Path) -> None:
    (tmp_path / "pgprefect").mkdir()
    for name in ("sitecustomize", "pgprefect/__init__", "pgprefect/__main__", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('trapped')")
    command = [*backup_commands._this_program(), "backup", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--safety" in done.stdout, done.stderr


def test_a_module_takes_no_more_with_it_than_it_needs() -> None:
    """Ansible sends to a host what it finds imported in the source, executed or not."""
    tree = ast.parse((ROOT / "module_utils/pgprefect/__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert pgprefect.get_db_manager is manager.get_db_manager
    with pytest.raises(AttributeError, match="nothing"):
        _ = pgprefect.nothing


def test_wait_returns_when_the_service_answers_with_success() -> None:
    answers = [503, 503, 200]

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert main(["wait", f"http://127.0.0.1:{server.server_port}/ready"]) == 0
        server.shutdown()
    assert answers == []
