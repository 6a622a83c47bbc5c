"""A real Redis in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from redis import Redis, RedisError

from tests.support.waiting import wait_for


@contextlib.contextmanager
def running_redis(folder: Path, port: int, password: str, *options: str) -> Iterator[Redis]:
    """Start one that keeps nothing on the disk, and give a client of it."""
    command = ["redis-server", "--port", str(port), "--requirepass", password, "--dir", str(folder), "--save", ""]
    # Debian's tools have the server's program under another name; this machine gets no service.
    process = subprocess.Popen([*command, *options], executable="/usr/bin/redis-check-rdb", stdout=subprocess.DEVNULL)
    client = Redis(port=port, password=password)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except RedisError:
            return False

    try:
        wait_for(answers)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(10)
