"""Waiting for a service to answer."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request

# A proxy of the environment has no business between a service and its own host.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_ready(url: str) -> bool:
    """Whether the address answers with success within 5 seconds."""
    try:
        with _OPENER.open(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def wait_until_ready(url: str, pause: float = 0.2) -> None:
    """Return when the address answers with success; asks every ``pause`` seconds, for as long as the caller lets it."""
    while not is_ready(url):
        time.sleep(pause)
