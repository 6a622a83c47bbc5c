"""Commands that units and other commands call. People do not need them, so no help lists them."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..backup.create import directory_lock
from ..backup.drill import Drill, mark, prove, unpack
from ..backup.sandbox import prove_and_write
from ..backup.sets import BackupError
from ..core.connection import Login
from ..core.errors import ProblemError
from ..core.http import PrefectApi, is_ready
from ..core.listeners import foreign_listener
from ..core.units import kill_unit
from ..core.users import user_number
from ..database_events.relay import relay_of
from ..runs.taken_runs import reason_of_end, report_start, resolve_taken_runs
from ..schema import revision
from ..schema.declaration import declaration_of
from ..schema.revoke_secrets import revoke_secrets
from ..site import environment
from ..upgrade.gate import LOADED, behind_gate, gate_of, is_kept
from ..upgrade.hand_over import hand_over
from ..upgrade.migration import Migration
from .common import absolute_path, add_command, load_site, open_connection
from .output import BROKEN, FINE, refuse

_PAUSE_SECONDS = 0.2
NAMES = (
    *("revision", "revoke-secrets", "migrate", "hand-over", "take-up", "relay", "wait"),
    *("drill-unpack", "drill-prove", "drill-mark"),
)


def add_to(commands: Any) -> None:
    """Add the commands to what argparse's ``add_subparsers`` returned."""
    command = add_command(commands, "revision", _revision, None, tenant=True)
    command.description = "Compare the database's migration with the installed Prefect's."
    command.add_argument("--require-current", action="store_true", help="fail where they differ")
    command.add_argument("--or-newer", action="store_true", help="but not where a newer release has migrated it")

    command = add_command(commands, "revoke-secrets", _revoke_secrets, None)
    command.description = "Revoke access to the tables that hold secrets, except the server's."

    command = add_command(commands, "migrate", _migrate, None)
    command.description = "Migrate a tenant's schema by the installed Prefect, and say what it waits for."
    command.add_argument("--to", metavar="REVISION", help="back to this one, instead of to the newest")
    command.add_argument("--gate", metavar="TENANT", help="load, and wait while the gate of this tenant is closed")

    command = add_command(commands, "hand-over", _hand_over, None, tenant=True)
    command.description = "Stop a tenant's server, migrate, and start it; the migration is loaded before."

    command = add_command(commands, "take-up", _take_up, None)
    command.description = "Resolve the runs that a worker had taken, before its unit starts or after it has stopped."
    command.add_argument("worker", help="the worker's name")
    command.add_argument("--stopped", action="store_true", help="it has stopped; SERVICE_RESULT says how")

    command = add_command(commands, "relay", _relay, None)
    command.description = "Send a tenant's database events until it is stopped."

    command = add_command(commands, "wait", _wait, None)
    command.description = "Wait until an address answers with success."
    command.add_argument("url")
    command.add_argument("--user", help="whose process listens there, if the address is this host's; else the caller's")

    command = add_command(commands, "drill-unpack", _drill_unpack, None)
    command.description = "Unpack a set for a drill; says what is wrong as JSON."
    command.add_argument("set", type=absolute_path)
    command.add_argument("folder", type=absolute_path)

    command = add_command(commands, "drill-prove", _drill_prove, None)
    command.description = "Prove an unpacked set, in the drill's unit."
    command.add_argument("directory", type=absolute_path)

    command = add_command(commands, "drill-mark", _drill_mark, None)
    command.description = "Mark a set as verified, with the drill's result from the standard input."
    command.add_argument("set", type=absolute_path)


def _revision(options: argparse.Namespace) -> int:
    login, database, schema, virtualenv = _where(options)
    migrations = revision.installed_migrations(virtualenv)
    with open_connection(login, database) as connection:
        found = revision.compare(revision.stored_revisions(connection, schema), migrations)
    served = (revision.CURRENT, revision.UNKNOWN) if options.or_newer else (revision.CURRENT,)
    if options.require_current and found.state not in served:
        return refuse(found.message)
    print(found.message)
    return FINE


def _where(options: argparse.Namespace) -> tuple[Login, str, str, str]:
    """Return login, database, schema and virtualenv: of the unit that calls, or of the site's file."""
    if os.environ.get("PREFECT_SERVER_DATABASE_HOST"):
        return (*environment.database(os.environ), sys.prefix)
    site = load_site(options)
    return site.observer, site.database, site.tenant(options.tenant).schema, site.virtualenv or sys.prefix


def _revoke_secrets(_options: argparse.Namespace) -> int:
    login, database, schema = environment.database(os.environ)
    server = environment.setting(os.environ, "PGPREFECT_SERVER_ROLE")
    backup = os.environ.get("PGPREFECT_BACKUP_ROLE")  # of a server on which it reads by grants alone
    with open_connection(login, database) as connection:
        for statement in revoke_secrets(connection, schema, [server, *filter(None, [backup])]):
            print(statement)
    return FINE


def _migrate(options: argparse.Namespace) -> int:
    login, database, schema = environment.database(os.environ)
    name = environment.setting(os.environ, environment.APPLICATION_NAME)
    seconds = float(os.environ.get("PGPREFECT_LOCK_SECONDS", "60"))
    words = ["downgrade", "--yes", "--revision", options.to] if options.to else ["upgrade", "--yes"]
    programs = Path(sys.prefix) / "bin"
    command = [str(programs / "prefect"), "server", "database", *words]
    gate = gate_of(options.gate) if options.gate and is_kept(gate_of(options.gate)) else None
    if gate:
        loaded = Path(environment.setting(os.environ, "RUNTIME_DIRECTORY")) / LOADED
        command = behind_gate(str(programs / "python"), command, gate, loaded)
    migration = Migration(login=login, database=database, schema=schema, application=name, lock_seconds=seconds)
    migration.run(command, os.environ, lambda text: print(text, flush=True), gate=gate, target=options.to)
    return FINE


def _hand_over(options: argparse.Namespace) -> int:
    print(json.dumps(hand_over(load_site(options).tenant(options.tenant).name).as_dict()))
    return FINE


def _take_up(options: argparse.Namespace) -> int:
    # What may still run here would be taken for lost: systemd does not wait for it in every case.
    kill_unit()
    url = environment.setting(os.environ, "PREFECT_API_URL")
    api = PrefectApi(url, os.environ.get("PREFECT_API_AUTH_STRING", ""))
    result = os.environ.get("SERVICE_RESULT") if options.stopped else None
    reason = reason_of_end(options.worker, result)
    for run in resolve_taken_runs(api, options.worker, environment.setting(os.environ, "WORK_POOL"), reason):
        print(f"{run.name} is {run.state} now: {reason}.")
    if not options.stopped:
        report_start(api, options.worker)
    return FINE


def _relay(_options: argparse.Namespace) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    api = PrefectApi(
        environment.setting(os.environ, "PREFECT_API_URL"), os.environ.get("PREFECT_API_AUTH_STRING", ""), timeout=60
    )
    relay_of(os.environ).run(api, stop, lambda text: print(text, flush=True))
    return FINE


def _wait(options: argparse.Namespace) -> int:
    user = user_number(options.user) if options.user else os.getuid()
    answered = False
    while not answered:
        # Whoever listens there gets its clients' passwords: look before the answer counts, and after it.
        answered = is_ready(options.url)
        taken = foreign_listener(options.url, user) if user is not None else None
        if taken:
            raise ProblemError(taken)
        if not answered:
            time.sleep(_PAUSE_SECONDS)
    return FINE


def _drill_unpack(options: argparse.Namespace) -> int:
    try:
        with directory_lock(options.set.parent):
            unpack(options.set, options.folder)
    except BackupError as error:
        print(json.dumps(error.problem.as_dict()))
        return BROKEN
    return FINE


def _drill_prove(options: argparse.Namespace) -> int:
    site = load_site(options)

    def prove_copy(copy: Path, work: Path) -> Drill:
        return prove(copy, work, declaration_of(site), site.virtualenv)

    return prove_and_write(options.directory, prove_copy)


def _drill_mark(options: argparse.Namespace) -> int:
    mark(options.set, Drill(**json.load(sys.stdin)))
    return FINE
