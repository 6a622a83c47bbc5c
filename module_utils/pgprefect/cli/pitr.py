"""The command ``pgprefect pitr``, which backs the whole cluster up and takes it back to a point in time."""

from __future__ import annotations

import argparse
import os
from datetime import datetime, timezone
from typing import Any

from ..core.connection import NotPrimary
from ..core.formats import ago, size
from ..core.jobs import record
from ..pitr import repository as history
from ..pitr import restore
from ..pitr.repository import Cluster, RecoveryTarget, Repository
from ..pitr.service import service_of
from ..site.configuration import ConfigurationError, Site
from . import output
from .common import add_command, add_group, clear_remains, confirmed, load_site, require_writes
from .output import FINE, refuse


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "back the whole cluster up by pgBackRest, and take it back to a point in time"
    actions = add_group(commands, "pitr", summary, default="backup")

    summary = "back up what changed since the last backup"
    command = add_command(actions, "backup", _backup, summary, json=True, dry_run=True)
    command.add_argument("--full", action="store_true", help="back up everything")

    add_command(actions, "list", _list, "list the backups and the restore points", json=True)
    add_command(actions, "check", _check, "check that WAL arrives in the repository")

    command = add_command(actions, "point", _point, "set a restore point", dry_run=True)
    command.add_argument("name", metavar="NAME", help="its name, to which the time is appended")

    summary = "take the cluster back to a time, to a restore point or to the end of the WAL"
    command = add_command(actions, "restore", _restore, summary, json=True, dry_run=True, confirmed=True)
    command.add_argument("--time", help="to this time, like '2026-01-31 15:04:05+00:00'")
    command.add_argument("--point", metavar="NAME", help="to this restore point")
    command.add_argument("--end", action="store_true", help="to the end of the archived WAL")
    command.add_argument("--beside", action="store_true", help="into a cluster of its own, side by side with this one")

    summary = "undo a restore whose old data directory is still there"
    add_command(actions, "undo", _undo, summary, dry_run=True, confirmed=True)


def _cluster(options: argparse.Namespace) -> tuple[Site, Cluster]:
    """Return the site and its cluster. Raises ConfigurationError where this host does not keep its history."""
    site = load_site(options)
    if not os.path.exists(history.CONFIGURATION):
        if site.declared.get("administrator"):
            raise ConfigurationError("The database is on a server of others: use the provider's own recovery.")
        if site.login.host:
            where = f"The cluster is on the host of the database, {site.login.host}: run this command there, as root."
            raise ConfigurationError(where)
        message = "Point-in-time recovery is off. To switch it on, set pgbackrest_enabled: true and run site.yml."
        raise ConfigurationError(message)
    return site, history.find_cluster()


def _backup(options: argparse.Namespace) -> int:
    site, cluster = _cluster(options)
    if options.dry_run:
        if standby := _left_to_the_primary(site):
            print(standby)
            return FINE
        kind = "full" if options.full or not history.read_repository(cluster).base_backups else "incremental"
        print(f"Would make the {kind} backup of {cluster.data}, and prune old ones.")
        return FINE
    clear_remains(site)
    with record(site.job("pitr")) as figures:
        if said := _left_to_the_primary(site):
            # It may be the primary tomorrow, and reads the repository already.
            newest = history.read_repository(cluster).base_backups[-1:]
            figures.update({"standby": True, "label": newest[0].label if newest else ""})
            said += f" The newest one ended {ago(newest[0].ended)}." if newest else " There is none yet."
        else:
            made = history.make_base_backup(cluster, options.full)
            figures.update(label=made.label, bytes=made.bytes, stored=made.stored)
            held = f"{size(made.bytes)}, {size(made.stored)} in the repository"
            said = f"Made the {made.kind} backup {made.label}: {held}."
    if options.json:
        output.as_json(figures)
    else:
        output.verdict(said)
    return FINE


def _left_to_the_primary(site: Site) -> str:
    """Return why a member of a cluster of several hosts makes no backup, or nothing where it is the primary."""
    try:
        if site.patroni:
            require_writes(site)
    except NotPrimary as standby:
        return f"{standby.problem.message} It makes the backups of all."
    return ""


def _list(options: argparse.Namespace) -> int:
    _, cluster = _cluster(options)
    repository = history.read_repository(cluster)
    if options.json:
        output.as_json(repository.as_dict())
    else:
        _print_repository(repository)
    return FINE


def _print_repository(repository: Repository) -> None:
    if not repository.base_backups:
        output.verdict("There is no backup yet, so the cluster cannot be taken back: pgprefect pitr backup makes one.")
        return
    earliest, newest = repository.base_backups[0].ended, repository.base_backups[-1].ended
    span = f"any time from {earliest:%F %T%z} up to now"
    output.verdict(f"The cluster can be taken back to {span}; the newest backup ended {ago(newest)}.")
    rows = [
        (base.label, base.kind, f"{base.ended:%F %T%z}", ago(base.ended), size(base.bytes), size(base.stored))
        for base in repository.base_backups
    ]
    output.table(["backup", "kind", "ended", "age", "size", "stored"], rows, "Backups of the cluster")
    points = [(point.name, f"{point.time:%F %T%z}", ago(point.time)) for point in repository.restore_points]
    output.table(["name", "set", "age"], points, "Restore points")


def _check(options: argparse.Namespace) -> int:
    site, cluster = _cluster(options)
    require_writes(site)
    history.check_archiving(cluster)
    print("A piece of WAL arrived in the repository.")
    return FINE


def _point(options: argparse.Namespace) -> int:
    site, cluster = _cluster(options)
    if options.dry_run:
        print(f"Would set a restore point {options.name}-TIME on the cluster {cluster.data}.")
        return FINE
    require_writes(site)
    point = history.set_restore_point(site.login, cluster, options.name, _now())
    print(f"The restore point {point.name} is set.")
    return FINE


def _restore(options: argparse.Namespace) -> int:
    site, cluster = _cluster(options)
    service = service_of(site.login, cluster, site.patroni)
    service.require_primary()
    now = _now()
    repository = history.read_repository(cluster)
    if not options.json:
        _print_repository(repository)
        print(flush=True)
    plan = history.make_recovery_plan(repository, RecoveryTarget(options.time, options.point, options.end), now)
    with restore.restore_lock(cluster):
        restore.check_obstacles(cluster, repository, options.beside)
        restore.check_free_space(cluster, plan)
        if not options.beside:
            service.require_whole()
        where = "a cluster of its own" if options.beside else f"{cluster.data}, with all of its databases"
        words = f"From the backup {plan.base_backup.label} to {plan.target}, into {where}."
        if options.dry_run or not (options.yes or options.beside):
            print(words)
            if options.dry_run:
                return FINE
            if not confirmed(options, "This stops PostgreSQL and replaces its data directory, which is kept."):
                return refuse("Nothing was changed: say --yes to restore it.")
        complete = service.is_running()
        if complete:
            history.archive_all_wal(site.login, cluster, None if options.beside else "before-restore", now)
        if options.beside:
            copy, login = restore.restore_side_by_side(site.login, cluster, plan)
            print(
                f"{words} It answers the administrator: runuser -u postgres -- psql -p {login.port} {site.database}\n"
                f"Remove it when it has served: pg_dropcluster --stop {copy.version} {copy.name}"
            )
            return FINE
        restore.restore_in_place(site.login, cluster, service, plan)
    if options.json:
        found = {
            "restored": plan.target,
            "backup": plan.base_backup.label,
            "aside": str(cluster.previous),
            "complete": complete,
        }
        output.as_json(found)
    else:
        print(f"{words} Done. What was there is in {cluster.previous}: pgprefect pitr undo --yes puts it back.")
        print("Now make a backup of the new timeline (pgprefect pitr backup --full), and remove that directory.")
    return FINE


def _undo(options: argparse.Namespace) -> int:
    site, cluster = _cluster(options)
    service = service_of(site.login, cluster, site.patroni)
    if not cluster.previous.exists():
        return refuse(f"There is nothing to undo: {cluster.previous} is not there.")
    if options.dry_run or not options.yes:
        print(f"{cluster.previous} would replace {cluster.data}.")
        if options.dry_run:
            return FINE
        if not confirmed(options, "What was written since the restore is lost."):
            return refuse("Nothing was changed: say --yes to do it.")
    with restore.restore_lock(cluster):
        service.require_primary()
        restore.undo_restore(site.login, cluster, service, _now())
    print(f"{cluster.data} is again what it was before the restore, and PostgreSQL was started.")
    return FINE


def _now() -> datetime:
    return datetime.now(timezone.utc)
