"""Deployments and their schedules, as they are declared.

What is not declared is left alone: other deployments, schedules that were made by hand, and the fields that are None.
"""
# Annotations are not postponed here: options_of reads them.

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

from ..core.http import PrefectApi
from ..core.prefect import RESCHEDULE_TAG
from ..core.problems import Problem
from .changes import (
    Fields,
    ObjectChange,
    Outcome,
    create,
    delete,
    duplicates,
    limit_field,
    name_faults,
    reconcile,
    refuse,
    update,
)
from .flows import FlowCode, FlowError, flow_problem
from .git import WORKING_DIRECTORY, GitError, GitMissing, GitSource, Repositories
from .secret_blocks import SecretBlocks

ENTRYPOINT = re.compile(r"[\w-]+(?:/[\w-]+)*\.py:[A-Za-z_]\w*")
_RULES = ("cron", "interval", "rrule")


@dataclass(frozen=True)
class Schedule:
    """When a deployment runs: five fields of cron, seconds between two runs, or a recurrence rule of RFC 5545."""

    slug: str  # its name, unique for the deployment
    cron: Optional[str] = None
    interval: Optional[int] = None
    rrule: Optional[str] = None
    timezone: str = "UTC"
    active: Optional[bool] = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def rules(self) -> Fields:
        """The rules that are given: exactly one in a declaration without faults."""
        return {kind: getattr(self, kind) for kind in _RULES if getattr(self, kind) is not None}

    @property
    def body(self) -> Fields:
        """The schedule as the API takes it."""
        rule = {**self.rules, "timezone": self.timezone}
        body: Fields = {"slug": self.slug, "schedule": rule, "parameters": self.parameters}
        return body if self.active is None else {**body, "active": self.active}


@dataclass(frozen=True)
class Deployment:
    """A deployment of a flow; ``entrypoint`` is the flow's file and function, a limit of -1 takes the limit away."""

    name: str
    flow: str
    entrypoint: str
    work_pool: str
    source: Optional[GitSource] = None  # None: the folder of the flows
    work_queue: str = "default"
    description: Optional[str] = None  # None: the flow's, whenever its code changes
    parameters: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    job_variables: dict[str, Any] = field(default_factory=dict)
    enforce_parameter_schema: bool = True
    concurrency_limit: Optional[int] = None
    paused: Optional[bool] = None
    on_lost: str = "crash"  # a run that nothing runs any more; reschedule starts it again
    schedules: list[Schedule] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        """The name as Prefect's command shows it: flow/deployment."""
        return f"{self.flow}/{self.name}"


class DeploymentStore:
    """The declared deployments that a server has, read with two requests."""

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self.flows: dict[str, str] = {}  # the identifiers by name
        self.deployments: dict[str, Fields] = {}  # by full name, as the API returns them

    def read(self, declared: Sequence[Deployment]) -> None:
        """Read them from the server. Raises ApiError."""
        flows = {"name": {"any_": sorted({deployment.flow for deployment in declared})}}
        names = {"name": {"any_": sorted({deployment.name for deployment in declared})}}
        self.flows = {flow["name"]: flow["id"] for flow in self.api.filter("/flows/filter", flows=flows)}
        flow_names = {identifier: name for name, identifier in self.flows.items()}
        found = self.api.filter("/deployments/filter", flows=flows, deployments=names)
        self.deployments = {f"{flow_names[d['flow_id']]}/{d['name']}": d for d in found}

    def create(self, flow: str, body: Fields) -> None:
        """Create a deployment."""
        if flow not in self.flows:
            self.flows[flow] = self.api.call("POST", "/flows/", {"name": flow})["id"]
        self.api.call("POST", "/deployments/", {**body, "flow_id": self.flows[flow]})

    def update(self, identifier: str, wanted: Fields, differing: Fields) -> None:
        # The server finds a queue by the pool's name and its own, so the two travel together.
        """Update a deployment."""
        place = ("work_pool_name", "work_queue_name")
        if not differing.keys().isdisjoint(place):
            differing = {**differing, **{name: wanted[name] for name in place}}
        self.api.call("PATCH", f"/deployments/{identifier}", differing)


def apply(
    api: PrefectApi,
    declared: Sequence[Deployment],
    code: FlowCode,
    dry_run: bool = False,
    done: Optional[list[str]] = None,
    repositories: Optional[Repositories] = None,
) -> Outcome:
    """Bring the declared deployments and their schedules to their declaration, and the blocks with their tokens.

    Each change is added to ``done`` when it is made. A dry run changes nothing. It takes a server that it cannot reach
    for one without deployments, and does without code, virtualenv and git that are not there yet.
    Raises ObjectsError, ApiError, FlowError, GitError.
    """
    repositories = repositories or Repositories()
    refuse([*_faults(declared), *_source_faults(declared, repositories)])
    tokens = repositories.tokens([deployment.source for deployment in declared if deployment.source])
    store, blocks = DeploymentStore(api), SecretBlocks(api)
    secrets = {name: {"value": token} for name, token in tokens.items()}
    names = [deployment.full_name for deployment in declared]

    def read_all() -> None:
        store.read(declared)
        blocks.read(tokens)

    return reconcile(
        read=read_all,
        plan=lambda: [*blocks.plan(secrets), *plan(store, declared, code, repositories, may_lack_code=dry_run)],
        ids=lambda: {name: store.deployments[name]["id"] for name in names if name in store.deployments},
        dry_run=dry_run,
        done=done,
    )


def plan(
    store: DeploymentStore,
    declared: Sequence[Deployment],
    code: FlowCode,
    repositories: Repositories,
    may_lack_code: bool = False,
) -> list[ObjectChange]:
    """Return what must be changed so that the stored deployments are as declared. Raises FlowError, GitError.

    Only flows whose code or entrypoint differs from what the server has are loaded.
    """
    versions = _versions(declared, code, repositories, may_lack_code)
    places = {d.full_name: _place_of_code(d, versions[d.full_name], code, repositories) for d in declared}
    changed = [
        deployment
        for deployment in declared
        if versions[deployment.full_name] is not None
        and _code_differs(store.deployments.get(deployment.full_name, {}), deployment, places[deployment.full_name])
    ]
    loaded: dict[str, Fields] = {}
    if changed and (not may_lack_code or Path(code.python).exists()):
        loaded = _load(changed, versions, code, repositories)
        _check_flows(changed, loaded)

    changes: list[ObjectChange] = []
    for deployment in declared:
        wanted = {**_wanted_fields(deployment), **places[deployment.full_name]}
        if deployment in changed and loaded:
            flow = loaded[deployment.full_name]
            wanted["parameter_openapi_schema"] = flow["schema"]
            wanted.setdefault("description", flow["description"])
        changes += _plan_deployment(store, deployment, wanted)
    return changes


def _versions(
    declared: Sequence[Deployment], code: FlowCode, repositories: Repositories, may_lack_code: bool
) -> dict[str, Optional[str]]:
    """Return the versions of the deployments' code by full name: of the folder a digest, of a repository the commit.

    It is None for code that is not there yet. Raises FlowError, and GitError with the problems of all repositories.
    """
    entrypoints = {d.entrypoint for d in declared if d.source is None}
    digests = {entrypoint: code.version(entrypoint, required=not may_lack_code) for entrypoint in sorted(entrypoints)}
    commits: dict[GitSource, Optional[str]] = {}
    problems: list[Problem] = []
    for source, deployments in _by_source(declared).items():
        commits[source] = _commit(source, deployments, repositories, may_lack_code, problems)
    if problems:
        raise GitError(*problems)
    return {d.full_name: commits[d.source] if d.source else digests[d.entrypoint] for d in declared}


def _commit(
    source: GitSource,
    deployments: Sequence[Deployment],
    repositories: Repositories,
    may_lack_git: bool,
    problems: list[Problem],
) -> Optional[str]:
    """Return the commit of a source, or None with the problems added, or where git is not there yet."""
    try:
        return repositories.resolve(source)
    except GitError as error:
        if not (isinstance(error, GitMissing) and may_lack_git):
            problems += _named(deployments, error).problems
        return None


def _load(
    declared: Sequence[Deployment],
    versions: dict[str, Optional[str]],
    code: FlowCode,
    repositories: Repositories,
) -> dict[str, Fields]:
    """Return what Prefect knows of the deployments' flows by full name. Raises FlowError, GitError."""
    loaded = _load_in_folder([deployment for deployment in declared if deployment.source is None], code)
    for source, deployments in _by_source(declared).items():
        loaded |= _load_commit(source, deployments, versions[deployments[0].full_name] or "", code, repositories)
    return loaded


def _load_in_folder(declared: Sequence[Deployment], code: FlowCode) -> dict[str, Fields]:
    """Return what Prefect knows of the deployments' flows by full name, those of each virtualenv loaded together."""
    by_virtualenv: dict[str, list[Deployment]] = {}
    for deployment in declared:
        by_virtualenv.setdefault(code.of_pool(deployment.work_pool).virtualenv, []).append(deployment)
    loaded: dict[str, Fields] = {}
    for virtualenv, deployments in by_virtualenv.items():
        found = replace(code, virtualenv=virtualenv).load(sorted({d.entrypoint for d in deployments}))
        loaded.update({d.full_name: found[d.entrypoint] for d in deployments})
    return loaded


def _load_commit(
    source: GitSource, deployments: Sequence[Deployment], commit: str, code: FlowCode, repositories: Repositories
) -> dict[str, Fields]:
    """Return what Prefect knows of the flows of a commit by full name. Raises FlowError, GitError."""
    missing = {"error": f"there is no such file at the commit {commit[:12]}"}
    found: dict[str, Fields] = {deployment.full_name: missing for deployment in deployments}
    try:
        with repositories.checkout(source, commit) as folder:
            there = [one for one in deployments if Path(folder, one.entrypoint.partition(":")[0]).is_file()]
            found |= _load_in_folder(there, replace(code, directory=folder))
    except GitError as error:
        raise _named(deployments, error) from error
    return found


def _by_source(declared: Sequence[Deployment]) -> dict[GitSource, list[Deployment]]:
    """Return the deployments whose code is in a repository, by where it is."""
    found: dict[GitSource, list[Deployment]] = {}
    for deployment in declared:
        if deployment.source is not None:
            found.setdefault(deployment.source, []).append(deployment)
    return found


def _named(deployments: Sequence[Deployment], error: GitError) -> GitError:
    """Return the error with the names of the deployments that need the repository."""
    names = ", ".join(deployment.full_name for deployment in deployments)
    what = "Deployment" if len(deployments) == 1 else "Deployments"
    return GitError(*(replace(one, message=f"{what} {names}: {one.message}") for one in error.problems))


def _place_of_code(
    deployment: Deployment, version: Optional[str], code: FlowCode, repositories: Repositories
) -> Fields:
    """Return the fields that say where workers find a deployment's code, and its version, as far as they are known."""
    fields: Fields = {} if version is None else {"version": version}
    if deployment.source is None:
        fields["pull_steps"] = [{WORKING_DIRECTORY: {"directory": code.directory}}]
    elif version is not None:
        fields["pull_steps"] = repositories.pull_steps(deployment.source, version)
    return fields


def _code_differs(stored: Fields, deployment: Deployment, place: Fields) -> bool:
    """Return whether the flow must be loaded: a folder may move, but another repository may lack the commit."""
    known = {**place, "entrypoint": deployment.entrypoint}
    if deployment.source is None:
        del known["pull_steps"]
    return any(stored.get(name) != value for name, value in known.items())


def _check_flows(declared: Sequence[Deployment], loaded: dict[str, Fields]) -> None:
    """Raise FlowError for all deployments whose flow could not be loaded or has another name."""
    problems = []
    for deployment in declared:
        flow = loaded[deployment.full_name]
        name, what = deployment.full_name, f"Deployment {deployment.full_name}: {deployment.entrypoint}"
        if deployment.source is not None:
            what += f" in {deployment.source}"
        if "error" in flow:
            remedy = "Correct the entrypoint, or the flow's code."
            problems.append(flow_problem(f"deployment {name}", f"{what}: {flow['error']}.", remedy))
        elif flow["name"] != deployment.flow:
            message = f"{what} is the flow {flow['name']}, not {deployment.flow}."
            problems.append(flow_problem(f"deployment {name}", message, "Correct the name of the flow."))
    if problems:
        raise FlowError(*problems)


def _plan_deployment(store: DeploymentStore, deployment: Deployment, wanted: Fields) -> Iterator[ObjectChange]:
    name = f"deployment {deployment.full_name}"
    stored = store.deployments.get(deployment.full_name)
    if stored is None:
        schedules = [schedule.body for schedule in deployment.schedules]
        body = {"name": deployment.name, **wanted, "schedules": schedules}
        yield create(name, body, partial(store.create, deployment.flow, body))
        return
    # The stored deployment in the words of the API's requests.
    limit = stored.get("global_concurrency_limit")
    current = {
        **stored,
        "tags": sorted(stored["tags"]),
        "concurrency_limit": limit["limit"] if limit else None,
    }
    yield from update(name, current, wanted, partial(store.update, stored["id"], wanted))
    yield from _plan_schedules(store.api, deployment, stored)


def _plan_schedules(api: PrefectApi, deployment: Deployment, current: Fields) -> Iterator[ObjectChange]:
    path = f"/deployments/{current['id']}/schedules"
    stored = {schedule["slug"]: schedule for schedule in current["schedules"] if schedule["slug"]}
    for declared in deployment.schedules:
        name, body = f"schedule {deployment.full_name} {declared.slug}", declared.body
        schedule = stored.pop(declared.slug, None)
        if schedule is None:
            yield create(name, body, partial(api.call, "POST", path, [body]))
            continue
        rule = body["schedule"]
        before = {**schedule, "schedule": _comparable_rule(schedule["schedule"], rule)}
        request = body
        if "interval" in rule and "interval" in schedule["schedule"]:
            # Keep the phase of an interval that only changes its length.
            request = {**body, "schedule": {**rule, "anchor_date": schedule["schedule"]["anchor_date"]}}
        yield from update(name, before, body, partial(_update_schedule, api, f"{path}/{schedule['id']}", request))
    for slug, schedule in stored.items():
        fields = {field: schedule[field] for field in ("schedule", "active", "parameters")}
        request_delete = partial(api.call, "DELETE", f"{path}/{schedule['id']}")
        yield delete(f"schedule {deployment.full_name} {slug}", fields, request_delete)


def _update_schedule(api: PrefectApi, path: str, body: Fields, _differing: Fields) -> None:
    """Send all of a schedule: the server empties what a change leaves out."""
    api.call("PATCH", path, body)


def _comparable_rule(current: Fields, wanted: Fields) -> Fields:
    """Return the stored rule without what the server added: anchors, `day_or`, and the start of a bare rrule."""
    rule: Fields = {name: current.get(name) for name in wanted}
    if rule.get("rrule") and "DTSTART" not in wanted["rrule"]:
        lines = [line for line in rule["rrule"].splitlines() if not line.startswith("DTSTART")]
        prefix = "RRULE:" if wanted["rrule"].startswith("RRULE:") else ""
        rule["rrule"] = "\n".join(prefix + re.sub("^RRULE:", "", line) for line in lines)
    return rule


def _wanted_fields(declared: Deployment) -> Fields:
    """Return the API's fields of a declared deployment, without those that follow from its code."""
    fields: Fields = {
        "entrypoint": declared.entrypoint,
        "work_pool_name": declared.work_pool,
        "work_queue_name": declared.work_queue,
        "parameters": declared.parameters,
        "tags": sorted({*declared.tags, RESCHEDULE_TAG} if declared.on_lost == "reschedule" else declared.tags),
        "job_variables": declared.job_variables,
        "enforce_parameter_schema": declared.enforce_parameter_schema,
        **limit_field(declared.concurrency_limit),
    }
    optional = {"description": declared.description, "paused": declared.paused}
    return {**fields, **{name: value for name, value in optional.items() if value is not None}}


def _faults(declared: Sequence[Deployment]) -> Iterator[str]:
    for name in duplicates(deployment.full_name for deployment in declared):
        yield f"Deployment {name} is declared twice."
    for deployment in declared:
        what = f"Deployment {deployment.full_name}"
        yield from name_faults(f"Flow of deployment {deployment.full_name}", deployment.flow)
        yield from name_faults(what, deployment.name)
        if not ENTRYPOINT.fullmatch(deployment.entrypoint):
            yield (
                f"{what}: the entrypoint {deployment.entrypoint!r} must read file.py:function, "
                "with the file's path in the folder of the flows, or in the repository."
            )
        if deployment.on_lost not in ("crash", "reschedule"):
            yield f"{what}: on_lost is {deployment.on_lost!r}, but it must be crash or reschedule."
        elif RESCHEDULE_TAG in deployment.tags:
            yield f"{what}: instead of the tag {RESCHEDULE_TAG} declare on_lost: reschedule."
        limit = deployment.concurrency_limit
        if limit is not None and limit < 1 and limit != -1:
            yield f"{what}: concurrency_limit must be 1 or more, or -1 for no limit."
        for slug in duplicates(schedule.slug for schedule in deployment.schedules):
            yield f"{what}: the schedule {slug} is declared twice."
        for schedule in deployment.schedules:
            if len(schedule.rules) != 1:
                yield f"{what}: the schedule {schedule.slug} needs exactly one of {', '.join(_RULES)}."
            if schedule.interval is not None and schedule.interval < 1:
                yield f"{what}: the interval of schedule {schedule.slug} must be positive."


def _source_faults(declared: Sequence[Deployment], repositories: Repositories) -> Iterator[str]:
    for deployment in declared:
        if deployment.source is not None:
            for fault in repositories.faults(deployment.source):
                yield f"Deployment {deployment.full_name}: {fault}"
