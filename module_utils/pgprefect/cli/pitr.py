"""The command ``pgprefect pitr``, which backs the whole cluster up and takes it back to a point in time."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import Any

from ..core.jobs import record
from ..pitr.repository import (
    Cluster,
    RecoveryTarget,
    Repository,
    archive_all_wal,
    check_archiving,
    find_cluster,
    make_base_backup,
    make_recovery_plan,
    read_repository,
    set_restore_point,
)
from ..pitr.restore import (
    check_free_space,
    check_obstacles,
    restore_in_place,
    restore_lock,
    restore_side_by_side,
    undo_restore,
)
from ..site import configuration
from ..site.configuration import Site
from . import output as report
from .output import FINE, refuse


def add_to(commands: Any) -> None:
    """Add it to those of the program: to what argparse's ``add_subparsers`` returned."""
    command = commands.add_parser(
        "pitr", help="back the whole cluster up by pgBackRest, and take it back to a point in time"
    )
    command.add_argument(
        "action",
        nargs="?",
        default="backup",
        choices=_ACTIONS,
        help="make a backup, what changed since the last one (which is the default); list what there is; check that WAL"
        " arrives in the repository; set a restore point; restore; undo a restore whose old data is still there",
    )
    command.add_argument("--full", action="store_true", help="backup: of everything")
    command.add_argument("--time", help="restore: to this time, like '2026-01-31 15:04:05+00:00'")
    command.add_argument("--point", metavar="NAME", help="point: its name, which gets the time; restore: to this one")
    command.add_argument("--end", action="store_true", help="restore: to the end of the archived WAL")
    command.add_argument(
        "--beside", action="store_true", help="restore: into a cluster of its own beside the running one"
    )
    command.add_argument("--dry-run", action="store_true", help="restore: only say what there is and what it would do")
    command.add_argument("--yes", action="store_true", help="restore, undo: really replace the running cluster")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=_pitr)


def _pitr(options: argparse.Namespace) -> int:
    return _ACTIONS[options.action](options, configuration.load(options.config), find_cluster())


def _backup(options: argparse.Namespace, site: Site, cluster: Cluster) -> int:
    with record(site.job("pitr")) as figures:
        made = make_base_backup(cluster, options.full)
        figures.update(label=made.label, bytes=made.bytes, stored=made.stored)
    if options.json:
        report.as_json(figures)
    else:
        print(f"The {made.kind} backup {made.label} of {made.bytes:,} bytes took {made.stored:,} in the repository.")
    return FINE


def _list(options: argparse.Namespace, _site: Site, cluster: Cluster) -> int:
    repository = read_repository(cluster)
    if options.json:
        report.as_json(repository.as_dict())
    else:
        _print_repository(repository)
    return FINE


def _print_repository(repository: Repository) -> None:
    backups = repository.base_backups
    rows = [(made.label, made.kind, f"{made.ended:%F %T%z}", made.bytes, made.stored) for made in backups]
    report.table("Backups of the cluster", ["backup", "kind", "ended", "bytes", "stored"], rows)
    points = [(point.name, f"{point.time:%F %T%z}") for point in repository.restore_points]
    report.table("Restore points", ["name", "set"], points)
    if backups:
        print(f"It can be taken back to any time from {backups[0].ended:%F %T%z} up to now.")


def _check(_options: argparse.Namespace, _site: Site, cluster: Cluster) -> int:
    check_archiving(cluster)
    print("A piece of WAL arrived in the repository.")
    return FINE


def _point(options: argparse.Namespace, site: Site, cluster: Cluster) -> int:
    if not options.point:
        return refuse("Name the restore point: pgprefect pitr point --point NAME")
    point = set_restore_point(site.login, cluster, options.point, _now())
    print(f"The restore point {point.name} is set.")
    return FINE


def _restore(options: argparse.Namespace, site: Site, cluster: Cluster) -> int:
    now = _now()
    repository = read_repository(cluster)
    if not options.json:
        _print_repository(repository)
        print(flush=True)
    plan = make_recovery_plan(repository, RecoveryTarget(options.time, options.point, options.end), now)
    with restore_lock(cluster):
        check_obstacles(cluster, repository, options.beside)
        check_free_space(cluster, plan)
        where = f"a cluster beside {cluster.data}" if options.beside else f"{cluster.data}, with all of its databases"
        summary = f"From the backup {plan.base_backup.label} to {plan.target}, into {where}."
        if options.dry_run or not (options.yes or options.beside):
            print(summary)
            return FINE if options.dry_run else refuse("Nothing was changed: say --yes to restore it.")
        point = None if options.beside else "before-restore"
        complete = archive_all_wal(site.login, cluster, point, now)
        if options.beside:
            copy, login = restore_side_by_side(site.login, cluster, plan)
            print(
                f"{summary} It answers the administrator: runuser -u postgres -- psql -p {login.port} {site.database}\n"
                f"Remove it when it has served: pg_dropcluster --stop {copy.version} {copy.name}"
            )
            return FINE
        restore_in_place(site.login, cluster, plan)
        found = {
            "restored": plan.target,
            "backup": plan.base_backup.label,
            "aside": str(cluster.previous),
            "complete": complete,
        }
        if options.json:
            report.as_json(found)
        else:
            print(f"{summary} Done. What was there is in {cluster.previous}: pgprefect pitr undo --yes puts it back.")
            print("Now make a backup of the new timeline (pgprefect pitr backup --full), and remove that directory.")
        return FINE


def _undo(options: argparse.Namespace, site: Site, cluster: Cluster) -> int:
    if not cluster.previous.exists():
        return refuse(f"There is nothing to undo: {cluster.previous} is not there.")
    if not options.yes:
        return refuse(f"{cluster.previous} would replace {cluster.data}. Nothing was changed: say --yes to do it.")
    with restore_lock(cluster):
        undo_restore(site.login, cluster, _now())
    print(f"{cluster.data} is again what it was before the restore, and PostgreSQL was started.")
    return FINE


def _now() -> datetime:
    return datetime.now(timezone.utc)


_ACTIONS = {
    "backup": _backup,
    "list": _list,
    "check": _check,
    "point": _point,
    "restore": _restore,
    "undo": _undo,
}
