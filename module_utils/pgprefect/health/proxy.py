"""Whether the proxy of a host sends requests to all servers, as far as it was told."""

from __future__ import annotations

import csv
import os
import socket

from ..core.problems import WARNING, Problem
from .probes import Finding

SOCKET = "/run/prefect-proxy/admin.sock"
_BACKEND = "tenant_"
_TOLD = ("DRAIN", "MAINT")


def may_be_asked() -> bool:
    """Return whether a proxy runs on this host, and this user may ask it."""
    return os.access(SOCKET, os.R_OK | os.W_OK)


def proxy(timeout: float) -> Finding:
    """Check that no server is left out because somebody, or a run of a playbook that was killed, has said so.

    Those that do not answer are left out by themselves, and their own hosts tell of them. Raises OSError.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        client.connect(SOCKET)
        client.sendall(b"show stat\n")
        with client.makefile(encoding="ascii") as answer:
            rows = list(csv.DictReader(answer))
    servers = [
        (row["# pxname"][len(_BACKEND) :], row["svname"], row["status"])
        for row in rows
        if row["# pxname"].startswith(_BACKEND) and row["svname"] != "BACKEND"
    ]
    problems = []
    for tenant, server, status in servers:
        if status.startswith(_TOLD):
            message = f"The proxy of this host was told to send nothing to the server {server} of tenant {tenant}."
            remedy = (
                "A run of site.yml does so while it restarts that server. After one that was killed, or if nobody "
                "needs it any more: systemctl reload prefect-proxy, here."
            )
            problems.append(Problem("proxy_drains", f"server {server} of tenant {tenant}", message, remedy, WARNING))
    return problems, {"servers": {f"{tenant}/{server}": status for tenant, server, status in servers}}
