"""The deployments of a prefect.yaml, as a tenant declares its own: the plain part of it, and the rest is refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError

_CLONE = "prefect.deployments.steps.git_clone"
_DIRECTORY = "prefect.deployments.steps.set_working_directory"
# Keys that mean the same in a declaration.
_SAME = ("name", "entrypoint", "description", "parameters", "tags", "concurrency_limit", "enforce_parameter_schema")
_OURS = {"work_pool", "schedule", "schedules", "pull", "paused", *_SAME}
_SCHEDULE = ("cron", "interval", "rrule", "timezone", "active", "slug", "parameters")
_POOL = {"name": "work_pool", "work_queue_name": "work_queue", "job_variables": "job_variables"}
_REFUSED = {
    "build": "the site builds no images: build it elsewhere, and declare docker or kubernetes of the pool",
    "push": "the site copies the flows, or clones their repository, and pushes nothing",
    "triggers": "declare the tenant's automations",
    "version": "the version follows from the code",
}
_WHOLE = {"name", "prefect-version", "deployments", "definitions", "pull", "build", "push"}


def deployments_from(tenants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the tenants with the deployments of their ``deployments_from`` beside their own.

    Raises AnsibleFilterError with everything that a declaration cannot have.
    """
    return [_with_deployments(tenant) for tenant in tenants]


def _with_deployments(tenant: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in tenant.items() if key != "deployments_from"}
    if tenant.get("deployments_from"):
        given["deployments"] = [*tenant.get("deployments", ()), *_read(Path(str(tenant["deployments_from"])))]
    return given


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AnsibleFilterError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    deployments = content.get("deployments") if isinstance(content, Mapping) else None
    if not isinstance(deployments, list) or not all(isinstance(one, Mapping) for one in deployments):
        raise AnsibleFilterError(f"{path} has no list of deployments")
    shared = {key: content[key] for key in ("build", "push", "pull") if content.get(key)}
    faults = [f"{key}: unknown key" for key in content if key not in _WHOLE]
    found = []
    for one in deployments:
        name = str(one.get("name"))
        given = {**shared, **{key: value for key, value in one.items() if value not in (None, [], {})}}
        faults += [f"deployment {name}: {fault}" for fault in _faults(given)]
        if not faults:
            try:
                found.append(_deployment(given, path.parent))
            except ValueError as error:
                faults.append(f"deployment {name}: {error}")
    if faults:
        raise AnsibleFilterError(f"{path}: {'; '.join(dict.fromkeys(faults))}")
    return found


def _faults(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a deployment has that a declaration cannot have."""
    for key, value in given.items():
        if key in _REFUSED:
            steps = ", ".join(_step_names(value)) if key in ("build", "push") else ""
            yield f"{key}{f' ({steps})' if steps else ''}: {_REFUSED[key]}"
        elif key not in _OURS:
            yield f"{key}: unknown key. Known keys: {', '.join(sorted(_OURS))}"
    rest = {key: value for key, value in given.items() if key not in ("build", "push")}
    for place, template in _templates("", rest):
        yield f"{place}: {template!r} has a template, which only Prefect's own command fills"
    pool = given.get("work_pool")
    if not isinstance(pool, Mapping):
        yield "work_pool: it must be a mapping with a name"
    else:
        yield from (f"work_pool.{key}: unknown key. Known keys: {', '.join(_POOL)}" for key in pool if key not in _POOL)
    for one in _schedules(given):
        unknown = set(one) - set(_SCHEDULE) if isinstance(one, Mapping) else {"schedule"}
        yield from (f"schedules: {key} is unknown. Known keys: {', '.join(_SCHEDULE)}" for key in sorted(unknown))
    pulled = given.get("pull") or []
    for name in _step_names(pulled):
        if name not in (_CLONE, _DIRECTORY):
            yield f"pull: the step {name} is unknown. Known steps: {_CLONE}, {_DIRECTORY}"
    for clone in _steps(pulled, _CLONE):
        if not set(clone) <= {"repository", "branch", "commit_sha"} or not {"branch", "commit_sha"} & set(clone):
            yield f"pull: {_CLONE} takes a repository with a branch or a commit_sha; declare source for credentials"


def _schedules(given: Mapping[str, Any]) -> list[Any]:
    listed = given.get("schedules") or []
    return [*listed, *([given["schedule"]] if given.get("schedule") else [])]


def _step_names(steps: Any) -> list[str]:
    listed = steps if isinstance(steps, list) else [steps]
    return [str(name) for step in listed for name in (step if isinstance(step, Mapping) else [step])]


def _steps(steps: Any, name: str) -> list[Mapping[str, Any]]:
    listed = steps if isinstance(steps, list) else []
    return [dict(step[name] or {}) for step in listed if isinstance(step, Mapping) and name in step]


def _templates(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each text with a template, and its place."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _templates(f"{place}.{key}" if place else str(key), entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _templates(f"{place}[{index}]", entry)
    elif isinstance(value, str) and re.search(r"\{\{|\{\$", value):
        yield place, value


def _deployment(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a deployment as it is declared. Raises ValueError if its flow has no name that can be read."""
    one = {key: given[key] for key in (*_SAME, "paused") if key in given}
    one |= {ours: given["work_pool"][key] for key, ours in _POOL.items() if given["work_pool"].get(key) is not None}
    one["flow"] = _flow_name(folder, str(given.get("entrypoint")))
    if schedules := _schedules(given):
        # A slug is what a declaration tells schedules apart by.
        one["schedules"] = [{"slug": f"schedule-{number}", **each} for number, each in enumerate(schedules, 1)]
    for clone in _steps(given.get("pull"), _CLONE):
        one["source"] = {"git": clone.get("repository"), "ref": clone.get("commit_sha") or clone.get("branch")}
    return one


def _flow_name(folder: Path, entrypoint: str) -> str:
    """Return the name that the code beside the file gives to a flow. Raises ValueError."""
    file, _, function = entrypoint.partition(":")
    try:
        tree = ast.parse((folder / file).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"entrypoint: {entrypoint} cannot be read below {folder} ({error})") from error
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function:
            for decorator in node.decorator_list:
                for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
                    if keyword.arg == "name" and not isinstance(keyword.value, ast.Constant):
                        raise ValueError(f"entrypoint: {function} works out its name; declare it in deployments")
                    if keyword.arg == "name":
                        return str(ast.literal_eval(keyword.value))
            return function.replace("_", "-")
    raise ValueError(f"entrypoint: {file} has no function {function}")


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"deployments_from": deployments_from}
