"""Parts that all commands share: parser, types of arguments, the site, a connection, and the confirmation."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, NoReturn

from ..backup import remains
from ..core.connection import ConnectionFailed, Login, connect, require_primary
from ..core.http import CA_FILE, PrefectApi
from ..core.problems import Problem
from ..site import configuration, environment
from ..site.configuration import ConfigurationError, Site, Tenant
from .output import UNKNOWN

Run = Callable[[argparse.Namespace], int]
MOST_DAYS = 36_500
COMPLETING = "_ARGCOMPLETE"  # in the environment where a shell asks what may follow


class Parser(argparse.ArgumentParser):
    """A parser that ends with 3 for wrong usage, as each command does that could not look, and guesses no option."""

    default_action: str | None = None  # inserted where no action is named: ``backup`` means ``backup create``

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and refuse here what no option takes, so that the usage is that of the command."""
        words = list(sys.argv[1:] if args is None else args)
        if self.default_action and COMPLETING not in os.environ:
            words = self._with_action(words)
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _with_action(self, words: list[str]) -> list[str]:
        place = 0
        while place < len(words) and words[place].startswith(("--config", "--tenant", "-v", "--verbose")):
            place += 2 if words[place] in ("--config", "--tenant") else 1
        if place < len(words) and (not words[place].startswith("-") or words[place] in ("-h", "--help")):
            return words
        return [*words[:place], str(self.default_action), *words[place:]]

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and end with 3."""
        if message.startswith("argument COMMAND:"):  # the choices have what only units call
            message = f"{message.partition(' (')[0]}; pgprefect --help lists the commands"
        self.print_usage(sys.stderr)
        self.exit(UNKNOWN, f"{self.prog}: {message}\n")


def add_command(
    commands: Any,
    name: str,
    run: Run,
    summary: str | None,
    *,
    tenant: bool = False,
    json: bool = False,
    dry_run: bool = False,
    confirmed: bool = False,
) -> Parser:
    """Add a command to what argparse's ``add_subparsers`` returned. Without a summary it is not listed.

    ``tenant``, ``json``, ``dry_run`` and ``confirmed`` give it the options of these kinds. A command that changes
    something has ``dry_run``.
    """
    listed = {"help": summary} if summary else {}
    parser: Parser = commands.add_parser(name, **listed, description=summary and f"{summary[0].upper()}{summary[1:]}.")
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document")
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    if confirmed:
        parser.add_argument("--yes", action="store_true", help="do it without asking")
    add_common_options(parser, tenant)
    parser.set_defaults(run=run, takes_tenant=tenant, changes=dry_run)
    return parser


def add_common_options(parser: argparse.ArgumentParser, tenant: bool, *, defaults: bool = False) -> None:
    """Add the options that stand before or after a command; only the first parser has defaults for them."""

    def default(value: Any) -> Any:
        return value if defaults else argparse.SUPPRESS

    group = parser.add_argument_group("options of every command")
    group.add_argument(
        "--config", default=default(configuration.PATH), metavar="FILE", help=f"the site's file ({configuration.PATH})"
    )
    if tenant:
        group.add_argument("--tenant", default=default(None), help="a tenant of the site")
    verbose = "log what is done on the standard error, and show where an unexpected error comes from"
    group.add_argument("-v", "--verbose", action="store_true", default=default(False), help=verbose)


def add_group(commands: Any, name: str, summary: str, default: str) -> Any:
    """Add a command that has actions, of which ``default`` is meant where none is named; return its subparsers."""
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. Without an action: {default}, with its options.",
    )
    parser.default_action = default
    add_common_options(parser, tenant=True)
    return parser.add_subparsers(dest="action", required=True, metavar="ACTION")


def number(low: float, high: float, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """Return argparse's type of a number within a range. Rejects NaN too."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


days = number(0.001, MOST_DAYS)


def absolute_path(text: str) -> Path:
    """Take a path as an argument: the command runs in /, wherever it is typed."""
    if not os.path.isabs(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute path")
    return Path(text)


def load_site(options: argparse.Namespace) -> Site:
    """Read the site's file. Raises ConfigurationError, also for a tenant that the site does not have."""
    site = configuration.load(options.config)
    site.tenant(options.tenant)
    return site


def require_writes(site: Site) -> None:
    """Check that what this host logs in to takes writes. Raises NotPrimary and ConnectionFailed.

    A login at several hosts finds the one that does by itself.
    """
    if site.administers:
        require_primary(site.login, site.members)


def clear_remains(site: Site) -> None:
    """Remove what killed jobs of any kind left behind, as root of the host that has them; else do nothing."""
    if site.backups and site.administers and os.geteuid() == 0:
        remains.clear(site.login, Path(site.backups.directory), Path(site.backups.drill_directory))


def tenant_api(options: argparse.Namespace, tenant: Tenant) -> PrefectApi:
    """Return a client of the tenant's API, as this host's command ``prefect`` logs in. Raises ConfigurationError."""
    path = Path(options.config).parent / f"{tenant.name}.env"
    return api_of(path, "run this as root, on a host of the group prefect_server")


def api_of(path: Path, remedy: str, timeout: float = 30) -> PrefectApi:
    """Return a client of an API, by an environment of Prefect's. Raises ConfigurationError."""
    try:
        settings = environment.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): {remedy}.") from error
    url = environment.setting(settings, "PREFECT_API_URL")
    return PrefectApi(url, settings.get("PREFECT_API_AUTH_STRING", ""), timeout, settings.get(CA_FILE, ""))


def confirmed(options: argparse.Namespace, question: str) -> bool:
    """Say whether a change is wanted: by --yes, or by the answer of a person at the terminal."""
    if options.yes:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input(f"{question} Type yes to go on: ").strip() == "yes"
    except EOFError:
        return False


def this_program() -> list[str]:
    """Return the command that starts this program again: from the same folders, and from no other user's."""
    program = f"import sys; sys.path[:] = {sys.path!r}; from pgprefect.cli.main import main; sys.exit(main())"
    return [sys.executable, "-I", "-c", program]


@contextlib.contextmanager
def open_connection(login: Login, database: str) -> Iterator[Any]:
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


def for_this_user(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems as they are, but with root's name as the remedy where it is only the reader's rights."""
    remedy = "Run this as root, who reads this host's passwords and may log in as PostgreSQL's own users."
    return [
        replace(problem, remedy=remedy) if problem.code == "login_refused" and os.geteuid() != 0 else problem
        for problem in problems
    ]
