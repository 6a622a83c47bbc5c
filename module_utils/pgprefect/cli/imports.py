"""The command ``pgprefect import``, and those that it runs as another user to read a file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from ..core.formats import counted, duration
from ..core.jobs import Job
from ..imports import source
from ..imports.expiry import Retention
from ..imports.load import Imported, load
from ..imports.plan import Order, Plan, prepared
from ..imports.problems import ImportRefused
from ..runs.policy import Policy
from ..site.configuration import ConfigurationError, Site
from . import output
from .common import absolute_path, add_command, add_group, confirmed, load_site, require_writes, this_program
from .output import BROKEN, FINE, refuse

NAMES = ("import-copy", "import-examine", "import-rows")
_NOUNS = {"work_pool": "work pool", "deployment": "deployment", "flow_run": "scheduled run", "events": "event"}


def add_to(commands: Any) -> None:
    """Add the commands to what argparse's ``add_subparsers`` returned."""
    actions = add_group(commands, "import", "import another Prefect server with its history", default="sqlite")
    summary = "import a server's SQLite file into an unused tenant, in one transaction"
    command = add_command(actions, "sqlite", _sqlite, summary, tenant=True, dry_run=True, confirmed=True)
    command.add_argument("file", metavar="FILE", type=absolute_path, help="the file, also while its server runs")
    command.add_argument(
        "--leave-out-orphans", action="store_true", help="leave out rows that refer to rows that are not there"
    )
    command.add_argument(
        "--let-expire", action="store_true", help="import also what the site's retention will delete soon"
    )
    command.add_argument(
        "--scratch", type=absolute_path, default=Order.scratch, metavar="DIRECTORY", help="for the copy (%(default)s)"
    )

    command = add_command(commands, "import-copy", _copy, None)
    command.description = "Copy a SQLite file; says its revision, or what is wrong, as JSON."
    command.add_argument("source", type=absolute_path)
    command.add_argument("copy", type=absolute_path)

    command = add_command(commands, "import-examine", _examine, None)
    command.description = "Say what a copy holds, as JSON, for the foreign keys on the standard input."
    command.add_argument("copy", type=absolute_path)

    command = add_command(commands, "import-rows", _rows, None)
    command.description = "Write the rows of the tables that the standard input names."
    command.add_argument("copy", type=absolute_path)


def _sqlite(options: argparse.Namespace) -> int:
    site = load_site(options)
    require_writes(site)
    order = _order(options, site)
    began = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.stderr, flush=True)

    with prepared(order, options.dry_run, progress) as (plan, scratch):
        if options.dry_run or not options.yes:
            _print_plan(order, plan)
            if options.dry_run:
                return FINE
            if not confirmed(options, f"This fills the schema {order.tenant.schema}."):
                return refuse("Nothing was changed: say --yes to import it.")
        done = load(order, plan, scratch, progress)
    _print_result(order, plan, done)
    return FINE


def _order(options: argparse.Namespace, site: Site) -> Order:
    tenant = site.tenant(options.tenant)
    if not site.virtualenv:
        raise ConfigurationError("This host has no Prefect, which upgrades the file: run this on the server's host.")
    nightly: Job | None = site.job("cleanup", tenant.name)
    run_days = Policy.from_arguments(site.retention).days_to_keep if nightly else None
    return Order(
        source=options.file,
        login=site.login_as(tenant.migrator),
        observer=site.observer,
        database=site.database,
        tenant=tenant,
        virtualenv=site.virtualenv,
        program=this_program(),
        scratch=options.scratch,
        retention=Retention(tenant.event_retention, run_days),
        leave_out_orphans=options.leave_out_orphans,
        let_expire=options.let_expire,
    )


def _print_plan(order: Order, plan: Plan) -> None:
    rows = plan.rows
    runs, total = counted(rows["flow_run"], "flow run"), counted(sum(rows.values()), "row")
    output.verdict(f"Would import {runs}, {total} in all, from {order.source} into the schema {order.tenant.schema}.")
    replaced = [counted(count, _NOUNS[table]) for table, count in plan.replaced.items()]
    if replaced:
        print(f"It would replace what the server and the playbooks have made there: {', '.join(replaced)}.")
    output.table(["table", "rows"], [(table, count) for table, count in rows.items() if count])
    output.problems(plan.notes)


def _print_result(order: Order, plan: Plan, done: Imported) -> None:
    runs, total = counted(done.rows["flow_run"], "flow run"), counted(sum(done.rows.values()), "row")
    output.verdict(
        f"Imported {runs}, {total} in all, in {duration(done.seconds)}: {order.tenant.schema} holds them all."
    )
    output.table(["table", "rows"], [(table, count) for table, count in done.rows.items() if count])
    output.table(
        ["table", "values"], sorted(done.changed.items()), "Values without their NUL characters, half characters or NaN"
    )
    output.problems(plan.notes)
    if not any(problem.code.endswith("_expire") for problem in plan.notes):
        print("\nStart the server now: the site's retention deletes nothing of it.")


def _answer(question: Any) -> int:
    try:
        print(json.dumps({"answer": question()}))
    except ImportRefused as error:
        print(json.dumps({"problem": error.problem.as_dict()}))
        return BROKEN
    return FINE


def _copy(options: argparse.Namespace) -> int:
    return _answer(lambda: source.copy(options.source, options.copy))


def _examine(options: argparse.Namespace) -> int:
    given = json.load(sys.stdin)
    keys = [source.Key(**key) for key in given["keys"]]
    return _answer(lambda: source.examine(options.copy, keys, given["leave_out"]).as_dict())


def _rows(options: argparse.Namespace) -> int:
    source.write_rows(options.copy, json.load(sys.stdin), sys.stdout.buffer)
    return FINE
