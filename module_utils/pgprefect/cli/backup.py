"""The commands that make, copy, prove and restore backup sets."""

from __future__ import annotations

import argparse
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..backup import copy as backup_copy
from ..backup import create as backup
from ..backup import restore, sets
from ..backup.drill import drill
from ..backup.restore_table import restore_table
from ..core.jobs import record
from ..core.process import ProcessFailed
from ..pitr.repository import find_cluster, set_restore_point
from ..schema.declaration import declaration_of
from ..site import configuration
from ..site.configuration import ConfigurationError, Site
from . import output as report
from .output import FINE, refuse


def add_to(commands: Any) -> None:
    """Add them to those of the program: to what argparse's ``add_subparsers`` returned."""
    command = commands.add_parser("backup", help="make a backup set of the schemas, and look after the sets")
    command.add_argument(
        "action",
        nargs="?",
        default="create",
        choices=_ACTIONS,
        help="create a set, prune and copy (which is the default); list the sets; check one, reading it in full; prune;"
        " export one as it leaves the host; add one that came from elsewhere",
    )
    command.add_argument("--kind", action="append", choices=backup.KINDS, help="create: instead of the site's kinds")
    command.add_argument("--set", help="check, export: the set's name; else the newest")
    command.add_argument("--to", type=_absolute, metavar="DIRECTORY", help="export: an empty one")
    command.add_argument(
        "--from", type=_absolute, metavar="DIRECTORY", dest="folder", help="add: the set, below the others"
    )
    command.add_argument("--dry-run", action="store_true", help="create, prune: only say what would be done")
    command.add_argument("--safety", action="store_true", help="create: one that nothing takes for the newest")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=_backup)

    command = commands.add_parser("copy", help="copy the sets that the target has not got yet")
    command.set_defaults(run=_copy)

    command = commands.add_parser(
        "drill", help="prove a set: restore it into a throwaway cluster and start Prefect on it"
    )
    command.add_argument("--set", help="the set's name; else the newest")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=_drill)

    command = commands.add_parser(
        "restore", help="put a backup set back, in one transaction; a safety set is made first"
    )
    command.add_argument("--set", help="the set's name; else the newest")
    command.add_argument("--kind", action="append", choices=(sets.APP, sets.WORKFLOW), help="else all that the set has")
    command.add_argument("--into", metavar="DATABASE", help="a database to be made for it, instead of the site's own")
    command.add_argument(
        "--table",
        metavar="SCHEMA.TABLE",
        help="only this table's rows, into a schema restored_... beside what is there",
    )
    command.add_argument("--dry-run", action="store_true", help="check the set and say what would be replaced")
    command.add_argument("--yes", action="store_true", help="really replace what is there")
    command.add_argument(
        "--no-safety-set",
        action="store_true",
        help="and no restore point: where what is there can not be backed up any more",
    )
    command.set_defaults(run=_restore)


def _absolute(text: str) -> Path:
    """Take a path as an argument: the command runs in /, wherever it is typed."""
    if not os.path.isabs(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute path")
    return Path(text)


def _backup(options: argparse.Namespace) -> int:
    site, home = _backups(options)
    if options.dry_run and options.action not in ("create", "prune"):
        raise ValueError(f"pgprefect backup {options.action} has no --dry-run; create and prune have.")
    _become(declaration_of(site).backup)
    return _ACTIONS[options.action](options, site, home)


def _backups(options: argparse.Namespace) -> tuple[Site, Path]:
    site = configuration.load(options.config)
    if site.backups is None:
        raise ConfigurationError("No backups are declared for this host: run site.yml on the host of the database.")
    return site, Path(site.backups.directory)


def _become(role: str) -> None:
    """Let root go on as the user that owns the sets and that PostgreSQL knows; anybody else stays who they are."""
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(role)
    except KeyError as error:
        raise ConfigurationError(
            f"There is no user {role} on this host: run site.yml on the database's host."
        ) from error
    os.initgroups(role, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _create(options: argparse.Namespace, site: Site, home: Path) -> int:
    assert site.backups
    parts = backup.wanted_parts(declaration_of(site), options.kind or site.backups.kinds, options.tenant)
    login = replace(site.login, user=declaration_of(site).backup)
    if options.safety:  # of what is there: where something is gone, that is what the restore is for
        parts = backup.existing(login, site.database, parts)
        if not parts:
            print("None: what would be replaced is not there.")
            return FINE
    if options.dry_run:
        return _would_create(options, site, home, parts)
    version = site.virtualenv and os.path.basename(site.virtualenv)
    # What is made by the way says nothing of the nightly job.
    with record(None if options.safety else site.job("backup")) as figures:
        made = backup.back_up(login, site.database, parts, home, version, safety=options.safety)
        figures.update(set=made.name, bytes=made.bytes, seconds=made.seconds)
        spared = backup_copy.waiting(home, site.backups.copy)
        pruned = [] if options.safety else backup.prune(home, site.backups.keep, spared=spared)
    if options.json:
        report.as_json({**made.as_dict(), "pruned": pruned})
    else:
        rows = [(part.file, part.bytes, sum(part.rows.values()), part.revision) for part in made.parts]
        report.table(f"{home / made.name}, {made.seconds:.1f} s", ["file", "bytes", "rows", "revision"], rows)
        _print_pruned(pruned, "Removed")
    if site.backups.copy and not options.safety:
        copied = _copy_waiting(site, home)
        if not options.json:
            print(copied)
    return FINE


def _would_create(options: argparse.Namespace, site: Site, home: Path, parts: Sequence[backup.Wanted]) -> int:
    """Say what a new set would hold, which sets it would replace, and which would be copied."""
    assert site.backups
    dumps = ["-".join(filter(None, (part.kind, part.tenant))) for part in parts]
    waiting = backup_copy.waiting(home, site.backups.copy)
    pruned = [] if options.safety else backup.would_prune(home, site.backups.keep, spared=waiting)
    if options.json:
        report.as_json({"would_create": dumps, "pruned": pruned})
        return FINE
    print(f"Would make a set in {home}: {', '.join(dumps)}.")
    if not options.safety:
        _print_pruned(pruned, "Would remove")
        if site.backups.copy:
            names = ", ".join(["the new set", *(path.name for path in waiting)])
            print(f"Would copy to {site.backups.copy.target}: {names}.")
    return FINE


def _copy(options: argparse.Namespace) -> int:
    site, home = _backups(options)
    _become(declaration_of(site).backup)
    print(_copy_waiting(site, home))
    return FINE


def _copy_waiting(site: Site, home: Path) -> str:
    assert site.backups
    target = site.backups.copy
    if target is None:
        raise ConfigurationError("No target is declared for copies: set prefect_backup_copy and run site.yml.")
    with record(site.job("copy")) as figures:
        copied = backup_copy.copy(home, target, site.backups.age_recipient)
        figures.update(target=target.target, sets=copied)
    return f"Copied to {target.target}: {', '.join(copied) or 'no set'}."


def _list(options: argparse.Namespace, _site: Site, home: Path) -> int:
    manifests = [(sets.read_manifest(path), sets.is_verified(path)) for path in sets.list_sets(home)]
    if options.json:
        report.as_json(
            [
                {**manifest.as_dict(), "verified": verified, "copied_to": sets.copied_to(home / manifest.name)}
                for manifest, verified in manifests
            ]
        )
        return FINE
    columns = ["set", "holds", "bytes", "seconds", "verified", "copied to"]
    rows = [
        (
            found.name,
            " ".join(part.file.partition(".")[0] for part in found.parts),
            found.bytes,
            found.seconds,
            verified,
            sets.copied_to(home / found.name),
        )
        for found, verified in manifests
    ]
    report.table(f"Sets in {home}", columns, rows)
    if not rows:
        print(f"There is no set in {home}.")
    return FINE


def _check(options: argparse.Namespace, _site: Site, home: Path) -> int:
    path = sets.find(home, options.set)
    manifest = sets.check(path)
    if options.json:
        report.as_json(manifest.as_dict())
    else:
        print(f"{path} is what was written: {len(manifest.parts)} files, {manifest.bytes:,} bytes, read to their ends.")
    return FINE


def _export(options: argparse.Namespace, site: Site, home: Path) -> int:
    assert site.backups
    if options.to is None:
        raise ValueError("--to is missing: name an empty directory that the user of the backups may write.")
    with backup.directory_lock(home):
        path = sets.find(home, options.set)
        sets.check_hashes(path, sets.read_manifest(path))
        try:
            names = backup_copy.export(path, options.to, site.backups.age_recipient)
        except (ProcessFailed, OSError) as error:
            return refuse(f"The set {path.name} is not whole in {options.to}: {error}.")
    if options.json:
        report.as_json({"set": path.name, "files": names})
    else:
        print(f"{path} is in {options.to}: {', '.join(names)}.")
    return FINE


def _add(options: argparse.Namespace, _site: Site, home: Path) -> int:
    if options.folder is None:
        raise ValueError("--from is missing: name the directory of the set to add.")
    manifest = backup.add(home, options.folder)
    print(f"{home / manifest.name} is what was written: {len(manifest.parts)} files, {manifest.bytes:,} bytes.")
    return FINE


def _prune(options: argparse.Namespace, site: Site, home: Path) -> int:
    assert site.backups
    spared = backup_copy.waiting(home, site.backups.copy)
    pruned = backup.prune(home, site.backups.keep, options.dry_run, spared)
    if options.json:
        report.as_json({"pruned": pruned})
        return FINE
    return _print_pruned(pruned, "Would remove" if options.dry_run else "Removed")


def _print_pruned(pruned: list[str], done: str) -> int:
    print(f"{done}: {', '.join(pruned) or 'no set'}.")
    return FINE


def _drill(options: argparse.Namespace) -> int:
    site, home = _backups(options)
    _become(declaration_of(site).backup)
    with record(site.job("drill")) as figures, backup.directory_lock(home):
        path = sets.find(home, options.set)
        passed = drill(path, declaration_of(site), site.virtualenv)
        figures.update(asdict(passed), set=path.name)
    if options.json:
        report.as_json({"set": path.name, **asdict(passed)})
        return FINE
    served = ", ".join(f"Prefect of {tenant} listed {flows} flows" for tenant, flows in passed.servers.items())
    print(f"{path} is verified after {passed.seconds:.1f} s: {passed.rows:,} rows.")
    print(f"{served or 'No Prefect is installed on this host, so none was started on the copy'}.")
    return FINE


def _restore(options: argparse.Namespace) -> int:
    site, home = _backups(options)
    path = sets.find(home, options.set)
    if options.table:
        return _restore_table(options, site, path)
    manifest = sets.read_manifest(path)
    held = dict.fromkeys(part.kind for part in manifest.parts if part.schema)
    parts = restore.choose(manifest, declaration_of(site), options.kind or list(held), options.tenant)
    target = options.into or site.database
    schemas = ", ".join(part.schema for part in parts if part.schema)
    if options.dry_run or not (options.yes or options.into):
        restore.examine(site.login, path, parts, site.virtualenv, options.into)
        print(f"The set {path.name} is whole. It would replace {schemas} in the database {target}.")
        return FINE if options.dry_run else refuse("Nothing was changed: say --yes to restore it.")
    if not options.into and not options.no_safety_set:
        if site.job("pitr"):
            cluster, now = find_cluster(), datetime.now(timezone.utc)
            point = set_restore_point(site.login, cluster, "before-restore", now)
            print(f"The restore point {point.name} is set.")
        # By the user of the backups, which this process can not become and come back from.
        kinds = [word for part in parts for word in ("--kind", part.kind)]
        tenant = ["--tenant", options.tenant] if options.tenant else []
        command = [*_this_program(), "--config", options.config, *tenant, "backup", "--safety", *kinds]
        print("The safety set:", flush=True)
        if subprocess.run(command, check=False).returncode:
            return refuse("Nothing was changed, because the safety set failed: end the cause, or say --no-safety-set.")
    rows = restore.restore(site.login, declaration_of(site), path, parts, site.virtualenv, options.into)
    report.table(f"Restored {path.name}: {schemas} in {target}", ["table", "rows"], sorted(rows.items()))
    return FINE


def _this_program() -> list[str]:
    """Return the command that starts this program again: from the same folders, and from no other user's."""
    program = f"import sys; sys.path[:] = {sys.path!r}; from pgprefect.cli.main import main; sys.exit(main())"
    return [sys.executable, "-I", "-c", program]


def _restore_table(options: argparse.Namespace, site: Site, path: Path) -> int:
    if options.kind or options.into or options.tenant:
        raise ValueError("--table goes alone or with --set and --dry-run: its schema says the rest.")
    table = restore_table(site.login, declaration_of(site), path, options.table, options.dry_run)
    done = "It would make" if options.dry_run else "It made"
    print(f"The set {path.name} is whole. {done} the table {table} in the database {site.database}.")
    return FINE


_ACTIONS = {
    "create": _create,
    "list": _list,
    "check": _check,
    "prune": _prune,
    "export": _export,
    "add": _add,
}
