"""A change of a cluster's members is planned from what etcd says, and refused where it could cost the majority."""

from __future__ import annotations

import json
from typing import Any

import pytest

from filter_plugins.members import member_changes, member_problems

NAMES = "abcxy"
URLS = {name: f"https://192.0.2.{number}:2380" for number, name in enumerate(NAMES, 1)}


def member(name: str, **other: Any) -> dict[str, Any]:
    client = URLS[name].replace("2380", "2379")
    return {"ID": 16 + NAMES.index(name), "name": name, "peerURLs": [URLS[name]], "clientURLs": [client], **other}


def unstarted(name: str) -> dict[str, Any]:
    """A member that was added, and has not started yet."""
    return {"ID": 16 + NAMES.index(name), "peerURLs": [URLS[name]]}


def seen(
    wanted: str, members: list[dict[str, Any]], empty: str = "", silent: str = "", new: str = ""
) -> dict[str, Any]:
    """What was seen of the hosts; those of ``empty`` and ``new`` have no data, and of the latter no files either."""
    listed = json.dumps({"members": members})
    return {
        name: {
            "__postgresql_patroni_listed": {"rc": 1, "stdout": ""}
            if name in empty + new + silent
            else {"rc": 0, "stdout": listed},
            "__postgresql_patroni_data": {"stat": {"exists": name not in empty + new}},
            "__postgresql_patroni_first": {"stdout": "" if name in new else "initial-cluster: ..."},
        }
        for name in wanted
    }


def changes(wanted: str, present: str | list[dict[str, Any]], **hosts: str) -> tuple[str, str, str, list[str]]:
    members = [member(name) for name in present] if isinstance(present, str) else present
    found = member_changes({name: URLS[name] for name in wanted}, seen(wanted, members, **hosts))
    removed = [one["name"] for one in found["remove"]]
    return found["asked"], "".join(found["stay"]), "".join(found["add"]), removed


@pytest.mark.parametrize(
    ("wanted", "present", "hosts", "expected"),
    [
        ("abc", "abc", {}, ("a", "abc", "", [])),
        ("abc", "abc", {"silent": "ab"}, ("c", "abc", "", [])),
        ("abc", "abc", {"new": "b"}, ("a", "ac", "b", ["b"])),
        ("abc", "abc", {"empty": "a"}, ("b", "bc", "a", ["a"])),
        ("abx", "abc", {"new": "x"}, ("a", "ab", "x", ["c"])),
        ("abcxy", "abc", {"new": "xy"}, ("a", "abc", "xy", [])),
        ("abc", "abcxy", {}, ("a", "abc", "", ["x", "y"])),
        # A run that was killed after it had added c.
        ("abc", [member("a"), member("b"), unstarted("c")], {"new": "c"}, ("a", "ab", "c", [URLS["c"]])),
        # The first run was killed before c had started: it still does by itself.
        ("abc", [member("a"), member("b"), member("c", clientURLs=[])], {"empty": "c"}, ("a", "abc", "", [])),
        # The same name at another address.
        ("abc", [member("a"), member("b"), member("c", peerURLs=["x"])], {"new": "c"}, ("a", "ab", "c", ["c"])),
        ("abc", [member("a"), member("b"), member("c", peerURLs=["x"])], {}, ("a", "ab", "c", ["c"])),
        # No cluster yet, all of it stopped, and stopped with a new host.
        ("abc", "", {"new": "abc"}, ("", "", "", [])),
        ("abc", "", {"empty": "abc"}, ("", "", "", [])),
        ("abc", "", {"silent": "abc"}, ("", "", "", [])),
        ("abc", "", {"silent": "ab", "empty": "c"}, ("", "", "", [])),
        ("abx", "", {"silent": "ab", "new": "x"}, ("", "", "x", [])),
    ],
)
def test_changes(wanted: str, present: Any, hosts: dict[str, str], expected: Any) -> None:
    assert changes(wanted, present, **hosts) == expected


def test_a_host_that_was_not_looked_at_counts_as_it_is_known() -> None:
    hostvars = {**seen("ab", [member(name) for name in "abc"]), "c": {}}
    found = member_changes({name: URLS[name] for name in "abc"}, hostvars)
    assert found == {"asked": "a", "stay": ["a", "b", "c"], "add": [], "remove": []}


def test_a_member_is_removed_by_its_identifier() -> None:
    found = member_changes({name: URLS[name] for name in "ab"}, seen("ab", [member(name) for name in "abc"]))
    assert found["remove"] == [{"id": "12", "name": "c", "client": "https://192.0.2.3:2379"}]


def problems(
    wanted: str, present: str, working: str, running: str = "", leader: str = "", known: str = "", **hosts: str
) -> list[str]:
    found = member_changes(
        {name: URLS[name] for name in wanted}, seen(wanted, [member(name) for name in present], **hosts)
    )
    cluster = [
        {
            "name": name,
            "state": "running" if name == leader else "streaming",
            "role": "leader" if name == leader else "replica",
        }
        for name in running
    ]
    return member_problems(found, working, cluster, known or wanted)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("abc", "abc", "ac", "ac", "a", "", {"new": "b"}), []),
        (("abx", "abc", "ab", "ab", "a", "", {"new": "x"}), []),
        (("abc", "abcxy", "abc", "abcxy", "a", "abcxy", {}), []),
        (("abcxy", "abc", "abc", "abc", "b", "", {"new": "xy"}), []),
        # One more of three is away.
        (("abx", "abc", "a", "ab", "a", "", {"new": "x"}), ["etcd of b does not run"]),
        (("abx", "abc", "ab", "a", "a", "", {"new": "x"}), ["Patroni of b does not run"]),
        (("axy", "abc", "a", "a", "a", "", {"new": "xy"}), ["Of 3 members only a would stay"]),
        (("abx", "abc", "ab", "ab", "", "", {"new": "x"}), ["The cluster has 0 leaders"]),
        (("abx", "abc", "ab", "abc", "c", "abcx", {"new": "x"}), ["c is the primary"]),
        (("abx", "abc", "ab", "abc", "a", "abx", {"new": "x"}), ["c runs, and the inventory does not have it"]),
        (("abx", "abc", "abx", "ab", "a", "", {"new": "x"}), ["x would be added, but etcd there works"]),
        (("abx", "", "", "", "", "", {"silent": "ab", "new": "x"}), ["x would be added, but no etcd of the other"]),
    ],
)
def test_problems(given: tuple[Any, ...], expected: list[str]) -> None:
    *arguments, hosts = given
    found = problems(*arguments, **hosts)
    assert len(found) == len(expected), found
    assert all(message.startswith(begin) for message, begin in zip(found, expected, strict=True)), found
