"""The programs that point-in-time recovery runs: pgBackRest, systemctl and Debian's cluster tools."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import time
from collections.abc import Sequence

from ..core.errors import ProblemError
from ..core.problems import Problem

POSTGRES_USER = "postgres"
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_REPOSITORY = "Fix the cause: look at the repository (/etc/pgbackrest), the network to it and its free space."
_log = logging.getLogger(__name__)


class RecoveryError(ProblemError):
    """The cluster cannot be backed up or restored."""


def run_program(command: Sequence[str], logged: bool = True) -> str:
    """Run a program and return its standard output. Raises RecoveryError."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd="/", env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise failed(f"{command[0]} cannot be run: {error.strerror}", "Install it: site.yml does so.") from error
    status = f"failed with {done.returncode}" if done.returncode else "ended"
    if logged:
        _log.info("%s %s after %.1f s.", shlex.join(command), status, time.monotonic() - began)
    if done.returncode:
        output = " ".join((done.stderr + done.stdout).split()) or f"it ended with {done.returncode}"
        name = next(word for word in command if not word.startswith("-") and word not in ("runuser", "systemd-run"))
        raise failed(f"{name}: {output}", _remedy(command))
    return done.stdout


def _remedy(command: Sequence[str]) -> str:
    if "pgbackrest" in command:
        return _REPOSITORY
    if command[0] == "systemctl":
        return f"See why: systemctl status {command[-1]}; journalctl -u {command[-1]}"
    return "Remove the cause that the program names, and type the command again."


def run_pgbackrest(stanza: str, command: str, *arguments: str) -> str:
    """Run pgBackRest as the cluster's owner and return its standard output. Raises RecoveryError."""
    become = ["runuser", f"--user={POSTGRES_USER}", "--"] if os.geteuid() == 0 else []
    return run_program([*become, "pgbackrest", f"--stanza={stanza}", command, *arguments])


def run_systemctl(verb: str, unit: str, *options: str) -> str:
    """Run systemctl on a unit and return its standard output. Raises RecoveryError."""
    return run_program(["systemctl", *options, verb, unit])


def is_active(unit: str) -> bool:
    """Return whether systemd runs the unit; False where there is no systemd."""
    with contextlib.suppress(OSError):
        return subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0
    return False


def failed(reason: str, remedy: str = _REPOSITORY) -> RecoveryError:
    """Return the error of a step that failed for this reason."""
    message = reason if reason.endswith(".") else f"{reason}."
    return RecoveryError(Problem("pitr_failed", "pgBackRest", message, remedy))
