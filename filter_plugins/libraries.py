"""Filters for the virtualenvs of a host: Prefect's, and one for each set of libraries of work pools' own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any


def locked_release(release: str, locks: Sequence[str]) -> str:
    """Return how the virtualenv of a release with the packages of some locks is called: RELEASE+CHECKSUM.

    Other packages make another virtualenv, so that nothing changes below what runs. ``locks`` are files on the
    controller; of those that are not there, which the checks of the inventory report, nothing counts.
    """
    contents = b"".join(Path(lock).read_bytes() for lock in locks if Path(lock).is_file())
    return f"{release}+{hashlib.sha256(contents).hexdigest()[:8]}"


def pool_virtualenvs(
    workers: Sequence[Mapping[str, Any]], folder: str, release: str, prefect_lock: str
) -> list[dict[str, Any]]:
    """Return the virtualenvs that a host's workers need besides Prefect's, each with its path and its locks.

    ``libraries`` of a worker is the path of a lock without its end, -RELEASE.txt. The virtualenvs of all releases of
    some libraries are in one folder below ``folder``, named as the libraries are.
    """
    every = sorted({worker["libraries"] for worker in workers if "libraries" in worker})
    locks = {libraries: [prefect_lock, f"{libraries}-{release}.txt"] for libraries in every}
    return [
        {
            "path": f"{folder}/{PurePosixPath(libraries).name}/{locked_release(release, requirements)}",
            "requirements": requirements,
        }
        for libraries, requirements in locks.items()
    ]


def locked_in(virtualenvs: Sequence[Mapping[str, Any]], folder: str) -> list[dict[str, Any]]:
    """Return virtualenvs with the paths that their locks have in a folder of the host."""
    return [
        {**one, "requirements": [f"{folder}/{PurePosixPath(lock).name}" for lock in one["requirements"]]}
        for one in virtualenvs
    ]


def with_virtualenvs(
    workers: Sequence[Mapping[str, Any]], virtualenvs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return workers of which those with libraries of their own have the path of their virtualenv in place of these."""
    paths = {PurePosixPath(one["path"]).parent.name: one["path"] for one in virtualenvs}
    return [
        {key: value for key, value in worker.items() if key != "libraries"}
        | ({"virtualenv": paths[PurePosixPath(worker["libraries"]).name]} if "libraries" in worker else {})
        for worker in workers
    ]


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
            "locked_release": locked_release,
            "pool_virtualenvs": pool_virtualenvs,
            "locked_in": locked_in,
            "with_virtualenvs": with_virtualenvs,
            "virtualenvs_by_pool": virtualenvs_by_pool,
        }
