"""Secret blocks: values that Prefect keeps encrypted, and that pull steps name instead of having them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

from ..core.http import ApiError, PrefectApi
from ..core.problems import Problem
from .changes import Fields, ObjectChange, create

_HIDDEN = "(secret)"
_TYPE = "/block_types/slug/secret"


class SecretBlocks:
    """Those blocks of a server that are declared, with their values."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api
        self._stored: dict[str, Fields] = {}  # by name, as the API returns them

    def read(self, names: Collection[str]) -> None:
        """Read them from the server; without names nothing is asked. Raises ApiError."""
        if not names:
            return
        filters = {
            "block_documents": {"name": {"any_": sorted(names)}},
            "block_types": {"slug": {"any_": ["secret"]}},
            "include_secrets": True,
        }
        self._stored = {block["name"]: block for block in self._api.filter("/block_documents/filter", **filters)}

    def plan(self, values: Mapping[str, str]) -> Iterator[ObjectChange]:
        """Yield what must be changed so that the blocks have these values. No change shows one."""
        for name, value in sorted(values.items()):
            what, stored = f"secret block {name}", self._stored.get(name)
            if stored is None:
                yield create(what, {"value": _HIDDEN}, partial(self._create, name, value))
            elif stored["data"].get("value") != value:
                yield ObjectChange(
                    f"update {what}: value",
                    object=what,
                    before={"value": f"{_HIDDEN}, before"},
                    after={"value": _HIDDEN},
                    request=partial(
                        self._api.call, "PATCH", f"/block_documents/{stored['id']}", {"data": {"value": value}}
                    ),
                )

    def _create(self, name: str, value: str) -> None:
        kind = self._api.call("GET", _TYPE)["id"]
        schemas = self._api.filter("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [kind]}})
        if not schemas:
            message = f"Could not create the block {name}: the server does not know Secret blocks."
            remedy = "Restart the server, which then makes Prefect's own types of blocks."
            raise ApiError(Problem("api_refused", object=f"block {name}", message=message, remedy=remedy))
        newest = max(schemas, key=lambda schema: str(schema["created"]))
        body = {"name": name, "data": {"value": value}, "block_type_id": kind, "block_schema_id": newest["id"]}
        self._api.call("POST", "/block_documents/", body)
