"""Filters for the addresses by which hosts reach each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from ansible.errors import AnsibleFilterError

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def host_addresses(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the addresses by which other hosts reach these hosts: private_address, ansible_host or the name."""
    return [str(hostvars[host].get("private_address") or hostvars[host].get("ansible_host") or host) for host in hosts]


def host_networks(addresses: Sequence[str]) -> list[str]:
    """Return each IP address as the network of one host, which is the form that pg_hba.conf wants.

    Raises AnsibleFilterError for a host name: PostgreSQL would have to look it up, both ways, at each connection.
    """
    try:
        return [str(ip_network(address)) for address in addresses]
    except ValueError as error:
        raise AnsibleFilterError(
            f"{error}. PostgreSQL's access rules need the IP addresses of the hosts that connect: "
            "set private_address or ansible_host of each to an IP address."
        ) from error


def local_address(listen_address: str) -> str:
    """Return the address at which a host reaches its own service that listens on this one."""
    return _LOOPBACK.get(listen_address, listen_address)


def host_port(host: str, port: int) -> str:
    """Return an address with its port, as ``[::1]:9100``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "host_addresses": host_addresses,
            "host_networks": host_networks,
            "host_port": host_port,
            "local_address": local_address,
        }
