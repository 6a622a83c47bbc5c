"""Data as YAML text for an inventory: Ansible takes no value for a template of its own but those that are one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./*-]*( [A-Za-z0-9_./*-]+)*")
# Words that YAML reads as something else than a text.
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_JINJA = ("{{", "{%", "{#")


class Template(str):
    """A text that is a template of Ansible's."""


def to_yaml(value: Any, indent: int = 0) -> str:
    """Return data as YAML in block style."""
    return "".join(f"{' ' * indent}{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            yield from _entry(f"{_scalar(str(name))}:", entry)
    elif isinstance(value, (list, tuple)) and value:
        for entry in value:
            if isinstance(entry, (dict, list, tuple)) and entry:
                first, *others = _lines(entry)
                yield f"- {first}"
                yield from (f"  {line}" for line in others)
            else:
                yield f"- {_scalar(entry)}"
    else:
        yield _scalar(value)


def _entry(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, (dict, list, tuple)) and value:
        yield key
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key} {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
            return str(value)
        tag = "!unsafe " if not isinstance(value, Template) and any(mark in value for mark in _JINJA) else ""
        return tag + _quoted(value)
    text = json.dumps(value)
    # YAML takes a number with an exponent and no point for a text.
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text


def _quoted(text: str) -> str:
    """Return a text in quotes as JSON has it, with escapes for what cannot be printed."""
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in shown)
