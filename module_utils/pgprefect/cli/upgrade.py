"""The command ``pgprefect upgrade``."""

from __future__ import annotations

import argparse
import glob
import os
from pathlib import Path
from typing import Any

from ..core.formats import counted, size
from ..core.problems import ERROR
from ..upgrade.canary import run_canary
from ..upgrade.checks import UpgradeCheck, check_upgrade
from . import output
from .common import add_command, add_group, load_site, number, open_connection, tenant_api
from .output import BROKEN, FINE


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    actions = add_group(
        commands, "upgrade", "say what another release of Prefect would migrate, and what bars it", "check"
    )
    summary = "look at what would keep an upgrade waiting, and at its migrations; changes nothing"
    command = add_command(actions, "check", _check, summary, tenant=True, json=True)
    command.add_argument("release", help="the release of Prefect to upgrade to")

    summary = "run a small flow on each work pool that has workers; nothing of it stays"
    command = add_command(actions, "canary", _canary, summary, tenant=True, dry_run=True)
    command.add_argument("--timeout", type=number(1, 3600), default=180, help="seconds for each pool (180)")


def _check(options: argparse.Namespace) -> int:
    site = load_site(options)
    tenant = site.tenant(options.tenant)
    installed = _installed(options.release, Path(site.virtualenv or "/opt/prefect/x").parent)
    with open_connection(site.observer, site.database) as connection:
        connection.autocommit = True
        found = check_upgrade(
            connection,
            schema=tenant.schema,
            release=options.release,
            virtualenv=installed,
            own=f"prefect-server@{tenant.name}",
        )
    if options.json:
        output.as_json({**found.as_dict(), "installed": installed is not None})
    else:
        _print(found, tenant.schema, options.release)
    return BROKEN if any(problem.severity == ERROR for problem in found.problems) else FINE


def _installed(release: str, folder: Path) -> str | None:
    """Return the virtualenv of a release, which is called RELEASE+CHECKSUM: the newest one, or None."""
    programs = [path for path in folder.glob(f"{glob.escape(release)}+*/bin/prefect") if os.access(path, os.X_OK)]
    return str(max(programs, key=lambda path: path.stat().st_mtime).parents[1]) if programs else None


def _canary(options: argparse.Namespace) -> int:
    tenant = load_site(options).tenant(options.tenant)
    pools = sorted({*tenant.scaled_pools, *(pool for pool, workers in tenant.pool_workers.items() if workers)})
    if options.dry_run:
        print(f"It would run a small flow on {', '.join(pools) or 'no work pool'}.")
        return FINE
    api = tenant_api(options, tenant)
    for pool in pools:
        print(f"{pool}: completed in {run_canary(api, pool, options.timeout):.1f} s", flush=True)
    return FINE


def _print(found: UpgradeCheck, schema: str, release: str) -> None:
    barred = sum(problem.severity == ERROR for problem in found.problems)
    if barred:
        output.verdict(f"{counted(barred, 'thing')} would bar the upgrade of {schema} to Prefect {release}.", BROKEN)
    elif not found.path:
        output.verdict(
            f"Nothing bars it. Prefect {release} is not installed here yet, so its migrations are not known."
        )
    else:
        back = "all of them can be taken back" if found.path.lossless else "not all of them can be taken back"
        steps = counted(len(found.path.steps), "migration")
        output.verdict(f"Prefect {release} has {steps} for {schema} ({size(found.bytes)}); {back}.")
    if found.path:
        rows = [(step.revision, step.title, step.loses or "yes") for step in found.path.steps]
        output.table(["migration", "what it does", "can be taken back"], rows)
    if found.changes:
        print(f"\nIn the schema: {'; '.join(found.changes)}.\n")
    output.problems(found.problems)
