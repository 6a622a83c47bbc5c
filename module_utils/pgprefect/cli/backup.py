"""The commands that make, look after, copy and prove backup sets."""

from __future__ import annotations

import argparse
import json
import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..backup import copy, create, sandbox, sets
from ..backup.sets import Dump, Manifest
from ..core.formats import ago, counted, duration, size
from ..core.jobs import record
from ..core.process import ProcessFailed
from ..health.leftovers import leftovers, places
from ..schema.declaration import declaration_of
from ..site.configuration import Backups, ConfigurationError, CopyTarget, Site
from . import output
from .common import absolute_path, add_command, add_group, clear_remains, load_site, number, this_program
from .output import FINE, refuse

_SET = "the set's name; else the newest"


def add_to(commands: Any) -> None:
    """Add the commands to what argparse's ``add_subparsers`` returned."""
    summary = "make a backup set of the schemas, and look after the sets"
    actions = add_group(commands, "backup", summary, default="create")

    summary = "make a set, prune the others and copy it"
    command = add_command(actions, "create", _create, summary, tenant=True, json=True, dry_run=True)
    command.add_argument("--kind", action="append", choices=create.KINDS, help="instead of the site's kinds")
    command.add_argument("--safety", action="store_true", help="make one that nothing takes for the newest")
    command.add_argument(
        "--unless-verified",
        type=number(1, 1000),
        metavar="HOURS",
        help="make none where one that passed a drill is not older, and has what this one would have",
    )

    add_command(actions, "list", _list, "list the sets", json=True)

    command = add_command(actions, "check", _check, "read a set in full and compare it with its manifest", json=True)
    command.add_argument("--set", help=_SET)

    add_command(actions, "prune", _prune, "remove the sets that the site does not keep", json=True, dry_run=True)

    summary = "write a set into a directory, as it leaves the host"
    command = add_command(actions, "export", _export, summary, json=True, dry_run=True)
    command.add_argument("--set", help=_SET)
    command.add_argument("--to", type=absolute_path, metavar="DIRECTORY", required=True, help="an empty one")

    command = add_command(actions, "add", _add, "add a set that came from elsewhere", dry_run=True)
    command.add_argument(
        "--from", type=absolute_path, metavar="DIRECTORY", dest="folder", required=True, help="below that of the sets"
    )

    add_command(commands, "copy", _copy, "copy the sets that are not at the target yet", dry_run=True)

    summary = "prove a set: restore it into a throwaway cluster and start Prefect on it"
    command = add_command(commands, "drill", _drill, summary, json=True, dry_run=True)
    command.add_argument("--set", help=_SET)


def site_with_backups(options: argparse.Namespace) -> tuple[Site, Path]:
    """Return the site and the directory of its sets. Raises ConfigurationError where this host has none."""
    site = load_site(options)
    home = Path(_of(site).directory)
    if not site.administers and not home.exists():
        raise ConfigurationError(_elsewhere(site))
    return site, home


def _of(site: Site) -> Backups:
    if site.backups is None:
        raise ConfigurationError("No backups are declared for this host: run site.yml on the host of the database.")
    return site.backups


def _elsewhere(site: Site) -> str:
    return (
        f"The backup sets are on the host of the database, {site.login.host}, in {_of(site).directory}: "
        "run this command there, as root."
    )


def _as_backup_user(options: argparse.Namespace) -> tuple[Site, Path]:
    """Return the same, and let root go on as the user that owns the sets and that PostgreSQL knows."""
    site, home = site_with_backups(options)
    role = declaration_of(site).backup
    if os.geteuid() == 0:
        if options.changes and not options.dry_run:
            clear_remains(site)
        try:
            user = pwd.getpwnam(role)
        except KeyError as error:
            missing = f"There is no user {role} on this host: run site.yml, which makes it."
            raise ConfigurationError(missing if site.administers else _elsewhere(site)) from error
        os.initgroups(role, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        os.environ["HOME"] = user.pw_dir  # libpq looks there for certificates, and fails where it may not look
    return site, home


def _create(options: argparse.Namespace) -> int:
    site, home = _as_backup_user(options)
    backups = _of(site)
    parts = create.wanted_parts(declaration_of(site), options.kind or backups.kinds, options.tenant)
    login = site.backup
    if options.safety:  # of what is there: where something is gone, that is what the restore is for
        parts = create.existing(login, site.database, parts)
        if not parts:
            print("None: what would be replaced is not there.")
            return FINE
    hours = options.unless_verified
    taken = create.verified_set(login, site.database, parts, home, hours) if hours else None
    if taken:
        return _take(options, taken)
    if options.dry_run:
        return _would_create(options, site, home, parts)
    # A safety set says nothing of the nightly job.
    with record(None if options.safety else site.job("backup")) as figures:
        made = create.back_up(login, site.database, parts, home, site.release, safety=options.safety)
        figures.update(set=made.name, bytes=made.bytes, seconds=made.seconds, not_included=made.not_included)
        spared = copy.waiting(home, backups.copy)
        pruned = [] if options.safety else create.prune(home, backups.keep, spared=spared)
    if options.json:
        output.as_json({**made.as_dict(), "made": True, "pruned": pruned})
    else:
        output.verdict(f"Made the set {home / made.name}: {size(made.bytes)} in {duration(made.seconds)}.")
        rows = [
            (part.file, part.schema, size(part.bytes), sum(part.rows.values()), part.revision) for part in made.parts
        ]
        output.table(["file", "schema", "size of the file", "rows", "revision"], rows)
        if made.not_included:
            print(f"\nNot included: {_not_included(made)}.")
        if not options.safety:
            print()
            _print_pruned(pruned, "Removed")
    if backups.copy and not options.safety:
        copied = _copy_waiting(site, home, backups.copy)
        if not options.json:
            print(copied)
    return FINE


def _take(options: argparse.Namespace, taken: Manifest) -> int:
    """Say that there is a set already."""
    if options.json:
        output.as_json({**taken.as_dict(), "made": False, "pruned": []})
    else:
        output.verdict(f"The set {taken.name} passed a drill, and was made {ago(taken.time)}: no other one is made.")
    return FINE


def _would_create(options: argparse.Namespace, site: Site, home: Path, parts: Sequence[create.Wanted]) -> int:
    """Say what a new set would hold, which sets it would replace, and which would be copied."""
    backups = _of(site)
    dumps = ["-".join(filter(None, (part.kind, part.tenant))) for part in parts]
    waiting = copy.waiting(home, backups.copy)
    pruned = [] if options.safety else create.would_prune(home, backups.keep, spared=waiting)
    if options.json:
        output.as_json({"would_create": dumps, "pruned": pruned})
        return FINE
    print(f"Would make a set in {home}: {', '.join(dumps)}.")
    if not options.safety:
        _print_pruned(pruned, "Would remove")
        if backups.copy:
            names = ["the new set", *(path.name for path in waiting)]
            print(f"Would copy to {backups.copy.target}: {', '.join(names)}.")
    return FINE


def _list(options: argparse.Namespace) -> int:
    site, home = site_with_backups(options)
    left, _ = leftovers(places(str(home), _of(site).drill_directory))  # root sees more than the backups' user
    _as_backup_user(options)
    found = [(path, sets.read_manifest(path)) for path in sets.list_sets(home)]
    if options.json:
        output.as_json([
            {**manifest.as_dict(), "verified": sets.is_verified(path), "copied_to": sets.copied_to(path)}
            for path, manifest in found
        ])  # fmt: skip
        return FINE
    if not found:
        print(f"There is no set in {home} yet: pgprefect backup makes one.")
        return FINE
    newest = max(manifest.time for _, manifest in found)
    total = size(sum(manifest.bytes for _, manifest in found))
    output.verdict(f"{counted(len(found), 'set')} in {home}, {total}; the newest was made {ago(newest)}.")
    rows = [
        (
            path.name,
            ago(manifest.time),
            " ".join(map(_held(manifest), manifest.files)),
            size(manifest.bytes),
            duration(manifest.seconds),
            _drilled(path),
            sets.copied_to(path),
            _not_included(manifest) or None,
        )
        for path, manifest in found
    ]
    output.table(["set", "made", "holds", "size", "took", "drill", "copied to", "not included"], rows)
    output.problems(left)
    return FINE


def _held(manifest: Manifest) -> Callable[[Dump], str]:
    """Return a function that names a file, with its schemas where there are several."""

    def name(file: Dump) -> str:
        schemas = [str(part.schema) for part in manifest.parts if part.file == file.file]
        return file.file.partition(".")[0] + (f"({','.join(schemas)})" if len(schemas) > 1 else "")

    return name


def _not_included(manifest: Manifest) -> str:
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in manifest.not_included.items())


def _drilled(path: Path) -> str:
    try:
        passed = json.loads((path / sets.VERIFIED).read_text(encoding="utf-8"))
        return f"passed {ago(passed['verified'])}"
    except FileNotFoundError:
        return "safety set" if sets.is_safety(path.name) else "not yet drilled"
    except (OSError, ValueError, KeyError, TypeError):
        return "passed"  # that the file is there is what counts


def _check(options: argparse.Namespace) -> int:
    _, home = _as_backup_user(options)
    path = sets.find(home, options.set)
    manifest = sets.check(path)
    if options.json:
        output.as_json(manifest.as_dict())
    else:
        held = f"{counted(len(manifest.parts), 'file')}, {size(manifest.bytes)}"
        output.verdict(f"{path} is what was written: {held}, read to the end.")
    return FINE


def _prune(options: argparse.Namespace) -> int:
    site, home = _as_backup_user(options)
    backups = _of(site)
    pruned = create.prune(home, backups.keep, options.dry_run, copy.waiting(home, backups.copy))
    if options.json:
        output.as_json({"pruned": pruned})
    else:
        _print_pruned(pruned, "Would remove" if options.dry_run else "Removed")
    return FINE


def _print_pruned(pruned: list[str], done: str) -> None:
    print(f"{done}: {', '.join(pruned) or 'no set'}.")


def _export(options: argparse.Namespace) -> int:
    site, home = _as_backup_user(options)
    with create.directory_lock(home):
        path = sets.find(home, options.set)
        manifest = sets.read_manifest(path)
        if options.dry_run:
            print(f"Would write the set {path.name} into {options.to}: {size(manifest.bytes)}.")
            return FINE
        sets.check_hashes(path, manifest)
        try:
            names = copy.export(path, options.to, _of(site).age_recipient)
        except (ProcessFailed, OSError) as error:
            return refuse(f"The set {path.name} is not complete in {options.to}: {error}.")
    if options.json:
        output.as_json({"set": path.name, "files": names})
    else:
        print(f"{path} is in {options.to}: {', '.join(names)}.")
    return FINE


def _add(options: argparse.Namespace) -> int:
    _, home = _as_backup_user(options)
    manifest = sets.check(options.folder) if options.dry_run else create.add(home, options.folder)
    held = f"{counted(len(manifest.parts), 'file')}, {size(manifest.bytes)}"
    if options.dry_run:
        print(f"{options.folder} is what was written: {held}. Would move it to {home / manifest.name}.")
    else:
        print(f"{home / manifest.name} is what was written: {held}.")
    return FINE


def _copy(options: argparse.Namespace) -> int:
    site, home = _as_backup_user(options)
    target = _of(site).copy
    if target is None:
        raise ConfigurationError("No target is declared for copies: set prefect_backup_copy and run site.yml.")
    if options.dry_run:
        names = ", ".join(path.name for path in copy.waiting(home, target))
        print(f"Would copy to {target.target}: {names or 'no set'}.")
    else:
        print(_copy_waiting(site, home, target))
    return FINE


def _copy_waiting(site: Site, home: Path, target: CopyTarget) -> str:
    with record(site.job("copy")) as figures:
        copied = copy.copy(home, target, _of(site).age_recipient)
        figures.update(target=target.target, sets=copied)
    return f"Copied to {target.target}: {', '.join(copied) or 'no set'}."


def _drill(options: argparse.Namespace) -> int:
    site, home = site_with_backups(options)
    if os.geteuid() != 0:
        raise ConfigurationError("A drill starts the unit in which a set is tried out: run this as root.")
    path = sets.find(home, options.set)
    directory = Path(_of(site).drill_directory)
    if not options.dry_run:
        clear_remains(site)
    if options.dry_run:
        held = size(sets.read_manifest(path).bytes)
        print(
            f"Would restore the set {path.name} ({held}) into a throwaway cluster in {directory}, and start Prefect"
            " on it."
        )
        return FINE
    with record(site.job("drill")) as figures:
        program = [*this_program(), "--config", options.config]
        passed = sandbox.run(path, directory, declaration_of(site).backup, program)
        figures.update(asdict(passed), set=path.name)
    if options.json:
        output.as_json({"set": path.name, **asdict(passed)})
        return FINE
    output.verdict(f"{path} passed the drill in {duration(passed.seconds)}: {counted(passed.rows, 'row')} restored.")
    for tenant, flows in passed.servers.items():
        print(f"Prefect of {tenant} listed {counted(flows, 'flow')}.")
    if not passed.servers:
        print("No Prefect is installed on this host, so none was started on the copy.")
    return FINE
