"""The containers of flow runs on this host, asked of its Docker engine over the engine's socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

SOCKET = "/run/docker.sock"
# Prefect's Docker worker labels each container with the run's identifier.
RUN_LABEL = "io.prefect.flow-run-id"
_SECONDS = 10
# One that was never started runs nothing; Docker's other words are for those that run, or will again.
_ENDED = ("created", "exited", "dead", "removing")


@dataclass(frozen=True)
class RunContainer:
    """A run's container: whether something runs in it, and the engine's words, as "Exited (137) 2 hours ago"."""

    alive: bool
    status: str


RunContainers = Mapping[str, RunContainer]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._path)


def run_containers(path: str = SOCKET) -> RunContainers | None:
    """Return the containers of flow runs by the runs' identifiers, or None where no engine answers this user."""
    connection = _UnixConnection(path)
    try:
        filters = quote(json.dumps({"label": [RUN_LABEL]}))
        connection.request("GET", f"/containers/json?all=true&filters={filters}")
        response = connection.getresponse()
        return by_run(json.loads(response.read())) if response.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def by_run(listed: Iterable[Mapping[str, Any]]) -> RunContainers:
    """Return what the engine lists, the newest container first, by run; of a run that has several, one that lives."""
    found: dict[str, RunContainer] = {}
    for item in listed:
        container = RunContainer(item["State"] not in _ENDED, str(item["Status"] or item["State"]))
        run = str(item["Labels"][RUN_LABEL])
        if run not in found or container.alive:
            found[run] = container
    return found
