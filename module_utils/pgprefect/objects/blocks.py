"""Blocks of any type that a server knows, as they are declared; their secrets are compared in memory and never shown.

The declaration is a block's whole content. Blocks that are not declared are left alone.
"""
# Annotations are not postponed here: options_of reads them.

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

from ..core.http import PrefectApi
from .changes import Fields, ObjectChange, Outcome, create, duplicates, reconcile, refuse, same
from .secret_blocks import HIDDEN, newest_schema

BLOCK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,199}")
_NESTED = "$ref"  # how a block has another one inside


@dataclass(frozen=True)
class Block:
    """A block; ``type`` is the slug of its type, and ``secrets`` are those of its fields that nobody may see."""

    name: str
    type: str
    data: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, Any] = field(default_factory=dict, metadata={"no_log": True})

    @property
    def full_name(self) -> str:
        """The name as Prefect's command shows it: type/name."""
        return f"{self.type}/{self.name}"

    @property
    def content(self) -> Fields:
        """All fields, as the API takes them."""
        return _merged(self.data, self.secrets)


class BlockStore:
    """The declared blocks that a server has, with their types."""

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self.stored: dict[str, Fields] = {}  # by full name, as the API returns them, with secrets
        self._types: dict[str, Fields] = {}  # by slug
        self._schemas: dict[str, Optional[Fields]] = {}  # the newest of each type, by slug
        self._is_read = False

    def read(self, declared: Sequence[Block]) -> None:
        """Read them from the server. Raises ApiError."""
        if not declared:
            return
        slugs = {"slug": {"any_": sorted({block.type for block in declared})}}
        names = {"name": {"any_": sorted({block.name for block in declared})}, "is_anonymous": {"eq_": False}}
        self._types = {kind["slug"]: kind for kind in self.api.filter("/block_types/filter", block_types=slugs)}
        self._schemas = {slug: newest_schema(self.api, kind["id"]) for slug, kind in self._types.items()}
        found = self.api.filter(
            "/block_documents/filter", block_documents=names, block_types=slugs, include_secrets=True
        )
        self.stored = {f"{block['block_type']['slug']}/{block['name']}": block for block in found}
        self._is_read = True

    def plan(self, declared: Sequence[Block], with_secrets: bool = True) -> Iterator[ObjectChange]:
        """Yield what must be changed so that the stored blocks are as declared. Raises ObjectsError.

        Without their secrets only what is in ``data`` is compared.
        """
        if self._is_read and with_secrets:
            refuse([fault for block in declared for fault in self._faults(block)])
        for block in declared:
            name, stored = f"block {block.full_name}", self.stored.get(block.full_name)
            wanted = block.content
            if stored is None:
                yield create(name, self._shown(block, wanted), partial(self._create, block))
                continue
            fields = {*wanted, *stored["data"]} if with_secrets else set(block.data)
            changed = sorted(one for one in fields if not _same_field(one, wanted, stored["data"]))
            if changed:
                yield ObjectChange(
                    f"update {name}: {', '.join(changed)}",
                    object=name,
                    before=_only(changed, self._shown(block, stored["data"]), f"{HIDDEN}, before"),
                    after=_only(changed, self._shown(block, wanted), HIDDEN),
                    request=partial(self._update, block, stored["id"]),
                )

    def _create(self, block: Block) -> Any:
        schema = self._schemas[block.type] or {}
        body = {"name": block.name, "data": block.content, "block_schema_id": schema["id"]}
        return self.api.call("POST", "/block_documents/", {**body, "block_type_id": self._types[block.type]["id"]})

    def _update(self, block: Block, identifier: str) -> Any:
        """Replace the content: merged into what is there, a field that is not declared any more would stay."""
        schema = self._schemas[block.type] or {}
        body = {"data": block.content, "block_schema_id": schema["id"], "merge_existing_data": False}
        return self.api.call("PATCH", f"/block_documents/{identifier}", body)

    def _shown(self, block: Block, content: Mapping[str, Any]) -> Fields:
        """Return the top fields of a content, of which only those are shown that have no secret in them."""
        hidden = {path.partition(".")[0] for path in secret_fields(self._schemas.get(block.type) or {})} | set(
            block.secrets
        )
        known = self._is_read and self._schemas.get(block.type) is not None
        return {name: value if known and name not in hidden else HIDDEN for name, value in content.items()}

    def _faults(self, block: Block) -> Iterator[str]:
        """Yield what the type of a block says against its fields. Never shows a value."""
        what, schema = f"Block {block.full_name}", self._schemas.get(block.type)
        if schema is None:
            yield (
                f"{what}: the server knows no blocks of the type {block.type}. Correct the type, or register it on the "
                "server's host: prefect block register -m MODULE"
            )
            return
        fields = schema.get("fields") or {}
        known = fields.get("properties") or {}
        for name in block.content:
            if known and name not in known:
                yield f"{what}: {name} is no field of the type {block.type}. Its fields: {', '.join(known)}."
        for name in fields.get("required") or ():
            if name not in block.content:
                yield f"{what}: the field {name} is missing, which the type {block.type} requires."
        for path in secret_fields(self._schemas.get(block.type) or {}):
            if _has(block.data, path.split(".")):
                yield f"{what}: {path} is a secret of the type {block.type}: move it from data to secrets."


def apply(
    api: PrefectApi, declared: Sequence[Block], dry_run: bool = False, done: Optional[list[str]] = None
) -> Outcome:
    """Bring the declared blocks to their declaration.

    Each change is added to ``done`` when it is made. A dry run changes nothing, and takes a server that it cannot reach
    for one without blocks. Raises ObjectsError, ApiError.
    """
    refuse(list(_faults(declared)))
    store = BlockStore(api)
    return reconcile(
        read=lambda: store.read(declared),
        plan=lambda: store.plan(declared),
        ids=lambda: {
            one.full_name: store.stored[one.full_name]["id"] for one in declared if one.full_name in store.stored
        },
        dry_run=dry_run,
        done=done,
    )


def secret_fields(schema: Mapping[str, Any]) -> list[str]:
    """Return the paths of the fields that are secret in the schema of a type, as ``auth.token`` or ``headers.*``."""
    return list((schema.get("fields") or {}).get("secret_fields") or [])


def _faults(declared: Sequence[Block]) -> Iterator[str]:
    yield from (f"Block {name} is declared twice." for name in duplicates(one.full_name for one in declared))
    for block in declared:
        what = f"Block {block.full_name}"
        if not BLOCK_NAME.fullmatch(block.name) or not BLOCK_NAME.fullmatch(block.type):
            yield f"{what}: a name, and the slug of a type, have small letters, digits and inner '-'."
        for name in sorted(set(block.data) & set(block.secrets)):
            if not (isinstance(block.data[name], Mapping) and isinstance(block.secrets[name], Mapping)):
                yield f"{what}: {name} is in data and in secrets: remove one of the two."
        for name, value in block.secrets.items():
            if isinstance(value, str) and value and not value.strip("*"):
                yield f"{what}: {name} is what Prefect shows in place of a secret, and no secret."
        if _mentions(block.content, _NESTED):
            yield f"{what}: a block that has another block inside cannot be declared; make it with Prefect's Python."


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Fields:
    """Return two mappings as one, those inside of them too."""
    merged = dict(one)
    for name, value in other.items():
        both = isinstance(merged.get(name), Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _same_field(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return name in one and name in other and same(one[name], other[name])


def _only(names: Sequence[str], shown: Mapping[str, Any], hidden: str) -> Fields:
    return {name: hidden if shown[name] == HIDDEN else shown[name] for name in names if name in shown}


def _has(data: Any, path: Sequence[str]) -> bool:
    """Return whether a mapping has something at a path, in which ``*`` stands for any name."""
    if not path:
        return True
    if not isinstance(data, Mapping):
        return False
    return any(_has(value, path[1:]) for name, value in data.items() if path[0] in ("*", name))


def _mentions(data: Any, key: str) -> bool:
    if isinstance(data, Mapping):
        return key in data or any(_mentions(value, key) for value in data.values())
    return isinstance(data, (list, tuple)) and any(_mentions(value, key) for value in data)
