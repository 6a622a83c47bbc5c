"""The number of workers that a load wants on a host, and how it comes about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pgprefect.workers.scale import (
    DRAINING,
    RUNNING,
    STARTING,
    STOPPED,
    WAITING,
    Load,
    ScaledPool,
    Scaling,
    Step,
    Unit,
    after,
    next_step,
    share,
)

POOL = ScaledPool("prefect", "default", min=1, max=4, run_limit=5)
GIB = 2**30
LOOKS = 3


def scaling(**changes: Any) -> Scaling:
    alone = {"pools": (POOL,), "quiet_looks": LOOKS, "host": "a", "weights": {"a": 1}}
    return Scaling(**{**alone, **changes})


def units(states: Mapping[int, str], pool: ScaledPool = POOL) -> dict[str, Unit]:
    numbers = {*range(1, pool.max + 1), *states}
    return {pool.instance(number): Unit(states.get(number, STOPPED), GIB) for number in numbers}


def step(load: Load, *running: int, quiet: int = 0, memory: int = 64 * GIB, **changes: Any) -> Step:
    pool = replace(POOL, **changes.pop("pool", {}))
    states = changes.pop("states", dict.fromkeys(running, RUNNING))
    return next_step(pool, load, scaling(**changes), units(states, pool), memory, quiet)


@pytest.mark.parametrize(
    ("load", "pool", "wanted", "bound"),
    [
        (Load(), {}, 1, ""),
        (Load(), {"min": 0}, 0, ""),
        (Load(due=1), {"min": 0}, 1, ""),
        (Load(held=50), {"min": 0}, 0, ""),
        (Load(busy=6), {}, 2, ""),
        (Load(due=3, busy=3), {}, 2, ""),
        (Load(due=20), {}, 4, ""),
        (Load(due=21), {}, 4, "max"),
        (Load(), {"min": 3}, 3, ""),
    ],
)
def test_the_workers_that_a_load_wants(load: Load, pool: dict[str, int], wanted: int, bound: str) -> None:
    found = step(load, 1, pool=pool)
    assert (found.wanted, found.bound) == (wanted, bound)


def test_a_burst_is_answered_at_once() -> None:
    assert step(Load(due=40), 1).start == (2, 3, 4)
    assert step(Load(due=40), pool={"min": 0}).start == (1, 2, 3, 4)
    # One that drains is no capacity, and its number is free only when it has ended.
    drains = step(Load(due=40), states={1: RUNNING, 3: DRAINING})
    assert (drains.start, drains.draining) == ((2, 4), (3,))
    assert step(Load(due=40), states={1: RUNNING, 2: RUNNING, 3: STOPPED, 4: RUNNING}).start == (3,)
    assert step(Load(due=40), states={1: RUNNING, 2: STARTING, 3: WAITING}).start == (4,)


def test_down_by_one_a_look_after_quiet_looks() -> None:
    states, quiet, drained = dict.fromkeys((1, 2, 3, 4), RUNNING), 0, []
    for _ in range(LOOKS + 4):
        found = step(Load(), states=states, quiet=quiet)
        states.update(dict.fromkeys(found.drain, DRAINING))
        drained.append(found.drain)
        quiet = found.quiet
    assert drained == [(), (), (4,), (3,), (2,), (), ()] and quiet == 0


def test_only_a_worker_that_can_drain_is_drained() -> None:
    assert step(Load(), states={1: RUNNING, 2: STARTING}, quiet=LOOKS).drain == ()
    # It waits for its next attempt: one that always fails keeps no good one from its place.
    assert step(Load(), states={1: RUNNING, 2: WAITING}, quiet=LOOKS).drain == (2,)


def test_what_is_above_a_lowered_maximum_is_drained() -> None:
    found = step(Load(due=40), states={1: RUNNING, 2: RUNNING, 9: RUNNING}, pool={"max": 2}, quiet=LOOKS - 1)
    assert (found.wanted, found.drain) == (2, (9,))


def test_a_load_that_comes_and_goes_starts_no_storm() -> None:
    states, quiet, started, drained = {1: RUNNING}, 0, 0, 0
    for look in range(20 * 2):
        found = step(Load() if look % 2 else Load(due=40), states=states, quiet=quiet)
        states.update({**dict.fromkeys(found.start, RUNNING), **dict.fromkeys(found.drain, DRAINING)})
        started, drained, quiet = started + len(found.start), drained + len(found.drain), found.quiet
    assert (started, drained) == (3, 0)


def test_memory_is_never_exceeded() -> None:
    found = step(Load(due=40), 1, memory=3 * GIB)
    assert (found.start, found.bound) == ((2, 3), "memory")
    # What drains has its memory still.
    assert step(Load(due=40), states={1: RUNNING, 4: DRAINING}, memory=3 * GIB).start == (2,)
    # What the inventory wants at least, and the first of each pool, run in any case.
    assert step(Load(), memory=GIB // 2, pool={"min": 2}).start == (1, 2)
    assert step(Load(due=1), memory=GIB // 2, pool={"min": 0}).start == (1,)
    # The host has lost memory, or its workers have got more.
    assert step(Load(due=40), 1, 2, 3, memory=2 * GIB, quiet=LOOKS).drain == (3,)


def test_pools_share_the_memory_of_their_host() -> None:
    other = ScaledPool("research", "default", min=0, max=4, run_limit=5)
    both = {**units({1: RUNNING}), **units({}, other)}
    first = next_step(POOL, Load(due=10), scaling(), both, 4 * GIB, 0)
    second = next_step(other, Load(due=40), scaling(), after(first, both), 4 * GIB, 0)
    assert (first.start, second.start, second.bound) == ((2,), (1, 2), "memory")


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 1, "b": 3}, {"a": 2, "b": 3, "c": 5}])
def test_hosts_share_by_weight_without_asking_each_other(weights: dict[str, int]) -> None:
    before = dict.fromkeys(weights, 0)
    for workers in range(25):
        shares = {host: share(workers, scaling(host=host, weights=weights), 10) for host in weights}
        assert sum(shares.values()) == min(workers, 10 * len(weights))
        assert all(before[host] <= shares[host] <= 10 for host in weights)  # one more worker moves no other
        if max(shares.values()) < 10:
            fair = {host: workers * weight / sum(weights.values()) for host, weight in weights.items()}
            assert all(shares[host] >= math.floor(fair[host]) for host in weights)
        before = shares


def test_a_host_takes_over_what_is_late() -> None:
    two: dict[str, Any] = {"host": "a", "weights": {"a": 1, "b": 1}}
    assert step(Load(due=20), 1, **two).wanted == 2
    assert step(Load(due=20, late=10), 1, **two).wanted == 4
    assert step(Load(due=20, late=1), 1, **two).wanted == 3
    assert step(Load(due=5, late=5), 1, **two).wanted == 1
    assert step(Load(due=60, late=60), 1, **two).wanted == 4


def test_a_pool_on_hosts_of_its_own_has_its_own_limit_and_shares_with_these_hosts_only() -> None:
    everywhere = step(Load(due=8), weights={"a": 1, "b": 1})
    placed = step(Load(due=8), weights={"a": 1, "b": 1}, pool={"hosts": ("a",)})
    larger = step(Load(due=8), weights={"a": 1, "b": 1}, pool={"hosts": ("a",), "run_limit": 8})
    assert [found.wanted for found in (everywhere, placed, larger)] == [1, 2, 1]
    # A host that is none of the pool's does not make up for what is missing.
    assert step(Load(due=21), weights={"a": 1, "b": 9}, pool={"hosts": ("a",)}).bound == "max"
