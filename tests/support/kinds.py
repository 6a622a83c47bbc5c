"""Many inputs of one kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def each_third(inputs: Iterable[Any]) -> list[Any]:
    """Make parameters of which every run tries each third one, and the whole suite all."""
    values = [value if isinstance(value, tuple) else (value,) for value in inputs]
    return [pytest.param(*value, marks=[pytest.mark.thorough] if at % 3 else []) for at, value in enumerate(values)]
