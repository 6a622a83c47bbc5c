"""Triggers and actions: every mistake is refused with its path, and what Prefect knows is known here."""

from __future__ import annotations

from typing import Any

import pytest
from pgprefect.objects.automation_schema import ACTIONS, action_faults, full_trigger, trigger_faults

EVENT = {"posture": "Reactive", "expect": ["a"]}
NESTED: dict[str, Any] = EVENT
for _ in range(12):
    NESTED = {"type": "sequence", "triggers": [NESTED]}

TRIGGERS: list[tuple[Any, str]] = [
    (None, "trigger must be a mapping"),
    ("event", "trigger must be a mapping"),
    ([EVENT], "trigger must be a mapping"),
    ({}, "trigger.posture must be Reactive or Proactive, and is missing"),
    ({"type": "metric"}, "trigger.type is 'metric', but it must be one of event, compound, sequence"),
    ({"type": ["event"]}, "trigger.type is ['event'], but"),
    ({"type": None}, "trigger.type is null, but"),
    ({"posture": "reactive", "expect": ["a"]}, "trigger.posture is 'reactive', but it must be Reactive or"),
    ({"posture": "Reactive"}, "trigger.expect must be a list of at least one event"),
    ({"posture": "Reactive", "expect": []}, "trigger.expect must be a list of at least one event"),
    ({**EVENT, "expect": "a"}, "trigger.expect is 'a', but it must be a list of events"),
    ({**EVENT, "expect": [""]}, "trigger.expect is [''], but"),
    ({**EVENT, "expect": [1]}, "trigger.expect is [1], but"),
    ({**EVENT, "wihtin": 1}, "trigger.wihtin: unknown key. Known keys: type, posture, expect, after, match,"),
    ({**EVENT, "a\nb": 1}, "trigger.'a\\nb': unknown key"),
    ({**EVENT, "id": "x"}, "trigger.id: unknown key"),
    ({**EVENT, "within": -1}, "trigger.within is -1, but it must be a number of seconds"),
    ({**EVENT, "within": "5"}, "trigger.within is '5', but"),
    ({**EVENT, "within": True}, "trigger.within is True, but"),
    ({**EVENT, "within": None}, "trigger.within is null, but"),
    ({**EVENT, "within": float("nan")}, "trigger.within is nan, but"),
    ({**EVENT, "within": float("inf")}, "trigger.within is inf, but"),
    ({**EVENT, "threshold": 0}, "trigger.threshold is 0, but it must be a whole number from 1 on"),
    ({**EVENT, "threshold": 1.5}, "trigger.threshold is 1.5, but"),
    ({**EVENT, "match": ["a"]}, "trigger.match is ['a'], but it must be a mapping of labels"),
    ({**EVENT, "match": {"a": 1}}, "trigger.match is {'a': 1}, but"),
    ({**EVENT, "match_related": [{"a": {}}]}, "trigger.match_related is [{'a': {}}], but"),
    ({"posture": "Proactive", "within": 9}, "trigger.within is 9, but it must be 10 or more for a Proactive trigger"),
    ({"type": "compound", "triggers": [EVENT]}, "trigger.require must be any, all, or a whole number"),
    ({"type": "compound", "triggers": [], "require": "any"}, "trigger.triggers is [], but it must be a list of"),
    ({"type": "compound", "triggers": [EVENT], "require": 2}, "trigger.require is 2, but it must be at most 1"),
    ({"type": "compound", "triggers": [EVENT], "require": 0}, "trigger.require is 0, but"),
    ({"type": "sequence", "triggers": [EVENT], "require": 1}, "trigger.require: unknown key. Known keys: type, trig"),
    ({"type": "sequence", "triggers": [EVENT, {**EVENT, "x": 1}]}, "trigger.triggers[1].x: unknown key"),
    (NESTED, "at most 10 triggers deep"),
]


@pytest.mark.parametrize(("trigger", "message"), TRIGGERS)
def test_triggers(trigger: Any, message: str) -> None:
    (fault,) = trigger_faults("trigger", trigger)
    assert message in fault


ACTIONS_WITH_FAULTS: list[tuple[Any, str]] = [
    (None, "actions[0] must be a mapping"),
    ({}, "actions[0].type is null, but it must be one of"),
    ({"type": "run-deploymnt"}, "actions[0].type is 'run-deploymnt', but it must be one of"),
    ({"type": ["do-nothing"]}, "actions[0].type is ['do-nothing'], but"),
    ({"type": "do-nothing", "x": 1}, "actions[0].x: unknown key. Known keys: type"),
    ({"type": "run-deployment"}, "actions[0].deployment must be flow/deployment, or source: inferred, and is missing"),
    ({"type": "run-deployment", "deployment_id": "x"}, "actions[0].deployment_id: unknown key. Known keys: type, sou"),
    ({"type": "run-deployment", "deployment": ""}, "actions[0].deployment is '', but it must be a text: flow/deploy"),
    ({"type": "run-deployment", "deployment": "a/b", "source": "inferred"}, "and not both"),
    ({"type": "run-deployment", "deployment": "a/b", "source": "all"}, "actions[0].source is 'all', but"),
    ({"type": "run-deployment", "deployment": "a/b", "parameters": []}, "actions[0].parameters is [], but"),
    ({"type": "run-deployment", "deployment": "a/b", "schedule_after": -1}, "actions[0].schedule_after is -1, but"),
    ({"type": "pause-work-queue"}, "actions[0].work_queue must be pool/queue, or source: inferred, and is missing"),
    ({"type": "send-notification", "body": "x"}, "actions[0].block must be type/name, and is missing"),
    ({"type": "send-notification", "block": "a/b"}, "actions[0].body must be a text, and is missing"),
    ({"type": "send-notification", "block": "a/b", "body": ["x"]}, "actions[0].body is ['x'], but"),
    ({"type": "send-notification", "block": "a/b", "body": "x", "source": "inferred"}, "source: unknown key"),
    ({"type": "change-flow-run-state"}, "actions[0].state must be one of SCHEDULED"),
    ({"type": "change-flow-run-state", "state": "failed"}, "actions[0].state is 'failed', but it must be one of"),
    ({"type": "change-flow-run-state", "state": "FAILED", "force": 1}, "actions[0].force is 1, but"),
]


@pytest.mark.parametrize(("action", "message"), ACTIONS_WITH_FAULTS)
def test_actions(action: Any, message: str) -> None:
    (fault,) = action_faults("actions[0]", action)
    assert message in fault


def test_whatever_is_right_has_no_faults() -> None:
    whole = {"type": "compound", "require": "all", "within": None, "triggers": [EVENT, {"posture": "Proactive"}]}
    assert list(trigger_faults("trigger", whole)) == []
    named = ("work_pool", "work_queue", "deployment", "automation")
    for kind in ACTIONS:
        action: dict[str, Any] = {"type": kind}
        action |= {key: "a/b" for key in named if kind.replace("-", "_").endswith(f"_{key}")}
        if kind in ("send-notification", "call-webhook"):
            action |= {"block": "a/b"}
        action |= {"body": "x"} if kind == "send-notification" else {}
        action |= {"state": "FAILED"} if kind == "change-flow-run-state" else {}
        assert list(action_faults("actions[0]", action)) == [], kind


def test_triggers_that_mean_the_same_are_the_same() -> None:
    other = {"type": "event", "posture": "Reactive", "expect": ["a", "a"], "within": 0, "id": "x", "match": {}}
    assert full_trigger(EVENT) == full_trigger(other)
    assert full_trigger({"posture": "Proactive"})["within"] == 10
