"""Filters that say what a tenant declares, for the command pgprefect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_KINDS = ("variables", "concurrency_limits", "work_pools", "deployments", "automations")


def declaration(
    tenant: Mapping[str, Any],
    blocks: Sequence[Mapping[str, Any]],
    worker_keys: Sequence[str],
    flows_directory: str,
    with_secrets: bool = False,
) -> dict[str, Any]:
    """Return what a tenant declares as ``pgprefect objects diff`` reads it, without secrets unless these are wanted.

    ``worker_keys`` are those of a pool that its server does not know.
    """
    pools = [{key: value for key, value in pool.items() if key not in worker_keys} for pool in tenant["work_pools"]]
    public = [{key: value for key, value in block.items() if key != "secrets"} for block in blocks]
    return {
        **{kind: tenant[kind] for kind in _KINDS},
        "work_pools": pools,
        "blocks": list(blocks) if with_secrets else public,
        "own_blocks": tenant["own_blocks"],
        "with_secrets": with_secrets,
        "flows_directory": flows_directory,
    }


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"objects_declaration": declaration}
