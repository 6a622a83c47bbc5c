"""Locks between processes. The kernel releases them with their process, even if it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from .errors import ProblemError


@contextlib.contextmanager
def exclusive_lock(descriptor: int, taken: ProblemError) -> Iterator[None]:
    """Hold the lock of an open file or directory, and close it afterwards.

    Never waits: where another process holds the lock, this raises ``taken``.
    """
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise taken from error
        yield
    finally:
        os.close(descriptor)
