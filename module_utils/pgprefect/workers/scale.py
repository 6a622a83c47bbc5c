"""Decides how many workers of a work pool run on this host, by what there is to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

# A worker that waits, for the API or for its next attempt to start, has no runs. One that is starting may have some,
# but it cannot drain yet.
RUNNING, STARTING, WAITING, DRAINING, STOPPED = "running", "starting", "waiting", "draining", "stopped"


@dataclass(frozen=True)
class ScaledPool:
    """A work pool whose workers are scaled: how many each host has of them at least and at most.

    ``run_limit`` is how many runs one of its workers has at the same time. ``hosts`` share its work; none stands for
    all that have a weight.
    """

    tenant: str
    pool: str
    min: int
    max: int
    run_limit: int
    hosts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that its workers' instances begin with."""
        return f"{self.tenant}-{self.pool}"

    def instance(self, number: int) -> str:
        """Return the name of a worker's instance."""
        return f"{self.name}-{number}"


@dataclass(frozen=True)
class Scaling:
    """What this host is told about its workers.

    ``quiet_looks`` says after how many looks in a row a worker that is too many is drained. ``weights`` has the share
    of each host in the work, by its name, and ``host`` is this one's.
    """

    pools: tuple[ScaledPool, ...]
    quiet_looks: int
    host: str
    weights: Mapping[str, int]

    def of(self, pool: ScaledPool) -> Scaling:
        """Return the same with the hosts that share the work of one pool."""
        weights = {host: weight for host, weight in self.weights.items() if not pool.hosts or host in pool.hosts}
        return replace(self, weights=weights)


@dataclass(frozen=True)
class Load:
    """The runs of a pool: those that may start now, and those that a worker has.

    ``late`` are those of ``due`` that nobody has started for a while; ``held`` may not start although they are due: the
    pool or the queue is paused, or at its limit.
    """

    due: int = 0
    busy: int = 0
    late: int = 0
    held: int = 0


@dataclass(frozen=True)
class Unit:
    """A worker of this host: its state, and the bytes that it may take with its runs."""

    state: str
    memory: int


Units = Mapping[str, Unit]


@dataclass(frozen=True)
class Step:
    """The outcome of one look at a pool: the numbers of the workers to start and to drain, and the quiet looks so far.

    ``bound`` says what keeps ``wanted`` below what the runs would fill: "max", "memory" or nothing.
    """

    pool: ScaledPool
    load: Load
    wanted: int
    running: tuple[int, ...]
    draining: tuple[int, ...]
    bound: str = ""
    start: tuple[int, ...] = ()
    drain: tuple[int, ...] = ()
    quiet: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        own = asdict(self)
        del own["pool"]
        return {"tenant": self.pool.tenant, "pool": self.pool.pool, **own.pop("load"), **own}


def share(workers: int, scaling: Scaling, most: int) -> int:
    """Return how many of the workers this host runs, each host having at most ``most``.

    Each host comes to the same result by itself: the next worker belongs to the host that has the fewest for its
    weight. So no host has fewer of more workers.
    """
    counts = dict.fromkeys(scaling.weights, 0)
    for _ in range(workers):
        free = [host for host, count in counts.items() if count < most]
        if not free:
            break
        counts[min(free, key=lambda host: (counts[host] + 1) / scaling.weights[host])] += 1
    return counts.get(scaling.host, 0)


def next_step(pool: ScaledPool, load: Load, scaling: Scaling, units: Units, memory: int, quiet: int) -> Step:
    """Decide what to do: start at once what is missing, and drain the highest number after enough quiet looks.

    ``units`` has all workers of this host, of other pools too; ``memory`` is the host's, in bytes.
    """
    own = {number: units[pool.instance(number)] for number in _numbers(pool, units)}
    running = tuple(number for number, unit in own.items() if unit.state in (RUNNING, STARTING, WAITING))
    draining = tuple(number for number, unit in own.items() if unit.state == DRAINING)
    wanted, bound = _wanted(pool, load, scaling, len(running) + _room(pool, units, memory))
    step = Step(pool, load, wanted, running, draining, bound)
    if wanted > len(running):
        free = [number for number in range(1, pool.max + 1) if own[number].state == STOPPED]
        return replace(step, start=tuple(free[: wanted - len(running)]))
    if wanted == len(running):
        return step
    quiet = min(quiet + 1, scaling.quiet_looks)
    highest = running[-1]
    drains = quiet == scaling.quiet_looks and own[highest].state != STARTING
    return replace(step, quiet=quiet, drain=(highest,) if drains else ())


def after(step: Step, units: Units) -> dict[str, Unit]:
    """Return the host's workers as they are once a step is done, for the next pool's."""
    states = {**dict.fromkeys(step.start, STARTING), **dict.fromkeys(step.drain, DRAINING)}
    changed = {step.pool.instance(number): state for number, state in states.items()}
    return {**units, **{name: replace(units[name], state=state) for name, state in changed.items()}}


def _wanted(pool: ScaledPool, load: Load, scaling: Scaling, fitting: int) -> tuple[int, str]:
    scaling = scaling.of(pool)
    everywhere = math.ceil((load.due + load.busy) / pool.run_limit)
    own = share(everywhere, scaling, pool.max)
    # What is late was another host's, which is away or has no room.
    own = min(everywhere, own + math.ceil(load.late / pool.run_limit), pool.max)
    # Without its first worker a pool would never run anything.
    wanted = max(pool.min, min(own, max(fitting, 1)))
    if wanted < own:
        return wanted, "memory"
    return wanted, "max" if everywhere > pool.max * len(scaling.weights) else ""


def _room(pool: ScaledPool, units: Units, memory: int) -> int:
    """Return how many more of the pool's workers the memory has room for; below zero where there are too many."""
    taken = sum(min(unit.memory, memory) for unit in units.values() if unit.state != STOPPED)
    return (memory - taken) // max(1, min(units[pool.instance(1)].memory, memory))


def _numbers(pool: ScaledPool, units: Units) -> list[int]:
    """Return the numbers of the pool's workers, also of those above its maximum, which was lowered."""
    begin = f"{pool.name}-"
    ends = [name[len(begin) :] for name in units if name.startswith(begin)]
    return sorted(int(end) for end in ends if end.isascii() and end.isdecimal() and end == str(int(end)))
