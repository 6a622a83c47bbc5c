"""The command ``pgprefect restore``."""

from __future__ import annotations

import argparse
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..backup import restore, sets
from ..backup.examine import examine
from ..backup.restore_table import put_back, restore_table
from ..backup.sets import BackupError, Dump
from ..core.errors import InputError
from ..core.formats import ago, counted
from ..pitr.repository import find_cluster, set_restore_point
from ..schema.declaration import declaration_of
from ..site.configuration import Site
from . import output
from .backup import site_with_backups
from .common import add_command, confirmed, require_writes, this_program
from .output import ATTENTION, FINE, refuse


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "put a backup set back, in one transaction; a safety set is made first"
    command = add_command(commands, "restore", _restore, summary, tenant=True, dry_run=True, confirmed=True)
    command.add_argument("--set", help="the set's name; else the newest")
    command.add_argument(
        "--kind", action="append", choices=(sets.APP, sets.WORKFLOW), help="only this; else all that the set has"
    )
    command.add_argument(
        "--schema", action="append", metavar="SCHEMA", help="of the application, only this; else all that the set has"
    )
    command.add_argument("--into", metavar="DATABASE", help="into a new database instead of the site's own")
    command.add_argument(
        "--table", metavar="SCHEMA.TABLE", help="only this table's rows, into a schema of its own, named restored_..."
    )
    command.add_argument(
        "--put-back", action="store_true", help="with --table: copy the rows that the table lacks into it"
    )
    command.add_argument(
        "--no-safety-set",
        action="store_true",
        help="make neither a safety set nor a restore point, where what is there cannot be backed up any more",
    )


def _restore(options: argparse.Namespace) -> int:
    if options.table and (options.kind or options.into or options.tenant or options.schema):
        raise InputError("--table goes alone or with --set and --dry-run: its schema says the rest.")
    if options.put_back and not options.table:
        raise InputError("--put-back goes with --table SCHEMA.TABLE.")
    site, home = site_with_backups(options)
    require_writes(site)
    path = sets.find(home, options.set)
    if options.table:
        return _restore_table(options, site, path)
    manifest = sets.read_manifest(path)
    held = dict.fromkeys(part.kind for part in manifest.parts if part.schema)
    if options.schema and (options.kind or options.tenant):
        raise InputError("--schema is of the application, so it takes neither --kind nor --tenant.")
    kinds = [sets.APP] if options.schema else options.kind or list(held)
    parts = restore.choose(manifest, declaration_of(site), kinds, options.tenant, options.schema or ())
    target = options.into or site.database
    schemas = ", ".join(part.schema for part in parts if part.schema)
    found = examine(site.login, declaration_of(site), path, parts, site.virtualenv, options.into)
    if options.dry_run or not (options.yes or options.into):
        would = f"It would replace {schemas} in the database {target}."
        output.verdict(f"The set {path.name}, made {ago(manifest.time)}, is complete. {would}")
        output.problems(found.notes)
        if options.dry_run:
            return FINE
        if not confirmed(options, "This replaces what is there."):
            return refuse("Nothing was changed: say --yes to restore it.")
    if not options.into and not options.no_safety_set and not _keep_what_is_there(options, site, parts):
        return refuse("Nothing was changed, because the safety set failed: end the cause, or say --no-safety-set.")
    rows = restore.restore(site.login, declaration_of(site), path, parts, site.virtualenv, options.into, was_read=True)
    output.verdict(f"Restored {path.name}: {schemas} in {target}.")
    output.table(["table", "rows"], sorted(rows.items()))
    output.problems(found.notes)
    return FINE


def _keep_what_is_there(options: argparse.Namespace, site: Site, parts: list[Dump]) -> bool:
    """Set a restore point where the cluster has them, make a safety set, and say whether that is done."""
    if site.job("pitr"):
        cluster, now = find_cluster(), datetime.now(timezone.utc)
        point = set_restore_point(site.login, cluster, "before-restore", now)
        print(f"The restore point {point.name} is set.")
    # By the user of the backups, which this process cannot become and come back from.
    kinds = [word for kind in dict.fromkeys(part.kind for part in parts) for word in ("--kind", kind)]
    tenant = ["--tenant", options.tenant] if options.tenant else []
    verbose = ["--verbose"] if options.verbose else []
    command = [*this_program(), "--config", options.config, *verbose, *tenant, "backup", "create", "--safety", *kinds]
    print("The safety set:", flush=True)
    return subprocess.run(command, check=False).returncode == 0


def _restore_table(options: argparse.Namespace, site: Site, path: Path) -> int:
    declaration = declaration_of(site)
    try:
        table = restore_table(site.login, declaration, path, options.table, options.dry_run)
    except BackupError as error:
        if not options.put_back or error.problem.code != "restore_table_exists":
            raise
        table = error.problem.object.partition(" ")[2]
    else:
        done = "It would make" if options.dry_run else "It made"
        print(f"The set {path.name} is complete. {done} the table {table} in the database {site.database}.")
    if not options.put_back:
        return FINE
    if options.dry_run:
        print(f"It would copy the rows that {options.table} lacks from there.")
        return FINE
    if not confirmed(options, f"This copies the rows that {options.table} lacks from there."):
        return refuse(f"{options.table} is as it was: say --yes to copy them.")
    copied = put_back(site.login, declaration, path, options.table)
    if not copied.taken:
        output.verdict(f"{options.table} has {counted(copied.rows, 'row')} more, and {table} is dropped.")
        return FINE
    taken = counted(copied.taken, "row")
    output.verdict(f"{options.table} has {counted(copied.rows, 'row')} more; {taken} could not go back.", ATTENTION)
    print(f"Their keys belong to other rows by now. They stay in {table}: compare them, and decide for each.")
    return ATTENTION
