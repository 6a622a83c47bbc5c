"""The command ``pgprefect``.

It ends with 0 where all is well, 1 where something wants attention, 2 where something is broken or was refused, and 3
where it could not look: wrong usage, no rights, or an error that nobody expected.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..core.connection import ConnectionFailed
from ..core.errors import InputError, PgprefectError, ProblemError
from ..core.http import ApiUnreachable
from ..core.problems import format_problems
from ..runs.statistics import StatisticsUnavailable
from ..schema.plan import Blocked
from ..schema.revision import RevisionError
from ..site.configuration import ConfigurationError
from ..site.environment import SettingMissing
from . import (
    audit,
    backup,
    database_events,
    events,
    health,
    imports,
    internal,
    metrics,
    objects,
    pitr,
    restore,
    runs,
    stats,
    upgrade,
    verify,
    workers,
)
from .common import COMPLETING, Parser, add_common_options, for_this_user
from .output import BROKEN, UNKNOWN, in_two_lines, refuse

_EXAMPLES = """examples:
  pgprefect health                        does everything work?
  pgprefect metrics                       what Prometheus gets
  pgprefect verify                        are both schemas, the roles' rights and the server as declared?
  pgprefect stats --days 7                what ran, how long it took, what failed
  pgprefect events --limit 20             the application's newest events
  pgprefect database-events               what rows of the application start, and what waits
  pgprefect audit --since 1h              who changed what in the database, and from where
  pgprefect cleanup --days 30 --dry-run   what would be deleted
  pgprefect runs recover --dry-run        which runs are lost, and what proves it
  pgprefect workers scale --dry-run       how many workers this host wants, and why
  pgprefect objects                       what was changed by hand, is missing, or is not declared
  pgprefect backup                        make a new set of what the site dumps, and prune old ones
  pgprefect backup list                   which sets there are, and which of them a drill has proved
  pgprefect restore --kind workflow       what that would replace; with --yes it does
  pgprefect restore --table public.orders its rows, in a schema of its own
  pgprefect pitr list                     to which times the whole cluster can be taken back
  pgprefect import sqlite /x/prefect.db   what that would bring; with --yes it does
  pgprefect health --tenant research      only this tenant

exit status:
  0 all is well, 1 something wants attention, 2 something is broken or was refused,
  3 it could not look: wrong usage, no rights, or an unexpected error (-v shows where)
"""
_COULD_NOT_LOOK = (
    ApiUnreachable,
    ConfigurationError,
    ConnectionFailed,
    InputError,
    RevisionError,
    SettingMissing,
    StatisticsUnavailable,
)
# Codes of other problems that keep a command from looking; one that would change something was refused by them.
_UNSEEN = ("audit_unreadable", "backup_unreadable", "pitr_missing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, say on the standard error what ended it, and return its exit status."""
    parser = build_parser()
    _complete(parser)
    options = parser.parse_args(arguments)
    if options.tenant and not options.takes_tenant:
        parser.error("this command is not about one tenant, so it takes no --tenant")
    if options.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except Blocked as blocked:
        return refuse(format_problems(blocked.problems))
    except PgprefectError as error:
        return _refuse(error, looks=not options.changes)
    except KeyboardInterrupt:
        return refuse("Interrupted.", UNKNOWN)
    except BrokenPipeError:  # whoever read it has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNKNOWN
    except Exception as error:
        logging.getLogger(__name__).info("The command failed.", exc_info=True)
        reason = " ".join(str(error).split()) or "it says no more"
        hint = "" if options.verbose else " With -v it shows where."
        return refuse(f"An unexpected error, {type(error).__name__}: {reason.rstrip('.')}.{hint}", UNKNOWN)


def _refuse(error: PgprefectError, looks: bool) -> int:
    unseen = looks and isinstance(error, ProblemError) and error.problem.code in _UNSEEN
    status = UNKNOWN if isinstance(error, _COULD_NOT_LOOK) or unseen else BROKEN
    if isinstance(error, ProblemError):
        return refuse("\n".join(map(in_two_lines, for_this_user(error.problems))), status)
    return refuse(str(error), status)


def build_parser() -> Parser:
    """Return the parser of all commands, each of which has its function as ``run``."""
    parser = Parser(
        prog="pgprefect",
        description="Looks after Prefect's schema and an application's in one PostgreSQL database.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pgprefect {__version__}")
    add_common_options(parser, tenant=True, defaults=True)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (
        health,
        metrics,
        verify,
        runs,
        stats,
        workers,
        objects,
        events,
        database_events,
        audit,
        backup,
        restore,
        pitr,
        imports,
        upgrade,
        internal,
    ):
        group.add_to(commands)
    return parser


def _complete(parser: Parser) -> None:
    """Answer the shell that completes a command line, where argcomplete is installed."""
    if COMPLETING in os.environ:
        with contextlib.suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser, exclude=[*internal.NAMES, *imports.NAMES])
