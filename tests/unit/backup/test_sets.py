"""What counts as a backup set, what its manifest may say, and which sets may go."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pgprefect.backup import create, sets
from pgprefect.backup.sets import BackupError, Dump, Manifest
from pgprefect.schema.declaration import declare
from pgprefect.site.configuration import Keep

NEWEST = datetime(2026, 11, 25, 2, tzinfo=UTC)
DECLARATION = declare(
    database="d",
    app_owner="o",
    app_login="a",
    monitor="m",
    backup="b",
    tenants=[
        {"name": name, "schema": name, "owner": f"{name}_o", "migrator": f"{name}_m", "server": f"{name}_s"}
        for name in ("one", "two")
    ],
)


def make_set(directory: Path, time: datetime, verified: bool = False, safety: bool = False) -> Path:
    name = sets.name_of(time, safety)
    path = directory / name
    path.mkdir()
    part = Dump("app", "public", None, "app.dump.zst", 1, "0", {})
    sets.write(path, Manifest(name, "d", "", 1.5, "", "", 150000, None, {}, (part,)))
    if verified:
        (path / sets.VERIFIED).touch()
    return path


@pytest.fixture
def two_years(tmp_path: Path) -> list[Path]:
    """A set of each night of two years, the oldest first."""
    return [make_set(tmp_path, NEWEST - timedelta(days=days)) for days in reversed(range(730))]


def test_days_weeks_and_months_stay(two_years: list[Path]) -> None:
    going = sets.prunable(two_years, Keep(last=3, daily=7, weekly=4, monthly=6))
    staying = [path.name[:8] for path in two_years if path not in going]
    days = ["20261119", "20261120", "20261121", "20261122", "20261123", "20261124", "20261125"]
    assert staying == ["20260630", "20260731", "20260831", "20260930", "20261031", "20261108", "20261115", *days]
    assert going == sorted(going)


def test_the_newest_verified_set_stays_whatever_the_counts_say(tmp_path: Path) -> None:
    old, _verified, middle, _newest = (
        make_set(tmp_path, NEWEST - timedelta(hours=hours), verified=hours in (8, 6)) for hours in (8, 6, 4, 2)
    )
    assert sets.prunable(sets.list_sets(tmp_path), Keep(1, 0, 0, 0)) == [old, middle]


def test_the_newest_set_stays_even_where_only_months_are_kept(tmp_path: Path) -> None:
    path = make_set(tmp_path, NEWEST)
    assert sets.prunable([path], Keep(0, 0, 0, 1)) == []


def test_safety_sets_take_nobody_s_place(tmp_path: Path) -> None:
    safety = [make_set(tmp_path, NEWEST + timedelta(hours=hours), safety=True) for hours in (1, 2, 3)]
    nightly = make_set(tmp_path, NEWEST)
    assert sets.find(tmp_path) == nightly
    assert sets.find(tmp_path, safety[0].name) == safety[0]
    assert sets.time_of(safety[0].name) == NEWEST + timedelta(hours=1)
    assert sets.prunable(sets.list_sets(tmp_path), Keep(2, 0, 0, 0)) == safety[:1]


def test_a_dry_run_removes_nothing_and_names_what_would_go(tmp_path: Path) -> None:
    paths = [make_set(tmp_path, NEWEST + timedelta(minutes=minutes)) for minutes in range(3)]
    assert create.prune(tmp_path, Keep(1, 0, 0, 0), dry_run=True) == [path.name for path in paths[:2]]
    assert sets.list_sets(tmp_path) == paths
    assert create.prune(tmp_path, Keep(1, 0, 0, 0)) == [path.name for path in paths[:2]]
    assert sets.list_sets(tmp_path) == paths[2:]


def test_what_killed_runs_left_is_no_set_and_goes_with_the_next(tmp_path: Path) -> None:
    for name in (".partial-20261125T020000Z", ".removed-20261125T020000Z"):
        make_set(tmp_path, NEWEST).rename(tmp_path / name)
    assert sets.list_sets(tmp_path) == []
    assert create.prune(tmp_path, Keep()) == []
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_directory_without_a_manifest_is_no_set_and_is_left_alone(tmp_path: Path) -> None:
    path = make_set(tmp_path, NEWEST)
    (path / sets.MANIFEST).unlink()
    (path / "app.dump.zst").touch()
    assert sets.list_sets(tmp_path) == []
    assert create.prune(tmp_path, Keep(1, 0, 0, 0)) == []
    assert (path / "app.dump.zst").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"daily": -1}, "keep.daily is -1"),
        ({"daily": "7"}, "keep.daily is '7'"),
        ({"weekly": True}, "keep.weekly is True"),
        ({"yearly": 1}, "keep.yearly is not known; there are: last, daily, weekly, monthly"),
        (dict.fromkeys(("last", "daily", "weekly", "monthly"), 0), "at least one must be above 0"),
    ],
)
def test_counts_that_make_no_sense(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Keep.from_arguments(arguments)


def test_a_set_is_found_by_its_name_or_as_the_newest(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="There is no set of any name"):
        sets.find(tmp_path)
    older, newest = make_set(tmp_path, NEWEST - timedelta(days=1)), make_set(tmp_path, NEWEST)
    assert sets.find(tmp_path) == newest
    assert sets.find(tmp_path, older.name) == older
    with pytest.raises(BackupError, match=r"There is no set \.\./elsewhere") as failed:
        sets.find(tmp_path, "../elsewhere")
    assert failed.value.problem.code == "backup_missing"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}'])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    path = make_set(tmp_path, NEWEST)
    (path / sets.MANIFEST).write_text(text)
    with pytest.raises(BackupError, match="is damaged") as failed:
        sets.read_manifest(path)
    assert failed.value.problem.code == "backup_manifest_damaged"


def test_the_manifest_of_another_set(tmp_path: Path) -> None:
    path = make_set(tmp_path, NEWEST)
    other = path.rename(tmp_path / "20200101T000000Z")
    with pytest.raises(BackupError, match="is that of the set 20261125T020000Z"):
        sets.read_manifest(other)


def test_a_manifest_of_a_later_program(tmp_path: Path) -> None:
    path = make_set(tmp_path, NEWEST)
    content = json.loads((path / sets.MANIFEST).read_text())
    (path / sets.MANIFEST).write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(BackupError, match="has format 2") as failed:
        sets.read_manifest(path)
    assert failed.value.problem.code == "backup_manifest_unknown"


def test_a_directory_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="cannot be read") as failed:
        sets.read_manifest(tmp_path)
    assert failed.value.problem.code == "backup_unreadable"


@pytest.mark.parametrize(
    ("kinds", "tenant", "expected"),
    [
        (["app"], None, ["app"]),
        (["workflow"], None, ["workflow one", "workflow two"]),
        (["workflow"], "two", ["workflow two"]),
        (["app", "workflow"], "one", ["app", "workflow one"]),
        (["full"], None, ["app", "workflow one", "workflow two", "globals"]),
        (["full", "app"], "two", ["app", "workflow two", "globals"]),
    ],
)
def test_kinds(kinds: list[str], tenant: str | None, expected: list[str]) -> None:
    parts = create.wanted_parts(DECLARATION, kinds, tenant)
    assert [" ".join(filter(None, (part.kind, part.tenant))) for part in parts] == expected


@pytest.mark.parametrize(
    ("kinds", "tenant", "said"), [([], None, "kinds is"), (["all"], None, "kinds is"), (["app"], "x", "no tenant 'x'")]
)
def test_kinds_that_make_no_sense(kinds: list[str], tenant: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create.wanted_parts(DECLARATION, kinds, tenant)


@pytest.mark.parametrize("file", ["../../../etc/cron.d/x", "/etc/passwd", ".hidden", "", "a b"])
def test_a_manifest_that_names_files_elsewhere(tmp_path: Path, file: str) -> None:
    """Root reads and writes what it names."""
    path = make_set(tmp_path, NEWEST)
    manifest = sets.read_manifest(path).as_dict()
    part: dict[str, object] = {
        "kind": "app",
        "schema": "public",
        "tenant": None,
        "file": file,
        "bytes": 1,
        "sha256": "",
        "rows": {},
    }
    (path / sets.MANIFEST).write_text(json.dumps({**manifest, "parts": [part]}))
    with pytest.raises(BackupError, match="is no file of a set"):
        sets.read_manifest(path)
