"""Values of variables, compared with their argument spec and with the table of forms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .forms import Form, refusal
from .suggestions import did_you_mean
from .table import FORMS, MAY_REPEAT, NEED_AN_ENTRY, UNIQUE

Spec = Mapping[str, Any]


def check_value(path: str, value: Any, spec: Spec, row: str = "") -> Iterator[str]:
    """Yield each mistake of a value, with its path. ``row`` is the path in the table, where all entries are ``[]``."""
    row = row or path
    secret = bool(spec.get("no_log"))
    kind = spec.get("type", "str")
    if value is None:
        if row not in FORMS or not FORMS[row].null:
            yield refusal(path, None, _allowed(row, spec), secret=secret)
    elif kind == "list":
        yield from _check_list(path, value, spec, row)
    elif "options" in spec:
        yield from _check_mapping(path, value, spec, row)
    else:
        yield from _check_leaf(path, value, kind, FORMS[row], secret)


def _allowed(row: str, spec: Spec) -> str:
    if spec.get("type") == "list":
        return "a list"
    return f"a mapping of {', '.join(spec['options'])}" if "options" in spec else FORMS[row].allowed


def _check_leaf(path: str, value: Any, kind: str, form: Form, secret: bool) -> Iterator[str]:
    several = isinstance(value, (Mapping, bytes)) or (isinstance(value, Sequence) and not isinstance(value, str))
    # YAML reads `no` as false: a text in quotes was meant.
    if kind in ("str", "path") and (several or isinstance(value, bool)):
        yield refusal(path, value, form.allowed, "it is no text", secret or form.secret)
    elif kind not in ("dict", "str", "path", "raw") and several:
        yield refusal(path, value, form.allowed, "it is no single value", secret)
    else:
        yield from form.faults(path, value)


def _check_list(path: str, value: Any, spec: Spec, row: str) -> Iterator[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        yield refusal(path, value, "a list", "it is none", _has_secrets(value, spec))
        return
    if not value and row in NEED_AN_ENTRY:
        yield refusal(path, value, "a list of at least one entry")
    element = {**spec, "type": spec.get("elements", "str")}
    inner = f"{row}[]" if "options" in spec else row
    for index, entry in enumerate(value):
        yield from check_value(f"{path}[{index}]", entry, element, inner)
    if row not in MAY_REPEAT:
        yield from _check_twice(path, value, UNIQUE.get(row, ((),)))


def _check_twice(path: str, entries: Sequence[Any], keys: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    for names in keys:
        seen: dict[str, int] = {}
        for index, entry in enumerate(entries):
            if names and (not isinstance(entry, Mapping) or any(entry.get(name) is None for name in names)):
                continue
            identity = json.dumps([str(entry[name]) for name in names] if names else entry, default=str, sort_keys=True)
            first = seen.setdefault(identity, index)
            if first != index:
                what = " and ".join(names) or "entry"
                yield f"{path}[{index}]: it has the same {what} as {path}[{first}]: remove or change one of the two."


def _has_secrets(value: Any, spec: Spec) -> bool:
    """Return whether a value that has the wrong form may have secrets in it."""
    inner = isinstance(value, (Mapping, list, tuple)) and spec.get("options", {}).values()
    return bool(spec.get("no_log") or (inner and any(_has_secrets(value, option) for option in inner)))


def _check_mapping(path: str, value: Any, spec: Spec, row: str) -> Iterator[str]:
    options = spec["options"]
    if not isinstance(value, Mapping):
        yield refusal(path, value, f"a mapping of {', '.join(options)}", secret=_has_secrets(value, spec))
        return
    for key in value:
        if key not in options:
            known = did_you_mean(str(key), options) or f". Known keys: {', '.join(options)}."
            # The value is not shown: it may be a secret.
            yield f"{path}.{key if str(key).isprintable() else repr(key)}: unknown key{known}"
    for key, spec in options.items():
        if key in value:
            yield from check_value(f"{path}.{key}", value[key], spec, f"{row}.{key}")
        elif spec.get("required"):
            yield f"{path}.{key}: it is missing: {spec['description']}"


def rows(name: str, spec: Spec) -> Iterator[str]:
    """Yield the rows that the table must have for a variable."""
    if "options" not in spec:
        yield name
        return
    inner = f"{name}[]" if spec["type"] == "list" else name
    for key, option in spec["options"].items():
        yield from rows(f"{inner}.{key}", option)
