"""Filters for PostgreSQL's access rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from ansible.errors import AnsibleFilterError


def _network(where: str, value: Any) -> str:
    try:
        return str(ip_network(value if isinstance(value, str) else repr(value)))
    except ValueError as error:
        remedy = "Give an IP address and the length of its network's prefix, as 192.0.2.64/28 or 2001:db8::/48."
        raise AnsibleFilterError(f"{where}: {error}. {remedy}") from None


def networks(values: Any, variable: str) -> list[str]:
    """Return the networks that a user wrote, in the form that pg_hba.conf wants.

    Raises AnsibleFilterError, which names the item of the variable.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise AnsibleFilterError(f"{variable}: {values!r} is not a list of networks. Example: [192.0.2.64/28]")
    return [_network(f"{variable}[{index}]", value) for index, value in enumerate(values)]


def hba_rules(logins: Sequence[Mapping[str, Any]], database: str) -> list[dict[str, Any]]:
    """Return a database's access rules for a table of logins, in its order.

    A row of the table has the ``roles`` that log in, the ``networks`` from which they do, and no networks for the unix
    socket, where the operating system's user of the same name is let in. TLS is required except on loopback.
    """
    rules: list[dict[str, Any]] = []
    for login in logins:
        rule = {"databases": [database], "users": list(login["roles"])}
        if "networks" not in login:
            rules.append({"type": "local", **rule, "method": "peer"})
        for network in dict.fromkeys(login.get("networks", ())):
            kind = "host" if ip_network(network).is_loopback else "hostssl"
            rules.append({"type": kind, **rule, "address": str(network)})
    return rules


def hba_lines(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write access rules as lines of pg_hba.conf. Raises AnsibleFilterError for what would break the file."""
    lines = []
    for index, rule in enumerate(rules):
        where = f"postgresql_hba_rules[{index}]"
        words = [rule["type"]]
        for key in ("databases", "users"):
            if unfit := [name for name in rule[key] if not str(name).isprintable() or not name]:
                raise AnsibleFilterError(
                    f"{where}.{key}: {unfit[0]!r} cannot be a name there. Use printable characters."
                )
            words.append(",".join('"{}"'.format(str(name).replace('"', '""')) for name in rule[key]))
        if rule["type"] != "local":
            words.append(_network(f"{where}.address", rule.get("address")))
        lines.append(" ".join([*words, rule.get("method", "scram-sha-256")]))
    return lines


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"networks": networks, "hba_rules": hba_rules, "hba_lines": hba_lines}
