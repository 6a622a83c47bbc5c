"""Waiting for what comes in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], said: Callable[[], object] = str, seconds: float = 60) -> Any:
    """Wait until a condition holds and return it; fail with what is said then. Slow machines need long limits."""
    deadline, pause = time.monotonic() + seconds, 0.05
    while not (met := condition()):
        assert time.monotonic() < deadline, f"Not within {seconds} s. {said()}"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.5)
    return met
