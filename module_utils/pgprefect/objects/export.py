"""The objects of a server as an inventory declares them, so that what was clicked together becomes code.

What a declaration cannot say is not exported, and said in a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.http import PrefectApi
from ..core.prefect import RESCHEDULE_TAG
from . import automation_schema as schema
from .automations import LISTS, AutomationStore
from .blocks import BLOCK_NAME, secret_fields
from .changes import Fields, duplicates, same
from .contents import DEFAULT_QUEUE, Contents, read_contents
from .deployments import ENTRYPOINT
from .git import WORKING_DIRECTORY, source_of
from .variables import VARIABLE_NAME
from .yaml_text import Template

_TEMPLATES = "/collections/views/aggregate-worker-metadata"


@dataclass
class Export:
    """A tenant's declaration, the names of its secrets, and what is not in it."""

    tenant: Fields = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(api: PrefectApi) -> Export:
    """Return what declares the objects of a server. Changes nothing. Raises ApiError."""
    contents, found = read_contents(api), Export()
    store = AutomationStore(api)
    store.read([])
    kinds = {
        "variables": _variables(contents, found),
        "concurrency_limits": _limits(contents),
        "blocks": _blocks(contents, found),
        "work_pools": _pools(contents, found, _default_templates(api)),
        "deployments": _deployments(contents, found),
        "automations": _automations(store, found),
    }
    found.tenant = {kind: listed for kind, entries in kinds.items() if (listed := list(entries))}
    return found


def _given(**fields: Any) -> Fields:
    """Return the fields that say anything."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {}) or value is False}


def _variables(contents: Contents, found: Export) -> Iterator[Fields]:
    for name, one in sorted(contents.variables.items()):
        if not VARIABLE_NAME.fullmatch(name):
            found.notes.append(f"variable {name}: its name cannot be declared")
            continue
        yield {"name": name, "value": one["value"], **_given(tags=sorted(one["tags"]))}


def _limits(contents: Contents) -> Iterator[Fields]:
    for name, one in sorted(contents.concurrency_limits.items()):
        active = None if one["active"] else False
        decay = one["slot_decay_per_second"] or None
        yield {"name": name, "limit": one["limit"], **_given(active=active, slot_decay_per_second=decay)}


def _blocks(contents: Contents, found: Export) -> Iterator[Fields]:
    for full_name, one in sorted(contents.blocks.items()):
        slug, _, name = full_name.partition("/")
        if one["block_document_references"]:
            found.notes.append(f"block {full_name}: it has another block inside")
        elif not BLOCK_NAME.fullmatch(name):
            found.notes.append(f"block {full_name}: its name cannot be declared")
        else:
            paths = secret_fields(one["block_schema"])
            data, secrets = _parted(one["data"], paths, f"vault_{slug}_{name}", found)
            yield {"name": name, "type": slug, **_given(data=data, secrets=secrets)}


def _parted(data: Mapping[str, Any], paths: Sequence[str], prefix: str, found: Export) -> tuple[Fields, Fields]:
    """Return the fields that are no secrets, and in place of the others variables of a vault."""
    public: Fields = {}
    secret: Fields = {}
    for name, value in data.items():
        below = [path.partition(".")[2] for path in paths if path.partition(".")[0] in ("*", name)]
        variable = re.sub(r"\W", "_", f"{prefix}_{name}", flags=re.ASCII).lower()
        if "" in below:
            secret[name] = Template(f"{{{{ {variable} }}}}")
            found.secrets.append(variable)
        elif below and isinstance(value, Mapping):
            inner, hidden = _parted(value, below, variable, found)
            public.update({name: inner} if inner else {})
            secret.update({name: hidden} if hidden else {})
        else:
            public[name] = value
    return public, secret


def _default_templates(api: PrefectApi) -> dict[str, Any]:
    """Return the job templates that Prefect gives to the pools of each type."""
    packages = api.call("GET", _TEMPLATES)
    return {kind: one["default_base_job_configuration"] for one in packages.values() for kind, one in one.items()}


def _pools(contents: Contents, found: Export, templates: Mapping[str, Any]) -> Iterator[Fields]:
    for name, pool in sorted(contents.work_pools.items()):
        if name.lower().startswith("prefect"):
            found.notes.append(f"work pool {name}: the server reserves its name")
            continue
        template = pool["base_job_template"]
        if same(template, templates.get(pool["type"])):
            template = None
        given = _given(
            description=pool["description"],
            concurrency_limit=pool["concurrency_limit"],
            paused=pool["is_paused"] or None,
            base_job_template=template,
            queues=list(_queues(contents, name)),
        )
        # Workers that serve it may be anywhere.
        yield {"name": name, "type": pool["type"], **given, "workers": 0}


def _queues(contents: Contents, pool: str) -> Iterator[Fields]:
    """Yield a pool's queues with all priorities; the queue that every pool has only if there is more to say of it."""
    queues = [one for one in contents.work_queues.values() if one["work_pool_name"] == pool]
    for queue in sorted(queues, key=lambda one: int(one["priority"])):
        given = _given(
            description=queue["description"],
            priority=queue["priority"] if len(queues) > 1 else None,
            concurrency_limit=queue["concurrency_limit"],
            paused=queue["is_paused"] or None,
        )
        if given or queue["name"] != DEFAULT_QUEUE:
            yield {"name": queue["name"], **given}


def _deployments(contents: Contents, found: Export) -> Iterator[Fields]:
    for full_name, one in sorted(contents.deployments.items()):
        what = f"deployment {full_name}"
        if not one["work_pool_name"]:
            found.notes.append(f"{what}: it has no work pool")
        elif place := _place_of_code(what, one, found):
            flow, _, name = full_name.partition("/")
            limit = one.get("global_concurrency_limit")
            given = _given(
                work_queue=None if one["work_queue_name"] == DEFAULT_QUEUE else one["work_queue_name"],
                description=one["description"],
                parameters=one["parameters"],
                tags=sorted(set(one["tags"]) - {RESCHEDULE_TAG}),
                job_variables=one["job_variables"],
                enforce_parameter_schema=None if one["enforce_parameter_schema"] else False,
                concurrency_limit=limit["limit"] if limit else None,
                paused=one["paused"] or None,
                on_lost="reschedule" if RESCHEDULE_TAG in one["tags"] else None,
                schedules=list(_schedules(what, one, found)),
            )
            yield {"name": name, "flow": flow, **place, "work_pool": one["work_pool_name"], **given}


def _place_of_code(what: str, one: Fields, found: Export) -> Fields | None:
    """Return the fields that say where the code is, or None with a note where no declaration can."""
    steps, entrypoint = one["pull_steps"] or [], str(one["entrypoint"])
    if not ENTRYPOINT.fullmatch(entrypoint):
        found.notes.append(f"{what}: its entrypoint is {entrypoint}, and file.py:function can be declared")
        return None
    if [list(step) for step in steps] == [[WORKING_DIRECTORY]]:
        return {"entrypoint": entrypoint}
    source = source_of(steps)
    if source is None:
        names = ", ".join(name for step in steps for name in step) or "none"
        found.notes.append(f"{what}: its code is neither in a folder nor in a repository (pull steps: {names})")
        return None
    if "credentials" in source:
        found.notes.append(f"{what}: declare the git_credentials {source['credentials']} of its repository")
    return {"entrypoint": entrypoint, "source": source}


def _schedules(what: str, deployment: Fields, found: Export) -> Iterator[Fields]:
    for one in sorted(deployment["schedules"], key=lambda schedule: str(schedule["slug"])):
        if not one["slug"]:
            found.notes.append(f"{what}: a schedule without a slug, which stays as it was made by hand")
            continue
        rule = one["schedule"]
        given = _given(
            cron=rule.get("cron"),
            interval=int(rule["interval"]) if "interval" in rule else None,
            rrule=rule.get("rrule"),
            timezone=None if rule.get("timezone") in (None, "UTC") else rule["timezone"],
            active=None if one["active"] else False,
            parameters=one["parameters"],
        )
        yield {"slug": one["slug"], **given}


def _automations(store: AutomationStore, found: Export) -> Iterator[Fields]:
    twice = duplicates(one["name"] for one in store.stored)
    found.notes += [f"automation {name}: the server has several of this name" for name in twice]
    for stored in sorted(store.stored, key=lambda one: str(one["name"])):
        if stored["name"] in twice:
            continue
        full = store.in_names(stored)
        lists = {key: [schema.short_action(action) for action in full[key]] for key in LISTS if full[key]}
        one = {"name": full["name"], **_given(description=full["description"], enabled=full["enabled"] or False)}
        if full["enabled"]:
            del one["enabled"]
        one |= {**_given(tags=full["tags"]), "trigger": schema.short_trigger(full["trigger"]), **lists}
        faults = [
            *schema.trigger_faults("trigger", one["trigger"]),
            *(fault for key in lists for index, action in enumerate(lists[key])
              for fault in schema.action_faults(f"{key}[{index}]", action)),
        ]  # fmt: skip
        if faults:
            found.notes.append(f"automation {full['name']}: {'; '.join(faults)}")
        else:
            yield one
