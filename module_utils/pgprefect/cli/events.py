"""The command ``pgprefect events``."""

from __future__ import annotations

import argparse
import os
from datetime import datetime, timedelta, timezone
from typing import Any

from ..core.formats import ago, counted
from ..events.read import read_events
from ..schema.event_table import EventTable
from . import output
from .common import add_command, days, load_site, number, open_connection
from .output import FINE

_MOST = 100_000


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "show the application's events, the newest first"
    command = add_command(commands, "events", _events, summary, json=True)
    command.add_argument("--workflow", help="only this one's")
    command.add_argument("--days", type=days, help="only of so many days up to now")
    command.add_argument("--limit", type=number(1, _MOST, int), default=50, help="the most to show (%(default)s)")


def _events(options: argparse.Namespace) -> int:
    site = load_site(options)
    since = options.days and datetime.now(timezone.utc) - timedelta(days=options.days)
    table = EventTable.from_environment(os.environ)
    with open_connection(site.application, site.database) as connection:
        events = read_events(connection, table, options.workflow, since, options.limit)
    if options.json:
        output.as_json(events)
        return FINE
    if not events:
        print(f"Nothing to show: the table {'.'.join(table.name)} has no event{_of(options)}.")
        return FINE
    columns = ["event_type", "workflow_name", "status", "message"]
    rows = [(_when(event["created_at"]), event["level"], *(event[column] for column in columns)) for event in events]
    output.table(["age", "level", "event", "workflow", "status", "message"], rows, "Events, the newest first")
    return FINE


def _when(moment: datetime | None) -> str | None:
    """Return the age of an event; a table of somebody else's may have times without a zone, or none at all."""
    if moment is None:
        return None
    return ago(moment) if moment.tzinfo else f"{moment:%F %T}"


def _of(options: argparse.Namespace) -> str:
    workflow = f" of the workflow {options.workflow}" if options.workflow else ""
    return workflow + (f" in the last {counted(options.days, 'day')}" if options.days else "")
