"""Each release of Prefect that has a lock works, and is known: its structure, its retention, its backups."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pgprefect.runs.retention import CLEANED_TABLES, Policy, clean_up, plan
from pgprefect.schema.revision import head_of, installed_migrations
from pgprefect.schema.structure import as_text, known_structure
from pgprefect.schema.verify import verify

from bench.data import fill
from requirements.release import broken_assumptions, prove, report, settings_of
from requirements.structure import fresh_structure
from tests.support.backups import fingerprint, make, put_back
from tests.support.project import DEFAULT, RELEASES, virtualenv_of
from tests.support.site import Site
from tests.support.verification import codes

each_release = pytest.mark.parametrize(
    "release", [*(pytest.param(one, marks=pytest.mark.thorough) for one in RELEASES[:-1]), RELEASES[-1]]
)


@each_release
def test_its_lock_gives_a_server_that_is_ready_and_runs(released: Site, release: str) -> None:
    prove(released, release)


@each_release
def test_its_structure_is_known(released: Site, release: str) -> None:
    head = head_of(installed_migrations(str(virtualenv_of(release))))
    structure = known_structure(head)
    assert structure and as_text(structure) == fresh_structure(released), "run requirements/structure"
    found = verify(released.server.login, released.declaration, virtualenv=str(virtualenv_of(release)))
    assert (found.problems, found.not_checked) == ([], [])
    released.sql(
        "DROP INDEX prefect.ix_flow_run__start_time; ALTER TABLE prefect.worker DROP last_heartbeat_time CASCADE"
    )
    assert {"index_missing", "column_missing"} <= codes(released)


@each_release
def test_a_cleanup_deletes_what_it_planned_and_a_backup_brings_it_back(
    released: Site, release: str, tmp_path: Path
) -> None:
    policy = Policy(days_to_keep=30.1, logs_days=40.1, artifacts_days=40.1, events_days=30.1)
    with contextlib.closing(released.server.connect(released.database)) as connection:
        fill(connection, "prefect", 200)
    before, manifest = fingerprint(released), make(released, tmp_path, "workflow")

    server = released.tenant.server
    with contextlib.closing(
        released.server.connect(released.database, server, released.declaration.passwords[server])
    ) as connection:
        planned = plan(connection, "prefect", policy).rows
        assert clean_up(connection, "prefect", policy).rows == planned
    after = fingerprint(released)
    lost = {table: before[f"prefect.{table}"][0] - after[f"prefect.{table}"][0] for table in CLEANED_TABLES}
    assert lost == planned and lost["flow_run"] > 100
    assert {table for table in before if before[table] != after[table]} <= {
        f"prefect.{name}" for name in CLEANED_TABLES
    }

    put_back(released, tmp_path / manifest.name, "workflow", virtualenv=virtualenv_of(release))
    assert fingerprint(released) == before
    assert verify(released.server.login, released.declaration).problems == []


@pytest.mark.thorough
def test_what_another_release_changes_is_reported(
    templates: Callable[[str], Site], capsys: pytest.CaptureFixture[str]
) -> None:
    assert RELEASES[0] != DEFAULT
    older = templates(RELEASES[0])
    assert report(RELEASES[0], templates(DEFAULT), older) == 0
    said = capsys.readouterr().out
    assert "migrations: none" in said and "relied upon and gone: none" in said and "schema: none" not in said


@pytest.mark.parametrize("release", [DEFAULT])
def test_what_a_release_takes_away_is_named(released: Site, release: str) -> None:
    head = head_of(installed_migrations(str(virtualenv_of(release))))
    known = known_structure(head) or {}
    key = next(part for part in known if part.name == "fk_task_run__flow_run_id__flow_run")
    structure = {part: value for part, value in known.items() if part not in (key,) and part.name != "pull_steps"}
    released.sql(
        "CREATE TABLE prefect.of_a_later_release (); ALTER TYPE prefect.worker_status RENAME TO of_workers;"
        "DROP TABLE prefect.csrf_token"
    )
    settings = settings_of(release) - {"PREFECT_SERVER_DOCKET_NAME"}
    said = "\n".join(broken_assumptions(released, structure, known, settings))
    for name in (
        "of_a_later_release",
        "of_workers",
        "csrf_token",
        "deployment.pull_steps",
        "PREFECT_SERVER_DOCKET_NAME",
    ):
        assert name in said
    assert "a foreign key of task_run went" in said and len(said.splitlines()) == 8
