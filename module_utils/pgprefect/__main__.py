"""The command ``pgprefect``.

It ends with 0 where all is well, 1 where something wants attention, 2 where something is broken or was refused, and 3
where it could not look: what Nagios and its kin expect.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from . import configuration, environment, report, revision
from .configuration import ConfigurationError, Site
from .connection import ConnectionFailed, Login, connect
from .health import DEGRADED, HEALTHY, Part, check_health
from .problems import ERROR, in_words
from .ready import wait_until_ready
from .seal import seal
from .verify import verify

FINE, ATTENTION, BROKEN, UNKNOWN = range(4)

_EXAMPLES = """examples:
  pgprefect verify                      both schemas, the roles' rights and the server as declared?
  pgprefect health --json               for a monitoring system; the exit status says it too
  pgprefect stats --days 7              what ran, how long it took, what failed
  pgprefect events --limit 20           the application's newest events
  pgprefect cleanup --days 30 --dry-run what would go
  pgprefect --tenant research health    another tenant than the first
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConnectionFailed as failed:
        return _refuse(in_words([failed.problem]), UNKNOWN)
    except (ConfigurationError, environment.SettingMissing, revision.RevisionError) as error:
        return _refuse(str(error), UNKNOWN)


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
    found = verify(site.login, site.declaration)
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
    if any(problem.severity == ERROR for problem in found.problems):
        return BROKEN
    return ATTENTION if found.problems else FINE


def _health(options: argparse.Namespace) -> int:
    site = configuration.load(options.config)
    parts = [Part.from_arguments(tenant) for tenant in site.tenants]
    health = check_health(site.login, site.database, parts, options.timeout)
    if options.json:
        report.as_json(health.as_dict())
    else:
        report.table(
            f"{site.database}: {health.overall_status}",
            ["check", "status", "ms"],
            [(name, check.status, check.details.get("latency_ms")) for name, check in health.checks.items()],
        )
        report.problems([problem for check in health.checks.values() for problem in check.problems])
    return {HEALTHY: FINE, DEGRADED: ATTENTION}.get(health.overall_status, BROKEN)


def _where(options: argparse.Namespace) -> tuple[Login, str, str, str]:
    """Return login, database, schema and virtualenv: of the unit that calls, or of the site's file."""
    if os.environ.get("PREFECT_SERVER_DATABASE_HOST"):
        return (*environment.database(os.environ), sys.prefix)
    site: Site = configuration.load(options.config)
    return site.login, site.database, site.tenant(options.tenant).schema, site.virtualenv or sys.prefix


def _revision(options: argparse.Namespace) -> int:
    login, database, schema, virtualenv = _where(options)
    migrations = revision.installed_migrations(virtualenv)
    connection = connect(login, database)
    try:
        found = revision.compare(revision.stored_revisions(connection, schema), migrations)
    finally:
        connection.close()
    if options.require_current and found.state != revision.CURRENT:
        return _refuse(found.message)
    print(found.message)
    return FINE


def _seal(_options: argparse.Namespace) -> int:
    login, database, schema = environment.database(os.environ)
    server = environment.setting(os.environ, "PGPREFECT_SERVER_ROLE")
    connection = connect(login, database)
    try:
        for statement in seal(connection, schema, server):
            print(statement)
    finally:
        connection.close()
    return FINE


def _wait(options: argparse.Namespace) -> int:
    wait_until_ready(options.url)
    return FINE


if __name__ == "__main__":
    sys.exit(main())
