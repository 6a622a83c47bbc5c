"""Locks of work pools with libraries of their own: on this machine, hashed, and with the packages that Prefect has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .forms import Form

# Where an index is; it must not say what to install.
_INDEX = re.compile(r"--(index-url|extra-index-url|find-links)[ =]\S+|--no-index|-[if] \S+")
_PINNED = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[\w.,\s-]*\])?\s*==\s*([^\s;,*]+)(?=[\s;]|$)")
_HASH = re.compile(r"--hash=sha(256|384|512):[0-9a-f]{64,128}(\s|$)")
# The site has locks of these names itself.
_TAKEN = ("prefect", "flows", "docker", "kubernetes")


def _libraries(value: Any) -> None:
    found = re.fullmatch(r"(?!.*/\.{0,2}/)/(?:[\w. +@-]+/)+([a-z0-9][a-z0-9_-]{0,49})", str(value), re.ASCII)
    if not found:
        raise ValueError
    if found[1] in _TAKEN:
        raise ValueError(f"the site has libraries that are named {found[1]} itself")


LIBRARIES = Form(
    "the absolute path of a lock of this machine without its end, -VERSION.txt, as /srv/site/gpu; its name has at most "
    "50 lower-case letters, digits, '_' and '-', and is none of the site's own",
    _libraries,
)


def check_libraries(tenants: Sequence[Mapping[str, Any]], release: str, requirements: Path) -> Iterator[str]:
    """Yield what is wrong with the libraries of declared tenants' pools, for a release of Prefect.

    ``requirements`` is the folder with the lock of Prefect.
    """
    named: dict[str, str] = {}
    for number, tenant in enumerate(tenants):
        for index, pool in enumerate(tenant.get("work_pools", ())):
            if "libraries" not in pool:
                continue
            libraries, path = str(pool["libraries"]), f"prefect_tenants[{number}].work_pools[{index}].libraries"
            other = named.setdefault(Path(libraries).name, libraries)
            kind = pool.get("type", "process")
            if kind in ("docker", "kubernetes"):
                yield f"{path}: the libraries of a pool of the type {kind} are in its image: remove libraries."
            elif other != libraries:
                yield f"{path} is {libraries!r}, but another pool has {other!r}: give one of the two another name."
            else:
                yield from _check_lock(path, libraries, release, requirements)


def _check_lock(path: str, libraries: str, release: str, requirements: Path) -> Iterator[str]:
    lock, make = Path(f"{libraries}-{release}.txt"), f"`requirements/lock {libraries} {release}`"
    try:
        text = lock.read_text()
    except FileNotFoundError:
        yield (
            f"{path} is {libraries!r}, but there is no {lock}, the lock for Prefect {release}: name what the flows "
            f"import in {libraries}.in, and run {make}."
        )
        return
    except (OSError, ValueError) as error:
        yield f"{path}: {lock} cannot be read ({error}): make it by {make}."
        return
    if faults := list(_lock_faults(text)):
        more = f", and {len(faults) - 1} more lines are no better" if len(faults) > 1 else ""
        yield f"{path}: {lock}, {faults[0]}{more}: make it by {make}."
        return
    prefect = _pins((requirements / f"prefect-{release}.txt").read_text())
    for name, versions in _pins(text).items():
        if name in prefect and not versions <= prefect[name]:
            yield (
                f"{path}: {lock} has {name} {', '.join(sorted(versions))}, but Prefect {release} runs with "
                f"{', '.join(sorted(prefect[name]))}: make it by {make}, which keeps what Prefect has."
            )


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a lock that say something, those that go on joined, with their numbers."""
    begin, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        begin = begin or number
        joined += re.sub(r"(^|\s)#.*", "", line)
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        if joined.strip():
            yield begin, joined.strip()
        begin, joined = 0, ""
    if joined.strip():
        yield begin, joined.strip()


def _lock_faults(text: str) -> Iterator[str]:
    lines = [(number, line) for number, line in _lines(text) if not _INDEX.fullmatch(line)]
    if not lines:
        yield "which locks no package"
    for number, line in lines:
        shown = line if len(line) <= 60 else f"{line[:60]}..."
        if not _PINNED.match(line):
            yield f"line {number}: {shown!r} is no package with one version"
        elif not _HASH.search(line):
            yield f"line {number}: {shown!r} has no hash"


def _pins(text: str) -> dict[str, set[str]]:
    """Return the versions of a lock's packages by their normal names; a lock for several Pythons may have several."""
    found: dict[str, set[str]] = {}
    for _number, line in _lines(text):
        if pinned := _PINNED.match(line):
            found.setdefault(re.sub(r"[-_.]+", "-", pinned[1]).lower(), set()).add(pinned[2])
    return found
