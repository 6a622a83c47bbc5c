"""What triggers and actions of automations may have inside. Prefect drops a key that it does not know without an error.

The keys are Prefect's own, but those that name another object: an action says ``deployment: flow/name`` where the API
has ``deployment_id``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

Fields = dict[str, Any]
STATES = (
    *("SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED"),
    *("CANCELLED", "CRASHED", "PAUSED", "CANCELLING"),
)
_DEEPEST = 10  # triggers inside of triggers
_PROACTIVE_SECONDS = 10.0  # the least that a proactive trigger may wait, and its default


@dataclass(frozen=True)
class Key:
    """A key: what its value must be, and the server's default where it is not given."""

    allowed: str
    check: Callable[[Any], bool]
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class Reference:
    """The key of an action that names another object: its kind, the API's field, and how the name is written."""

    kind: str
    field: str
    written: str
    may_be_inferred: bool = True  # from the event, by ``source: inferred``


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_prose(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 10**9


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**6


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _are_texts(value: Any) -> bool:
    return _is_list(value) and all(map(_is_text, value))


def _are_labels(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name) and (_is_prose(one) or _are_texts(one)) for name, one in value.items()
    )


def _are_several_labels(value: Any) -> bool:
    return _are_labels(value) or (_is_list(value) and all(map(_are_labels, value)))


def _is_data(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return isinstance(value, Mapping)


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_requirement(value: Any) -> bool:
    return value in ("any", "all") or _is_count(value)


_SECONDS = "a number of seconds"
_LABELS = "a mapping of labels and their values, each a text or a list of texts"
_TRIGGERS = Key("a list of triggers", lambda value: _is_list(value) and bool(value), required=True)
_WITHIN = Key(f"{_SECONDS}, or null", _or_null(_is_number))

TRIGGERS: dict[str, dict[str, Key]] = {
    "event": {
        "posture": Key("Reactive or Proactive", _one_of("Reactive", "Proactive"), required=True),
        "expect": Key("a list of events", _are_texts, ()),
        "after": Key("a list of events", _are_texts, ()),
        "match": Key(_LABELS, _are_labels, {}),
        "match_related": Key(f"{_LABELS}, or a list of such mappings", _are_several_labels, {}),
        "for_each": Key("a list of labels", _are_texts, ()),
        "threshold": Key("a whole number from 1 on", _is_count, 1),
        "within": Key(_SECONDS, _is_number, 0.0),
    },
    "compound": {
        "triggers": _TRIGGERS,
        "require": Key("any, all, or a whole number from 1 on", _is_requirement, required=True),
        "within": _WITHIN,
    },
    "sequence": {"triggers": _TRIGGERS, "within": _WITHIN},
}

DEPLOYMENT = Reference("deployment", "deployment_id", "flow/deployment")
WORK_POOL = Reference("work_pool", "work_pool_id", "the pool's name")
WORK_QUEUE = Reference("work_queue", "work_queue_id", "pool/queue")
AUTOMATION = Reference("automation", "automation_id", "the automation's name")
BLOCK = Reference("block", "block_document_id", "type/name", may_be_inferred=False)
REFERENCES = (DEPLOYMENT, WORK_POOL, WORK_QUEUE, AUTOMATION, BLOCK)

_WITHOUT_KEYS = (
    *("do-nothing", "cancel-flow-run", "delete-flow-run", "suspend-flow-run", "resume-flow-run"),
    *("pause-deployment", "resume-deployment", "pause-work-pool", "resume-work-pool"),
    *("pause-work-queue", "resume-work-queue", "pause-automation", "resume-automation"),
)
ACTIONS: dict[str, dict[str, Key]] = {
    **{kind: {} for kind in _WITHOUT_KEYS},
    "run-deployment": {
        "parameters": Key("a mapping of parameters, or null", _or_null(_is_data)),
        "job_variables": Key("a mapping of job variables, or null", _or_null(_is_data)),
        "schedule_after": Key(_SECONDS, _is_number, 0.0),
    },
    "change-flow-run-state": {
        "state": Key(f"one of {', '.join(STATES)}", _one_of(*STATES), required=True),
        "name": Key("a text, or null", _or_null(_is_prose)),
        "message": Key("a text, or null", _or_null(_is_prose)),
        "force": Key("true or false", lambda value: isinstance(value, bool), False),
    },
    "send-notification": {
        "body": Key("a text", _is_text, required=True),
        "subject": Key("a text", _is_prose, "Prefect automated notification"),
    },
    "call-webhook": {"payload": Key("a text", _is_prose, "")},
}
_OBJECTS = {
    **{f"{verb}-{reference.kind.replace('_', '-')}": reference
       for verb in ("pause", "resume")
       for reference in (DEPLOYMENT, WORK_POOL, WORK_QUEUE, AUTOMATION)},
    "run-deployment": DEPLOYMENT,
    "send-notification": BLOCK,
    "call-webhook": BLOCK,
}  # fmt: skip


def reference_of(action: Mapping[str, Any]) -> Reference | None:
    """Return how an action of this type names another object, or None if it names none."""
    return _OBJECTS.get(str(action.get("type")))


def trigger_faults(path: str, trigger: Any, depth: int = 0) -> Iterator[str]:
    """Yield what is wrong with a declared trigger, each with its path and what is allowed."""
    kind = trigger.get("type", "event") if isinstance(trigger, Mapping) else None
    if not isinstance(trigger, Mapping) or depth > _DEEPEST:
        yield f"{path} must be a mapping" + (f", and at most {_DEEPEST} triggers deep" if depth else "")
        return
    if not isinstance(kind, str) or kind not in TRIGGERS:
        yield f"{path}.type is {_shown(kind)}, but it must be one of {', '.join(TRIGGERS)}"
        return
    faults = list(_key_faults(path, trigger, TRIGGERS[kind]))
    yield from faults
    if faults:
        return
    for index, inner in enumerate(trigger.get("triggers") or ()):
        yield from trigger_faults(f"{path}.triggers[{index}]", inner, depth + 1)
    yield from _sense_faults(path, kind, trigger)


def _sense_faults(path: str, kind: str, trigger: Mapping[str, Any]) -> Iterator[str]:
    """Yield what each key of a trigger allows, and their sum does not."""
    if kind == "event" and trigger["posture"] == "Reactive" and not trigger.get("expect"):
        yield f"{path}.expect must be a list of at least one event: without it the trigger reacts to every event"
    if kind == "event" and trigger["posture"] == "Proactive":
        within = trigger.get("within", _PROACTIVE_SECONDS)
        if within < _PROACTIVE_SECONDS:
            yield f"{path}.within is {within}, but it must be {_PROACTIVE_SECONDS:g} or more for a Proactive trigger"
    require: Any = trigger.get("require")
    if _is_count(require) and require > len(trigger["triggers"]):
        yield f"{path}.require is {require}, but it must be at most {len(trigger['triggers'])}, its triggers"


def action_faults(path: str, action: Any) -> Iterator[str]:
    """Yield what is wrong with a declared action, each with its path and what is allowed."""
    if not isinstance(action, Mapping):
        yield f"{path} must be a mapping"
        return
    kind = action.get("type")
    if not isinstance(kind, str) or kind not in ACTIONS:
        yield f"{path}.type is {_shown(kind)}, but it must be one of {', '.join(ACTIONS)}"
        return
    keys, reference = ACTIONS[kind], reference_of(action)
    if reference:
        keys = {reference.kind: Key(f"a text: {reference.written}", _is_text), **keys}
    if reference and reference.may_be_inferred:
        keys = {"source": Key("selected or inferred", _one_of("selected", "inferred"), "selected"), **keys}
    faults = list(_key_faults(path, action, keys))
    yield from faults
    if reference and not faults and (action.get("source") == "inferred") == (reference.kind in action):
        wrong = "and not both" if reference.kind in action else "and is missing"
        other = " or source: inferred," if reference.may_be_inferred else ""
        yield f"{path}.{reference.kind} must be {reference.written},{other} {wrong}"


def _key_faults(path: str, given: Mapping[str, Any], keys: Mapping[str, Key]) -> Iterator[str]:
    for name in given:
        if name != "type" and name not in keys:
            shown = name if str(name).isprintable() else repr(name)
            yield f"{path}.{shown}: unknown key. Known keys: {', '.join(('type', *keys))}"
    for name, key in keys.items():
        if name not in given and key.required:
            yield f"{path}.{name} must be {key.allowed}, and is missing"
        elif name in given and not key.check(given[name]):
            yield f"{path}.{name} is {_shown(given[name])}, but it must be {key.allowed}"


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def full_trigger(trigger: Mapping[str, Any]) -> Fields:
    """Return a trigger, declared or of the server, with all defaults, sets in order, and without identifiers."""
    kind = str(trigger.get("type", "event"))
    if kind not in TRIGGERS:  # of a newer server
        return {name: value for name, value in trigger.items() if name != "id"}
    full: Fields = {"type": kind}
    for name, key in TRIGGERS[kind].items():
        value = trigger.get(name, key.default)
        if name in ("expect", "after", "for_each"):
            value = sorted(set(value or ()))
        elif name == "triggers":
            value = [full_trigger(inner) for inner in value]
        elif name == "within" and value is not None:
            value = float(value)
        full[name] = value
    if full.get("posture") == "Proactive" and not full["within"]:
        full["within"] = _PROACTIVE_SECONDS
    return full


def full_action(action: Mapping[str, Any]) -> Fields:
    """Return an action with all defaults, without those of an object that it names."""
    if action["type"] not in ACTIONS:  # of a newer server
        return dict(action)
    full: Fields = {"type": action["type"]}
    for name, key in ACTIONS[str(action["type"])].items():
        value = action.get(name, key.default)
        full[name] = float(value) if name == "schedule_after" else value
    return full


def short_trigger(trigger: Mapping[str, Any]) -> Fields:
    """Return a full trigger without what follows from the defaults."""
    if trigger["type"] not in TRIGGERS:
        return dict(trigger)
    short = _short(trigger, TRIGGERS[trigger["type"]])
    if short.get("within") == _PROACTIVE_SECONDS and short.get("posture") == "Proactive":
        del short["within"]
    if "triggers" in short:
        short["triggers"] = [short_trigger(inner) for inner in short["triggers"]]
    return {name: value for name, value in short.items() if (name, value) != ("type", "event")}


def short_action(action: Mapping[str, Any]) -> Fields:
    """Return a full action without what follows from the defaults."""
    return _short(action, ACTIONS.get(str(action["type"]), {}))


def _short(fields: Mapping[str, Any], keys: Mapping[str, Key]) -> Fields:
    defaults = {name: list(key.default) if key.default == () else key.default for name, key in keys.items()}
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}
