"""prefect_automations against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

Result = dict[str, Any]
Apply = Callable[..., Result]
FAILED = {"posture": "Reactive", "expect": ["prefect.flow-run.Failed"], "match": {"prefect.resource.id": "x"}}
NOTHING = {"type": "do-nothing"}


@pytest.fixture
def apply(run_module: Callable[..., Result], api_arguments: dict[str, str]) -> Apply:
    def run(*automations: dict[str, Any], **arguments: Any) -> Result:
        given = {**api_arguments, "automations": list(automations), **arguments}
        return run_module("prefect_automations", **given)

    return run


@pytest.fixture
def name() -> str:
    return f"Prüfe % / <{uuid.uuid4()}>"


@pytest.fixture
def deployment(api: Callable[..., Any]) -> dict[str, str]:
    """A deployment of a flow, on a queue of a pool, by its names and identifiers."""
    unique = str(uuid.uuid4())
    pool = api("POST", "/work_pools/", {"name": f"pool {unique}", "type": "process"})
    queue = api("POST", f"/work_pools/{quote(pool['name'])}/queues", {"name": "q"})
    flow = api("POST", "/flows/", {"name": f"flow {unique}"})
    body = {"name": "daily", "flow_id": flow["id"], "work_pool_name": pool["name"]}
    made = api("POST", "/deployments/", body)
    return {
        "deployment": f"{flow['name']}/daily",
        "deployment_id": made["id"],
        "work_pool": pool["name"],
        "work_pool_id": pool["id"],
        "work_queue": f"{pool['name']}/q",
        "work_queue_id": queue["id"],
    }


def stored(api: Callable[..., Any], name: str) -> list[dict[str, Any]]:
    return [one for one in api("POST", "/automations/filter", {}) if one["name"] == name]


def everything(name: str, deployment: dict[str, str], block: str) -> dict[str, Any]:
    """Return an automation that uses most of what there is."""
    inner = {"type": "event", "posture": "Proactive", "expect": ["b", "a"], "for_each": ["x"], "within": 30}
    others = {"match": {"a": ["b", "ä"]}, "match_related": [{"c": "d"}, {"e": ["f"]}], "threshold": 2, "after": ["z"]}
    return {
        "name": name,
        "description": "Alles",
        "tags": ["b", "a"],
        "trigger": {
            "type": "compound",
            "require": 1,
            "within": 60,
            "triggers": [{**inner, **others}, {"type": "sequence", "triggers": [FAILED, FAILED]}],
        },
        "actions": [
            {
                "type": "run-deployment",
                "deployment": deployment["deployment"],
                "parameters": {"order": "{{ event.payload.id }}", "sure": True},
                "schedule_after": 90,
            },
            {"type": "pause-work-pool", "work_pool": deployment["work_pool"]},
            {"type": "pause-work-queue", "work_queue": deployment["work_queue"]},
            {"type": "pause-deployment", "source": "inferred"},
            {"type": "send-notification", "block": block, "body": "{{ flow_run.name }}"},
            {"type": "change-flow-run-state", "state": "FAILED", "message": "no"},
        ],
        "actions_on_resolve": [NOTHING],
    }


@pytest.fixture
def block(run_module: Callable[..., Result], api_arguments: dict[str, str]) -> str:
    name = f"alerts-{uuid.uuid4()}"
    declared = {"name": name, "type": "slack-webhook", "secrets": {"url": "https://hooks.example.com/x"}}
    assert run_module("prefect_blocks", **api_arguments, blocks=[declared])["changed"]
    return f"slack-webhook/{name}"


def test_check_mode_foretells_and_a_second_run_changes_nothing(
    apply: Apply, api: Callable[..., Any], name: str, deployment: dict[str, str], block: str
) -> None:
    declared = everything(name, deployment, block)
    foretold = apply(declared, check=True)
    assert foretold["actions"] == [f"create automation {name}"] and not stored(api, name)
    done = apply(declared)
    assert done["actions"] == foretold["actions"] and done["diff"] == foretold["diff"]
    (made,) = stored(api, name)
    assert made["actions"][0]["deployment_id"] == deployment["deployment_id"]
    assert made["actions"][1]["work_pool_id"] == deployment["work_pool_id"]
    assert made["actions"][2]["work_queue_id"] == deployment["work_queue_id"]
    assert made["actions"][0]["parameters"] == declared["actions"][0]["parameters"]
    assert [inner["type"] for inner in made["trigger"]["triggers"]] == ["event", "sequence"]

    again = apply(declared)
    assert not again["changed"] and again["ids"] == {name: made["id"]}
    assert stored(api, name) == [made]


def test_a_change_keeps_the_identifier_and_what_was_set_by_hand(
    apply: Apply, api: Callable[..., Any], name: str
) -> None:
    declared = {"name": name, "trigger": FAILED, "actions": [NOTHING], "description": "mine"}
    apply(declared)
    (made,) = stored(api, name)
    api("PATCH", f"/automations/{made['id']}", {"enabled": False})
    changed = apply({**declared, "trigger": {**FAILED, "within": 5}})
    assert changed["actions"] == [f"update automation {name}: trigger"]
    (now,) = stored(api, name)
    assert (now["id"], now["enabled"], now["description"]) == (made["id"], False, "mine")
    assert now["trigger"]["within"] == 5
    assert apply({**declared, "trigger": {**FAILED, "within": 5}, "enabled": True})["changed"]
    assert stored(api, name)[0]["enabled"]


def test_the_servers_defaults_are_no_change(apply: Apply, name: str) -> None:
    apply({"name": name, "trigger": {"posture": "Proactive", "expect": ["a"]}, "actions": [NOTHING]})
    full = {
        "type": "event",
        "posture": "Proactive",
        "expect": ["a", "a"],
        "after": [],
        "for_each": [],
        "match": {},
        "match_related": {},
        "threshold": 1,
        "within": 10,
    }
    declared = {"name": name, "trigger": full, "actions": [NOTHING], "enabled": True, "description": ""}
    assert not apply(declared)["changed"]


def test_two_of_one_name_are_refused(apply: Apply, api: Callable[..., Any], name: str) -> None:
    declared = {"name": name, "trigger": FAILED, "actions": [NOTHING]}
    assert "declared twice" in apply(declared, declared)["msg"]
    apply(declared)
    # Somebody who may use the API plants another one.
    api("POST", "/automations/", {**declared, "actions": [{"type": "cancel-flow-run"}]})
    for arguments in ({}, {"check": True}):
        result = apply(declared, **arguments)
        (problem,) = result["problems"]
        assert result["failed"] and problem["code"] == "automation_ambiguous"
        assert f"The server has 2 automations of the name {name}" in problem["message"]
        assert "prefect automation delete --id" in problem["remedy"]
    pausing = {"name": f"{name} 2", "trigger": FAILED, "actions": [{"type": "pause-automation", "automation": name}]}
    assert apply(pausing)["problems"][0]["code"] == "automation_ambiguous"


def test_what_an_action_names_must_be_there_or_be_planned(
    apply: Apply, api: Callable[..., Any], name: str, deployment: dict[str, str]
) -> None:
    def acting(**action: str) -> dict[str, Any]:
        return {"name": name, "trigger": FAILED, "actions": [action]}

    later = acting(type="run-deployment", deployment="collect/later")
    for arguments in ({}, {"check": True}):
        result = apply(later, **arguments)
        assert [problem["code"] for problem in result["problems"]] == ["automation_target_missing"], result
        assert f"Automation {name}: there is no deployment collect/later" in result["msg"]
    planned = {"deployments": ["collect/later"], "work_pools": ["p"], "work_queues": ["p/x"], "blocks": ["secret/b"]}
    assert apply(later, check=True, planned=planned)["changed"]
    assert apply(later, planned=planned)["failed"] and not stored(api, name)
    for action in (
        {"type": "pause-work-pool", "work_pool": "p"},
        {"type": "pause-work-queue", "work_queue": "p/default"},
        {"type": "pause-work-queue", "work_queue": "p/x"},
        {"type": "call-webhook", "block": "secret/b"},
    ):
        assert apply(acting(**action), check=True, planned=planned)["changed"]
        assert apply(acting(**action), check=True)["failed"]
    # What was deleted and made again has another identifier, to which the automation is brought.
    apply(acting(type="run-deployment", deployment=deployment["deployment"]))
    api("DELETE", f"/deployments/{deployment['deployment_id']}")
    flow = api("GET", "/flows/name/" + quote(deployment["deployment"].partition("/")[0]))
    again = api("POST", "/deployments/", {"name": "daily", "flow_id": flow["id"]})
    changed = apply(acting(type="run-deployment", deployment=deployment["deployment"]))
    assert changed["actions"] == [f"update automation {name}: actions"]
    assert stored(api, name)[0]["actions"][0]["deployment_id"] == again["id"]


def test_automations_may_name_those_before_them(apply: Apply, api: Callable[..., Any], name: str) -> None:
    first = {"name": f"{name} 1", "trigger": FAILED, "actions": [NOTHING]}
    second = {
        "name": f"{name} 2",
        "trigger": FAILED,
        "actions": [{"type": "pause-automation", "automation": f"{name} 1"}],
    }
    result = apply(second, first)
    assert result["failed"] and "declare that automation before this one" in str(result["problems"])
    assert not stored(api, f"{name} 1")
    assert apply(first, second)["changed"] and not apply(first, second)["changed"]
    assert stored(api, f"{name} 2")[0]["actions"][0]["automation_id"] == stored(api, f"{name} 1")[0]["id"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"trigger": {**FAILED, "wihtin": 5}}, "trigger.wihtin: unknown key. Known keys: type, posture, expect"),
        ({"actions": [{"type": "do-nothing", "parmeters": {}}]}, "actions[0].parmeters: unknown key"),
        ({"trigger": {"posture": "Reactive"}}, "trigger.expect must be a list of at least one event"),
        ({"actions": []}, "actions must be a list of at least one"),
    ],
)
def test_nonsense_is_refused(apply: Apply, name: str, change: dict[str, Any], complaint: str) -> None:
    for arguments in ({}, {"check": True}):
        result = apply({"name": name, "trigger": FAILED, "actions": [NOTHING], **change}, **arguments)
        assert result["failed"] and complaint in result["msg"], result["msg"]


def test_what_only_the_server_knows_is_said_with_the_name(apply: Apply, name: str) -> None:
    loop = {"posture": "Reactive", "expect": ["prefect.flow-run.*"]}
    result = apply({"name": name, "trigger": loop, "actions": [{"type": "run-deployment", "source": "inferred"}]})
    assert result["failed"] and f"Could not create automation {name}." in result["msg"]
    assert "infinite loop" in result["msg"]


def test_without_an_api_only_check_mode_goes_on(apply: Apply, name: str) -> None:
    declared = {"name": name, "trigger": FAILED, "actions": [{"type": "run-deployment", "deployment": "a/b"}]}
    nowhere = {"api_url": "http://127.0.0.1:9/api"}
    assert apply(declared, **nowhere)["failed"]
    foretold = apply(declared, check=True, **nowhere)
    assert foretold["actions"] == [f"create automation {name}"] and foretold["warnings"]
