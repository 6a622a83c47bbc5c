"""Which host of a database has the set that is to be restored."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.backup_sets import set_elsewhere, sets_found

FOUND = {
    "db1": ["20261101T020000Z", "20261130T100000Z-safety"],
    "db2": ["20261129T020000Z", "20261130T020000Z"],
    "db3": ["20261129T020001Z"],
    "db4": [],
}


def elsewhere(name: str, newest: str = "") -> dict[str, Any]:
    return {"name": name, "hosts": ["db2"], "newest": newest}


@pytest.mark.parametrize(
    ("host", "wanted", "expected"),
    [
        ("db2", "", {}),
        ("db3", "", {}),  # as old as a night
        ("db4", "", elsewhere("20261130T020000Z")),
        ("db1", "", elsewhere("20261130T020000Z", "20261101T020000Z")),
        ("db1", "20261101T020000Z", {}),
        ("db1", "20261130T100000Z-safety", {}),
        ("db1", "20261129T020000Z", elsewhere("20261129T020000Z", "20261101T020000Z")),
        ("db1", "20250101T020000Z", {}),  # nobody has it, which the restore itself says
    ],
)
def test_the_set_that_a_restore_takes(host: str, wanted: str, expected: dict[str, Any]) -> None:
    assert set_elsewhere(FOUND, host, wanted) == expected


def test_nobody_has_a_set() -> None:
    assert set_elsewhere({"db1": [], "db2": []}, "db1") == set_elsewhere({}, "db1") == {}


def test_only_complete_sets_are_found() -> None:
    folder = "/var/backups/prefect/"
    paths = [
        f"{folder}{name}/manifest.json"
        for name in ("20261130T020000Z", ".partial-20261130T020001Z", "20261129T020000Z")
    ]
    hostvars = {"db1": {"__prefect_backup_found": {"files": [{"path": path} for path in paths]}}, "db2": {}}
    assert sets_found(["db1", "db2"], hostvars) == {"db1": ["20261129T020000Z", "20261130T020000Z"], "db2": []}
