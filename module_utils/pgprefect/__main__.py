"""The command ``pgprefect``.

It ends with 0 where all is well, 1 where something wants attention, 2 where something is broken or was refused, and 3
where it could not look: what Nagios and its kin expect.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from . import backup, backup_copy, backup_set, configuration, environment, point_in_time, report, restore, revision
from .backup_set import BackupError
from .configuration import ConfigurationError, Site
from .connection import ConnectionFailed, Login, connect
from .difference import Barred
from .drill import drill
from .events import EventTable, read_events
from .health import DEGRADED, HEALTHY
from .jobs import record
from .pipeline import PipelineFailed
from .problems import ERROR, Problem, in_words
from .ready import wait_until_ready
from .restore_table import restore_table
from .retention import Policy, RetentionError, clean_up, named, plan
from .seal import seal
from .statistics import Statistics, StatisticsUnavailable, to_csv, workflow_statistics

FINE, ATTENTION, BROKEN, UNKNOWN = range(4)

_EXAMPLES = """examples:
  pgprefect verify                      both schemas, the roles' rights and the server as declared?
  pgprefect health --json               for a monitoring system; the exit status says it too
  pgprefect stats --days 7              what ran, how long it took, what failed
  pgprefect events --limit 20           the application's newest events
  pgprefect cleanup --days 30 --dry-run what would go
  pgprefect backup                      a new set of what the site dumps; then those go that need not stay
  pgprefect copy                        what the target of copies has not got yet
  pgprefect restore --kind workflow     what that would replace; with --yes it does
  pgprefect restore --table public.orders its rows, in a schema beside
  pgprefect pitr list                   to which times and restore points the whole cluster can be taken back
  pgprefect --tenant research health    another tenant than the first
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BackupError as failed:
        return _refuse(f"{failed.problem.code}: {in_words([failed.problem])}")
    except (ConnectionFailed, StatisticsUnavailable) as failed:
        return _refuse(f"{failed.problem.code}: {in_words([failed.problem])}", UNKNOWN)
    except Barred as barred:
        return _refuse(in_words(barred.problems))
    except (ConfigurationError, environment.SettingMissing, revision.RevisionError) as error:
        return _refuse(str(error), UNKNOWN)
    except ValueError as error:  # an argument that makes no sense
        return _refuse(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pgprefect",
        description="Looks after Prefect's schema beside an application's in one PostgreSQL database.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default=configuration.PATH, help="the site's file (%(default)s)")
    parser.add_argument("--tenant", help="another tenant than the first")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("verify", help="compare the database with what is declared; changes nothing")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=_verify)

    command = commands.add_parser("health", help="ask the database, the server and the workers; changes nothing")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.add_argument("--timeout", type=float, default=4, help="seconds that the whole may take (%(default)s)")
    command.set_defaults(run=_health)

    command = commands.add_parser("stats", help="count and time the flow runs")
    command.add_argument("--days", type=float, default=30, help="the window, up to now (%(default)s)")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--csv", action="store_true", help="print one line for each flow and deployment")
    command.set_defaults(run=_stats)

    command = commands.add_parser("events", help="show the application's events, the newest first")
    command.add_argument("--workflow", help="only this one's")
    command.add_argument("--days", type=float, help="only of so many days up to now")
    command.add_argument("--limit", type=int, default=50, help="the most to show (%(default)s)")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=_events)

    command = commands.add_parser("cleanup", help="delete old flow runs with all that belongs to them")
    command.add_argument("--days", type=float, help="keep the runs of so many days; else the site's file says how many")
    command.add_argument("--dry-run", action="store_true", help="only count what would go")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=_cleanup)

    command = commands.add_parser("backup", help="make a backup set of the schemas, and look after the sets")
    command.add_argument(
        "action",
        nargs="?",
        default="create",
        choices=_BACKUP_ACTIONS,
        help="create a set, prune and copy (which is the default); list the sets; check one, reading it in full; prune;"
        " export one as it leaves the host; add one that came from elsewhere",
    )
    command.add_argument("--kind", action="append", choices=backup.KINDS, help="create: instead of the site's kinds")
    command.add_argument("--set", help="check, export: the set's name; else the newest")
    command.add_argument("--to", type=Path, metavar="DIRECTORY", help="export: an empty one")
    command.add_argument("--from", type=Path, metavar="DIRECTORY", dest="folder", help="add: the set, below the others")
    command.add_argument("--dry-run", action="store_true", help="prune: only say what would go")
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
    command.add_argument(
        "--kind", action="append", choices=(backup_set.APP, backup_set.WORKFLOW), help="else all that the set has"
    )
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

    command = commands.add_parser(
        "pitr", help="back the whole cluster up by pgBackRest, and take it back to a point in time"
    )
    command.add_argument(
        "action",
        nargs="?",
        default="backup",
        choices=_PITR_ACTIONS,
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

    command = commands.add_parser("revision", help="compare the database's migration with the installed Prefect's")
    command.add_argument("--require-current", action="store_true", help="fail where they differ")
    command.set_defaults(run=_revision)

    command = commands.add_parser("seal", help="take the tables that hold secrets from all but the server's role")
    command.set_defaults(run=_seal)

    command = commands.add_parser("wait", help="wait until an address answers with success")
    command.add_argument("url")
    command.set_defaults(run=_wait)
    return parser


def _refuse(message: str, status: int = BROKEN) -> int:
    print(message, file=sys.stderr)
    return status


def _verify(options: argparse.Namespace) -> int:
    site = configuration.load(options.config)
    found = site.verify()
    if not found.connection_test:
        return _refuse(in_words(found.problems), UNKNOWN)
    if options.json:
        report.as_json({"verified": found.verified, **asdict(found)})
    else:
        public = found.public_schema
        rows = [(site.declaration.app_schema, public.owner, len(public.tables), found.search_path)]
        rows += [(part.schema, part.owner, len(part.tables), part.search_path) for part in found.tenants.values()]
        report.table(f"Database {site.database}", ["schema", "owner", "tables", "search path"], rows)
        report.problems(found.problems)
        for note in found.not_checked:
            print(f"Not checked: {note}")
    if any(problem.severity == ERROR for problem in found.problems):
        return BROKEN
    return ATTENTION if found.problems else FINE


def _health(options: argparse.Namespace) -> int:
    site = configuration.load(options.config)
    health = site.check_health(timeout=options.timeout)
    if options.json:
        report.as_json(health.as_dict())
    else:
        report.table(
            f"{site.database}: {health.overall_status}",
            ["check", "status", "ms"],
            [(name, check.status, check.details.get("latency_ms")) for name, check in health.checks.items()],
        )
        report.problems(health.problems)
    return {HEALTHY: FINE, DEGRADED: ATTENTION}.get(health.overall_status, BROKEN)


def _stats(options: argparse.Namespace) -> int:
    site = configuration.load(options.config)
    with _open(site.login, site.database) as connection:
        found = workflow_statistics(connection, site.tenant(options.tenant).schema, options.days)
    if options.json:
        report.as_json(found.as_dict())
    elif options.csv:
        print(to_csv(found), end="")
    else:
        _print_statistics(found)
    return FINE


def _print_statistics(found: Statistics) -> None:
    totals = (found.total_flows, found.total_runs, found.successful_runs, found.failed_runs, found.average_duration)
    report.table("Of all time", ["flows", "runs", "successful", "failed", "average s"], [totals])
    columns = ["flow", "deployment", "runs", "success", "p50 s", "p95 s", "p99 s", "late s", "retries"]
    rows = [
        (
            group.flow,
            group.deployment,
            group.runs,
            None if group.success_rate is None else f"{group.success_rate:.1%}",
            group.p50_duration,
            group.p95_duration,
            group.p99_duration,
            group.average_lateness,
            group.retries,
        )
        for group in (*found.flows, *found.deployments)
    ]
    report.table(f"The last {found.days:g} days", columns, rows)
    days = [(day.day, day.runs, day.successful_runs, day.failed_runs, day.average_duration) for day in found.trend]
    report.table("By day (UTC)", ["day", "runs", "successful", "failed", "average s"], days)
    tasks = [(task.task_key, task.runs, task.failed_runs, task.p95_duration) for task in found.slowest_tasks]
    report.table("Slowest tasks", ["task", "runs", "failed", "p95 s"], tasks)
    runs = [(run.name, run.flow, run.state_name, run.end_time, run.duration) for run in found.recent_activity]
    report.table("Newest runs", ["run", "flow", "state", "ended", "s"], runs)


def _events(options: argparse.Namespace) -> int:
    site = configuration.load(options.config)
    since = options.days and datetime.now(timezone.utc) - timedelta(days=options.days)
    table = EventTable.from_environment(os.environ)
    with _open(site.login, site.database) as connection:
        events = read_events(connection, table, options.workflow, since, options.limit)
    if options.json:
        report.as_json(events)
        return FINE
    columns = ["created_at", "level", "event_type", "workflow_name", "status", "message"]
    report.table("Events", columns, [[event[column] for column in columns] for event in events])
    return FINE


def _cleanup(options: argparse.Namespace) -> int:
    site = configuration.load(options.config)
    tenant = site.tenant(options.tenant)
    days = {} if options.days is None else {"days_to_keep": options.days}
    job = None if options.dry_run else site.job("cleanup", tenant.name)
    try:
        if days:  # a slip of the hand is no failed job
            Policy.from_arguments({**site.retention, **days})
        with record(job) as figures:
            policy = Policy.from_arguments({**site.retention, **days})
            with _open(site.login_as(tenant.server), site.database) as connection:
                expected = plan(connection, tenant.schema, policy)
                if options.dry_run:
                    return _print_rows(
                        options, expected.rows, expected.as_dict(), f"Would go, about {expected.bytes:,} bytes"
                    )
                with _open(site.login_as(tenant.migrator), site.database) as owner:
                    progress = report.Progress(sum(expected.rows.values()))
                    result = clean_up(connection, tenant.schema, policy, progress, owner)
            figures.update(named(result.rows), seconds=result.seconds)
    except RetentionError as error:
        return _refuse(str(error))
    title = f"Deleted in {result.seconds:.1f} s, the longest transaction {result.longest_transaction_seconds:.2f} s"
    return _print_rows(options, result.rows, result.as_dict(), title)


def _print_rows(options: argparse.Namespace, rows: Mapping[str, int], content: dict[str, Any], title: str) -> int:
    if options.json:
        report.as_json(content)
    else:
        lost = [(table, count) for table, count in rows.items() if count]
        report.table(title, ["table", "rows"], lost)
        if not lost:
            print("Nothing is old enough to go.")
        zombies = [(run["name"], run["state"], run["hours"]) for run in content["zombies"]]
        report.table("Runs without a sign of life, left alone", ["run", "state", "hours"], zombies)
    return FINE


def _backup(options: argparse.Namespace) -> int:
    site, home = _backups(options)
    _become(site.declaration.backup)
    return _BACKUP_ACTIONS[options.action](options, site, home)


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
    parts = backup.wanted_parts(site.declaration, options.kind or site.backups.kinds, options.tenant)
    login = replace(site.login, user=site.declaration.backup)
    if options.safety:  # of what is there: where something is gone, that is what the restore is for
        parts = backup.existing(login, site.database, parts)
        if not parts:
            print("None: what would be replaced is not there.")
            return FINE
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


def _copy(options: argparse.Namespace) -> int:
    site, home = _backups(options)
    _become(site.declaration.backup)
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
    manifests = [(backup_set.read_manifest(path), backup_set.is_verified(path)) for path in backup_set.sets(home)]
    if options.json:
        report.as_json(
            [
                {**manifest.as_dict(), "verified": verified, "copied_to": backup_set.copied_to(home / manifest.name)}
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
            backup_set.copied_to(home / found.name),
        )
        for found, verified in manifests
    ]
    report.table(f"Sets in {home}", columns, rows)
    if not rows:
        print(f"There is no set in {home}.")
    return FINE


def _check(options: argparse.Namespace, _site: Site, home: Path) -> int:
    path = backup_set.find(home, options.set)
    manifest = backup_set.check(path)
    if options.json:
        report.as_json(manifest.as_dict())
    else:
        print(f"{path} is what was written: {len(manifest.parts)} files, {manifest.bytes:,} bytes, read to their ends.")
    return FINE


def _export(options: argparse.Namespace, site: Site, home: Path) -> int:
    assert site.backups
    if options.to is None:
        raise ValueError("--to is missing: name an empty directory that the user of the backups may write.")
    with backup.only_one(home):
        path = backup_set.find(home, options.set)
        backup_set.check_hashes(path, backup_set.read_manifest(path))
        try:
            names = backup_copy.export(path, options.to, site.backups.age_recipient)
        except (PipelineFailed, OSError) as error:
            return _refuse(f"The set {path.name} is not whole in {options.to}: {error}.")
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
    _become(site.declaration.backup)
    with record(site.job("drill")) as figures, backup.only_one(home):
        path = backup_set.find(home, options.set)
        passed = drill(path, site.declaration, site.virtualenv)
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
    path = backup_set.find(home, options.set)
    if options.table:
        return _restore_table(options, site, path)
    manifest = backup_set.read_manifest(path)
    held = dict.fromkeys(part.kind for part in manifest.parts if part.schema)
    parts = restore.choose(manifest, site.declaration, options.kind or list(held), options.tenant)
    target = options.into or site.database
    schemas = ", ".join(part.schema for part in parts if part.schema)
    if options.dry_run or not (options.yes or options.into):
        restore.examine(site.login, path, parts, site.virtualenv, options.into)
        print(f"The set {path.name} is whole. It would replace {schemas} in the database {target}.")
        return FINE if options.dry_run else _refuse("Nothing was changed: say --yes to restore it.")
    if not options.into and not options.no_safety_set:
        if site.job("pitr"):
            point = point_in_time.set_point(site.login, point_in_time.find_cluster(), "before-restore", _now())
            print(f"The restore point {point.name} is set.")
        # By the user of the backups, which this process can not become and come back from.
        kinds = [word for part in parts for word in ("--kind", part.kind)]
        tenant = ["--tenant", options.tenant] if options.tenant else []
        command = [sys.executable, "-m", "pgprefect", "--config", options.config, *tenant, "backup", "--safety", *kinds]
        print("The safety set:", flush=True)
        if subprocess.run(command, check=False).returncode:
            return _refuse("Nothing was changed, because the safety set failed: end the cause, or say --no-safety-set.")
    rows = restore.restore(site.login, site.declaration, path, parts, site.virtualenv, options.into)
    report.table(f"Restored {path.name}: {schemas} in {target}", ["table", "rows"], sorted(rows.items()))
    return FINE


def _restore_table(options: argparse.Namespace, site: Site, path: Path) -> int:
    if options.kind or options.into or options.tenant:
        raise ValueError("--table goes alone or with --set and --dry-run: its schema says the rest.")
    table = restore_table(site.login, site.declaration, path, options.table, options.dry_run)
    done = "It would make" if options.dry_run else "It made"
    print(f"The set {path.name} is whole. {done} the table {table} in the database {site.database}.")
    return FINE


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _pitr(options: argparse.Namespace) -> int:
    return _PITR_ACTIONS[options.action](options, configuration.load(options.config), point_in_time.find_cluster())


def _pitr_backup(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    with record(site.job("pitr")) as figures:
        made = point_in_time.back_up(cluster, options.full)
        figures.update(label=made.label, bytes=made.bytes, stored=made.stored)
    if options.json:
        report.as_json(figures)
    else:
        print(f"The {made.kind} backup {made.label} of {made.bytes:,} bytes took {made.stored:,} in the repository.")
    return FINE


def _pitr_list(options: argparse.Namespace, _site: Site, cluster: point_in_time.Cluster) -> int:
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


def _pitr_check(_options: argparse.Namespace, _site: Site, cluster: point_in_time.Cluster) -> int:
    point_in_time.check(cluster)
    print("A piece of WAL arrived in the repository.")
    return FINE


def _pitr_point(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    if not options.point:
        return _refuse("Name the restore point: pgprefect pitr point --point NAME")
    point = point_in_time.set_point(site.login, cluster, options.point, _now())
    print(f"The restore point {point.name} is set.")
    return FINE


def _pitr_restore(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    now = _now()
    repository = point_in_time.read(cluster)
    if not options.json:
        _print_repository(repository)
        print(flush=True)
    way = point_in_time.choose(repository, point_in_time.Target(options.time, options.point, options.end), now)
    with point_in_time.alone(cluster):
        point_in_time.want_room(cluster, repository, way, options.beside)
        where = f"a cluster beside {cluster.data}" if options.beside else f"{cluster.data}, with all of its databases"
        plan = f"From the backup {way.base.label} to {way.words}, into {where}."
        if options.dry_run or not (options.yes or options.beside):
            print(plan)
            return FINE if options.dry_run else _refuse("Nothing was changed: say --yes to restore it.")
        point = None if options.beside else "before-restore"
        complete = point_in_time.close_the_past(site.login, cluster, point, now)
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


def _pitr_undo(options: argparse.Namespace, site: Site, cluster: point_in_time.Cluster) -> int:
    if not cluster.aside.exists():
        return _refuse(f"There is nothing to undo: {cluster.aside} is not there.")
    if not options.yes:
        return _refuse(f"{cluster.aside} would replace {cluster.data}. Nothing was changed: say --yes to do it.")
    with point_in_time.alone(cluster):
        point_in_time.undo(site.login, cluster, _now())
    print(f"{cluster.data} is again what it was before the restore, and PostgreSQL was started.")
    return FINE


_PITR_ACTIONS = {
    "backup": _pitr_backup,
    "list": _pitr_list,
    "check": _pitr_check,
    "point": _pitr_point,
    "restore": _pitr_restore,
    "undo": _pitr_undo,
}
_BACKUP_ACTIONS = {
    "create": _create,
    "list": _list,
    "check": _check,
    "prune": _prune,
    "export": _export,
    "add": _add,
}


@contextlib.contextmanager
def _open(login: Login, database: str) -> Iterator[Any]:
    """Give a connection. What PostgreSQL refuses becomes a ConnectionFailed."""
    connection = connect(login, database)
    import psycopg2

    try:
        yield connection
    except psycopg2.Error as error:
        message = f"PostgreSQL refused a question of {login.user}: {str(error).splitlines()[0]}."
        remedy = "Ask as root on the database's host, where the administrator answers, or give that role the right."
        raise ConnectionFailed(Problem("question_refused", f"role {login.user}", message, remedy)) from error
    finally:
        connection.close()


def _where(options: argparse.Namespace) -> tuple[Login, str, str, str]:
    """Return login, database, schema and virtualenv: of the unit that calls, or of the site's file."""
    if os.environ.get("PREFECT_SERVER_DATABASE_HOST"):
        return (*environment.database(os.environ), sys.prefix)
    site: Site = configuration.load(options.config)
    return site.login, site.database, site.tenant(options.tenant).schema, site.virtualenv or sys.prefix


def _revision(options: argparse.Namespace) -> int:
    login, database, schema, virtualenv = _where(options)
    migrations = revision.installed_migrations(virtualenv)
    with _open(login, database) as connection:
        found = revision.compare(revision.stored_revisions(connection, schema), migrations)
    if options.require_current and found.state != revision.CURRENT:
        return _refuse(found.message)
    print(found.message)
    return FINE


def _seal(_options: argparse.Namespace) -> int:
    login, database, schema = environment.database(os.environ)
    server = environment.setting(os.environ, "PGPREFECT_SERVER_ROLE")
    with _open(login, database) as connection:
        for statement in seal(connection, schema, server):
            print(statement)
    return FINE


def _wait(options: argparse.Namespace) -> int:
    wait_until_ready(options.url)
    return FINE


if __name__ == "__main__":
    sys.exit(main())
