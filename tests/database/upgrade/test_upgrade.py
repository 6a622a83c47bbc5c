"""Upgrades of Prefect's tables between real releases, and back: what stays, what bars them, and what failures leave."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pgprefect.cli.main import main
from pgprefect.core.connection import Login
from pgprefect.core.errors import ProblemError
from pgprefect.schema.revision import head_of, installed_migrations, stored_revisions
from pgprefect.schema.structure import known_structure
from pgprefect.schema.verify import verify
from pgprefect.upgrade import checks, gate
from pgprefect.upgrade.gate import behind_gate, closed_gate, is_kept
from pgprefect.upgrade.migration import Migration
from pgprefect.upgrade.path import MigrationPath

from bench.data import fill
from requirements.release import prove
from requirements.structure import fresh_structure
from tests.support.backups import fingerprint
from tests.support.project import RELEASES, virtualenv_of
from tests.support.site import PASSWORD, Site
from tests.support.waiting import wait_for

OWN = "prefect-migrate@tenant0"
APPLICATION_NAME = "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME"
MIGRATIONS = "lib/python3*/site-packages/prefect/server/database/_migrations/versions/postgresql"
PAIRS = list(itertools.pairwise(RELEASES))


def migrate(
    site: Site,
    release: str,
    to: str | None = None,
    seconds: float = 30,
    program: str = "prefect",
    gate: Path | None = None,
) -> list[str]:
    """Migrate as the unit does, and return what is told."""
    virtualenv, told = virtualenv_of(release), list[str]()
    login = Login("127.0.0.1", site.server.port, site.tenant.migrator, PASSWORD)
    migration = Migration(login, site.database, site.tenant.schema, OWN, lock_seconds=seconds)
    words = ["downgrade", "--yes", "--revision", to] if to else ["upgrade", "--yes"]
    environment = {
        **site.environment(home="/tmp"),
        APPLICATION_NAME: OWN,
    }
    command = [str(virtualenv / "bin" / program), "server", "database", *words]
    if gate:
        command = behind_gate(str(virtualenv / "bin/python"), command, gate, gate.with_suffix(".loaded"))
    migration.run(command, environment, told.append, gate=gate, target=to)
    return told


def revision(site: Site) -> str:
    with contextlib.closing(site.server.connect(site.database)) as connection:
        (found,) = stored_revisions(connection, site.tenant.schema)
        return found


def check(site: Site, release: str | None) -> checks.UpgradeCheck:
    monitor = site.declaration.monitor
    with contextlib.closing(site.server.connect(site.database, monitor, PASSWORD)) as connection:
        virtualenv = str(virtualenv_of(release)) if release else None
        return checks.check_upgrade(connection, site.tenant.schema, release or "9.9.9", virtualenv, "prefect-server@")


@contextlib.contextmanager
def session(site: Site, statement: str) -> Iterator[Any]:
    """Somebody's session, in a transaction."""
    connection = site.server.connect(site.database)
    connection.autocommit = False
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
        yield connection
    finally:
        connection.close()


@pytest.fixture
def history(released: Site) -> Site:
    with contextlib.closing(released.server.connect(released.database)) as connection:
        fill(connection, "prefect", 100)
    return released


@pytest.mark.parametrize(("release", "later"), [pytest.param(*PAIRS[0], marks=pytest.mark.thorough), *PAIRS[1:]])
def test_an_upgrade_keeps_everything_and_can_be_taken_back(history: Site, release: str, later: str) -> None:
    prove(history, release)  # a deployment with a schedule, runs, the server's blocks
    before, structure, head = fingerprint(history), fresh_structure(history), revision(history)
    found = check(history, later)
    assert found.path and found.path.lossless and found.problems == [] and found.path.current == head
    made = {f"+ table {name}" for name in tables(later) - tables(release)}
    assert found.changes and made <= set(found.changes), found.changes

    told = migrate(history, later)
    assert told[-1].startswith(f"Migrated prefect from {head} to {found.path.target}")
    after = fingerprint(history)
    assert {name for name in before if before[name] != after[name]} == {"prefect.alembic_version"}
    report = verify(history.server.login, history.declaration, virtualenv=str(virtualenv_of(later)))
    assert [problem for problem in report.problems if problem.code != "secret_readable"] == []
    assert check(history, later).path == MigrationPath(found.path.target, found.path.target, ())
    migrate(history, later)  # again, with nothing to do
    assert fingerprint(history) == after

    migrate(history, later, to=head)
    # Where it is there already, no program of the newer release is needed.
    assert migrate(history, later, to=head, program="missing") == [f"prefect is at {head} already."]
    assert fingerprint(history) == before and fresh_structure(history) == structure
    assert verify(history.server.login, history.declaration, virtualenv=str(virtualenv_of(release))).problems == []


def tables(release: str) -> set[str]:
    known = known_structure(head_of(installed_migrations(str(virtualenv_of(release)))))
    assert known
    return {part.table for part in known if part.table}


@pytest.mark.thorough
@pytest.mark.parametrize(("release", "later"), PAIRS[-1:])
def test_it_is_loaded_before_it_begins(
    released: Site, later: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "GATES", tmp_path)
    before, loaded = fingerprint(released), tmp_path / "tenant0.loaded"
    with ThreadPoolExecutor() as threads, closed_gate("tenant0") as closed:
        assert is_kept(closed)
        # Who closed it ends, and nobody has stopped the server.
        keeper = subprocess.Popen(["sleep", "600"])
        closed.write_text(str(keeper.pid))
        running = threads.submit(migrate, released, later, gate=closed)
        wait_for(loaded.exists)
        keeper.kill()
        keeper.wait()
        failed = running.exception()
        assert isinstance(failed, ProblemError) and "nothing was migrated" in failed.problem.message
        assert not is_kept(closed) and fingerprint(released) == before
        closed.write_text(str(os.getpid()))
        loaded.unlink()
        running = threads.submit(migrate, released, later, gate=closed)
        wait_for(loaded.exists)
        assert fingerprint(released) == before
        closed.unlink()
        assert "Migrated prefect" in running.result()[-1]


@pytest.mark.thorough
@pytest.mark.parametrize(("release", "later"), PAIRS[-1:])
def test_a_lock_that_does_not_go_away_is_named_and_ends_it(released: Site, later: str) -> None:
    before = fingerprint(released)
    with session(released, "LOCK TABLE prefect.automation") as holder:
        pid = holder.info.backend_pid
        assert [problem.code for problem in check(released, later).problems] == ["upgrade_locked"]
        started = time.monotonic()
        with pytest.raises(ProblemError) as blocked:
            migrate(released, later, seconds=2)
        assert time.monotonic() - started < 40
        problem = blocked.value.problem
        assert problem.code == "migration_blocked" and f"pg_terminate_backend({pid})" in problem.remedy
        (left,) = released.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", OWN)
        assert left == (0,)
    assert fingerprint(released) == before
    migrate(released, later)


@pytest.mark.parametrize(("release", "later"), PAIRS[:1])
def test_a_migration_that_is_killed_is_repeated(released: Site, later: str) -> None:
    # Each concurrent index waits for who may write.
    with session(released, "LOCK TABLE prefect.event_resources, prefect.flow_run IN ROW EXCLUSIVE MODE"):
        said: list[BaseException] = []

        def run() -> None:
            try:
                migrate(released, later, seconds=600)
            except ProblemError as error:
                said.append(error)

        running = threading.Thread(target=run)
        running.start()
        invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
        wait_for(lambda: released.sql(invalid))
        os.kill(child(), 9)
        running.join()
    assert isinstance(said[0], ProblemError) and said[0].problem.code == "migration_failed"
    (problem,) = check(released, later).problems
    assert (problem.code, problem.severity) == ("upgrade_invalid_index", "notice")
    told = migrate(released, later)
    assert any("unfinished index" in line for line in told)
    assert verify(released.server.login, released.declaration, virtualenv=str(virtualenv_of(later))).problems == []


def child() -> int:
    """The process of the migration that runs."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            words = (path.parent / "cmdline").read_bytes().split(b"\0")
            if int(parent) == os.getpid() and b"upgrade" in words and state != "Z":
                return int(path.parent.name)
    raise AssertionError("no migration runs")


@pytest.mark.parametrize("release", RELEASES[-1:])
def test_what_bars_an_upgrade(released: Site, release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(released)
    assert [problem.code for problem in check(released, RELEASES[0]).problems] == ["upgrade_no_path"]
    assert check(released, None).path is None
    with session(released, "SELECT 1") as idle:
        assert check(released, release).problems == []
        monkeypatch.setattr(checks, "OLD_TRANSACTION_SECONDS", -1)
        found = {problem.code: problem for problem in check(released, release).problems}
        assert f"pg_terminate_backend({idle.info.backend_pid})" in found["upgrade_old_transaction"].remedy
    monkeypatch.undo()
    (folder,) = virtualenv_of(release).glob(MIGRATIONS)
    shutil.copytree(folder, tmp_path / folder.relative_to(virtualenv_of(release)))
    (made,) = tmp_path.glob(MIGRATIONS)
    (made / "later.py").write_text(
        f'revision = "a1"\ndown_revision = "{revision(released)}"\n'
        "def upgrade():\n    op.drop_column('flow', 'labels')\ndef downgrade():\n    op.add_column('flow', 'labels')\n"
    )
    with contextlib.closing(released.server.connect(released.database)) as connection:
        (problem,) = checks.check_upgrade(connection, "prefect", release, str(tmp_path), "").problems
    assert (problem.code, problem.severity) == ("upgrade_not_reversible", "notice")
    with pytest.raises(ProblemError) as failed:
        migrate(released, release, program="python")
    assert failed.value.problem.code == "migration_failed" and "can't open file" in failed.value.problem.message
    assert fingerprint(released) == before


def test_the_command(prefect: Site, site_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, release = ["--config", str(site_file), "upgrade", "check"], RELEASES[-1]
    (tmp_path / f"{release}+0a1b2c3d").symlink_to(virtualenv_of(release))
    site_file.write_text(json.dumps({**json.loads(site_file.read_text()), "virtualenv": str(tmp_path / "3.8.8+0")}))
    assert main([*command, release]) == 0
    said = capsys.readouterr().out
    assert "for prefect" in said
    assert main([*command, "9.9.9"]) == 0 and "is not installed here yet" in capsys.readouterr().out
    with session(prefect, "LOCK TABLE prefect.flow IN SHARE MODE"):
        assert main([*command, release]) == 2
    assert "1 thing would bar the upgrade" in capsys.readouterr().out
