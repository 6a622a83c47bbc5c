"""Automations, as they are declared: an event, or its absence, makes the server do something.

Prefect lets several automations have one name, and knows them by identifiers. Here a name stands for one automation:
the declaration has each once, and a server that has one twice is refused. Automations that are not declared are left
alone.
"""
# Annotations are not postponed here: options_of reads them.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

from ..core.errors import ProblemError
from ..core.http import PrefectApi
from ..core.problems import Problem
from . import automation_schema as schema
from .changes import Fields, ObjectChange, Outcome, create, duplicates, reconcile, refuse, update
from .references import References

LISTS = ("actions", "actions_on_trigger", "actions_on_resolve")


@dataclass(frozen=True)
class Automation:
    """An automation; its trigger and actions are as ``automation_schema`` has them."""

    name: str
    trigger: dict[str, Any]
    actions: list[dict[str, Any]]
    description: Optional[str] = None
    enabled: Optional[bool] = None
    tags: list[str] = field(default_factory=list)
    actions_on_trigger: list[dict[str, Any]] = field(default_factory=list)
    actions_on_resolve: list[dict[str, Any]] = field(default_factory=list)

    @property
    def all_actions(self) -> list[tuple[str, dict[str, Any]]]:
        """All actions with their places."""
        return [(f"{key}[{index}]", one) for key in LISTS for index, one in enumerate(getattr(self, key))]

    @property
    def references(self) -> list[tuple[str, str]]:
        """The kinds and names of the objects that the actions name."""
        named = ((schema.reference_of(action), action) for _, action in self.all_actions)
        return [(one.kind, action[one.kind]) for one, action in named if one and one.kind in action]


@dataclass(frozen=True)
class Planned:
    """What the same run makes before the automations, so that a dry run may find it missing."""

    deployments: list[str] = field(default_factory=list)
    work_pools: list[str] = field(default_factory=list)
    work_queues: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)

    def has(self, kind: str, name: str) -> bool:
        """Return whether an object is planned."""
        if kind == schema.WORK_QUEUE.kind and name.endswith("/default"):
            return name.rpartition("/")[0] in self.work_pools
        return name in getattr(self, f"{kind}s", ())


class AutomationStore:
    """The automations that a server has."""

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self.stored: list[Fields] = []  # as the API returns them
        self.references = References(api)
        self._is_read = False

    def read(self, declared: Sequence[Automation]) -> None:
        """Read all automations, and the objects of those kinds that actions name. Raises ApiError."""
        self.stored = self.api.filter("/automations/filter")
        kinds = {reference.kind for reference in schema.REFERENCES}
        if not self.stored:
            kinds = {kind for one in declared for kind, _ in one.references}
        self.references.read(sorted(kinds))
        self.references.set_ids(schema.AUTOMATION.kind, {one["name"]: one["id"] for one in self.stored})
        self._is_read = True

    def find(self, name: str) -> Optional[Fields]:
        """Return an automation by its name. Raises ProblemError if there are several."""
        found = [one for one in self.stored if one["name"] == name]
        if len(found) > 1:
            message = (
                f"The server has {len(found)} automations of the name {name}: {', '.join(one['id'] for one in found)}."
            )
            remedy = "Delete all but one, or give them other names: prefect automation delete --id IDENTIFIER"
            raise ProblemError(Problem("automation_ambiguous", f"automation {name}", message, remedy))
        return found[0] if found else None

    def plan(self, declared: Sequence[Automation], planned: Planned) -> Iterator[ObjectChange]:
        """Yield what must be changed so that the stored automations are as declared. Raises ProblemError."""
        known: set[str] = set()
        missing: list[Problem] = []
        for one in declared:
            missing += self._missing(one, known, planned) if self._is_read else ()
            known.add(one.name)
        if missing:
            raise ProblemError(*missing)
        for one in declared:
            name, wanted, stored = f"automation {one.name}", _wanted_fields(one), self.find(one.name)
            if stored is None:
                body = {"name": one.name, **wanted}
                yield create(name, body, partial(self._create, body))
            else:
                current = self.in_names(stored)
                yield from update(name, current, wanted, partial(self._update, stored, {**current, **wanted}))

    def in_names(self, stored: Fields) -> Fields:
        """Return an automation of the server in the words of a declaration, with all defaults."""
        fields = {name: stored[name] for name in ("name", "description", "enabled")}
        fields["tags"] = sorted(stored["tags"])
        fields["trigger"] = schema.full_trigger(stored["trigger"])
        for key in LISTS:
            fields[key] = [self._action_in_names(action) for action in stored[key]]
        return fields

    def _action_in_names(self, action: Fields) -> Fields:
        reference = schema.reference_of(action)
        fields = schema.full_action(action)
        if reference and action.get(reference.field):
            name = self.references.name(reference.kind, action[reference.field])
            # What was deleted has an identifier, and no name any more.
            fields.update({reference.field: action[reference.field]} if name is None else {reference.kind: name})
        elif reference:
            fields["source"] = "inferred"
        return fields

    def _missing(self, one: Automation, known: set[str], planned: Planned) -> Iterator[Problem]:
        """Yield a problem for each object that an action names and the server does not have."""
        for kind, name in one.references:
            if kind == schema.AUTOMATION.kind:
                self.find(name)
            if self.references.identifier(kind, name) or planned.has(kind, name):
                continue
            if kind == schema.AUTOMATION.kind and name in known:
                continue
            yield _target_missing(one.name, kind, name)

    def _create(self, body: Fields) -> Any:
        made = self.api.call("POST", "/automations/", self._in_identifiers(body))
        self.references.add(schema.AUTOMATION.kind, body["name"], made["id"])
        return made

    def _update(self, stored: Fields, body: Fields, _differing: Fields) -> Any:
        """Send all of an automation: the server empties what a change leaves out."""
        return self.api.call("PUT", f"/automations/{stored['id']}", self._in_identifiers(body))

    def _in_identifiers(self, body: Fields) -> Fields:
        """Return an automation as the API takes it. Raises ProblemError for an object that is not there any more."""
        return {
            **body,
            **{key: [self._action_in_identifiers(body["name"], one) for one in body[key]] for key in LISTS},
        }

    def _action_in_identifiers(self, automation: str, action: Mapping[str, Any]) -> Fields:
        reference = schema.reference_of(action)
        if not reference or reference.kind not in action:
            return dict(action)
        fields = {name: value for name, value in action.items() if name != reference.kind}
        identifier = self.references.identifier(reference.kind, action[reference.kind])
        if identifier is None:
            raise ProblemError(_target_missing(automation, reference.kind, action[reference.kind]))
        return {**fields, reference.field: identifier}


def apply(
    api: PrefectApi,
    declared: Sequence[Automation],
    dry_run: bool = False,
    done: Optional[list[str]] = None,
    planned: Optional[Planned] = None,
) -> Outcome:
    """Bring the declared automations to their declaration.

    Each change is added to ``done`` when it is made. A dry run changes nothing, takes a server that it cannot reach for
    an empty one, and may miss what is ``planned``. Raises ObjectsError, ApiError, ProblemError.
    """
    refuse(list(_faults(declared)))
    store = AutomationStore(api)
    names = {one.name for one in declared}
    return reconcile(
        read=lambda: store.read(declared),
        plan=lambda: store.plan(declared, (planned if dry_run else None) or Planned()),
        ids=lambda: {one["name"]: one["id"] for one in store.stored if one["name"] in names},
        dry_run=dry_run,
        done=done,
    )


def _target_missing(automation: str, kind: str, name: str) -> Problem:
    what = kind.replace("_", " ")
    message = f"Automation {automation}: there is no {what} {name}."
    remedy = f"Correct the name, or declare the {what}."
    if kind == schema.AUTOMATION.kind:
        remedy = "Correct the name, or declare that automation before this one."
    return Problem("automation_target_missing", f"automation {automation}", message, remedy)


def _wanted_fields(declared: Automation) -> Fields:
    """Return a declared automation with all defaults; what is None is left as it is."""
    fields: Fields = {"tags": sorted(set(declared.tags)), "trigger": schema.full_trigger(declared.trigger)}
    for key in LISTS:
        fields[key] = [_full_action(action) for action in getattr(declared, key)]
    optional = {"description": declared.description, "enabled": declared.enabled}
    return {**fields, **{name: value for name, value in optional.items() if value is not None}}


def _full_action(action: Mapping[str, Any]) -> Fields:
    fields, reference = schema.full_action(action), schema.reference_of(action)
    if reference and reference.kind in action:
        fields[reference.kind] = action[reference.kind]
    elif reference:
        fields["source"] = "inferred"
    return fields


def _faults(declared: Sequence[Automation]) -> Iterator[str]:
    yield from (f"Automation {name} is declared twice." for name in duplicates(one.name for one in declared))
    for one in declared:
        what = f"Automation {one.name}"
        if not one.name.strip():
            yield "Automation: a name must not be empty."
        if not one.actions:
            yield f"{what}: actions must be a list of at least one."
        yield from (f"{what}: {fault}." for fault in schema.trigger_faults("trigger", one.trigger))
        for place, action in one.all_actions:
            yield from (f"{what}: {fault}." for fault in schema.action_faults(place, action))
