"""Asking a service over HTTP, and waiting until it answers."""

from __future__ import annotations

import http.client
import time
import urllib.request

# Not through a proxy: this asks whether that very service answers.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, timeout: float) -> bytes:
    """Return what the address answers; ``timeout`` is in seconds, for each read.

    Raises OSError or http.client.HTTPException where it does not answer with success.
    """
    with _OPENER.open(url, timeout=timeout) as response:
        return bytes(response.read())


def is_ready(url: str) -> bool:
    """Whether the address answers with success within 5 seconds."""
    try:
        get(url, timeout=5)
    except (OSError, http.client.HTTPException):
        return False
    return True


def wait_until_ready(url: str, pause: float = 0.2) -> None:
    """Return when the address answers with success; asks every ``pause`` seconds, for as long as the caller lets it."""
    while not is_ready(url):
        time.sleep(pause)
