"""Keys inside variables, compared with their argument spec. Values are never shown: they may be secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from .suggestions import did_you_mean


def check_keys(path: str, value: Any, spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield a mistake, with its path, for each key that is unknown or missing."""
    if value is None or "options" not in spec:
        return
    if spec["type"] != "list":
        yield from _check_mapping(path, value, spec["options"])
    elif isinstance(value, str) or not isinstance(value, Sequence):
        yield f"{path}: it must be a list"
    else:
        for index, element in enumerate(value):
            yield from _check_mapping(f"{path}[{index}]", element, spec["options"])


def _check_mapping(path: str, value: Any, options: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path}: it must be a mapping of {', '.join(options)}"
        return
    yield from _check_unknown(path, value, options)
    for key, spec in options.items():
        if key in value:
            yield from check_keys(f"{path}.{key}", value[key], spec)
        if spec.get("required") and value.get(key) is None:
            yield f"{path}.{key}: it is missing: {spec['description']}"


def _check_unknown(path: str, value: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for key in value:
        if key not in known:
            yield f"{path}.{key}: unknown key" + (did_you_mean(str(key), known) or f". Known keys: {', '.join(known)}.")


def check_dataclass(path: str, value: Any, kind: Any, parse: Callable[[Any], Any]) -> Iterator[str]:
    """Yield the mistakes of a variable whose keys are a dataclass's fields; ``parse`` raises ValueError for others."""
    known = {field.name: field for field in fields(kind)}
    if not isinstance(value, Mapping):
        yield f"{path}: it must be a mapping. Known keys: {', '.join(known)}."
    elif unknown := list(_check_unknown(path, value, known)):
        yield from unknown
    else:
        try:
            parse(value)
        except ValueError as error:
            yield f"{path}: {error}"
