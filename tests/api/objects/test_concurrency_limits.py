"""prefect_concurrency_limits against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

Result = dict[str, Any]
Apply = Callable[..., Result]


@pytest.fixture
def apply(run_module: Callable[..., Result], api_arguments: dict[str, str]) -> Apply:
    def run(*limits: dict[str, Any], **arguments: Any) -> Result:
        given = {**api_arguments, "concurrency_limits": list(limits), **arguments}
        return run_module("prefect_concurrency_limits", **given)

    return run


@pytest.fixture
def name() -> str:
    return f"Kurse für {uuid.uuid4()}"


def read(api: Callable[..., Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = api("GET", "/v2/concurrency_limits/" + quote(name, safe=""))
    return found


def test_check_mode_foretells_and_a_second_run_changes_nothing(
    apply: Apply, api: Callable[..., Any], name: str
) -> None:
    declared = {"name": name, "limit": 5, "slot_decay_per_second": 0.1}
    foretold = apply(declared, check=True)
    assert foretold["ids"] == {}
    done = apply(declared)
    assert done["actions"] == foretold["actions"] == [f"create concurrency limit {name}"]
    assert done["diff"] == foretold["diff"]
    stored = read(api, name)
    assert (stored["limit"], stored["slot_decay_per_second"], stored["active"]) == (5, 0.1, True)
    again = apply(declared)
    assert not again["changed"] and again["ids"] == {name: stored["id"]}


def test_only_what_is_declared_is_changed(apply: Apply, api: Callable[..., Any], name: str) -> None:
    apply({"name": name, "limit": 5})
    api("POST", "/v2/concurrency_limits/increment", {"names": [name], "slots": 2, "mode": "concurrency"})
    api("PATCH", "/v2/concurrency_limits/" + quote(name, safe=""), {"active": False})
    assert not apply({"name": name, "limit": 5})["changed"]
    changed = apply({"name": name, "limit": 0, "active": True})
    assert changed["actions"] == [f"update concurrency limit {name}: active, limit"]
    stored = read(api, name)
    assert (stored["limit"], stored["active"], stored["active_slots"]) == (0, True, 2)


def test_the_limit_of_a_tag_is_the_one_that_the_server_obeys(apply: Apply, api: Callable[..., Any]) -> None:
    tag = str(uuid.uuid4())
    assert apply({"name": f"tag:{tag}", "limit": 3})["changed"]
    assert api("GET", f"/concurrency_limits/tag/{tag}")["concurrency_limit"] == 3
    # Somebody sets it through the older interface: one limit, and no second one.
    api("POST", "/concurrency_limits/", {"tag": tag, "concurrency_limit": 9})
    assert apply({"name": f"tag:{tag}", "limit": 3})["actions"] == [f"update concurrency limit tag:{tag}: limit"]
    assert api("GET", f"/concurrency_limits/tag/{tag}")["concurrency_limit"] == 3
    assert not apply({"name": f"tag:{tag}", "limit": 3})["changed"]


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ({"name": "a/b", "limit": 1}, "a name must not"),
        ({"name": "x", "limit": -1}, "limit must be 0 or more"),
        ({"name": "x"}, "missing required arguments: limit"),
        ({"name": "x", "limit": 1, "slot_decay_per_second": -1}, "must be 0 or more"),
        ({"name": "x", "limit": 1, "slot_decay_per_second": "inf"}, "must be 0 or more"),
        ({"name": "x", "limit": 1, "slot_decay_per_second": "nan"}, "must be 0 or more"),
        ({"name": "tag:x", "limit": 1, "slot_decay_per_second": 1}, "has no slot_decay_per_second"),
        ({"name": "deployment:x", "limit": 1}, "set concurrency_limit of the deployment"),
    ],
)
def test_nonsense_is_refused(apply: Apply, limit: dict[str, Any], complaint: str) -> None:
    result = apply(limit)
    assert result["failed"] and complaint in result["msg"]


def test_a_name_is_declared_once(apply: Apply, name: str) -> None:
    assert "declared twice" in apply({"name": name, "limit": 1}, {"name": name, "limit": 2})["msg"]


def test_without_an_api_only_check_mode_goes_on(apply: Apply, name: str) -> None:
    nowhere = {"api_url": "http://127.0.0.1:9/api"}
    assert apply({"name": name, "limit": 1}, **nowhere)["failed"]
    foretold = apply({"name": name, "limit": 1}, check=True, **nowhere)
    assert foretold["actions"] == [f"create concurrency limit {name}"] and foretold["warnings"]
