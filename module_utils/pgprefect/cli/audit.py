"""The command ``pgprefect audit``."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from ..audit.read import Trail, as_dict, read_trail
from ..core.formats import counted
from ..site.configuration import ConfigurationError
from . import output
from .common import add_command, load_site, number
from .output import ATTENTION, FINE

_MOST = 100_000
_UNITS = {"min": "minutes", "h": "hours", "d": "days"}


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "show who changed what in the database, when and from where, the newest first"
    command = add_command(commands, "audit", _audit, summary, json=True)
    command.add_argument("--since", type=since, help="only from then on: 30min, 1h, 7d, or a time as 2026-01-31T02:00")
    command.add_argument("--role", help="only what this role did")
    command.add_argument("--object", type=table, metavar="SCHEMA.TABLE", help="only what concerns this table")
    command.add_argument("--limit", type=number(1, _MOST, int), default=50, help="the most to show (%(default)s)")


def since(text: str) -> datetime:
    """Take a span up to now, or a time, which is local unless it says its zone."""
    span = re.fullmatch(r"(\d{1,6})(min|h|d)", text)
    if span:
        return datetime.now(timezone.utc) - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        return datetime.fromisoformat(re.sub("Z$", "+00:00", text)).astimezone()
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a span as 30min, 1h, 7d nor a time") from error


def table(text: str) -> str:
    """Take the name of a table with its schema."""
    schema, _, name = text.partition(".")
    if not (schema and name):
        raise argparse.ArgumentTypeError(f"{text!r} is no SCHEMA.TABLE")
    return text


def _audit(options: argparse.Namespace) -> int:
    site = load_site(options)
    if not site.audit_log:
        raise ConfigurationError(
            "There is no audit trail on this host. It is on the database's host, where the inventory says "
            "postgresql_audit: true; run site.yml with it."
        )
    trail = read_trail(site.audit_log, options.since, options.role, options.object, options.limit)
    if options.json:
        output.as_json(as_dict(trail))
    else:
        _print(trail, options)
    return ATTENTION if trail.unreadable else FINE


def _print(trail: Trail, options: argparse.Namespace) -> None:
    if trail.entries:
        rows = [
            (
                f"{entry.time.astimezone():%F %T%z}",
                *(entry.role, entry.client, entry.application, entry.database),
                *(entry.kind, entry.command, entry.object or None, " ".join(entry.statement.split())),
            )
            for entry in trail.entries
        ]
        columns = ["time", "role", "from", "application", "database", "class", "command", "object", "statement"]
        output.table(columns, rows, "Audit trail, the newest first")
    else:
        print("Nothing to show: nothing that was asked for is in the audit trail.")
    if trail.more:
        print(f"\nThere is more than the newest {options.limit:,}: --limit shows it.")
    if trail.unreadable:
        print(f"\n{counted(trail.unreadable, 'line')} of the log cannot be read: cut or damaged.")
