"""Backup sets: consistent, whole or not there, and what is left of them when something goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.backup import create, sets
from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.restore import restore
from pgprefect.backup.sets import BackupError
from pgprefect.cli.main import main
from pgprefect.core.connection import ConnectionFailed
from pgprefect.core.jobs import Job, last, record
from pgprefect.core.process import libpq_environment
from pgprefect.core.sql import quote
from pgprefect.site.configuration import Keep

from bench.data import fill
from tests.support.backups import KINDS, fingerprint, login, make, schema_of
from tests.support.kinds import each_third
from tests.support.project import ROOT
from tests.support.site import Site
from tests.support.verification import errors


def command(site: Site, directory: Path) -> list[str]:
    """A process of its own that makes a set, to be killed or confined."""
    script = (
        "import sys; from pgprefect.backup.create import *; from pgprefect.core.connection import Login\n"
        "try: back_up(Login('127.0.0.1', int(sys.argv[1]), sys.argv[2], 'backup'), sys.argv[3],\n"
        "             [Wanted('app', 'public'), Wanted('workflow', 'prefect', 'tenant0')], sys.argv[4])\n"
        "except BackupError as error: sys.exit(error.problem.code + ': ' + error.problem.message)"
    )
    who = login(site)
    return [sys.executable, "-c", script, str(who.port), who.user, site.database, str(directory)]


def names(directory: Path) -> list[str]:
    return [path.name for path in sets.list_sets(directory)]


def left_over(directory: Path) -> set[str]:
    """What is there besides finished sets and the lock."""
    return {path.name for path in directory.iterdir()} - set(names(directory)) - {".lock"}


@contextlib.contextmanager
def restored(site: Site, directory: Path, manifest: sets.Manifest) -> Iterator[Site]:
    """A database into which the set's dumps went."""
    name = f"{site.database}_restored"
    copy = replace(site, declaration=replace(site.declaration, database=name))
    try:
        copy.apply()
        environment = libpq_environment(site.server.login, name)
        for part in manifest.parts:
            if part.kind == "globals":
                continue
            file = directory / manifest.name / part.file
            read = f"zstd -dc '{file}'" if file.suffix == ".zst" else f"cat '{file}'"
            # The schema is there already: the grants made it.
            text = (
                f"set -o pipefail; {read} | pg_restore -f - | grep -v '^CREATE SCHEMA' | psql -qX -v ON_ERROR_STOP=1 -1"
            )
            done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        yield copy
    finally:
        site.server.sql("postgres", f"DROP DATABASE {quote(name)} WITH (FORCE)")


def test_what_was_restored_equals_the_original(prefect: Site, tmp_path: Path) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 200)
    prefect.sql(
        "INSERT INTO stock_info (symbol, name, currency, source) VALUES ('A', 'a', 'EUR', 's'), ('B', 'é', 'EUR', 's')"
    )
    manifest = make(prefect, tmp_path / ".", "full")
    path = tmp_path / manifest.name
    assert sets.check(path) == manifest
    assert {part.file.partition(".")[0] for part in manifest.parts} == {"app", "workflow-tenant0", "globals"}
    assert [oct(file.stat().st_mode & 0o777) for file in path.iterdir()] == ["0o600"] * 4
    assert oct(path.stat().st_mode & 0o777) == "0o700"
    before = fingerprint(prefect)
    app, workflow, _ = manifest.parts
    assert app.rows["stock_info"] == 2
    assert workflow.rows["flow_run"] == 200
    assert (workflow.revision,) == prefect.sql("SELECT version_num FROM prefect.alembic_version")[0]
    assert {f"{part.schema}.{table}": count for part in manifest.parts for table, count in part.rows.items()} == {
        table: count for table, (count, _) in before.items()
    }
    with restored(prefect, tmp_path, manifest) as copy:
        assert fingerprint(copy) == before
        assert schema_of(copy) == schema_of(prefect)


def test_the_steps_of_a_backup_and_of_a_restore_are_logged(
    prefect: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pgprefect")
    manifest = make(prefect, tmp_path, "workflow")
    path, (part,) = tmp_path / manifest.name, manifest.parts
    for step in (
        rf"Make the set {path.name} of the database {prefect.database} in {tmp_path}\.",
        rf"{tmp_path} has [\d,]+ bytes free; the set may need [\d,]+\.",
        rf"Dump the schema prefect into {tmp_path}/\S+/{part.file}\.",
        rf"Read {part.file} back: {part.bytes:,} bytes in \d+\.\d s\.",
        rf"The set {path.name} is complete: {manifest.bytes:,} bytes in \d+\.\d s\.",
    ):
        assert re.search(step, caplog.text), f"{step}\n{caplog.text}"
    caplog.clear()
    restore(prefect.server.login, prefect.declaration, path, manifest.parts)
    assert f"Restore {part.file} into the schema prefect of {prefect.database}." in caplog.messages
    assert re.search(rf"Restored the set {path.name} into {prefect.database} in \d+\.\d s\.", caplog.text)
    assert prefect.server.password not in caplog.text and "'backup'" not in caplog.text


def test_globals_have_the_roles_and_no_password(prefect: Site, tmp_path: Path) -> None:
    manifest = make(prefect, tmp_path, "full")
    text = subprocess.run(
        ["zstd", "-dc", tmp_path / manifest.name / "globals.sql.zst"], capture_output=True, text=True, check=True
    ).stdout
    assert f"CREATE ROLE {prefect.tenant.server}" in text
    assert "SCRAM" not in text


def test_both_schemas_agree_while_a_writer_writes_pairs(prefect: Site, tmp_path: Path) -> None:
    prefect.sql("CREATE TABLE public.pair (n int)")
    prefect.sql("CREATE TABLE prefect.pair (n int)")
    began, stop = threading.Event(), threading.Event()

    def write() -> None:
        with contextlib.closing(prefect.server.connect(prefect.database)) as connection, connection.cursor() as cursor:
            for number in range(1_000_000):
                if stop.wait(0.001):
                    return
                cursor.execute("BEGIN; INSERT INTO public.pair VALUES (%s)", (number,))
                cursor.execute("INSERT INTO prefect.pair VALUES (%s); COMMIT", (number,))
                began.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert began.wait(30)
        manifests = [make(prefect, tmp_path) for _ in range(5)]
    finally:
        stop.set()
        writer.join()
    counts = []
    for manifest in manifests:
        numbers = []
        for part in manifest.parts:
            text = f"zstd -dc '{tmp_path / manifest.name / part.file}' | pg_restore --data-only -t pair -f -"
            done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
            # In no order: a table that grows while it is vacuumed gets several pages, and the newest is filled first.
            numbers.append(sorted(int(line) for line in done.stdout.splitlines() if line.isdigit()))
        counts.append(manifest.parts[0].rows["pair"])
        assert numbers == [list(range(counts[-1]))] * 2
        assert manifest.parts[1].rows["pair"] == counts[-1]
    assert 0 < counts[0] < counts[-1]


def test_large_objects_are_in_the_set_without_a_grant(prefect: Site, tmp_path: Path) -> None:
    [(number,)] = prefect.sql("SELECT lo_from_bytea(0, 'abc')", role=prefect.declaration.app_login)
    manifest = make(prefect, tmp_path)
    assert [part.large_objects for part in manifest.parts] == [1, None]
    with restored(prefect, tmp_path, manifest) as copy:
        assert copy.sql(f"SELECT convert_from(lo_get({number}), 'UTF8')") == [("abc",)]


def test_a_large_object_that_it_may_not_read_ends_the_backup(prefect: Site, tmp_path: Path) -> None:
    [(number,)] = prefect.sql("SELECT lo_from_bytea(0, 'abc')")
    role, database = quote(prefect.declaration.backup), quote(prefect.database)
    prefect.sql(f"ALTER ROLE {role} IN DATABASE {database} RESET lo_compat_privileges")
    assert "role_setting" in errors(prefect)
    with pytest.raises(BackupError, match=f"permission denied for large object {number}"):
        make(prefect, tmp_path)
    assert any("lo_compat_privileges TO 'on'" in statement for statement in prefect.apply())
    make(prefect, tmp_path)


def test_a_killed_run_leaves_no_set_and_the_next_one_succeeds(prefect: Site, tmp_path: Path) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 2000)
    first = make(prefect, tmp_path)
    chance = random.Random(1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "module_utils")}
    interrupted, longest = 0, first.seconds + 0.3
    while interrupted < 5:
        process = subprocess.Popen(command(prefect, tmp_path), env=environment, start_new_session=True)
        time.sleep(chance.uniform(0.1, longest))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            interrupted += 1
        else:
            longest *= 0.9
            assert longest > 0.1 and process.returncode == 0
        process.wait()
        for path in sets.list_sets(tmp_path):
            sets.check(path)  # whatever counts as a set is one
    newest = make(prefect, tmp_path)
    assert {first.name, newest.name} <= set(names(tmp_path))
    assert left_over(tmp_path) == set()


def test_a_full_disk_leaves_the_sets_that_were_there(prefect: Site, tmp_path: Path) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 300)
    # In a mount namespace of its own: the file system is gone with its process. The check of the free space is passed
    # by what a first set is expected to need, and then another file takes the room.
    script = """
        set -eu
        mount -t tmpfs -o size=6m tmpfs "$1"
        home=$1; shift
        "$@"
        first=$(ls -d "$home"/2*)
        python3 - "$home" <<'PYTHON'
import json, pathlib, sys
[path] = pathlib.Path(sys.argv[1]).glob("2*/manifest.json")
content = json.loads(path.read_text())
for part in content["parts"]:
    part["bytes"] = 1
path.write_text(json.dumps(content))
PYTHON
        free=$(df --output=avail --block-size=1K "$home" | tail -1)
        head -c "$((free - 40))K" /dev/zero >"$home/filler"
        status=0; "$@" || status=$?
        test "$status" = 1; test "$(ls -d "$home"/2*)" = "$first"; test -e "$first/manifest.json"
        rm "$home/filler"
        "$@"
        ls -A "$home"
    """
    home = tmp_path / "with space"
    home.mkdir()
    done = on_a_disk_of_its_own(script, prefect, home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert len(done.stdout.split()) == 3, done.stdout  # the lock and two sets


def on_a_disk_of_its_own(script: str, site: Site, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that may mount; its arguments are the home of the sets and a backup's command."""
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, "bash", str(home), *command(site, home)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "module_utils")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_disk_that_is_full_when_the_manifest_comes_has_no_new_set(prefect: Site, tmp_path: Path) -> None:
    # There is an inode for each of: the directory, the lock, the set, its two dumps; and none for the manifest.
    script = """
        set -eu
        mount -t tmpfs -o size=64m,nr_inodes=5 tmpfs "$1"
        home=$1; shift
        status=0; "$@" || status=$?
        test "$status" = 1; test "$(ls -A "$home")" = .lock
        mount -o remount,nr_inodes=6 "$home"
        "$@"
        ls "$home"/2*
    """
    done = on_a_disk_of_its_own(script, prefect, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "manifest.json cannot be written: No space left on device" in done.stderr
    assert "manifest.json" in done.stdout.split()


def test_too_little_room_is_said_before_anything_is_written(
    prefect: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(prefect, tmp_path)
    monkeypatch.setattr(create, "_GROWTH", 1e12)
    with pytest.raises(BackupError, match="bytes free, and the set may need") as failed:
        make(prefect, tmp_path)
    assert failed.value.problem.code == "backup_no_space"
    assert len(names(tmp_path)) == 1
    assert left_over(tmp_path) == set()


def break_password(site: Site) -> None:
    site.server.sql("postgres", f"ALTER ROLE {quote(site.declaration.backup)} PASSWORD 'another'")


def take_the_right(site: Site) -> None:
    site.server.sql("postgres", f"REVOKE pg_read_all_data FROM {quote(site.declaration.backup)}")


def lock_a_table(site: Site, table: str = "prefect.flow_run") -> None:
    connection = site.server.connect(site.database)
    connection.autocommit = False
    connection.cursor().execute(f"LOCK TABLE {table}")
    site.__dict__["lock"] = connection


def end_sessions(site: Site) -> None:
    """End the dump's session while it is at work, as a stop of the database does."""
    # A lock keeps the dump at it; of a table whose rows are in another database, so nobody else asks for it.
    site.sql("""
        CREATE TABLE public.held (day date) PARTITION BY RANGE (day);
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
        CREATE FOREIGN TABLE public.far PARTITION OF public.held DEFAULT SERVER nowhere""")
    lock_a_table(site, "public.held")

    def end() -> None:
        question = """
            SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE usename = %s AND datname = %s AND application_name = 'pg_dump' AND wait_event_type = 'Lock'"""
        while site.server.sql("postgres", question, site.declaration.backup, site.database) == [(0,)]:
            pass

    threading.Thread(target=end).start()


@pytest.mark.parametrize(
    ("fault", "cause"),
    each_third(
        [
            (break_password, "password authentication failed"),
            (take_the_right, "permission denied"),
            (lock_a_table, "lock timeout"),
            (end_sessions, "terminating connection due to administrator command|server closed the connection"),
        ]
    ),
)
def test_a_fault_names_its_cause_leaves_the_sets_and_the_next_run_succeeds(
    prefect: Site, tmp_path: Path, fault: Callable[[Site], None], cause: str
) -> None:
    with contextlib.closing(prefect.server.connect(prefect.database)) as connection:
        fill(connection, "prefect", 1000)
    first = make(prefect, tmp_path)
    who, job = login(prefect), Job("backup", "/etc/cron.d/prefect-backup", folder=str(tmp_path / "jobs"))
    patience = 0.5 if fault is lock_a_table else 60
    fault(prefect)
    try:
        with pytest.raises((BackupError, ConnectionFailed), match=cause) as failed, record(job):
            parts = wanted_parts(prefect.declaration, KINDS)
            back_up(who, prefect.database, parts, tmp_path, lock_wait_seconds=patience)
        assert isinstance(failed.value, (BackupError, ConnectionFailed))
        assert failed.value.problem.code in ("backup_failed", "login_refused")
        assert names(tmp_path) == [first.name]
        assert left_over(tmp_path) == {"jobs"}
        run = last(job)  # which is what health shows
        assert run and run.ok is False and re.search(cause, run.message)
    finally:
        if "lock" in prefect.__dict__:
            prefect.__dict__.pop("lock").close()
        prefect.server.sql("postgres", f"GRANT pg_read_all_data TO {quote(prefect.declaration.backup)}")
    with record(job):
        second = make(prefect, tmp_path)
    run = last(job)
    assert run and run.ok
    assert names(tmp_path) == [first.name, second.name]


def test_two_at_once(prefect: Site, tmp_path: Path) -> None:
    with create.directory_lock(tmp_path), pytest.raises(BackupError, match="Another backup") as failed:
        make(prefect, tmp_path)
    assert failed.value.problem.code == "backup_running"
    make(prefect, tmp_path)


def test_the_clock_set_back_does_not_make_an_older_set(prefect: Site, tmp_path: Path) -> None:
    first = make(prefect, tmp_path)
    later = tmp_path / "20990101T000000Z"
    (tmp_path / first.name).rename(later)
    content = json.loads((later / "manifest.json").read_text())
    (later / "manifest.json").write_text(json.dumps({**content, "name": later.name}))
    assert make(prefect, tmp_path).name == "20990101T000001Z"


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda file: os.truncate(file, file.stat().st_size - 100),
        lambda file: os.truncate(file, 0),
        Path.unlink,
    ],
    ids=["a flipped byte", "a truncated file", "an empty file", "a missing file"],
)
def test_a_damaged_file_is_found(prefect: Site, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    manifest = make(prefect, tmp_path)
    file = tmp_path / manifest.name / manifest.parts[1].file
    damage(file)
    with pytest.raises(BackupError, match="is not what was written") as failed:
        sets.check(tmp_path / manifest.name)
    assert failed.value.problem.code == "backup_damaged"
    assert failed.value.problem.object == str(file)
    make(prefect, tmp_path)  # and it does not keep the next one from being made


def test_a_directory_that_is_not_there_or_may_not_be_written(prefect: Site, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="cannot be written") as failed:
        make(prefect, tmp_path / "missing")
    assert failed.value.problem.code == "backup_not_written"


def test_a_dry_run_changes_nothing_and_tells_the_truth(
    prefect: Site, site_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "sets"
    home.mkdir()
    for _ in range(2):
        make(prefect, home, "workflow")
    keep = {"last": 2, "daily": 0, "weekly": 0, "monthly": 0}
    backups = {"directory": str(home), "kinds": ["full"], "keep": keep}
    # Root becomes the user of the backups, which this machine has not: here that is root itself.
    site_file.write_text(json.dumps({**json.loads(site_file.read_text()), "backup": "root", "backups": backups}))
    before = sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))

    def run(*arguments: str) -> tuple[int, str]:
        status = main(["--config", str(site_file), "backup", *arguments])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    oldest = names(home)[0]
    status, text = run("--dry-run")
    assert status == 0 and f"Would make a set in {home}: app, workflow-tenant0, globals." in text
    assert f"Would remove: {oldest}." in text
    assert json.loads(run("create", "--dry-run", "--json")[1])["pruned"] == [oldest]
    assert "Would remove: no set." in run("prune", "--dry-run")[1]
    exported = tmp_path / "exported"
    exported.mkdir()
    assert run("export", "--to", str(exported), "--dry-run")[0] == 0 and not list(exported.iterdir())
    for action in ("list", "check"):
        with pytest.raises(SystemExit) as refused:
            run(action, "--dry-run")
        assert refused.value.code == 3
        assert f"pgprefect backup {action}: unrecognized arguments: --dry-run" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*")) == before

    make(prefect, home, "workflow")
    assert create.prune(home, Keep.from_arguments(keep)) == [oldest]


def test_a_set_that_passed_a_drill_serves_as_a_new_one(prefect: Site, tmp_path: Path) -> None:
    def found(*kinds: str, hours: float = 24) -> str | None:
        parts = wanted_parts(prefect.declaration, kinds or KINDS)
        taken = create.verified_set(login(prefect), prefect.database, parts, tmp_path, hours)
        return taken.name if taken else None

    older = make(prefect, tmp_path)
    assert found() is None  # no drill has passed it
    sets.mark_verified(tmp_path / older.name, {"verified": "now"})
    make(prefect, tmp_path)  # a newer one, which no drill has passed
    assert found() == older.name
    assert found(hours=1e-6) is None and found("full") is None
    (file, *_) = older.files
    content = (tmp_path / older.name / file.file).read_bytes()
    (tmp_path / older.name / file.file).write_bytes(content[:-1])
    assert found() is None
    (tmp_path / older.name / file.file).write_bytes(content)
    prefect.sql("UPDATE prefect.alembic_version SET version_num = 'c8d5f2a71b3e'")
    assert found() is None and found("app") == older.name
