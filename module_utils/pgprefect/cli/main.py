"""The command ``pgprefect``.

It ends with 0 where all is well, 1 where something wants attention, 2 where something is broken or was refused, and 3
where it could not look.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import Any

from ..backup.sets import BackupError
from ..core.connection import ConnectionFailed, Login, connect
from ..core.http import wait_until_ready
from ..core.jobs import record
from ..core.problems import ERROR, Problem, format_problems
from ..events.read import read_events
from ..health.check import DEGRADED, HEALTHY, check_site
from ..runs.retention import Policy, RetentionError, clean_up, named, plan
from ..runs.statistics import Statistics, StatisticsUnavailable, to_csv, workflow_statistics
from ..schema import revision
from ..schema.declaration import declaration_of
from ..schema.event_table import EventTable
from ..schema.plan import Blocked
from ..schema.revoke_secrets import revoke_secrets
from ..schema.verify import verify_site
from ..site import configuration, environment
from ..site.configuration import ConfigurationError, Site
from . import backup as backup_commands
from . import output as report
from . import pitr as pitr_commands
from .output import ATTENTION, BROKEN, FINE, UNKNOWN, refuse

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
        return refuse(f"{failed.problem.code}: {format_problems([failed.problem])}")
    except (ConnectionFailed, StatisticsUnavailable) as failed:
        return refuse(f"{failed.problem.code}: {format_problems([failed.problem])}", UNKNOWN)
    except Blocked as barred:
        return refuse(format_problems(barred.problems))
    except (ConfigurationError, environment.SettingMissing, revision.RevisionError) as error:
        return refuse(str(error), UNKNOWN)
    except ValueError as error:  # an argument that makes no sense
        return refuse(str(error))


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

    backup_commands.add_to(commands)
    pitr_commands.add_to(commands)

    command = commands.add_parser("revision", help="compare the database's migration with the installed Prefect's")
    command.add_argument("--require-current", action="store_true", help="fail where they differ")
    command.set_defaults(run=_revision)

    command = commands.add_parser("seal", help="take the tables that hold secrets from all but the server's role")
    command.set_defaults(run=_seal)

    command = commands.add_parser("wait", help="wait until an address answers with success")
    command.add_argument("url")
    command.set_defaults(run=_wait)
    return parser


def _verify(options: argparse.Namespace) -> int:
    site = configuration.load(options.config)
    found = verify_site(site)
    if not found.connection_test:
        return refuse(format_problems(found.problems), UNKNOWN)
    if options.json:
        report.as_json({"verified": found.verified, **asdict(found)})
    else:
        public = found.public_schema
        rows = [(declaration_of(site).app_schema, public.owner, len(public.tables), found.search_path)]
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
    health = check_site(site, timeout=options.timeout)
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
        return refuse(str(error))
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
        return refuse(found.message)
    print(found.message)
    return FINE


def _seal(_options: argparse.Namespace) -> int:
    login, database, schema = environment.database(os.environ)
    server = environment.setting(os.environ, "PGPREFECT_SERVER_ROLE")
    with _open(login, database) as connection:
        for statement in revoke_secrets(connection, schema, server):
            print(statement)
    return FINE


def _wait(options: argparse.Namespace) -> int:
    wait_until_ready(options.url)
    return FINE


if __name__ == "__main__":
    sys.exit(main())
