"""The objects that actions of automations name: from names to a server's identifiers, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..core.http import PrefectApi
from .automation_schema import BLOCK, DEPLOYMENT, WORK_POOL, WORK_QUEUE

Names = dict[str, str]


class References:
    """All objects of a server that an action may name, by kind and name."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._ids: dict[str, Names] = {}
        self._names: dict[str, Names] = {}

    def read(self, kinds: Collection[str]) -> None:
        """Read those of some kinds from the server; automations are told by ``set_ids``. Raises ApiError."""
        readers = {
            DEPLOYMENT.kind: self._deployments,
            WORK_POOL.kind: self._pools,
            WORK_QUEUE.kind: self._queues,
            BLOCK.kind: self._blocks,
        }
        for kind in kinds:
            if kind in readers:
                self.set_ids(kind, readers[kind]())

    def set_ids(self, kind: str, ids: Mapping[str, str]) -> None:
        """Say which objects of a kind there are."""
        self._ids[kind] = dict(ids)
        self._names[kind] = {identifier: name for name, identifier in ids.items()}

    def add(self, kind: str, name: str, identifier: str) -> None:
        """Say that there is a further object of a kind."""
        self._ids.setdefault(kind, {})[name] = identifier

    def identifier(self, kind: str, name: str) -> str | None:
        """Return the identifier of an object, or None if there is no such object."""
        return self._ids.get(kind, {}).get(name)

    def name(self, kind: str, identifier: str) -> str | None:
        """Return the name of an object, or None if there is none with this identifier."""
        return self._names.get(kind, {}).get(identifier)

    def _deployments(self) -> Names:
        flows = {flow["id"]: flow["name"] for flow in self._api.filter("/flows/filter")}
        found = self._api.filter("/deployments/filter")
        return {f"{flows[one['flow_id']]}/{one['name']}": one["id"] for one in found if one["flow_id"] in flows}

    def _pools(self) -> Names:
        return {pool["name"]: pool["id"] for pool in self._api.filter("/work_pools/filter")}

    def _queues(self) -> Names:
        queues = self._api.filter("/work_queues/filter")
        return {f"{queue['work_pool_name']}/{queue['name']}": queue["id"] for queue in queues}

    def _blocks(self) -> Names:
        named = {"is_anonymous": {"eq_": False}}
        blocks = self._api.filter("/block_documents/filter", block_documents=named)
        return {f"{block['block_type']['slug']}/{block['name']}": block["id"] for block in blocks}
