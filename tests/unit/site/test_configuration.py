"""As whom a host logs in: where the database runs, where the jobs of a server of others are, and elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pgprefect.site.configuration import load

DECLARED = {
    "database": "mltrading",
    "app_login": "app",
    "monitor": "monitor",
    "backup": "backup",
    "tenants": [{"name": "prefect", "schema": "prefect"}],
}
BACKUPS = {"directory": "/var/backups/prefect", "kinds": ["full"], "keep": {}}
SOCKET = {"host": "", "port": 5432, "user": "postgres", "passfile": None}
REMOTE = {"host": "db.example.org", "port": 5432, "user": "admin", "passfile": "/etc/prefect/pgpass"}


@pytest.mark.parametrize(
    ("login", "administrator", "users"),
    [
        (SOCKET, "", ("monitor", "app", "backup", None)),
        (REMOTE, "admin", ("monitor", "app", "backup", "/home/pgpass")),
        # Another host of the same site, and one whose database's host is its own.
        ({**REMOTE, "user": "monitor"}, "admin", ("monitor", "monitor", None, None)),
        ({**REMOTE, "user": "app"}, "", ("app", "app", None, None)),
    ],
)
def test_as_whom_a_host_logs_in(
    login: dict[str, Any], administrator: str, users: tuple[str, str, str | None, str | None], tmp_path: Path
) -> None:
    backups = {**BACKUPS, "passfile": "/home/pgpass" if administrator else None}
    path = tmp_path / "pgprefect.json"
    path.write_text(json.dumps({**DECLARED, "login": login, "administrator": administrator, "backups": backups}))
    site = load(str(path))
    monitor, app, backup, passfile = users
    assert (site.observer.user, site.application.user, site.administers) == (monitor, app, backup is not None)
    if site.administers:
        assert (site.backup.user, site.backup.passfile, site.backup.host) == (backup, passfile, login["host"])


def test_the_virtualenv_of_a_host_that_has_not_made_the_declared_one_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command runs from the former one until then."""
    path, former, declared = tmp_path / "pgprefect.json", tmp_path / "3.9.1+aaaaaaaa", tmp_path / "3.9.1+bbbbbbbb"
    path.write_text(json.dumps({**DECLARED, "login": SOCKET, "virtualenv": str(declared)}))
    # Such as on the database's host.
    assert load(str(path)).virtualenv == str(declared)
    monkeypatch.setattr(sys, "prefix", str(former))
    assert load(str(path)).virtualenv == str(former)
    declared.mkdir()
    assert load(str(path)).virtualenv == str(declared) and load(str(path)).release == "3.9.1"
