"""Faults of the network of a container, made in its own network namespace."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from testinfra.host import Host


def address_of(host: Host) -> str:
    """Return the address by which the other containers reach a host."""
    return str(host.check_output("hostname --all-ip-addresses").split()[0])


@contextlib.contextmanager
def cut(container: str, address: str) -> Iterator[None]:
    """Drop all packets between a container and an address, both ways and without an answer, until the block ends."""
    pid = subprocess.check_output(["docker", "inspect", "--format", "{{.State.Pid}}", container], text=True).strip()
    chains = (("INPUT", "--source"), ("OUTPUT", "--destination"))

    def change(action: str, chain: str, side: str) -> None:
        inside = ["nsenter", "--target", pid, "--net"]
        subprocess.run([*inside, "iptables", "--wait", action, chain, side, address, "--jump", "DROP"], check=True)

    with contextlib.ExitStack() as stack:
        for chain in chains:
            change("--insert", *chain)
            stack.callback(change, "--delete", *chain)
        yield
