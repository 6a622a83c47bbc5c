"""Drift: in what a server's objects differ from their declaration."""
# Annotations are not postponed here: from_document reads them.

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..core.http import PrefectApi
from ..core.problems import Problem
from . import deployments, work_pools
from .automations import Automation, AutomationStore, Planned
from .blocks import Block, BlockStore
from .changes import ObjectChange, shown
from .concurrency_limits import ConcurrencyLimit, LimitStore
from .contents import DEFAULT_QUEUE, Contents, read_contents
from .deployments import Deployment, DeploymentStore
from .flows import FlowCode
from .git import GitMissing, GitSource, Repositories
from .variables import Variable, VariableStore
from .work_pools import WorkPool


@dataclass(frozen=True)
class Declaration:
    """What a tenant's inventory declares.

    ``own_blocks`` are those that the site makes of other secrets, as type/name. Where ``with_secrets`` is false, those
    of blocks are not known.
    """

    variables: list[Variable] = field(default_factory=list)
    concurrency_limits: list[ConcurrencyLimit] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    work_pools: list[WorkPool] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)
    automations: list[Automation] = field(default_factory=list)
    own_blocks: list[str] = field(default_factory=list)
    with_secrets: bool = False
    flows_directory: str = ""

    @property
    def planned(self) -> Planned:
        """What automations may name."""
        return Planned(
            deployments=[one.full_name for one in self.deployments],
            work_pools=[pool.name for pool in self.work_pools],
            work_queues=[f"{pool.name}/{queue.name}" for pool in self.work_pools for queue in pool.queues],
            blocks=[*(block.full_name for block in self.blocks), *self.own_blocks],
        )


@dataclass(frozen=True)
class Drift:
    """What was changed, what is declared and missing, and what is there and not declared."""

    changed: list[ObjectChange]
    missing: list[str]
    undeclared: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        changed = [{"object": one.object, "there": shown(one.before or {}), "declared": shown(one.after or {})}
                   for one in self.changed]  # fmt: skip
        return {"changed": changed, "missing": self.missing, "undeclared": self.undeclared}


class _NoRepositories(Repositories):
    """Looks at no repository: that a branch has moved is no drift."""

    def resolve(self, source: GitSource) -> NoReturn:
        """Raise GitMissing, with which a dry run goes on."""
        raise GitMissing(Problem("git_unreadable", str(source), "Repositories are not compared.", "Apply the objects."))


def find_drift(api: PrefectApi, declaration: Declaration) -> Drift:
    """Compare a server's objects with their declaration. Changes nothing. Raises ApiError, ProblemError."""
    changes = list(_changes(api, declaration))
    return Drift(
        changed=[one for one in changes if one.before is not None and one.after is not None],
        missing=[one.object for one in changes if one.before is None],
        undeclared=[
            *(one.object for one in changes if one.after is None),
            *undeclared(read_contents(api), declaration),
        ],
    )


def _changes(api: PrefectApi, declaration: Declaration) -> Iterator[ObjectChange]:
    """Yield what an application of the declaration would change."""
    variables, limits, blocks = VariableStore(api), LimitStore(api), BlockStore(api)
    variables.read(declaration.variables)
    yield from variables.plan(declaration.variables)
    limits.read()
    yield from limits.plan(declaration.concurrency_limits)
    blocks.read(declaration.blocks)
    yield from blocks.plan(declaration.blocks, declaration.with_secrets)
    yield from work_pools.plan(api, declaration.work_pools, work_pools.read(api, declaration.work_pools))
    store = DeploymentStore(api)
    store.read(declaration.deployments)
    # The version of the code is compared; without a virtualenv no flow is loaded.
    code = FlowCode(declaration.flows_directory, virtualenv="/nonexistent")
    yield from deployments.plan(store, declaration.deployments, code, _NoRepositories(), may_lack_code=True)
    automations = AutomationStore(api)
    automations.read(declaration.automations)
    yield from automations.plan(declaration.automations, declaration.planned)


def undeclared(contents: Contents, declaration: Declaration) -> Iterator[str]:
    """Yield the objects of a server that are not declared, by the names that changes give them."""
    planned = declaration.planned
    pools = {pool.name for pool in declaration.work_pools}
    variables = {one.name for one in declaration.variables}
    limits = {one.name for one in declaration.concurrency_limits}
    automations = {one.name for one in declaration.automations}
    yield from (f"variable {name}" for name in contents.variables if name not in variables)
    yield from (f"concurrency limit {name}" for name in contents.concurrency_limits if name not in limits)
    yield from (f"block {name}" for name in contents.blocks if name not in planned.blocks)
    yield from (f"work pool {name}" for name in contents.work_pools if name not in pools)
    for name, queue in contents.work_queues.items():
        # A pool that is not declared stands for its queues.
        if queue["work_pool_name"] in pools and name not in planned.work_queues and queue["name"] != DEFAULT_QUEUE:
            yield f"queue {name}"
    yield from (f"deployment {name}" for name in contents.deployments if name not in planned.deployments)
    yield from (f"automation {one['name']}" for one in contents.automations if one["name"] not in automations)
