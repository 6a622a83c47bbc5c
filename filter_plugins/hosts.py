"""Filters for the hosts of a site: the addresses by which they reach each other, and what each has to run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any
from urllib.parse import quote

from ansible.errors import AnsibleFilterError

# The units of each group in the order in which they stop: what starts others first, and an API after its clients.
_UNITS = {
    "prefect_worker": (r"prefect-scale\.timer", r"prefect-worker@.+"),
    "prefect_server": (r"prefect-(recover\.timer|events@.+|services@.+)", r"prefect-server@.+"),
    "prefect_proxy": (r"prefect-proxy\.service",),
    "redis": (r"prefect-redis@.+",),
}
# The files that have passwords of the database's roles and of the API, and the groups whose hosts need them.
_PASSWORDS = {
    r"/etc/prefect/worker/.+\.env": {"prefect_worker"},
    r"/etc/prefect/([^/]+|events/.+)\.env": {"prefect_server"},
    r"/etc/prefect/pgpass": {"postgresql", "prefect_server", "prefect_worker"},  # of the command's logins
}
# site.yml stops it itself on a host that is in any group.
_WATCH = r"prefect-(metrics\.timer|(node-exporter|prometheus|alertmanager)\.service)"
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


def database_primary(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the host of a cluster that has the data now, by what the role postgresql has seen of each.

    That is the one running primary, or the one host that has data. Where no host has any it is the first, and where
    more than one could be it, or all are stopped, nothing. A standby, or a host that is disabled because another one
    took its place, does not become the primary by being the only one with data.
    """
    if len(hosts) < 2:
        return next(iter(hosts), "")
    seen = {host: hostvars[host].get("__postgresql_present", {}).get("cluster", {}) for host in hosts}
    running = [host for host, found in seen.items() if found.get("running") and not found.get("standby")]
    filled = [host for host, found in seen.items() if found.get("data")]
    candidates = running or filled or list(hosts[:1])
    if len(candidates) != 1:
        return ""
    found = seen[candidates[0]]
    return candidates[0] if running or not (found.get("standby") or found.get("disabled")) else ""


def retired_units(units: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return those of a host's units that none of its groups gives it, in the order in which they are to stop.

    What the database's hosts have is left to playbooks/members.yml, and the firewall stays.
    """
    retired = [pattern for group, patterns in _UNITS.items() if group not in groups for pattern in patterns]
    if not {"postgresql", "monitoring", *_UNITS} & set(groups):
        retired.append(_WATCH)
    return [unit for pattern in retired for unit in sorted(set(units)) if re.fullmatch(pattern, unit)]


def retired_passwords(paths: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return those of a host's files with passwords that only what none of its groups gives it needs."""
    retired = [pattern for pattern, needed in _PASSWORDS.items() if not needed & set(groups)]
    return [path for path in sorted(paths) if any(re.fullmatch(pattern, path) for pattern in retired)]


def members_seen(hosts: Sequence[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the role postgresql_replica has seen of each host that answered, with its name as ``host``."""
    seen = {host: hostvars[host].get("__postgresql_replica_seen", {}) for host in hosts}
    return [{"host": host, **found["member"]} for host, found in seen.items() if "member" in found]


def with_primary_url(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a Prefect server's environment with the address by which it finds the primary of several hosts.

    Its single settings can name one host only; pgprefect reads these, with commas between the hosts.
    """
    prefix = "PREFECT_SERVER_DATABASE_"
    host, port, name, user, password = (
        str(environment[prefix + key]) for key in ("HOST", "PORT", "NAME", "USER", "PASSWORD")
    )
    if "," not in host:
        return dict(environment)
    user, password, name = (quote(word, safe="") for word in (user, password, name))
    places = "&".join(f"host={host_port(one, int(port))}" for one in host.split(","))
    url = f"postgresql+asyncpg://{user}:{password}@/{name}?{places}&target_session_attrs=primary"
    return {**environment, f"{prefix}CONNECTION_URL": url}


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "database_primary": database_primary,
            "host_addresses": host_addresses,
            "host_networks": host_networks,
            "host_port": host_port,
            "local_address": local_address,
            "members_seen": members_seen,
            "retired_passwords": retired_passwords,
            "retired_units": retired_units,
            "with_primary_url": with_primary_url,
        }
