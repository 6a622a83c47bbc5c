"""Filters for the workers of a host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_MEGABYTE = 1024**2
_RUN = 256  # MB: a process of Prefect's takes 100, and a flow's data as much again


def run_limit(memory_max: str, memory_mb: int, workers: int) -> int:
    """Return how many runs a worker may have: one for each 256 MB, of which the worker itself takes one.

    The memory is ``memory_max``, in systemd's notation, or the worker's share of the host's memory where that is less.
    """
    share = int(memory_mb) // max(int(workers), 1)
    allowed = min(share, _megabytes(str(memory_max), int(memory_mb)))
    return max(1, allowed // _RUN - 1)


def simultaneous_workers(workers: Sequence[Mapping[str, Any]], memory_max: str, memory_mb: int) -> int:
    """Return how many of a host's workers run at the same time: those that are scaled only as the memory has room."""
    least = sum(not worker.get("scaled") for worker in workers)
    fitting = int(memory_mb) // max(1, _megabytes(str(memory_max), int(memory_mb)))
    return max(least, min(len(workers), fitting), 1)


def worker_weights(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the share of each worker host in the work of pools that are scaled."""
    return {host: int(hostvars[host].get("prefect_worker_weight", 1)) for host in hosts}


def _megabytes(size: str, memory_mb: int) -> int:
    if size == "infinity":
        return memory_mb
    if size.endswith("%"):
        return memory_mb * int(size[:-1]) // 100
    number, unit = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTPE]?)", size).groups()  # type: ignore[union-attr]
    return int(float(number) * 1024 ** " KMGTPE".index(unit or " ") // _MEGABYTE)


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "run_limit": run_limit,
            "simultaneous_workers": simultaneous_workers,
            "worker_weights": worker_weights,
        }
