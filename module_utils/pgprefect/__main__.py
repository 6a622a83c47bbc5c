"""The command ``pgprefect``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import environment, revision
from .connection import ConnectionFailed, connect
from .problems import in_words
from .ready import wait_until_ready
from .seal import seal


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pgprefect", description="Looks after Prefect's schema in a shared database.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("revision", help="compare the database's migration with the installed Prefect's")
    command.add_argument("--require-current", action="store_true", help="fail where they differ")
    command.set_defaults(run=_revision)
    command = commands.add_parser("seal", help="take the tables that hold secrets from all but the server's role")
    command.set_defaults(run=_seal)
    command = commands.add_parser("wait", help="wait until an address answers with success")
    command.add_argument("url")
    command.set_defaults(run=_wait)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except ConnectionFailed as failed:
        return _refuse(in_words([failed.problem]))
    except (environment.SettingMissing, revision.RevisionError) as error:
        return _refuse(str(error))


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


def _revision(options: argparse.Namespace) -> int:
    login, database, schema = environment.database(os.environ)
    migrations = revision.installed_migrations(sys.prefix)
    connection = connect(login, database)
    try:
        found = revision.compare(revision.stored_revisions(connection, schema), migrations)
    finally:
        connection.close()
    if options.require_current and found.state != revision.CURRENT:
        return _refuse(found.message)
    print(found.message)
    return 0


def _seal(_options: argparse.Namespace) -> int:
    login, database, schema = environment.database(os.environ)
    server = environment.setting(os.environ, "PGPREFECT_SERVER_ROLE")
    connection = connect(login, database)
    try:
        for statement in seal(connection, schema, server):
            print(statement)
    finally:
        connection.close()
    return 0


def _wait(options: argparse.Namespace) -> int:
    wait_until_ready(options.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
