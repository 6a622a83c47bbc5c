"""Locks between processes. The kernel releases them with their process, even if it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import ProblemError
from .sql import Names, Statement


@contextlib.contextmanager
def exclusive_lock(descriptor: int, taken: ProblemError, seconds: float = 0) -> Iterator[None]:
    """Hold the lock of an open file or directory, and close it afterwards.

    Where another process holds the lock for ``seconds``, this raises ``taken``.
    """
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise taken from error
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_lock(
    folder: Path, name: str, taken: ProblemError, unwritable: Callable[[OSError], ProblemError]
) -> Iterator[None]:
    """Hold the lock that a file in a folder is; where root makes it, the folder's owner can take it too.

    Never waits: where another process holds the lock, this raises ``taken``. ``unwritable`` makes the error of a file
    that cannot be made.
    """
    try:
        # Root gives the file away, so it must not be a link to another one.
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise unwritable(error) from error
    if os.geteuid() == 0:
        os.fchown(descriptor, folder.stat().st_uid, folder.stat().st_gid)
    with exclusive_lock(descriptor, taken):
        yield


def try_advisory_lock(cursor: Any, number: int, seconds: float) -> bool:
    """Take an advisory lock of the database until the transaction ends.

    Any role can take it. Returns False where another session keeps it for ``seconds``; then the transaction is lost.
    """
    import psycopg2

    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(seconds * 1000)}ms",))
    try:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (number,))
    except psycopg2.errors.LockNotAvailable:
        return False
    cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    return True


def try_table_lock(cursor: Any, schema: str, table: str, seconds: float) -> bool:
    """Lock a table until the transaction ends, against others who do the same; reading and writing go on.

    Only a role that may change the table can take this lock, whereas any role can take any advisory lock. An autovacuum
    that holds it yields within ``seconds``. Returns False where another session keeps it; then the transaction is lost.
    """
    import psycopg2

    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(seconds * 1000)}ms",))
    try:
        Statement("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE", (Names(((schema, table),)),)).execute(cursor)
    except psycopg2.errors.LockNotAvailable:
        return False
    cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    return True
