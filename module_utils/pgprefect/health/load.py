"""How busy this host is: a check that gets its answer too late may have to blame the host it runs on."""

from __future__ import annotations

import os
import re

# Programs that want to run, for each processor: the load average is that of a minute, the other number is now's.
_MOST_PER_PROCESSOR = 8
# Share of the last 10 seconds in which some program waited for memory or for a disk.
_MOST_PRESSURE = {"memory": 50.0, "io": 90.0}


def busy(proc: str = "/proc") -> str | None:
    """Return in one sentence why answers may come too late on this host, or None where it is not busy."""
    processors = len(os.sched_getaffinity(0))
    try:
        with open(f"{proc}/loadavg", encoding="utf-8") as file:
            fields = file.read().split()
        average, running = float(fields[0]), int(fields[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None
    reasons = []
    if max(average, running) >= _MOST_PER_PROCESSOR * processors:
        reasons.append(f"a load of {average:.0f} ({running} programs running now) on {processors} processors")
    for resource, most in _MOST_PRESSURE.items():
        share = _pressure(proc, resource)
        if share is not None and share >= most:
            reasons.append(f"programs waited for {resource} in {share:.0f} % of the last 10 s")
    return f"This host is too busy to answer in time: {', '.join(reasons)}." if reasons else None


def _pressure(proc: str, resource: str) -> float | None:
    try:
        with open(f"{proc}/pressure/{resource}", encoding="utf-8") as file:
            found = re.search(r"^some avg10=([\d.]+)", file.read())
    except OSError:  # the kernel keeps no such record
        return None
    return float(found.group(1)) if found else None
