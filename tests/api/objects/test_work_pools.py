"""prefect_work_pools against a real server."""

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
    def run(*pools: dict[str, Any], **arguments: Any) -> Result:
        return run_module("prefect_work_pools", **{**api_arguments, "pools": list(pools), **arguments})

    return run


@pytest.fixture
def name() -> str:
    return f"pool of one's own {uuid.uuid4()}"


def path(name: str) -> str:
    return "/work_pools/" + quote(name)


def queue_state(api: Callable[..., Any], name: str) -> dict[str, tuple[Any, ...]]:
    queues = api("POST", "/work_queues/filter", {})
    return {
        q["name"]: (q["priority"], q["concurrency_limit"], q["is_paused"])
        for q in queues
        if q["work_pool_name"] == name
    }


def test_check_mode_foretells_and_a_second_run_changes_nothing(
    apply: Apply, api: Callable[..., Any], name: str
) -> None:
    declared = {
        "name": name,
        "description": "Runs that must not wait",
        "concurrency_limit": 4,
        "queues": [{"name": "default", "concurrency_limit": 3}, {"name": "urgent", "priority": 1, "paused": True}],
    }
    foretold = apply(declared, check=True)
    assert foretold["changed"] and foretold["ids"] == {}
    assert not [pool for pool in api("POST", "/work_pools/filter", {}) if pool["name"] == name]

    done = apply(declared)
    assert (
        done["actions"]
        == foretold["actions"]
        == [
            f"create work pool {name}",
            f"update queue {name}/default: concurrency_limit",
            f"create queue {name}/urgent",
            f"update queue priorities {name}: urgent",
        ]
    )
    assert done["diff"] == foretold["diff"]
    pool = api("GET", path(name))
    assert (pool["type"], pool["description"], pool["concurrency_limit"]) == ("process", declared["description"], 4)
    assert queue_state(api, name) == {"default": (2, 3, False), "urgent": (1, None, True)}

    again = apply(declared)
    assert not again["changed"] and again["diff"] == {"before": {}, "after": {}}
    assert again["ids"] == {name: pool["id"]}


def test_only_what_is_declared_is_changed(apply: Apply, api: Callable[..., Any], name: str) -> None:
    apply({"name": name, "description": "mine", "concurrency_limit": 4})
    api("PATCH", path(name), {"is_paused": True, "concurrency_limit": 1})

    assert not apply({"name": name, "description": "mine"})["changed"]
    changed = apply({"name": name, "description": "mine", "concurrency_limit": -1})
    assert changed["diff"] == {
        "before": {f"work pool {name}": {"concurrency_limit": 1}},
        "after": {f"work pool {name}": {"concurrency_limit": None}},
    }
    pool = api("GET", path(name))
    assert (pool["is_paused"], pool["concurrency_limit"]) == (True, None)


def test_priorities_can_be_swapped(apply: Apply, api: Callable[..., Any], name: str) -> None:
    def pool(**priorities: int) -> dict[str, Any]:
        return {"name": name, "queues": [{"name": queue, "priority": p} for queue, p in priorities.items()]}

    apply(pool(default=3, first=1, second=2))
    apply(pool(default=1, first=3, second=2))
    assert {queue: state[0] for queue, state in queue_state(api, name).items()} == {
        "default": 1,
        "first": 3,
        "second": 2,
    }
    assert not apply(pool(default=1, first=3, second=2))["changed"]


def test_queues_that_are_not_declared_make_room(apply: Apply, api: Callable[..., Any], name: str) -> None:
    """The server moves those that have a priority or a later one; the second run must not move them on."""
    apply({"name": name})
    api("POST", path(name) + "/queues", {"name": "by hand", "priority": 1})
    assert {queue: state[0] for queue, state in queue_state(api, name).items()} == {"by hand": 1, "default": 2}
    declared = {"name": name, "queues": [{"name": "second", "priority": 2}, {"name": "first", "priority": 1}]}
    assert apply(declared)["changed"]
    moved = queue_state(api, name)
    assert (moved["first"][0], moved["second"][0]) == (1, 2)
    assert {moved["by hand"][0], moved["default"][0]} == {3, 4}
    assert not apply(declared)["changed"]
    assert queue_state(api, name) == moved


def test_the_template_of_a_pool_is_kept_as_declared(apply: Apply, name: str) -> None:
    template = {
        "job_configuration": {"command": "{{ command }}", "env": "{{ env }}"},
        "variables": {"type": "object", "properties": {"command": {"type": "string"}, "env": {"type": "object"}}},
    }
    assert apply({"name": name, "base_job_template": template})["changed"]
    assert not apply({"name": name, "base_job_template": template})["changed"]
    assert not apply({"name": name})["changed"]


@pytest.mark.parametrize(
    ("pool", "complaint"),
    [
        ({"name": "x", "concurency_limit": 3}, "concurency_limit"),
        ({"name": "a/b"}, "a/b: a name must not"),
        ({"name": "x", "queues": [{"name": "50%"}]}, "x/50%: a name must not"),
        ({"name": "prefect-pool"}, "reserves names"),
        ({"name": "x", "concurrency_limit": -2}, "-1 for no limit"),
        ({"name": "x", "queues": [{"name": "q", "priority": 0}]}, "priority must be 1 or more"),
        ({"name": "x", "queues": [{"name": "q", "priority": 2}, {"name": "r", "priority": 2}]}, "given to two queues"),
        ({"name": "x", "queues": [{"name": "q"}, {"name": "q"}]}, "x/q is declared twice"),
        ({"name": "x", "base_job_template": {"a": 1}}, "Could not create work pool x."),
    ],
)
def test_nonsense_is_refused(apply: Apply, pool: dict[str, Any], complaint: str) -> None:
    result = apply(pool)
    assert result["failed"] and complaint in result["msg"]


def test_a_pool_cannot_change_its_type(apply: Apply, name: str) -> None:
    apply({"name": name})
    result = apply({"name": name, "type": "docker"})
    (problem,) = result["problems"]
    assert result["failed"] and problem["code"] == "work_pool_type"
    assert "type cannot change" in problem["message"] and "prefect work-pool delete 'pool" in problem["remedy"]


def test_a_wrong_password_is_called_by_its_name(apply: Apply, name: str) -> None:
    result = apply({"name": name}, api_auth_string="admin:guess")
    assert [problem["code"] for problem in result["problems"]] == ["api_refused"]
    assert "user 'admin'" in result["msg"] and "HTTP 401" in result["msg"] and "api_auth_string" in result["msg"]
    assert "guess" not in str(result)


def test_a_wrong_address_is_called_by_its_name(apply: Apply, name: str, api_arguments: dict[str, str]) -> None:
    result = apply({"name": name}, api_url=api_arguments["api_url"].removesuffix("/api"))
    assert "ends with /api" in result["msg"]


def test_without_an_api_only_check_mode_goes_on(apply: Apply, name: str) -> None:
    nowhere = {"api_url": "http://127.0.0.1:9/api"}
    result = apply({"name": name}, **nowhere)
    assert result["failed"] and "No Prefect API answers at http://127.0.0.1:9/api" in result["msg"]
    foretold = apply({"name": name}, check=True, **nowhere)
    assert foretold["actions"] == [f"create work pool {name}"]
    assert "No Prefect API answers" in str(foretold["warnings"])


def test_a_failure_in_the_middle_says_what_was_done(
    run_module: Callable[..., Result], api_arguments: dict[str, str]
) -> None:
    pools = [{"name": "half"}, {"name": "broken", "base_job_template": {"variables": 1}}]
    result = run_module("prefect_work_pools", **api_arguments, pools=pools)
    assert result["failed"] and result["changed"], result
    assert result["changes"] == ["create work pool half"]
    again = run_module("prefect_work_pools", **api_arguments, pools=[{"name": "half"}])
    assert not again["changed"] and set(again["ids"]) == {"half"}
