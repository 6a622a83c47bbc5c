"""The command ``pgprefect database-events``."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ..core.errors import InputError
from ..core.formats import ago, counted, duration
from ..database_events.outbox import Outbox
from ..schema.database_events import MOST_WAITING, events_of
from ..site.configuration import Site, Tenant
from . import output
from .common import add_command, add_group, load_site, number, open_connection, require_writes
from .output import ATTENTION, FINE

_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "show what rows of the application start, and what waits to be sent"
    actions = add_group(commands, "database-events", summary, default="status")
    summary = "name the events, and count what waits and what was given up"
    add_command(actions, "status", _status, summary, tenant=True, json=True)
    summary = "show the dead letters, the newest first, each with its reason"
    command = add_command(actions, "dead", _dead, summary, tenant=True, json=True)
    command.add_argument("--limit", type=number(1, 100_000, int), default=50, help="the most to show (%(default)s)")
    summary = "send dead letters again"
    command = add_command(actions, "retry", _retry, summary, tenant=True, dry_run=True)
    command.add_argument("id", nargs="*", help="only these; all unless any is named")


def _tenants(site: Site, options: argparse.Namespace) -> list[Tenant]:
    """Return the tenants with database events, or the one that is meant. Raises InputError where there is none."""
    chosen = [site.tenant(options.tenant)] if options.tenant else list(site.tenants)
    found = [tenant for tenant in chosen if tenant.relay]
    if not found:
        whose = f"The tenant {options.tenant}" if options.tenant else "The site"
        raise InputError(f"{whose} has no database events: database_events of a tenant in the inventory declares some.")
    return found


def _status(options: argparse.Namespace) -> int:
    site = load_site(options)
    tenants = _tenants(site, options)
    with open_connection(site.observer, site.database) as connection:
        found = {tenant.name: Outbox(connection, tenant.outbox).status() for tenant in tenants}
    dead = sum(status.dead for status in found.values())
    if options.json:
        output.as_json({name: vars(status) for name, status in found.items()})
        return ATTENTION if dead else FINE
    waiting = sum(status.waiting for status in found.values())
    verdict = f"{counted(waiting, 'row')} waiting to be sent, {counted(dead, 'dead letter')}."
    output.verdict(verdict, ATTENTION if dead else FINE)
    rows = [
        (name, status.waiting, duration(status.lag_s), status.dead, status.refused, status.failed)
        for name, status in found.items()
    ]
    title = f"Outboxes, each for {MOST_WAITING:,} rows at most"
    output.table(["tenant", "waiting", "oldest", "dead", "refused", "failed"], rows, title)
    events = [
        (tenant.name, event.name, ".".join(event.table), ", ".join(event.operations), event.deployment or event.event)
        for tenant in tenants
        for event in events_of(tenant)
    ]
    output.table(["tenant", "event", "table", "operations", "to"], events, "Events")
    return ATTENTION if dead else FINE


def _dead(options: argparse.Namespace) -> int:
    site = load_site(options)
    with open_connection(site.observer, site.database) as connection:
        found = {
            tenant.name: Outbox(connection, tenant.outbox).dead_letters(options.limit)
            for tenant in _tenants(site, options)
        }
    if options.json:
        output.as_json(found)
        return FINE
    many = sum(map(len, found.values()))
    output.verdict(f"{counted(many, 'dead letter')}." if many else "There is no dead letter.")
    for name, letters in found.items():
        columns = ("id", "name", "occurred", "attempts", "error")
        rows = [[ago(letter[key]) if key == "occurred" else letter[key] for key in columns] for letter in letters]
        output.table(["ID", "event", "age", "attempts", "reason"], rows, f"Tenant {name}")
    return FINE


def _retry(options: argparse.Namespace) -> int:
    site = load_site(options)
    strangers = [identifier for identifier in options.id if not _ID.fullmatch(identifier)]
    if strangers:
        raise InputError(f"{strangers[0]!r} is no dead letter's ID: pgprefect database-events dead shows them.")
    require_writes(site)
    many = 0
    for tenant in _tenants(site, options):
        with open_connection(site.login_as(tenant.relay), site.database) as connection:
            many += Outbox(connection, tenant.outbox).retry(options.id)
            (connection.rollback if options.dry_run else connection.commit)()
    words = "would be sent" if options.dry_run else "is sent" if many == 1 else "are sent"
    print(f"{counted(many, 'dead letter')} {words} again.")
    return FINE
