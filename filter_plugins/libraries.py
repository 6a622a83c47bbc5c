"""Filters for work pools with libraries of their own: a virtualenv for each set of libraries, beside Prefect's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any


def pool_virtualenvs(
    workers: Sequence[Mapping[str, Any]], folder: str, release: str, prefect_lock: str
) -> list[dict[str, Any]]:
    """Return the virtualenvs that a host's workers need besides Prefect's, each with its path and its locks.

    ``libraries`` of a worker is the path of a lock without its end, -RELEASE.txt. The virtualenvs of all releases of
    some libraries are in one folder below ``folder``, named as the libraries are.
    """
    every = sorted({worker["libraries"] for worker in workers if "libraries" in worker})
    return [
        {
            "path": f"{folder}/{PurePosixPath(libraries).name}/{release}",
            "requirements": [prefect_lock, f"{libraries}-{release}.txt"],
        }
        for libraries in every
    ]


def locked_in(virtualenvs: Sequence[Mapping[str, Any]], folder: str) -> list[dict[str, Any]]:
    """Return virtualenvs with the paths that their locks have in a folder of the host."""
    return [
        {**one, "requirements": [f"{folder}/{PurePosixPath(lock).name}" for lock in one["requirements"]]}
        for one in virtualenvs
    ]


def with_virtualenvs(
    workers: Sequence[Mapping[str, Any]],
    virtualenvs: Sequence[Mapping[str, Any]],
    contents: Mapping[str, str],
    authorities: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return workers of which those with libraries of their own have a virtualenv and the checksum of its content.

    ``contents`` has the text of each lock by its path; ``authorities``, which workers read when they start, count too.
    """
    found = {PurePosixPath(one["path"]).parent.name: one for one in virtualenvs}
    completed = []
    for worker in workers:
        own = {key: value for key, value in worker.items() if key != "libraries"}
        if "libraries" in worker:
            virtualenv = found[PurePosixPath(worker["libraries"]).name]
            texts = [contents[lock] for lock in virtualenv["requirements"]] + list(authorities)
            own["virtualenv"] = virtualenv["path"]
            own["lock_checksum"] = hashlib.sha256("".join(texts).encode()).hexdigest()
        completed.append(own)
    return completed


def virtualenvs_by_pool(workers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return by tenant and pool the virtualenvs of workers that have one of their own."""
    found: dict[str, dict[str, str]] = {}
    for worker in workers:
        if "virtualenv" in worker:
            found.setdefault(worker["tenant"], {})[worker["pool"]] = worker["virtualenv"]
    return found


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "pool_virtualenvs": pool_virtualenvs,
            "locked_in": locked_in,
            "with_virtualenvs": with_virtualenvs,
            "virtualenvs_by_pool": virtualenvs_by_pool,
        }
