"""All that crosses a network of Docker's: its connections, and the bytes of all packets."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.support.postgresql import docker

_FILE = "/tmp/capture.pcap"
_ETHERNET, _IPV4, _TCP, _SYN, _ACK = 14, 0x0800, 6, 0x02, 0x10
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")  # of PostgreSQL's protocol
_HANDSHAKE = b"\x16\x03"  # of TLS


@dataclass
class Connection:
    """A TCP connection that began while it was watched, and what each side said."""

    client: str
    server: str
    port: int
    asked: bytes = b""
    answered: bytes = b""
    packets: list[bytes] = field(default_factory=list)

    @property
    def protocol(self) -> str:
        """What it is, judged by its first bytes: ssh, tls, clear, or nothing where nothing was said."""
        if self.asked.startswith(b"SSH-") or self.answered.startswith(b"SSH-"):
            return "ssh"
        asked, answered = self.asked, self.answered
        if asked.startswith(_SSL_REQUEST) and answered[:1] in (b"S", b""):
            asked, answered = asked[len(_SSL_REQUEST) :], answered[1:]
        if not asked and not answered:
            return "nothing"
        return "tls" if asked.startswith(_HANDSHAKE) and answered[:2] in (_HANDSHAKE, b"\x15\x03", b"") else "clear"


@dataclass
class Capture:
    """What was seen: connections, and the ``others``, packets of those that were there before, or of none."""

    so_far: Callable[[], bytes]
    connections: list[Connection] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)

    @property
    def raw(self) -> bytes:
        """Every byte of all packets."""
        return b"".join([*self.others, *(packet for one in self.connections for packet in one.packets)])

    def kinds(self) -> set[tuple[str, int, str]]:
        """Return server, port and protocol of the connections on which something was said."""
        found = {(one.server, one.port, one.protocol) for one in self.connections}
        return {kind for kind in found if kind[2] != "nothing"}


@contextlib.contextmanager
def watching(watcher: str, network: str) -> Iterator[Capture]:
    """Capture what crosses a network, by tcpdump in a container that has the machine's own interfaces."""
    interface = f"br-{docker('network', 'inspect', '--format', '{{.Id}}', network)[:12]}"
    command = ["docker", "exec", watcher, "tcpdump", "-i", interface, "-Z", "root", "-B", "65536", "-U", "-w", _FILE]
    read = ["docker", "exec", watcher, "cat", _FILE]
    seen = Capture(lambda: subprocess.run(read, check=True, stdout=subprocess.PIPE).stdout)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tcpdump:
        assert tcpdump.stderr
        assert any("listening on" in line for line in tcpdump.stderr), "tcpdump did not begin"
        try:
            yield seen
        finally:
            docker("exec", watcher, "pkill", "-INT", "tcpdump")
            said = tcpdump.stderr.read()
    assert re.search(r"^0 packets dropped by kernel", said, re.MULTILINE), said
    seen.connections, seen.others = sorted_packets(seen.so_far())


def sorted_packets(capture: bytes) -> tuple[list[Connection], list[bytes]]:
    """Return the connections that began in a file of tcpdump's, in that order, and the packets of none of these."""
    known: dict[tuple[str, int, str, int], Connection] = {}
    others = []
    for packet in _packets(capture):
        if len(packet) < _ETHERNET + 40 or struct.unpack("!H", packet[12:14])[0] != _IPV4 or packet[23] != _TCP:
            others.append(packet)
            continue
        begin = _ETHERNET + (packet[_ETHERNET] & 15) * 4
        size = struct.unpack("!H", packet[_ETHERNET + 2 : _ETHERNET + 4])[0]
        source, target = (str(ipaddress.ip_address(packet[at : at + 4])) for at in (26, 30))
        from_port, to_port = struct.unpack("!HH", packet[begin : begin + 4])
        flags = packet[begin + 13]
        said = packet[begin + (packet[begin + 12] >> 4) * 4 : _ETHERNET + size if size else None]
        there, back = (source, from_port, target, to_port), (target, to_port, source, from_port)
        if flags & _SYN and not flags & _ACK:
            known[there] = Connection(source, target, to_port)
        elif there in known:
            known[there].asked += said
        elif back in known:
            known[back].answered += said
        connection = known.get(there) or known.get(back)
        (connection.packets if connection else others).append(packet)
    return list(known.values()), others


def _packets(capture: bytes) -> Iterator[bytes]:
    assert capture[:4] == b"\xd4\xc3\xb2\xa1", "tcpdump wrote another kind of file"
    at = 24
    while at + 16 <= len(capture):
        size = struct.unpack("<I", capture[at + 8 : at + 12])[0]
        yield capture[at + 16 : at + 16 + size]
        at += 16 + size
