"""Processes of the workers' units, by the kernel's control groups (proc(5), cgroups(7))."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator

_UNIT = re.compile(r"/prefect-worker@([^/]+)\.service")
_MOST_SECONDS = 10  # until killed processes are gone


def worker_unit(pid: int | str, proc: str = "/proc") -> str | None:
    """Return the instance of the worker's unit that a process belongs to, or None; also where it has ended."""
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8") as file:
            found = _UNIT.search(file.read())
    except OSError:
        return None
    return found.group(1) if found else None


def worker_processes(proc: str = "/proc") -> Iterator[tuple[int, str]]:
    """Yield the processes of workers that this user may see, each with the instance of its unit."""
    for entry in os.listdir(proc):
        instance = worker_unit(entry, proc) if entry.isdigit() else None
        if instance:
            yield int(entry), instance


def kill_unit() -> None:
    """Kill what else runs in the worker's unit that this process belongs to; nothing where it belongs to none."""
    own = worker_unit("self")
    until = time.monotonic() + _MOST_SECONDS
    while own and time.monotonic() < until:
        others = [pid for pid, instance in worker_processes() if instance == own and pid != os.getpid()]
        if not others:
            return
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
