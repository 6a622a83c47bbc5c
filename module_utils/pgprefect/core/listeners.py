"""Proof that a service's own user listens on a port of this host: any local user may take a port that is free.

Source: the tables /proc/net/tcp and tcp6 of the kernel (proc(5)).
"""

from __future__ import annotations

import contextlib
import ipaddress
import pwd
import socket
from pathlib import Path
from urllib.parse import urlsplit

from .problems import Problem

SERVER_USER = "prefect"  # the operating system's user of all Prefect servers

_LISTENING = "0A"
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")


def listening_users(port: int) -> set[int]:
    """Return the numbers of the users whose processes listen on a TCP port of this host."""
    users = set()
    for table in _TABLES:
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                    users.add(int(words[7]))
    return users


def foreign_listener(url: str, user: int) -> Problem | None:
    """Return the problem of another user's process that listens at an address of this host, or None."""
    port = urlsplit(url).port
    others = listening_users(port) - {user} if port and is_local(url) else set()
    if not others:
        return None
    names = ", ".join(sorted(map(_name, others)))
    message = f"Port {port} of this host is listened on by a process of {names}, not of {_name(user)}."
    remedy = f"See which (as root: ss -tlnp 'sport = {port}') and stop it; change the passwords that it got."
    return Problem("port_taken", f"port {port}", message, remedy)


def is_local(url: str) -> bool:
    """Say whether a URL's host is an address of this host."""
    host = urlsplit(url).hostname or ""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return any(map(_is_own, addresses))


def _is_own(address: str | int) -> bool:
    version = ipaddress.ip_address(str(address).partition("%")[0]).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def number_of(user: str) -> int | None:
    """Return a user's number, or None if this host does not have the user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
