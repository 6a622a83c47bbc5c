"""Backup sets of a site, and how contents are compared."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.restore import choose, restore
from pgprefect.backup.sets import Manifest, read_manifest
from pgprefect.core.connection import Login
from pgprefect.core.process import libpq_environment
from pgprefect.core.sql import quote

from tests.support.project import VIRTUALENV
from tests.support.site import Site

KINDS = ["app", "workflow"]


def login(site: Site) -> Login:
    """The backup's own role. Tests come over TCP, so it has a password here."""
    site.server.sql("postgres", f"ALTER ROLE {quote(site.declaration.backup)} PASSWORD 'backup'")
    return replace(site.server.login, user=site.declaration.backup, password="backup")


def make(site: Site, directory: Path, *kinds: str) -> Manifest:
    return back_up(login(site), site.database, wanted_parts(site.declaration, kinds or KINDS), directory, "3.9.1")


def fingerprint(site: Site) -> dict[str, tuple[int, str]]:
    """The rows of each table and a hash of them in their order."""
    tables = site.sql(
        "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
        " WHERE schemaname IN ('public', 'prefect') ORDER BY 1"
    )
    question = "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} AS t"
    return {table: site.sql(question.format(table))[0] for (table,) in tables}


def schema_of(site: Site) -> list[str]:
    """A schema dump without what differs on every run."""
    done = subprocess.run(
        ["pg_dump", "--schema-only", "-n", "public", "-n", "prefect"],
        env=libpq_environment(site.server.login, site.database),
        capture_output=True,
        text=True,
        check=True,
    )
    # What a dump has at random, or is of the database and not of the schema.
    return sorted(line for line in done.stdout.splitlines() if not re.match(r"\\|--|.* SET \(pg_attver=", line))


def put_back(
    site: Site,
    path: Path,
    *kinds: str,
    into: str | None = None,
    tenant: str | None = None,
    virtualenv: Path = VIRTUALENV,
) -> dict[str, int]:
    parts = choose(read_manifest(path), site.declaration, kinds, tenant)
    return restore(site.server.login, site.declaration, path, parts, str(virtualenv), into)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / "manifest.json").read_text())
    change(content)
    (path / "manifest.json").write_text(json.dumps(content))


def workflow(content: dict[str, object]) -> dict[str, object]:
    parts = content["parts"]
    assert isinstance(parts, list)
    found: dict[str, object] = next(part for part in parts if part["kind"] == "workflow")
    return found
