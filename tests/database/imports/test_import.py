"""A real Prefect's SQLite file in PostgreSQL: nothing is missing, and nothing is changed where the import stops."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pgprefect.imports.expiry import Retention
from pgprefect.imports.load import Imported, load
from pgprefect.imports.plan import Order, Plan, prepared
from pgprefect.imports.problems import ImportRefused
from pgprefect.schema.structure import read_structures
from pgprefect.schema.verify import verify

from tests.database.imports.conftest import LISTS, Old, Orders, events, pages, states
from tests.support.prefect_server import running_server
from tests.support.project import RELEASES, ROOT, virtualenv_of
from tests.support.site import Site

RUN = "00000000-0000-0000-0000-00000000000{}"


def run_import(order: Order) -> tuple[Plan, Imported]:
    with prepared(order) as (plan, scratch):
        return plan, load(order, plan, scratch)


@contextlib.contextmanager
def changed(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a file as Prefect does, and commit."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        yield connection


def structure(site: Site) -> Any:
    with contextlib.closing(site.server.connect(site.database)) as connection, connection.cursor() as cursor:
        return read_structures(cursor, [site.tenant.schema], site.declaration.extensions_schema)


def counts(site: Site) -> dict[str, int]:
    tables = [name for (name,) in site.sql("SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'prefect'")]
    return {table: site.sql(f"SELECT count(*) FROM prefect.{table}")[0][0] for table in tables}


@pytest.mark.thorough
def test_the_api_lists_what_it_listed_before(
    old: Old, order: Orders, prefect: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all indexes are made after the rows, and a view stands on a primary key."""
    monkeypatch.setattr("pgprefect.imports.load._MANY", 1)
    prefect.sql("CREATE VIEW public.messages AS SELECT message FROM prefect.log GROUP BY id")
    before = structure(prefect)
    plan, done = run_import(order(old.file))
    assert plan.revision == plan.head and plan.rows["flow_run"] == 18 and plan.rows["block_document"] == 3
    assert {note.code for note in plan.notes} == {"import_schedules"}
    assert done.rows == plan.rows and done.changed == {}
    assert structure(prefect) == before
    assert prefect.sql("SELECT count(*) FROM public.messages")[0][0] == plan.rows["log"]
    prefect.sql("DROP VIEW public.messages")
    home = tmp_path / "new"
    home.mkdir()
    with running_server(home, prefect.environment(role=prefect.tenant.server), "--no-services") as api:
        for path in LISTS:
            assert pages(api, path) == old.lists[path], path
        now = events(api)
        assert [event for event in now if event in old.events] == old.events
        assert len(now) == plan.rows["events"]  # the old server wrote its last ones while it stopped
        assert states(api) == old.states
    secrets = [block["data"] for page in old.lists["/block_documents/filter"] for block in page]
    assert secrets == [{"value": f"hush {number}"} for number in range(3)]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.thorough
def test_an_older_file_in_each_release(of_3_2: Path, order: Orders, released: Site, release: str) -> None:
    before = of_3_2.read_bytes()
    plan, done = run_import(order(of_3_2, released, virtualenv=str(virtualenv_of(release))))
    assert (plan.revision, done.rows["flow_run"], done.rows["events"]) == ("bbca16f6f218", 6, 10)
    assert of_3_2.read_bytes() == before and [path.name for path in of_3_2.parent.iterdir()] == ["prefect.db"]
    assert released.sql("SELECT name, state_type::text FROM prefect.flow_run WHERE name LIKE 'run-%' ORDER BY 1") == [
        ("run-0", "FAILED"), ("run-1", "COMPLETED"), ("run-2", "COMPLETED"),
    ]  # fmt: skip
    assert released.sql("SELECT value FROM prefect.variable") == [(5,)]
    # The limit of a tag became one of the newer kind.
    assert released.sql('SELECT name, "limit" FROM prefect.concurrency_limit_v2') == [("tag:database", 2)]
    assert released.sql("SELECT 1 FROM prefect.block_document WHERE data #>> '{}' LIKE 'gAAAA%'") == [(1,)]
    assert verify(released.server.login, released.declaration).problems == []


def test_values_that_postgresql_has_otherwise(file: Path, order: Orders, prefect: Site) -> None:
    large = "ü" * 5_000_000
    parameters = {
        1: '{"large": "' + large + '"}',
        2: r'{"nul": "a\u0000b", "kept": "\\u0000", "half": "x\ud800y", "whole": "\ud83d\ude00"}',
    }
    texts = ["", 'a "b", c', "tab\t, line\nreturn\r, back\\slash \\.", "nul\0nul", "\\N", "Σ😀", "\\u0000"]
    with changed(file) as connection:
        (flow,) = connection.execute("SELECT id FROM flow").fetchone()
        for number, text in parameters.items():
            time = "1970-01-03 00:00:05.000007" if number == 1 else 0
            connection.execute(
                "INSERT INTO flow_run (id, name, flow_id, parameters, total_run_time, expected_start_time) "
                "VALUES (?, ?, ?, ?, ?, '2026-03-29 01:30:00.5')",
                (RUN.format(number), f"odd {number}", flow, text, time),
            )
        for number, text in enumerate(texts):
            connection.execute(
                "INSERT INTO log (name, level, message, timestamp, task_run_id) VALUES (?, ?, ?, '2026-01-01', NULL)",
                ("odd", number, text),
            )
        connection.execute("INSERT INTO variable (name, value) VALUES ('float', 0.1 + 0.2)")
        connection.execute("INSERT INTO artifact (type, data) VALUES ('odd', '{\"a\": [NaN, \"NaN\", -Infinity]}')")
    _, done = run_import(order(file))
    assert done.changed == {"flow_run": 1, "log": 1, "artifact": 1}
    found = prefect.sql(
        "SELECT parameters, total_run_time::text, expected_start_time AT TIME ZONE 'UTC' = '2026-03-29 01:30:00.5'"
        " FROM prefect.flow_run WHERE name LIKE 'odd%' ORDER BY name"
    )
    odd = {"nul": "ab", "kept": "\\u0000", "half": "x\ufffdy", "whole": "😀"}
    assert found == [({"large": large}, "2 days 00:00:05.000007", True), (odd, "00:00:00", True)]
    logs = prefect.sql("SELECT message, flow_run_id FROM prefect.log WHERE name = 'odd' ORDER BY level")
    assert logs == [(text.replace("\0", ""), None) for text in texts]
    assert prefect.sql("SELECT value::text FROM prefect.variable WHERE name = 'float'") == [("0.30000000000000004",)]
    assert prefect.sql("SELECT data FROM prefect.artifact WHERE type = 'odd'") == [({"a": [None, "NaN", None]},)]


def test_a_server_writes_meanwhile(file: Path, order: Orders, prefect: Site) -> None:
    """Each row that was committed before the copy is in it, and the copy is of one moment."""
    written: list[int] = []
    end = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for number in itertools.count():
                if end.is_set():
                    return
                with connection:
                    connection.execute(
                        "INSERT INTO log (name, level, message, timestamp) VALUES ('live', ?, 'x', '2026-01-01')",
                        (number,),
                    )
                written.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 50:
            pass
        before = written[-1]
        run_import(order(file))
        after = written[-1]
    finally:
        end.set()
        writer.join()
    found = [level for (level,) in prefect.sql("SELECT level FROM prefect.log WHERE name = 'live' ORDER BY 1")]
    assert found == list(range(len(found))) and before < len(found) <= after + 1


PROGRAM = """
import pickle, sys
from pgprefect.imports.load import load
from pgprefect.imports.plan import prepared
order, stage = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2]
def progress(text):
    if text.startswith(stage):
        print("here", flush=True)
        sys.stdin.read()
with prepared(order, progress=progress) as (plan, scratch):
    load(order, plan, scratch, progress)
"""


def test_killed_at_any_stage_and_done_again(file: Path, order: Orders, prefect: Site) -> None:
    given = order(file)
    before, empty = structure(prefect), counts(prefect)
    for stage in ("Examining", "Loading", "Rebuilding", "Counting"):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, pickle.dumps(given).hex(), stage],
            env={**os.environ, "PYTHONPATH": str(ROOT / "module_utils")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout and process.stdin and process.stdout.readline() == b"here\n"
        assert len(list(given.scratch.iterdir())) == 1
        process.kill()
        process.communicate()
    run_import(given)  # it waits for the session of the killed one, and removes its folder
    assert structure(prefect) == before
    found = counts(prefect)
    assert found["flow_run"] == 18 and found["alembic_version"] == empty["alembic_version"]


def codes(order: Order, dry_run: bool = False) -> set[str]:
    """Return the codes with which an import is refused."""
    with pytest.raises(ImportRefused) as refused, prepared(order, dry_run) as (plan, scratch):
        load(order, plan, scratch)
    assert all(problem.remedy for problem in refused.value.problems)
    return {problem.code for problem in refused.value.problems}


def test_files_that_are_refused(file: Path, order: Orders, prefect: Site, tmp_path: Path) -> None:
    before = counts(prefect)
    other, text, none = (tmp_path / name for name in ("other.db", "text.db", "empty.db"))
    with changed(other) as connection:
        connection.execute("CREATE TABLE flow_run (id text)")
    text.write_text("flow_run")
    none.touch()
    assert codes(order(tmp_path / "missing.db")) == {"import_unreadable"}
    assert codes(order(tmp_path)) == {"import_unreadable"}
    assert codes(order(other)) == codes(order(text)) == codes(order(none)) == {"import_not_prefect"}

    damaged = tmp_path / "damaged.db"
    content = bytearray(file.read_bytes())
    for place in range(40 * 4096, len(content), 7 * 4096):
        content[place : place + 512] = b"\xff" * 512
    damaged.write_bytes(content)
    assert codes(order(damaged)) == {"import_damaged"}

    with changed(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '20fbd53b3cef'")
    assert codes(order(file)) == {"import_prefect_2"}
    with changed(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert codes(order(file)) == {"import_newer"}
    assert codes(order(file, scratch=Path("/proc"))) == {"import_no_space"}
    assert codes(order(file, program=["/bin/false"])) == {"import_process_failed"}
    with changed(file) as connection:  # its columns are there already
        connection.execute("UPDATE alembic_version SET version_num = '3457c6ca2360'")
    assert codes(order(file)) == {"import_upgrade_failed"}
    assert counts(prefect) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_host_without_the_user(file: Path, order: Orders) -> None:
    assert codes(order(file, service_user="nobody-at-all")) == {"import_no_user"}


def test_what_the_retention_would_delete(file: Path, order: Orders, prefect: Site) -> None:
    with changed(file) as connection:
        connection.execute("UPDATE events SET occurred = '2020-01-01 00:00:00'")
        connection.execute("UPDATE flow_run SET end_time = '2020-01-01 00:00:00' WHERE state_type = 'COMPLETED'")
        connection.execute("UPDATE flow_run SET state_type = 'RUNNING' WHERE state_type = 'FAILED'")
    short = Retention("P90D", 30)
    assert codes(order(file, retention=short)) == {"import_events_expire", "import_runs_expire"}
    assert codes(order(file, retention=Retention("P90D"))) == {"import_events_expire"}
    with prepared(order(file, retention=short, let_expire=True)) as (plan, _):
        noted = {note.code for note in plan.notes}
    expiring = {"import_events_expire", "import_runs_expire"}
    assert noted == {*expiring, "import_unfinished_runs", "import_schedules"}
    with prepared(order(file, retention=Retention())) as (plan, _):
        assert {note.code for note in plan.notes} >= {"import_event_retention_unknown"}
    assert counts(prefect)["events"] == 0


def test_orphans(file: Path, order: Orders, prefect: Site) -> None:
    with changed(file) as connection:
        (run,) = connection.execute("SELECT flow_run_id FROM task_run WHERE flow_run_id IS NOT NULL").fetchone()
        connection.execute("DELETE FROM flow_run WHERE id = ?", (run,))  # SQLite checks no foreign key by itself
        tasks = connection.execute("SELECT count(*) FROM task_run WHERE flow_run_id = ?", (run,)).fetchone()[0]
        (states_of_tasks,) = connection.execute(
            "SELECT count(*) FROM task_run_state WHERE task_run_id IN (SELECT id FROM task_run WHERE flow_run_id = ?)",
            (run,),
        ).fetchone()
    assert codes(order(file)) == {"import_orphans"} and states_of_tasks
    plan, done = run_import(order(file, leave_out_orphans=True))
    orphans = {(found.table, found.column): found for found in plan.contents.orphans}
    assert orphans["task_run", "flow_run_id"].rows == tasks
    assert orphans["task_run_state", "task_run_id"].rows == states_of_tasks
    # The subflow's run stays, without its parent.
    assert orphans["flow_run", "parent_task_run_id"].emptied and done.rows["flow_run"] == 17
    assert counts(prefect)["flow_run"] == 17


def test_blocks_that_another_key_has_encrypted(file: Path, order: Orders) -> None:
    key = {"fernet_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    with changed(file) as connection:
        connection.execute("UPDATE configuration SET value = ? WHERE key = 'ENCRYPTION_KEY'", (json.dumps(key),))
    assert codes(order(file)) == {"import_blocks_unreadable"}


def test_targets_that_are_refused(file: Path, order: Orders, prefect: Site) -> None:
    given = order(file)
    flow = "INSERT INTO prefect.flow (name) VALUES ('own') RETURNING id"
    run = f"WITH f AS ({flow}) INSERT INTO prefect.flow_run (name, flow_id) SELECT 'own', id FROM f"
    prefect.sql(run)
    assert codes(given) == {"import_target_taken"}
    # What a schedule has made is made again.
    prefect.sql("UPDATE prefect.flow_run SET auto_scheduled = true, state_type = 'SCHEDULED'")
    with prepared(given) as (plan, _):
        assert plan.replaced == {"flow_run": 1}
    prefect.sql("CREATE TABLE public.mine (id uuid REFERENCES prefect.flow_run)")
    assert codes(given) == {"import_referenced"}
    prefect.sql("DROP TABLE public.mine")

    server = prefect.tenant.server
    session = prefect.server.connect(prefect.database, server, prefect.declaration.passwords[server])
    with contextlib.closing(session):
        assert codes(given) == {"import_server_running"}
        with prepared(given, dry_run=True) as (plan, _):
            assert {note.code for note in plan.notes} >= {"import_server_running"}

    with contextlib.closing(prefect.server.connect(prefect.database)) as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE prefect.alembic_version IN SHARE UPDATE EXCLUSIVE MODE")
        assert codes(given) == {"import_running"}

    prefect.sql("CREATE FUNCTION public.none() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    prefect.sql("CREATE TRIGGER none BEFORE INSERT ON prefect.log FOR EACH ROW EXECUTE FUNCTION public.none()")
    assert codes(given) == {"import_failed"}
    prefect.sql("DROP TRIGGER none ON prefect.log")
    prefect.sql("ALTER TABLE prefect.variable ADD COLUMN mine int")
    assert codes(given) == {"import_columns_differ"}
    prefect.sql("UPDATE prefect.alembic_version SET version_num = 'bad1e352c597'")
    assert codes(given) == {"import_target_not_migrated"}
    assert counts(prefect)["flow_run"] == 1
