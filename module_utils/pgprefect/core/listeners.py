"""Proof that a service's own user listens on a port of this host: any local user may take a port that is free.

Source: the tables /proc/net/tcp, tcp6, udp and udp6 of the kernel (proc(5)).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Union
from urllib.parse import urlsplit

from .problems import Problem
from .users import user_name

SERVER_USER = "prefect"  # the operating system's user of all Prefect servers

_LISTENING = "0A"
_UNCONNECTED = "07"  # as a UDP socket that takes datagrams of anybody
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")

IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@dataclass(frozen=True)
class Listener:
    """A socket that listens: its address and port, the number of its user, and its own number."""

    address: IPAddress
    port: int
    user: int
    inode: str


def listeners(tables: str) -> Iterator[Listener]:
    """Yield the listening sockets in the text of the kernel's tables of TCP."""
    return _sockets(tables, _LISTENING)


def receivers(tables: str) -> Iterator[Listener]:
    """Yield the sockets in the text of the kernel's tables of UDP that anybody may send to."""
    return _sockets(tables, _UNCONNECTED)


def _sockets(tables: str, state: str) -> Iterator[Listener]:
    for line in tables.splitlines():
        columns = line.split()
        if len(columns) > 9 and columns[3] == state:
            address, port = columns[1].split(":")
            # Each group of eight digits is one 32-bit word in the machine's (little-endian) order.
            words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
            yield Listener(ipaddress.ip_address(b"".join(words)), int(port, 16), int(columns[7]), columns[9])


def listening_users(port: int) -> set[int]:
    """Return the numbers of the users whose processes listen on a TCP port of this host."""
    users = set()
    for table in _TABLES:
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            found = listeners(Path(table).read_text(encoding="ascii"))
            users |= {listener.user for listener in found if listener.port == port}
    return users


def foreign_listener(url: str, user: int) -> Problem | None:
    """Return the problem of another user's process that listens at an address of this host, or None.

    Where TLS is spoken the certificate proves who answers: a proxy is another user's.
    """
    parts = urlsplit(url)
    port = None if parts.scheme == "https" else parts.port
    others = listening_users(port) - {user} if port and is_local(url) else set()
    if not others:
        return None
    names = ", ".join(sorted(map(_named, others)))
    message = f"Port {port} of this host is listened on by a process of {names}, not of {_named(user)}."
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


def _named(user: int) -> str:
    return user_name(user) or f"user {user}"
