"""Rows of the application that a restore to a moment keeps or loses, and what the repository has."""

from __future__ import annotations

import json
from typing import Any

from testinfra.host import Host

from tests.support.scenario import PSQL


def remove_rows(host: Host) -> None:
    """Remove what these tests have written."""
    host.check_output(PSQL, "DELETE FROM system_logs WHERE event_type = 'pitr'")


def write_row(host: Host, message: str) -> None:
    """Write a row."""
    host.check_output(PSQL, f"INSERT INTO system_logs (event_type, message) VALUES ('pitr', '{message}')")


def written(host: Host, port: int = 5432) -> str:
    """Return the messages of the rows, in order, of a cluster on this host."""
    question = "SELECT string_agg(message, '' ORDER BY message) FROM system_logs WHERE event_type = 'pitr'"
    return str(host.check_output(f"PGPORT={port} {PSQL}", question))


def listed(host: Host) -> Any:
    """Return the backups and the restore points."""
    return json.loads(host.check_output("pgprefect pitr list --json"))
