"""Filters for PostgreSQL's access rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from ansible.errors import AnsibleFilterError

MAP = "pgprefect"
# Words that are no names there, unless they are quoted.
KEYWORDS = {"databases": ("all", "replication"), "users": ("all",)}


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

    A row of the table has the ``roles`` that log in, and either the ``networks`` from which they do or the
    ``system_users`` of this host who may log in as them over the unix socket, into any database. It may have
    ``databases`` of its own. TLS is required except on loopback.
    """
    if database in KEYWORDS["databases"]:
        raise AnsibleFilterError(f"app_database: {database!r} means other databases in pg_hba.conf. Use another name.")
    rules: list[dict[str, Any]] = []
    for login in logins:
        roles = list(login["roles"])
        if set(roles).intersection(KEYWORDS["users"]):
            raise AnsibleFilterError("app_login: 'all' means every role in pg_hba.conf. Use another name.")
        if "system_users" in login:
            rules.append({"type": "local", "databases": ["all"], "users": roles, "method": f"peer map={MAP}"})
        for network in dict.fromkeys(login.get("networks", ())):
            kind = "host" if ip_network(network).is_loopback else "hostssl"
            databases = list(login.get("databases", [database]))
            rules.append({"type": kind, "databases": databases, "users": roles, "address": str(network)})
    return rules


def hba_lines(rules: Sequence[Mapping[str, Any]], variable: str = "postgresql_hba_rules") -> list[str]:
    """Write access rules as lines of pg_hba.conf. Raises AnsibleFilterError for what would break the file."""
    lines = []
    for index, rule in enumerate(rules):
        where = f"{variable}[{index}]"
        words = [rule["type"]]
        words += [
            ",".join(_name(f"{where}.{key}", name, keywords) for name in rule[key])
            for key, keywords in KEYWORDS.items()
        ]
        if rule["type"] != "local":
            words.append(_network(f"{where}.address", rule.get("address")))
        lines.append(" ".join([*words, rule.get("method") or "scram-sha-256"]))
    return lines


def ident_lines(logins: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of pg_ident.conf for the same table: the system's users, and the roles that they may take on."""
    return [
        " ".join([MAP, _name("system user", user), _name("role", role)])
        for login in logins
        for user in login.get("system_users", ())
        for role in login["roles"]
    ]


def _name(where: str, name: Any, keywords: Sequence[str] = ()) -> str:
    if name in keywords:
        return str(name)
    if not name or not str(name).isprintable():
        raise AnsibleFilterError(f"{where}: {name!r} cannot be a name there. Use printable characters.")
    return '"{}"'.format(str(name).replace('"', '""'))


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"networks": networks, "hba_rules": hba_rules, "hba_lines": hba_lines, "ident_lines": ident_lines}
