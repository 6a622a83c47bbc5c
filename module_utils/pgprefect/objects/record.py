"""The record of what was made here: objects of a server by their names, with the identifiers that they got.

It is on this host, where only root writes it: whoever may use the API could change a mark on an object, or give another
object the name of one of ours. What was deleted and made again by hand has another identifier, and does not count.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from ..core.errors import InputError
from ..core.files import replace_file

Record = dict[str, str]


def read_record(path: Path) -> Record:
    """Return the objects that were made here; none where there is no record. Raises InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(identifier) for name, identifier in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is no record of objects ({error}): move it away, and nothing counts as ours."
        ) from error


def remember(path: Path, made: Mapping[str, str]) -> None:
    """Add objects to the record. Raises InputError, OSError."""
    if made:
        _write(path, {**read_record(path), **made})


def forget(path: Path, names: Collection[str]) -> None:
    """Take objects out of the record. Raises InputError, OSError."""
    if names:
        _write(path, {name: identifier for name, identifier in read_record(path).items() if name not in names})


def _write(path: Path, record: Record) -> None:
    """Replace the record; only its owner reads it."""
    replace_file(path, json.dumps(record, indent=2, sort_keys=True), 0o600)
