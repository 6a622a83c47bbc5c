"""The command ``pgprefect pitr``, which backs the whole cluster up and takes it back to a point in time."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import Any

from ..core.jobs import record
from ..pitr import recovery as point_in_time
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
    return _ACTIONS[options.action](options, configuration.load(options.config), point_in_time.find_cluster())


def _backup(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    with record(site.job("pitr")) as figures:
        made = point_in_time.back_up(cluster, options.full)
        figures.update(label=made.label, bytes=made.bytes, stored=made.stored)
    if options.json:
        report.as_json(figures)
    else:
        print(f"The {made.kind} backup {made.label} of {made.bytes:,} bytes took {made.stored:,} in the repository.")
    return FINE


def _list(options: argparse.Namespace, _site: Site, cluster: point_in_time.Cluster) -> int:
    repository = point_in_time.read(cluster)
    if options.json:
        report.as_json(repository.as_dict())
    else:
        _print_repository(repository)
    return FINE


def _print_repository(repository: point_in_time.Repository) -> None:
    rows = [(base.label, base.kind, f"{base.ended:%F %T%z}", base.bytes, base.stored) for base in repository.bases]
    report.table("Backups of the cluster", ["backup", "kind", "ended", "bytes", "stored"], rows)
    points = [(point.name, f"{point.time:%F %T%z}") for point in repository.points]
    report.table("Restore points", ["name", "set"], points)
    if repository.bases:
        print(f"It can be taken back to any time from {repository.bases[0].ended:%F %T%z} up to now.")


def _check(_options: argparse.Namespace, _site: Site, cluster: point_in_time.Cluster) -> int:
    point_in_time.check(cluster)
    print("A piece of WAL arrived in the repository.")
    return FINE


def _point(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    if not options.point:
        return refuse("Name the restore point: pgprefect pitr point --point NAME")
    point = point_in_time.set_point(site.login, cluster, options.point, _now())
    print(f"The restore point {point.name} is set.")
    return FINE


def _restore(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    now = _now()
    repository = point_in_time.read(cluster)
    if not options.json:
        _print_repository(repository)
        print(flush=True)
    way = point_in_time.choose(repository, point_in_time.RecoveryTarget(options.time, options.point, options.end), now)
    with point_in_time.restore_lock(cluster):
        point_in_time.check_free_space(cluster, repository, way, options.beside)
        where = f"a cluster beside {cluster.data}" if options.beside else f"{cluster.data}, with all of its databases"
        plan = f"From the backup {way.base.label} to {way.words}, into {where}."
        if options.dry_run or not (options.yes or options.beside):
            print(plan)
            return FINE if options.dry_run else refuse("Nothing was changed: say --yes to restore it.")
        point = None if options.beside else "before-restore"
        complete = point_in_time.archive_all_wal(site.login, cluster, point, now)
        if options.beside:
            copy, login = point_in_time.restore_beside(site.login, cluster, way)
            print(
                f"{plan} It answers the administrator: runuser -u postgres -- psql -p {login.port} {site.database}\n"
                f"Remove it when it has served: pg_dropcluster --stop {copy.version} {copy.name}"
            )
            return FINE
        point_in_time.restore_in_place(site.login, cluster, way)
        found = {"restored": way.words, "backup": way.base.label, "aside": str(cluster.aside), "complete": complete}
        if options.json:
            report.as_json(found)
        else:
            print(f"{plan} Done. What was there is in {cluster.aside}: pgprefect pitr undo --yes puts it back.")
            print("Now make a backup of the new timeline (pgprefect pitr backup --full), and remove that directory.")
        return FINE


def _undo(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    if not cluster.aside.exists():
        return refuse(f"There is nothing to undo: {cluster.aside} is not there.")
    if not options.yes:
        return refuse(f"{cluster.aside} would replace {cluster.data}. Nothing was changed: say --yes to do it.")
    with point_in_time.restore_lock(cluster):
        point_in_time.undo(site.login, cluster, _now())
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
