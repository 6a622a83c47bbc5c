"""Restores: what comes back, what is left alone, what is refused, and that a failed one leaves all as it was."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.backup import unfinished
from pgprefect.backup.examine import examine
from pgprefect.backup.restore import choose
from pgprefect.backup.sets import BackupError, Manifest, read_manifest
from pgprefect.core.sql import quote
from pgprefect.schema.verify import verify

from bench.data import fill
from tests.support.backups import edit, fingerprint, make, put_back, schema_of, workflow
from tests.support.kinds import each_third
from tests.support.postgresql import running_postgresql
from tests.support.project import ROOT
from tests.support.site import Site, migrated_site
from tests.support.waiting import wait_for


def of_schema(prints: dict[str, tuple[int, str]], schema: str) -> dict[str, tuple[int, str]]:
    return {table: value for table, value in prints.items() if table.startswith(f"{schema}.")}


@pytest.fixture
def filled(prefect: Site) -> Site:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 100)
    prefect.sql("INSERT INTO system_logs (event_type, message) VALUES ('before', 'm')")
    return prefect


def spoil(site: Site) -> None:
    """What a bad night does to both schemas."""
    site.sql("DELETE FROM prefect.flow_run; DROP TABLE prefect.variable; CREATE TABLE prefect.extra (n int)")
    site.sql("UPDATE system_logs SET message = 'after'")


def test_the_workflow_schema_comes_back_and_the_application_is_left_alone(filled: Site, tmp_path: Path) -> None:
    before, schema = fingerprint(filled), schema_of(filled)
    manifest = make(filled, tmp_path, "full")
    spoil(filled)
    public = of_schema(fingerprint(filled), "public")
    rows = put_back(filled, tmp_path / manifest.name, "workflow")
    assert rows["prefect.flow_run"] == 100
    assert not any(table.startswith("public.") for table in rows)
    after = fingerprint(filled)
    assert of_schema(after, "prefect") == of_schema(before, "prefect")
    assert of_schema(after, "public") == public != of_schema(before, "public")
    assert schema_of(filled) == schema
    assert verify(filled.server.login, filled.declaration).problems == []


def test_both_come_back_also_where_the_schemas_are_gone(filled: Site, tmp_path: Path) -> None:
    filled.sql("CREATE VIEW public.runs WITH (security_invoker) AS SELECT name FROM prefect.flow_run;"
               f" ALTER VIEW public.runs OWNER TO {quote(filled.declaration.app_owner)}")  # fmt: skip
    filled.apply()  # its rights
    before, schema = fingerprint(filled), schema_of(filled)
    manifest = make(filled, tmp_path, "full")
    filled.sql("DROP SCHEMA prefect CASCADE; DROP SCHEMA public CASCADE")
    put_back(filled, tmp_path / manifest.name, "app", "workflow")
    assert fingerprint(filled) == before
    assert schema_of(filled) == schema
    assert verify(filled.server.login, filled.declaration).problems == []
    with pytest.raises(Exception, match="permission denied"):
        filled.sql("SELECT * FROM prefect.block_document", role=filled.declaration.app_login)


def large_objects(site: Site) -> list[tuple[object, ...]]:
    return site.sql("""
        SELECT oid, pg_get_userbyid(lomowner), lomacl::text, convert_from(lo_get(oid), 'UTF8'),
               obj_description(oid, 'pg_largeobject')
        FROM pg_largeobject_metadata ORDER BY oid""")


def test_large_objects_come_back_as_they_were_or_not_at_all(filled: Site, tmp_path: Path) -> None:
    app = filled.declaration.app_login
    filled.sql("SELECT lo_from_bytea(4711, 'abc'), lo_from_bytea(4712, '')", role=app)
    filled.sql(f"GRANT SELECT ON LARGE OBJECT 4711 TO {quote(filled.declaration.monitor)}")
    filled.sql("COMMENT ON LARGE OBJECT 4711 IS E'one\nCOMMIT;\ntwo'")
    filled.sql("CREATE TABLE public.word (w text); INSERT INTO public.word VALUES ('COMMIT;')")
    before = large_objects(filled)
    manifest = make(filled, tmp_path, "app")
    filled.sql("SELECT lo_put(4711, 0, 'xyz'), lo_unlink(4712), lo_from_bytea(4713, 'new')")
    spoilt, rows = large_objects(filled), fingerprint(filled)

    edit(tmp_path / manifest.name, lambda content: content["parts"][0].update(large_objects=3))
    with pytest.raises(BackupError, match="has 2 large objects, the manifest says 3") as failed:
        put_back(filled, tmp_path / manifest.name, "app")
    assert failed.value.problem.code == "restore_failed"
    assert (large_objects(filled), fingerprint(filled)) == (spoilt, rows)

    edit(tmp_path / manifest.name, lambda content: content["parts"][0].update(large_objects=2))
    put_back(filled, tmp_path / manifest.name, "app")
    assert large_objects(filled) == before
    assert filled.sql("SELECT w FROM public.word") == [("COMMIT;",)]
    assert filled.sql("SELECT convert_from(lo_get(4711), 'UTF8')", role=app) == [("abc",)]


def test_into_a_new_database(filled: Site, tmp_path: Path) -> None:
    before, home = fingerprint(filled), tmp_path / "with space"
    home.mkdir()
    manifest = make(filled, home, "full")
    spoil(filled)
    name = f"{filled.database} aside"
    spoilt = fingerprint(filled)
    try:
        put_back(filled, home / manifest.name, "app", "workflow", into=name)
        assert fingerprint(replace(filled, declaration=replace(filled.declaration, database=name))) == before
        assert fingerprint(filled) == spoilt
        with pytest.raises(BackupError, match="exists already") as failed:
            put_back(filled, home / manifest.name, "app", into=name)
        assert failed.value.problem.code == "restore_database_exists"
    finally:
        filled.server.sql("postgres", f"DROP DATABASE {quote(name)} WITH (FORCE)")


@pytest.mark.parametrize(
    ("change", "code", "said"),
    each_third(
        [
            (lambda content: content.update(server_version=990000), "restore_older_server", "is of PostgreSQL 99"),
            (lambda content: content.update(database="other"), "restore_foreign_set", "the database other"),
            (lambda content: workflow(content).update(tenant="x"), "restore_foreign_set", "the tenant x"),
            (lambda content: workflow(content).update(schema="x"), "restore_foreign_set", "the schema x"),
            (lambda content: workflow(content).update(revision="ffff"), "restore_newer_revision", "revision ffff"),
            (lambda content: workflow(content).update(sha256="0"), "backup_damaged", "is not what was written"),
            (lambda content: workflow(content).update(rows={"flow_run": 99}), "restore_failed", "the manifest says 99"),
        ]
    ),
)
def test_what_does_not_fit_is_refused_and_nothing_changes(
    filled: Site, tmp_path: Path, change: Callable[[dict[str, object]], None], code: str, said: str
) -> None:
    manifest = make(filled, tmp_path, "full")
    edit(tmp_path / manifest.name, change)
    before = fingerprint(filled)
    with pytest.raises(BackupError, match=said) as failed:
        put_back(filled, tmp_path / manifest.name, "workflow")
    assert failed.value.problem.code == code
    assert fingerprint(filled) == before


def test_a_host_without_prefect_says_which_revisions_it_cannot_judge(filled: Site, tmp_path: Path) -> None:
    manifest, nowhere = make(filled, tmp_path, "full"), tmp_path / "nowhere"
    spoil(filled)
    assert put_back(filled, tmp_path / manifest.name, "workflow", virtualenv=nowhere)["prefect.flow_run"] == 100
    edit(tmp_path / manifest.name, lambda content: workflow(content).update(revision="ffff"))
    parts = choose(read_manifest(tmp_path / manifest.name), filled.declaration, ["workflow"])
    found = examine(filled.server.login, filled.declaration, tmp_path / manifest.name, parts, str(nowhere))
    assert [note.code for note in found.notes] == ["restore_revision_unknown"]
    assert "the revision ffff of the set is not known on this host" in found.notes[0].message


def test_what_is_not_in_the_set(filled: Site, tmp_path: Path) -> None:
    manifest: Manifest = make(filled, tmp_path, "app")
    with pytest.raises(BackupError, match="has no workflow of tenant0; it holds app") as failed:
        put_back(filled, tmp_path / manifest.name, "workflow", tenant="tenant0")
    assert failed.value.problem.code == "restore_not_in_set"


def test_a_view_of_the_application_that_would_be_lost_ends_it(filled: Site, tmp_path: Path) -> None:
    manifest = make(filled, tmp_path, "full")
    filled.sql("CREATE VIEW public.mine AS SELECT id FROM prefect.flow_run")
    with pytest.raises(BackupError, match="1 objects of other schemas stand on what would be replaced: view") as failed:
        put_back(filled, tmp_path / manifest.name, "workflow")
    assert failed.value.problem.code == "restore_dependents"
    assert filled.sql("SELECT count(*) FROM public.mine") == [(100,)]
    # A column would go silently, its table would stay.
    filled.sql("DROP VIEW public.mine; CREATE TABLE public.mine (state prefect.state_type, n int)")
    with pytest.raises(BackupError, match="stand on what would be replaced: column state of table"):
        put_back(filled, tmp_path / manifest.name, "workflow")


def test_a_missing_extension_is_created_before(filled: Site, tmp_path: Path) -> None:
    manifest, before, schema = make(filled, tmp_path, "full"), fingerprint(filled), schema_of(filled)
    filled.sql("DROP EXTENSION pg_trgm CASCADE")
    edit(tmp_path / manifest.name, lambda content: workflow(content)["rows"].update(flow_run=99))  # type: ignore[attr-defined]
    with pytest.raises(BackupError, match="the manifest says 99"):
        put_back(filled, tmp_path / manifest.name, "workflow")
    assert filled.sql("SELECT FROM pg_extension WHERE extname = 'pg_trgm'") == []  # nothing changed
    edit(tmp_path / manifest.name, lambda content: workflow(content)["rows"].update(flow_run=100))  # type: ignore[attr-defined]
    put_back(filled, tmp_path / manifest.name, "workflow")
    assert (fingerprint(filled), schema_of(filled)) == (before, schema)

    edit(tmp_path / manifest.name, lambda content: content["extensions"].update(no_such="extensions"))
    with pytest.raises(BackupError, match="the extension no_such, which this server does not offer") as failed:
        put_back(filled, tmp_path / manifest.name, "workflow")
    assert failed.value.problem.code == "restore_extension_missing"


def test_a_held_lock_ends_it_and_nothing_changes(filled: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgprefect.backup.restore._LOCK_TIMEOUT", "200ms")
    manifest = make(filled, tmp_path, "full")
    before = fingerprint(filled)
    with contextlib.closing(filled.server.connect(filled.database)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT count(*) FROM prefect.flow_run")
        with pytest.raises(BackupError, match="lock timeout") as failed:
            put_back(filled, tmp_path / manifest.name, "workflow")
    assert "stop the server and the workers" in failed.value.problem.remedy
    assert fingerprint(filled) == before


def test_a_connection_that_breaks_after_the_commit(tmp_path: Path) -> None:
    """As where the standby is lost for which a transaction waits: it is committed, and its client does not hear it."""
    with running_postgresql("--env", "POSTGRES_OPTIONS=-c wal_level=replica -c max_wal_senders=4") as server:
        site = migrated_site(server, "committed", tmp_path / "migration")
        # Whoever writes a row of it waits for the standby, as nobody else of this server does.
        site.sql("CREATE TABLE waits (a int CHECK (set_config('synchronous_commit', 'on', false) > ''))")
        site.sql("INSERT INTO waits VALUES (1)")
        manifest = make(site, tmp_path, "app")
        site.sql("TRUNCATE waits")
        server.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.sql("postgres", "SELECT pg_reload_conf()")
        with ThreadPoolExecutor() as pool:
            restored = pool.submit(put_back, site, tmp_path / manifest.name, "app")
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            ((process,),) = wait_for(lambda: server.sql("postgres", waiting), seconds=30)
            server.sql("postgres", "SELECT pg_terminate_backend(%s)", process)
            assert restored.result(60)["public.waits"] == 1
        assert site.sql("SELECT a FROM waits") == [(1,)]
        assert not unfinished.is_left()
        assert verify(server.login, site.declaration).problems == []


def test_a_killed_restore_leaves_all_as_it_was(prefect: Site, tmp_path: Path) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 1500)
    manifest = make(prefect, tmp_path, "full")
    prefect.sql("DELETE FROM prefect.log")
    before = fingerprint(prefect)
    script = (
        "import sys, pickle; from pathlib import Path; from pgprefect.backup.restore import *\n"
        "from pgprefect.backup import unfinished; unfinished.FOLDER = Path(sys.argv[1]).parent / 'restores'\n"
        "from pgprefect.backup.sets import read_manifest\n"
        "login, declaration = pickle.load(sys.stdin.buffer); path = Path(sys.argv[1])\n"
        "restore(login, declaration, path, choose(read_manifest(path), declaration, ['workflow']))"
    )
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE 'COPY %%'"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / manifest.name],
            env={**os.environ, "PYTHONPATH": str(ROOT / "module_utils")},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin
        process.stdin.write(pickle.dumps((prefect.server.login, prefect.declaration)))
        process.stdin.close()
        while prefect.server.sql("postgres", busy, prefect.database) == [(0,)]:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: prefect.server.sql("postgres", busy, prefect.database) == [(0,)])
        assert fingerprint(prefect) == before
    assert put_back(prefect, tmp_path / manifest.name, "workflow")["prefect.flow_run"] == 1500
