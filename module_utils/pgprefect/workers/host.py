"""The workers of this host: what it is told about them, their units, and what is remembered between two looks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..core.errors import ProblemError
from ..core.lock import exclusive_lock
from ..core.problems import Problem
from ..site.configuration import ConfigurationError
from .scale import DRAINING, RUNNING, STARTING, STOPPED, WAITING, ScaledPool, Scaling, Step, Unit, Units

CONFIGURATION = "/etc/prefect/scaling.json"
# A boot forgets it, as it ends the workers.
STATE = "/run/prefect-scale"
_RUNTIME = "/run/prefect-worker"  # RuntimeDirectory= of the units
_LOCK_SECONDS = 30
_PROPERTIES = ("Id", "ActiveState", "SubState", "MemoryMax")


def read_scaling(path: str = CONFIGURATION) -> Scaling:
    """Return what this host is told. Raises ConfigurationError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        pools = tuple(ScaledPool(**{**pool, "hosts": tuple(pool.get("hosts", ()))}) for pool in content.pop("pools"))
        return Scaling(pools=pools, **content)
    except FileNotFoundError as error:
        message = (
            f"{path} is not on this host, so it scales no workers: give a work pool workers: {{min: 0, max: 4}} in the "
            "inventory, and run site.yml."
        )
        raise ConfigurationError(message) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{path} is not as the roles write it ({type(error).__name__}: {error}): run site.yml."
        raise ConfigurationError(message) from error


def read_units(pools: Sequence[ScaledPool]) -> dict[str, Unit]:
    """Return all workers of this host by their instances, and those that the pools may have. Raises ProblemError."""
    declared = [pool.instance(number) for pool in pools for number in range(1, pool.max + 1)]
    names = [_unit(instance) for instance in declared]
    options = [f"--property={name}" for name in _PROPERTIES]
    return parse_units(_systemctl("show", *options, "prefect-worker@*.service", *names))


def parse_units(text: str, runtime: str = _RUNTIME) -> dict[str, Unit]:
    """Return the workers of what ``systemctl show`` says of their units."""
    found = {}
    for block in text.split("\n\n"):
        shown = dict(line.partition("=")[::2] for line in block.splitlines())
        instance = shown.get("Id", "").partition("@")[2].rpartition(".")[0]
        if instance:
            limit = shown["MemoryMax"]
            memory = int(limit) if limit.isdecimal() else 2**63
            drains = os.path.exists(f"{runtime}/{instance}/draining")
            found[instance] = Unit(_state(shown["ActiveState"], shown["SubState"], drains), memory)
    return found


def _state(active: str, sub: str, drains: bool) -> str:
    if active in ("inactive", "failed"):
        return STOPPED
    if active == "deactivating" or drains:
        return DRAINING
    if active == "activating":
        return STARTING if sub == "start-post" else WAITING
    return RUNNING


def host_memory(path: str = "/proc/meminfo") -> int:
    """Return the host's memory in bytes."""
    with open(path, encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:"))


def start_and_drain(step: Step, units: Units) -> None:
    """Do what a step says, without waiting until it has happened. Raises ProblemError.

    A worker that has been told to drain ends with its last run, however long that takes; ``systemctl stop`` would kill
    its runs after a while. Whatever is done twice does no harm.
    """
    if step.start:
        _systemctl("start", "--no-block", *(_unit(step.pool.instance(number)) for number in step.start))
    for instance in map(step.pool.instance, step.drain):
        if units[instance].state == WAITING:
            _systemctl("stop", "--no-block", _unit(instance))
        else:
            _systemctl("kill", "--kill-whom=main", "--signal=SIGUSR1", _unit(instance))


def _unit(instance: str) -> str:
    return f"prefect-worker@{instance}.service"


def _systemctl(verb: str, *arguments: str) -> str:
    try:
        done = subprocess.run(["systemctl", verb, *arguments], capture_output=True, text=True, check=False)
        failed = done.returncode and (done.stderr.strip() or f"it ended with {done.returncode}")
    except OSError as error:
        failed = str(error.strerror)
    if failed:
        message = f"systemctl {verb} failed for the workers' units: {failed.rstrip('.')}."
        remedy = "Run this as root on a worker's host; see systemctl status 'prefect-worker@*'"
        raise ProblemError(Problem("systemctl_failed", "unit prefect-worker@", message, remedy))
    return done.stdout


@contextlib.contextmanager
def scaling_lock(folder: str = STATE, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of this host's scaling; another look takes a moment. Raises ProblemError after ``seconds``."""
    os.makedirs(folder, mode=0o755, exist_ok=True)
    path = f"{folder}/lock"
    message = f"The workers of this host are being scaled by another process for {seconds:g} s."
    remedy = "Wait for it; systemctl status prefect-scale.service shows it"
    taken = ProblemError(Problem("scaling_locked", f"file {path}", message, remedy))
    with exclusive_lock(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), taken, seconds):
        yield


def read_quiet(folder: str = STATE) -> dict[str, int]:
    """Return the quiet looks of each pool so far; what cannot be read counts as none."""
    try:
        content = json.loads(Path(folder, "quiet.json").read_text(encoding="utf-8"))
        return {str(name): int(count) for name, count in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_quiet(looks: Mapping[str, int], folder: str = STATE) -> None:
    """Remember the quiet looks, by an atomic rename."""
    new = Path(folder, ".quiet.json")
    new.write_text(json.dumps(looks), encoding="utf-8")
    new.replace(Path(folder, "quiet.json"))
