"""The options of an Ansible module, derived from the dataclass that they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin

_TYPES = {str: "str", int: "int", float: "float", bool: "bool", dict: "dict", list: "list", Any: "raw"}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

T = TypeVar("T")


def options_of(declared: type[Any]) -> dict[str, dict[str, Any]]:
    """Return an argument spec with an option for each field of a dataclass.

    A field without a default is required. One that is another dataclass, or a list of it, takes dictionaries of its
    fields. One whose metadata has ``no_log`` is a secret.
    The dataclass must not postpone its annotations: hosts have Python 3.9, which cannot evaluate ``int | None``.
    """
    spec: dict[str, dict[str, Any]] = {}
    for field in fields(declared):
        kind = _without_none(field.type)
        option: dict[str, Any] = {"type": "dict" if is_dataclass(kind) else _TYPES[get_origin(kind) or kind]}
        if is_dataclass(kind):
            option["options"] = options_of(cast(Any, kind))
        if option["type"] == "list":
            (element,) = get_args(kind)
            option["elements"] = _TYPES.get(element, "dict")
            if is_dataclass(element):
                option["options"] = options_of(cast(Any, element))
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING:
            option["required"] = True
        elif default is not None:
            option["default"] = default
        if field.metadata.get("no_log"):
            option["no_log"] = True
        spec[field.name] = option
    return spec


def from_options(declared: type[T], values: Mapping[str, Any]) -> T:
    """Make the dataclass of the values that a module got for its options."""
    kinds = {field.name: _without_none(field.type) for field in fields(cast(Any, declared))}
    made = {}
    for name, value in values.items():
        if get_origin(kinds[name]) is list and is_dataclass(get_args(kinds[name])[0]):
            value = [from_options(get_args(kinds[name])[0], item) for item in value]
        elif is_dataclass(kinds[name]) and value is not None:
            value = from_options(kinds[name], value)
        made[name] = value
    return declared(**made)


def from_document(declared: type[T], values: Mapping[str, Any]) -> T:
    """Make the dataclass of what a JSON document has, with the types that a module's options would have.

    Raises ValueError for a name that it does not have, and for a value of another type.
    """
    known = {field.name: _without_none(field.type) for field in fields(cast(Any, declared))}
    made = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{name} is unknown; there are: {', '.join(known)}")
        made[name] = None if value is None else _of_kind(known[name], value)
    try:
        return declared(**made)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from error


def _of_kind(kind: Any, value: Any) -> Any:
    """Return a value of a document as a field of this kind has it. Raises ValueError."""
    if is_dataclass(kind):
        return from_document(cast(Any, kind), value)
    if get_origin(kind) is list:
        return [_of_kind(get_args(kind)[0], one) for one in value]
    if kind is bool:
        if str(value).lower() not in (*_TRUE, *_FALSE):
            raise ValueError(f"{value!r} is neither true nor false")
        return str(value).lower() in _TRUE
    return kind(value) if kind in (int, float, str) else value


def _without_none(hint: Any) -> Any:
    """Return the type of an Optional."""
    if get_origin(hint) is Union:
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    return hint
