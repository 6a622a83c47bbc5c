"""Blocks with secrets, which Prefect keeps encrypted, and pull steps and job templates name instead of having them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

from ..core.http import ApiError, PrefectApi
from ..core.problems import Problem
from .changes import Fields, ObjectChange, create

SECRET = "secret"
REGISTRY = "docker-registry-credentials"
HIDDEN = "(secret)"


class SecretBlocks:
    """Those blocks of a server that are declared, all of one type of Prefect's, with their values."""

    def __init__(self, api: PrefectApi, kind: str = SECRET) -> None:
        self._api = api
        self._kind = kind
        self._stored: dict[str, Fields] = {}  # by name, as the API returns them

    def read(self, names: Collection[str]) -> None:
        """Read them from the server; without names nothing is asked. Raises ApiError."""
        if not names:
            return
        filters = {
            "block_documents": {"name": {"any_": sorted(names)}},
            "block_types": {"slug": {"any_": [self._kind]}},
            "include_secrets": True,
        }
        self._stored = {block["name"]: block for block in self._api.filter("/block_documents/filter", **filters)}

    def plan(self, values: Mapping[str, Mapping[str, str]]) -> Iterator[ObjectChange]:
        """Yield what must be changed so that the blocks have these fields. No change shows a value."""
        for name, data in sorted(values.items()):
            what, stored = f"{self._kind} block {name}", self._stored.get(name)
            if stored is None:
                yield create(what, dict.fromkeys(data, HIDDEN), partial(self._create, name, dict(data)))
                continue
            changed = sorted(field for field, value in data.items() if stored["data"].get(field) != value)
            if changed:
                yield ObjectChange(
                    f"update {what}: {', '.join(changed)}",
                    object=what,
                    before=dict.fromkeys(changed, f"{HIDDEN}, before"),
                    after=dict.fromkeys(changed, HIDDEN),
                    request=partial(self._api.call, "PATCH", f"/block_documents/{stored['id']}", {"data": dict(data)}),
                )

    def _create(self, name: str, data: Fields) -> Any:
        kind = self._api.call("GET", f"/block_types/slug/{self._kind}")["id"]
        schema = newest_schema(self._api, kind)
        if schema is None:
            message = f"Could not create the block {name}: the server does not know blocks of the type {self._kind}."
            remedy = "Restart the server, which then makes Prefect's own types of blocks."
            raise ApiError(Problem("api_refused", object=f"block {name}", message=message, remedy=remedy))
        body = {"name": name, "data": data, "block_type_id": kind, "block_schema_id": schema["id"]}
        return self._api.call("POST", "/block_documents/", body)


def newest_schema(api: PrefectApi, kind: str) -> Fields | None:
    """Return the newest schema of a block type, by its identifier, or None if it has none."""
    schemas = api.filter("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [kind]}})
    return max(schemas, key=lambda schema: str(schema["created"]), default=None)
