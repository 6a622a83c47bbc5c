"""The command ``pgprefect workers``, which scales the workers of this host."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.formats import counted
from ..core.http import ApiError, PrefectApi
from ..workers.host import (
    CONFIGURATION,
    host_memory,
    read_quiet,
    read_scaling,
    read_units,
    scaling_lock,
    start_and_drain,
    write_quiet,
)
from ..workers.load import read_load
from ..workers.scale import Load, ScaledPool, Scaling, Step, after, next_step
from . import output
from .common import add_command, add_group, api_of
from .output import FINE

_API_SECONDS = 10  # for each answer, so that a look is over before the next one is due


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    actions = add_group(commands, "workers", "scale the workers of this host", default="scale")
    summary = "start and drain workers of this host by what their work pools have to do"
    command = add_command(actions, "scale", _scale, summary, json=True, dry_run=True)
    command.add_argument("--quiet", action="store_true", help="say nothing where nothing is started or drained")


def _scale(options: argparse.Namespace) -> int:
    scaling = read_scaling(str(Path(options.config).parent / Path(CONFIGURATION).name))
    folder = Path(options.config).parent / "worker"
    unseen: list[ApiError] = []
    loads = {pool.name: _read_load(folder, pool, unseen) for pool in scaling.pools}
    steps = _look(options, scaling, loads)
    if options.json:
        output.as_json([step.as_dict() for step in steps])
    else:
        for step in steps:
            if step.start or step.drain or not options.quiet:
                print(_in_words(step, scaling, options.dry_run), flush=True)
    if unseen:
        raise type(unseen[0])(*(problem for error in unseen for problem in error.problems))
    return FINE


def _read_load(folder: Path, pool: ScaledPool, unseen: list[ApiError]) -> Load | None:
    """Return a pool's load, or None, and why in ``unseen``: the workers of another tenant need not wait for its API."""
    try:
        return read_load(_api(folder, pool), pool.pool)
    except ApiError as error:
        unseen.append(error)
        return None


def _look(options: argparse.Namespace, scaling: Scaling, loads: Mapping[str, Load | None]) -> list[Step]:
    """Decide for each pool whose load is known, and do it unless this is a dry run."""
    steps = []
    memory = host_memory()
    with contextlib.nullcontext() if options.dry_run else scaling_lock():
        looks, units = read_quiet(), read_units(scaling.pools)
        for pool in scaling.pools:
            load = loads[pool.name]
            if load is None:
                continue
            step = next_step(pool, load, scaling, units, memory, looks.get(pool.name, 0))
            steps.append(step)
            if not options.dry_run:
                # First what was seen: a look that is killed here counts, and drains nothing twice.
                looks[pool.name] = step.quiet
                write_quiet(looks)
                start_and_drain(step, units)
            units = after(step, units)
    return steps


def _api(folder: Path, pool: ScaledPool) -> PrefectApi:
    """Return a client of the pool's API, as its first worker logs in. Raises ConfigurationError."""
    return api_of(folder / f"{pool.instance(1)}.env", "run this as root on a worker's host", _API_SECONDS)


def _in_words(step: Step, scaling: Scaling, dry_run: bool) -> str:
    load = step.load
    due = f"{load.due} due" + (f" ({load.late} late)" if load.late else "")
    held = f", {load.held} held back" if load.held else ""
    runs = f"{due}, {load.busy} busy{held}; {counted(step.pool.run_limit, 'run')} a worker"
    bound = f" (bound by {step.bound})" if step.bound else ""
    workers = f"{step.wanted} wanted{bound}, {len(step.running)} running"
    if step.draining:
        workers += f", {len(step.draining)} draining"
    if step.quiet:
        workers += f", {step.quiet} of {counted(scaling.quiet_looks, 'quiet look')}"
    would = "would " if dry_run else ""
    done = [
        f"{would}{verb}{'' if dry_run else 's'} {', '.join(map(str, numbers))}"
        for verb, numbers in (("start", step.start), ("drain", step.drain))
        if numbers
    ]
    return f"{step.pool.name}: {runs}; {workers}; {' and '.join(done) or 'nothing to do'}"
