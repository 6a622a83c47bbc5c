"""The change from a running server to that of another release, in which its API is away for as short as can be."""

from __future__ import annotations

import subprocess
import time
from dataclasses import asdict, dataclass

from ..core.errors import ProblemError
from ..core.problems import Problem
from .gate import closed_gate, loaded_file

_LOAD_SECONDS = 180
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class HandOver:
    """The seconds of each step, and of all in which the API was away; ``ready`` is False where it did not come back."""

    load: float
    stop: float
    migration: float
    start: float
    away: float
    ready: bool

    def as_dict(self) -> dict[str, float | bool]:
        """Return it as JSON has it."""
        return {name: value if name == "ready" else round(value, 1) for name, value in asdict(self).items()}


def hand_over(tenant: str) -> HandOver:
    """Stop a tenant's server, migrate its schema by the unit's program, and start the server.

    Background services that run apart on this host stop with it. The migration is loaded before. Raises ProblemError
    where it fails: while it is loaded, the server goes on; later the server stays stopped, because its schema may be
    neither the old one nor the new one.
    """
    server, migration = f"prefect-server@{tenant}.service", f"prefect-migrate@{tenant}.service"
    _systemctl("daemon-reload")
    services = f"prefect-services@{tenant}.service"
    apart = [services] if _is_active(services) else []
    times = [time.monotonic()]
    joined = _is_active(migration)  # one goes on already, which a killed playbook had started
    with closed_gate(tenant) as gate:
        try:
            if not joined:
                _load(tenant, migration)
            times.append(time.monotonic())
            _systemctl("stop", *apart, server)
        except BaseException:
            subprocess.run(["systemctl", "stop", migration], capture_output=True, check=False)
            raise
        times.append(time.monotonic())
        gate.unlink()
        while _is_active(migration):
            time.sleep(_PAUSE_SECONDS)
    if _properties(migration, "Result") != ["success"]:
        raise ProblemError(_failed(tenant, "failed, and its server is stopped"))
    times.append(time.monotonic())
    started = subprocess.run(["systemctl", "start", server, *apart], capture_output=True, check=False)
    times.append(time.monotonic())
    load, stop, migrated, start = (later - before for before, later in zip(times, times[1:]))
    return HandOver(load, stop, migrated, start, times[-1] - times[1], started.returncode == 0)


def _load(tenant: str, migration: str) -> None:
    deadline = time.monotonic() + _LOAD_SECONDS
    _systemctl("start", "--no-block", migration)
    while not loaded_file(tenant).exists():
        if not _is_active(migration) or time.monotonic() > deadline:
            raise ProblemError(_failed(tenant, "could not be loaded, and its server goes on"))
        time.sleep(_PAUSE_SECONDS)


def _is_active(unit: str) -> bool:
    """Return whether a unit runs, or is about to."""
    state, *job = _properties(unit, "ActiveState", "Job")  # it has no job while none waits
    return state not in ("inactive", "failed") or job not in ([], ["0"])


def _properties(unit: str, *names: str) -> list[str]:
    return _systemctl("show", "--property", ",".join(names), "--value", unit).split()


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProblemError(
            Problem(
                code="migration_failed",
                object=arguments[-1],
                message=f"systemctl {' '.join(arguments)} failed: {done.stderr.strip()}",
                remedy=f"Look at it: systemctl status {arguments[-1]}",
            )
        )
    return done.stdout


def _failed(tenant: str, words: str) -> Problem:
    return Problem(
        code="migration_failed",
        object=f"tenant {tenant}",
        message=f"The migration of tenant {tenant} {words}.",
        remedy=f"Look at its journal: journalctl --unit prefect-migrate@{tenant}",
    )
