"""Delete what was made here and is not declared any more, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from urllib.parse import quote

from ..core.errors import ProblemError
from ..core.http import PrefectApi
from ..core.problems import Problem
from .changes import ObjectChange, delete
from .contents import Contents, read_contents
from .drift import Declaration, undeclared


def plan_prune(api: PrefectApi, declaration: Declaration, record: Mapping[str, str]) -> list[ObjectChange]:
    """Return the deletions, in the order in which objects need each other. Changes nothing.

    Raises ApiError, and ProblemError for a work pool that deployments still use: the server would not ask.
    """
    contents = read_contents(api)
    gone = set(undeclared(contents, declaration))
    ours = [one for one in _objects(api, contents) if one[0] in gone and record.get(one[0]) == one[1]]
    _refuse_used_pools(contents, {name for name, _, _ in ours})
    return [change for _, _, change in ours]


def _objects(api: PrefectApi, contents: Contents) -> Iterator[tuple[str, str, ObjectChange]]:
    """Yield each object's name and identifier, and the change that deletes it."""
    found = [
        *(("automation", one["name"], one["id"], f"/automations/{one['id']}") for one in contents.automations),
        *(("deployment", name, one["id"], f"/deployments/{one['id']}") for name, one in contents.deployments.items()),
        *(
            ("work pool", name, one["id"], f"/work_pools/{quote(name, safe='')}")
            for name, one in contents.work_pools.items()
        ),
        *(("block", name, one["id"], f"/block_documents/{one['id']}") for name, one in contents.blocks.items()),
        *(
            ("concurrency limit", name, one["id"], f"/v2/concurrency_limits/{one['id']}")
            for name, one in contents.concurrency_limits.items()
        ),
        *(("variable", name, one["id"], f"/variables/{one['id']}") for name, one in contents.variables.items()),
    ]
    for kind, name, identifier, path in found:
        change = delete(f"{kind} {name}", {"id": identifier}, partial(api.call, "DELETE", path))
        yield change.object, identifier, change


def _refuse_used_pools(contents: Contents, gone: set[str]) -> None:
    problems = []
    for pool in contents.work_pools:
        users = [
            name
            for name, one in contents.deployments.items()
            if one["work_pool_name"] == pool and f"deployment {name}" not in gone
        ]
        if f"work pool {pool}" in gone and users:
            message = f"Work pool {pool} is not declared any more, but deployments use it: {', '.join(sorted(users))}."
            remedy = "Declare the pool, or move or delete these deployments first."
            problems.append(Problem("work_pool_in_use", f"work pool {pool}", message, remedy))
    if problems:
        raise ProblemError(*problems)
