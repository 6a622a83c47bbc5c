"""Filters for the members of a PostgreSQL cluster: how those that etcd has become those that the inventory wants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_RUNNING = ("running", "streaming")
_STATUS = "systemctl status postgresql-etcd patroni"
_STOP = "systemctl disable --now patroni postgresql-etcd"
_SWITCHOVER = "patronictl -c /etc/patroni/config.yml switchover"


def member_changes(wanted: Mapping[str, str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what makes the members of etcd those that are wanted, which are its URLs among peers by name.

    The result has ``asked``, the host whose etcd has said what it has, or nothing where none answers; ``stay`` and
    ``add``, names; and ``remove``, each with ``id``, ``name`` and ``client``, its URL. A member stays if etcd knows it
    by its name and its URL, and if its host has data of etcd or is about to start it for the first time. Reads what
    the role postgresql_patroni has seen of the hosts.
    """
    seen = {name: hostvars[name] for name in wanted if "__postgresql_patroni_listed" in hostvars.get(name, {})}
    empty = [name for name, found in seen.items() if not found["__postgresql_patroni_data"]["stat"]["exists"]]
    asked, members = _ask(wanted, seen)
    if not asked:
        # Of a cluster that does not answer a host without its configuration was never a member.
        fresh = [name for name in empty if not seen[name]["__postgresql_patroni_first"]["stdout"]]
        return {"asked": "", "stay": [], "add": fresh if len(empty) < len(seen) else [], "remove": []}
    staying = [
        member
        for member in members
        if _is_wanted(member, wanted) and (member["name"] not in empty or not member.get("clientURLs"))
    ]
    stay = [member["name"] for member in staying]
    remove = [
        {
            "id": f"{member['ID']:x}",
            # One that has never started has no name yet.
            "name": member.get("name") or member["peerURLs"][0],
            "client": "".join(member.get("clientURLs", [])[:1]),
        }
        for member in members
        if member not in staying
    ]
    return {"asked": asked, "stay": stay, "add": [name for name in wanted if name not in stay], "remove": remove}


def _ask(wanted: Mapping[str, str], seen: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Return the first host whose etcd answers and has it as a wanted member, and all members that it has."""
    for name, found in seen.items():
        if found["__postgresql_patroni_listed"]["rc"] == 0:
            members = json.loads(found["__postgresql_patroni_listed"]["stdout"])["members"]
            if any(member.get("name") == name and _is_wanted(member, wanted) for member in members):
                return name, members
    return "", []


def _is_wanted(member: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return wanted.get(member.get("name", "")) in member["peerURLs"]


def member_problems(
    changes: Mapping[str, Any], working: Sequence[str], cluster: Sequence[Mapping[str, Any]], known: Sequence[str]
) -> list[str]:
    """Return why the changes must not be made, each as a text.

    ``working`` are the hosts whose etcd works, ``cluster`` the members as Patroni describes them, and ``known`` all
    hosts of the inventory.
    """
    return list(_problems(changes, working, cluster, known))


def _problems(
    changes: Mapping[str, Any], working: Sequence[str], cluster: Sequence[Mapping[str, Any]], known: Sequence[str]
) -> Iterator[str]:
    stay, before = changes["stay"], len(changes["stay"]) + len(changes["remove"])
    if not changes["asked"]:
        yield (
            f"{', '.join(changes['add'])} would be added, but no etcd of the other hosts answers: without more than "
            f"half of its members nothing can be changed. On each of them: {_STATUS}"
        )
        return
    if 2 * len(stay) <= before:
        yield (
            f"Of {before} members only {', '.join(stay) or 'none'} would stay, which is not more than half of them: "
            "change fewer hosts, run site.yml, and then change the others."
        )
    for name in sorted({*changes["add"]} & {*working}):
        yield (
            f"{name} would be added, but etcd there works, as a member of another cluster. Take the host out of the "
            f"group postgresql, or, if that cluster can do without it: {_STOP}"
        )
    running = [member["name"] for member in cluster if member.get("state") in _RUNNING]
    leaders = [member["name"] for member in cluster if member.get("role") == "leader" and member["name"] in running]
    for name in stay:
        if name not in working or name not in running:
            service = "etcd" if name not in working else "Patroni"
            yield (
                f"{service} of {name} does not run, and must before another member is changed. A host that was just "
                f"added needs site.yml; else see on it: {_STATUS}"
            )
    if len(leaders) != 1:
        yield f"The cluster has {len(leaders)} leaders, and must have one: patronictl -c /etc/patroni/config.yml list"
    elif leaders[0] not in stay:
        yield f"{leaders[0]} is the primary: let another host be it first, at a quiet moment: {_SWITCHOVER}"
    for name in running:
        if name not in [*stay, *changes["add"], *known]:
            yield (
                f"{name} runs, and the inventory does not have it any more: put it back, outside of the group "
                f"postgresql, until it has been removed; or on that host: {_STOP}"
            )


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"member_changes": member_changes, "member_problems": member_problems}
