"""A wrong password is named by verification, and not by the next connection of a service."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pgprefect.core.connection import Login
from pgprefect.schema.verify import Verification, verify

from filter_plugins.text import env_quote, pgpass_lines
from tests.support.ansible import Result
from tests.support.site import PASSWORD, Site


@contextlib.contextmanager
def other_password(site: Site, role: str) -> Iterator[None]:
    """Store another password than the one that the host has."""
    site.sql(f"ALTER ROLE {role} PASSWORD 'another'")
    try:
        yield
    finally:
        site.sql(f"ALTER ROLE {role} PASSWORD %s", PASSWORD)


@pytest.fixture
def folder(prefect: Site, tmp_path: Path) -> Path:
    """The environments of a server, its migration and a worker, as the roles write them."""

    def write(name: str, settings: dict[str, str]) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#\n# Managed\n#\n" + "".join(f"{key}={env_quote(value)}\n" for key, value in settings.items()))

    write("prefect-server.env", prefect.environment(role=prefect.tenant.server))
    write("prefect-migrate.env", prefect.environment())
    write("prefect.env", {"PREFECT_API_URL": "http://127.0.0.1:4200/api"})
    libpq = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(prefect.server.port),
        "PGUSER": prefect.declaration.app_login,
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": prefect.database,
    }
    write("worker/prefect-default-1.env", libpq)
    return tmp_path


def look(site: Site, folder: Path, login: Login | None = None) -> Verification:
    return verify(login or site.server.login, site.declaration, environments=str(folder))


def test_passwords_that_are_right(prefect: Site, folder: Path) -> None:
    report = look(prefect, folder)
    assert (report.problems, report.not_checked) == ([], [])


@pytest.mark.parametrize(
    ("role", "file"),
    [
        ("prefect_server", "prefect-server.env"),
        ("prefect_migrator", "prefect-migrate.env"),
        ("mltrading_app", "worker/prefect-default-1.env"),
    ],
)
def test_a_wrong_password_is_named_while_the_service_still_runs(
    prefect: Site, folder: Path, role: str, file: str
) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database, role, PASSWORD)) as running:
        with other_password(prefect, role):
            problems = [problem for problem in look(prefect, folder).problems if problem.code != "role_password"]
            with running.cursor() as cursor:
                cursor.execute("SELECT")
        (problem,) = problems
        assert (problem.code, problem.object) == ("password_refused", f"role {role}")
        assert str(folder / file) in problem.message and PASSWORD not in problem.message


def test_the_password_file_of_a_host_without_the_database(prefect: Site, tmp_path: Path) -> None:
    monitor, server = prefect.declaration.monitor, prefect.tenant.server
    passfile = tmp_path / "pgpass"
    passfile.write_text(pgpass_lines({monitor: PASSWORD, server: PASSWORD}))
    passfile.chmod(0o600)
    login = Login("127.0.0.1", prefect.server.port, monitor, passfile=str(passfile))
    assert look(prefect, tmp_path, login).problems == []
    with other_password(prefect, server):
        (problem,) = look(prefect, tmp_path, login).problems
    assert (problem.code, problem.object) == ("password_refused", f"role {server}")


def test_what_can_not_be_tried_is_said(prefect: Site, folder: Path) -> None:
    (folder / "broken.env").write_text('PREFECT_SERVER_DATABASE_PASSWORD="x"\n')
    prefect.sql("ALTER ROLE mltrading_app CONNECTION LIMIT 0")
    try:
        report = look(prefect, folder)
    finally:
        prefect.sql("ALTER ROLE mltrading_app CONNECTION LIMIT -1")  # of the other databases of this server too
    assert {problem.code for problem in report.problems} <= {"role_attributes", "connection_limit"}
    assert len(report.not_checked) == 2
    assert "too many connections" in report.not_checked[1] and "broken.env" in report.not_checked[0]


def test_the_inventorys_password_is_compared_with_the_stored_one(
    run_module: Callable[..., Result], prefect: Site
) -> None:
    passwords = dict(prefect.declaration.passwords)
    assert run_module("prefect_schema_verify", **prefect.arguments(), passwords=passwords)["problems"] == []
    with other_password(prefect, prefect.declaration.backup):
        (problem,) = run_module("prefect_schema_verify", **prefect.arguments(), passwords=passwords)["problems"]
    assert problem["code"] == "role_password" and "playbooks/database.yml" in problem["remedy"]
