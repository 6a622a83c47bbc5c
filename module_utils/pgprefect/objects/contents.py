"""All objects that a Prefect server has and an inventory may declare, by the names that changes give them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.http import PrefectApi
from .changes import Fields
from .concurrency_limits import DEPLOYMENTS

DEFAULT_QUEUE = "default"  # every pool has it


@dataclass(frozen=True)
class Contents:
    """Objects by kind and name, as the API returns them, without secrets; automations may share a name."""

    variables: dict[str, Fields] = field(default_factory=dict)
    concurrency_limits: dict[str, Fields] = field(default_factory=dict)
    blocks: dict[str, Fields] = field(default_factory=dict)  # by type/name
    work_pools: dict[str, Fields] = field(default_factory=dict)
    work_queues: dict[str, Fields] = field(default_factory=dict)  # by pool/queue
    deployments: dict[str, Fields] = field(default_factory=dict)  # by flow/deployment
    automations: list[Fields] = field(default_factory=list)


def read_contents(api: PrefectApi) -> Contents:
    """Read all objects of a server. Raises ApiError."""
    limits = api.filter("/v2/concurrency_limits/filter")
    return Contents(
        variables={one["name"]: one for one in api.filter("/variables/filter")},
        # Those of deployments are fields of theirs.
        concurrency_limits={one["name"]: one for one in limits if not one["name"].startswith(DEPLOYMENTS)},
        blocks=read_blocks(api),
        work_pools=read_pools(api),
        work_queues=read_queues(api),
        deployments=read_deployments(api),
        automations=api.filter("/automations/filter"),
    )


def read_blocks(api: PrefectApi) -> dict[str, Fields]:
    """Read all blocks that have names, by type/name. Raises ApiError."""
    found = api.filter("/block_documents/filter", block_documents={"is_anonymous": {"eq_": False}})
    return {f"{one['block_type']['slug']}/{one['name']}": one for one in found}


def read_pools(api: PrefectApi) -> dict[str, Fields]:
    """Read all work pools by name. Raises ApiError."""
    return {one["name"]: one for one in api.filter("/work_pools/filter")}


def read_queues(api: PrefectApi) -> dict[str, Fields]:
    """Read all work queues by pool/queue. Raises ApiError."""
    return {f"{one['work_pool_name']}/{one['name']}": one for one in api.filter("/work_queues/filter")}


def read_deployments(api: PrefectApi) -> dict[str, Fields]:
    """Read all deployments by flow/deployment. Raises ApiError."""
    flows = {flow["id"]: flow["name"] for flow in api.filter("/flows/filter")}
    found = api.filter("/deployments/filter")
    return {f"{flows[one['flow_id']]}/{one['name']}": one for one in found if one["flow_id"] in flows}
