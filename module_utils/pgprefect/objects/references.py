"""The objects that actions of automations name: from names to a server's identifiers, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..core.http import PrefectApi
from .automation_schema import BLOCK, DEPLOYMENT, WORK_POOL, WORK_QUEUE
from .contents import read_blocks, read_deployments, read_pools, read_queues

Names = dict[str, str]
_READERS = {
    DEPLOYMENT.kind: read_deployments,
    WORK_POOL.kind: read_pools,
    WORK_QUEUE.kind: read_queues,
    BLOCK.kind: read_blocks,
}


class References:
    """All objects of a server that an action may name, by kind and name."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._ids: dict[str, Names] = {}
        self._names: dict[str, Names] = {}

    def read(self, kinds: Collection[str]) -> None:
        """Read those of some kinds from the server; automations are told by ``set_ids``. Raises ApiError."""
        for kind in kinds:
            if kind in _READERS:
                self.set_ids(kind, {name: one["id"] for name, one in _READERS[kind](self._api).items()})

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
