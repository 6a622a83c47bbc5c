#!/usr/bin/python
"""Keep a Prefect server's deployments and their schedules as declared."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pwd
import re
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.prefect_api import (
    CONNECTION_ARGUMENTS,
    Plan,
    PrefectApi,
    PrefectError,
    PrefectUnreachable,
    duplicates,
    name_problems,
)

DOCUMENTATION = r"""
---
module: prefect_deployments
short_description: Keep a Prefect server's deployments and their schedules as declared
description:
  - Creates the declared deployments that are missing, and changes only those fields of existing ones that differ, so
    that identifiers, schedules and runs that are scheduled already survive a run that changes nothing.
  - Deployments that are not declared are left alone.
  - An option with a default is always brought to its value. An option without one that is not given is left as it is.
  - The flow's code is a file on this host. Its digest, together with that of the local modules it imports, is the
    deployment's version; only where it differs from the server's is the flow loaded, without running it, to learn its
    description and its parameters' schema.
  - In check mode, an API that cannot be reached is taken for a server without deployments, with a warning, so that the
    plan for a host on which nothing is installed yet can be shown.
author:
  - The ansible-prefect authors
options:
  api_url:
    description: Address of the server's REST API, with its path C(/api).
    type: str
    required: true
  api_auth_string:
    description: The C(user:password) that the server was started with, empty where it asks for none.
    type: str
    default: ""
  api_timeout:
    description: Seconds to wait for each answer.
    type: int
    default: 30
  flows_directory:
    description: Folder of the flows' code, the same on this host and on the workers'.
    type: path
    required: true
  virtualenv:
    description: The environment of Prefect in which the flows are loaded.
    type: path
    required: true
  user:
    description: The account that loads the flows, where the module itself runs as root.
    type: str
  deployments:
    description: The deployments.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the deployment, unique for its flow.
        type: str
        required: true
      flow:
        description: Name of the flow, as its code says it.
        type: str
        required: true
      entrypoint:
        description: The flow's file in C(flows_directory) and its function, as in C(collect.py:collect_prices).
        type: str
        required: true
      work_pool:
        description: The work pool whose workers run it.
        type: str
        required: true
      work_queue:
        description: The pool's queue.
        type: str
        default: default
      description:
        description: What it is for. If not given, a deployment gets its flow's description whenever the code changes.
        type: str
      parameters:
        description: Values for the flow's parameters. Everyone who may use the API reads them; no place for secrets.
        type: dict
        default: {}
      tags:
        description: Its tags, in any order.
        type: list
        elements: str
        default: []
      job_variables:
        description: Values for the variables of the work pool's job template. No place for secrets either.
        type: dict
        default: {}
      enforce_parameter_schema:
        description: Whether the server refuses runs whose parameters do not fit the flow.
        type: bool
        default: true
      concurrency_limit:
        description: How many of its runs may run at once; C(-1) takes a limit away.
        type: int
      paused:
        description: Whether its schedules make no runs.
        type: bool
      schedules:
        description:
          - When it runs, each with exactly one of C(cron), C(interval) and C(rrule).
          - A schedule of the server whose slug is not declared is removed. One without a slug was made by hand, and
            stays.
        type: list
        elements: dict
        default: []
        suboptions:
          slug:
            description: Its name, unique for the deployment.
            type: str
            required: true
          cron:
            description: Five fields of cron.
            type: str
          interval:
            description: Seconds between two runs.
            type: int
          rrule:
            description: A recurrence rule of RFC 5545.
            type: str
          timezone:
            description: Time zone of the schedule.
            type: str
            default: UTC
          active:
            description: Whether it makes runs. A new schedule does unless told otherwise.
            type: bool
          parameters:
            description: Values that override the deployment's parameters.
            type: dict
            default: {}
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return changed status prediction without modifying the server.
  diff_mode:
    support: full
    description: Returns the fields that are, or would be, changed.
  idempotent:
    support: full
    description: A second run with the same declaration changes nothing.
"""

EXAMPLES = r"""
- name: Collect market data after the markets have closed
  prefect_deployments:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "{{ prefect_api_auth_string }}"
    flows_directory: /opt/prefect/flows
    virtualenv: /opt/prefect/3.8.8
    deployments:
      - name: daily
        flow: collect-market-data
        entrypoint: collect_market_data.py:collect_market_data
        work_pool: default
        parameters:
          source: yahoo
          symbols: [MSFT, AAPL]
        schedules:
          - slug: after-close
            cron: "30 22 * * 1-5"
            timezone: Europe/Berlin
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: always
  sample: ["create deployment collect-prices/daily", "update schedule collect-prices/weekly sunday: schedule"]
ids:
  description: Identifiers of the declared deployments, by flow and name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {"collect-prices/daily": "1f0b4a0e-3f1c-4b44-a2a5-52f0bd8c5b39"}
"""

SCHEDULE_ARGUMENTS: dict[str, Any] = {
    "slug": {"type": "str", "required": True},
    "cron": {"type": "str"},
    "interval": {"type": "int"},
    "rrule": {"type": "str"},
    "timezone": {"type": "str", "default": "UTC"},
    "active": {"type": "bool"},
    "parameters": {"type": "dict", "default": {}},
}
DEPLOYMENT_ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "flow": {"type": "str", "required": True},
    "entrypoint": {"type": "str", "required": True},
    "work_pool": {"type": "str", "required": True},
    "work_queue": {"type": "str", "default": "default"},
    "description": {"type": "str"},
    "parameters": {"type": "dict", "default": {}},
    "tags": {"type": "list", "elements": "str", "default": []},
    "job_variables": {"type": "dict", "default": {}},
    "enforce_parameter_schema": {"type": "bool", "default": True},
    "concurrency_limit": {"type": "int"},
    "paused": {"type": "bool"},
    "schedules": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": SCHEDULE_ARGUMENTS,
        "mutually_exclusive": [("cron", "interval", "rrule")],
        "required_one_of": [("cron", "interval", "rrule")],
    },
}


class Environment(NamedTuple):
    """Where the flows' code is, and what loads it."""

    flows_directory: str
    virtualenv: str
    user: str | None

    @property
    def python(self) -> str:
        return str(Path(self.virtualenv, "bin/python"))


ENTRYPOINT = re.compile(r"(?P<file>[\w-]+(?:/[\w-]+)*\.py):(?P<function>[A-Za-z_]\w*)")

# Runs in Prefect's virtualenv: importing Prefect takes seconds, so once for all flows that changed.
LOAD_FLOWS = """
import json, sys
from prefect.flows import Flow, safe_load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

loaded = {}
for entrypoint in json.load(sys.stdin):
    try:
        flow = safe_load_flow_from_entrypoint(entrypoint)
        if not isinstance(flow, Flow):
            raise TypeError("there is no function of this name with the decorator @flow")
        schema = parameter_schema(flow).model_dump_for_openapi()
        loaded[entrypoint] = {"name": flow.name, "description": flow.description, "schema": schema}
    except Exception as error:
        loaded[entrypoint] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(loaded))
"""


def declaration_problems(deployments: list[dict[str, Any]]) -> list[str]:
    problems = [f"Deployment {name} is declared twice." for name in duplicates([label(d) for d in deployments])]
    for deployment in deployments:
        name = label(deployment)
        problems += name_problems(f"Flow of deployment {name}", deployment["flow"])
        problems += name_problems(f"Deployment {name}", deployment["name"])
        if not ENTRYPOINT.fullmatch(deployment["entrypoint"]):
            problems.append(
                f"Deployment {name}: the entrypoint {deployment['entrypoint']!r} must read file.py:function, "
                "with the file's path in the folder of the flows."
            )
        limit = deployment["concurrency_limit"]
        if limit is not None and limit < 1 and limit != -1:
            problems.append(f"Deployment {name}: concurrency_limit must be 1 or more, or -1 for no limit.")
        for slug in duplicates([schedule["slug"] for schedule in deployment["schedules"]]):
            problems.append(f"Deployment {name}: the schedule {slug} is declared twice.")
        for schedule in deployment["schedules"]:
            if schedule["interval"] is not None and schedule["interval"] < 1:
                problems.append(f"Deployment {name}: the interval of schedule {schedule['slug']} must be positive.")
    return problems


def label(deployment: dict[str, Any]) -> str:
    return f"{deployment['flow']}/{deployment['name']}"


def code_version(directory: str, entrypoint: str, may_lack_code: bool) -> str | None:
    """A digest of the flow's file and of the modules beside it that it imports; None where there is no file yet."""
    flow = Path(directory, entrypoint.partition(":")[0])
    if not flow.is_file():
        if may_lack_code:
            return None
        raise PrefectError(f"The flow's file {flow} does not exist. Copy the flows to this host first.")
    pending, seen = [flow], set()
    digest = hashlib.sha256()
    while pending:
        file = pending.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        code = file.read_bytes()
        digest.update(str(file.relative_to(directory)).encode() + b"\0" + code + b"\0")
        pending += [flow.parent / (name.replace(".", "/") + ".py") for name in imported_modules(file, code)]
    return digest.hexdigest()[:16]


def imported_modules(file: Path, code: bytes) -> list[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise PrefectError(f"{file}, line {error.lineno}: {error.msg}.") from error
    nodes = list(ast.walk(tree))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def load_flows(environment: Environment, entrypoints: list[str]) -> dict[str, dict[str, Any]]:
    """Name, description and parameters' schema of the flows, without running anything of them but their imports."""
    with tempfile.TemporaryDirectory() as home:
        identity: dict[str, Any] = {}
        if environment.user:
            account = pwd.getpwnam(environment.user)
            os.chown(home, account.pw_uid, account.pw_gid)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        try:
            run = subprocess.run(
                [environment.python, "-I", "-B", "-c", LOAD_FLOWS],
                input=json.dumps(entrypoints),
                cwd=environment.flows_directory,
                env={"HOME": home, "PREFECT_HOME": home, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
                **identity,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise PrefectError(f"The flows could not be loaded with {environment.python}: {error}") from error
    if run.returncode != 0:
        raise PrefectError(f"The flows could not be loaded with {environment.python}: {run.stderr.strip()[-2000:]}")
    # An import may have printed something before.
    loaded: dict[str, dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    return loaded


def schedule_rule(declared: dict[str, Any]) -> dict[str, Any]:
    kind = next(kind for kind in ("cron", "interval", "rrule") if declared[kind] is not None)
    return {kind: declared[kind], "timezone": declared["timezone"]}


def comparable_rule(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The stored rule without what the server added by itself: anchors, `day_or`, and the start of a bare rrule."""
    rule: dict[str, Any] = {name: current.get(name) for name in wanted}
    if rule.get("rrule") and "DTSTART" not in wanted["rrule"]:
        lines = [line for line in rule["rrule"].splitlines() if not line.startswith("DTSTART")]
        prefix = "RRULE:" if wanted["rrule"].startswith("RRULE:") else ""
        rule["rrule"] = "\n".join(prefix + re.sub("^RRULE:", "", line) for line in lines)
    return rule


def plan_schedules(
    plan: Plan, api: PrefectApi, name: str, current: dict[str, Any], schedules: list[dict[str, Any]]
) -> None:
    path = f"/deployments/{current['id']}/schedules"
    stored = {schedule["slug"]: schedule for schedule in current["schedules"] if schedule["slug"]}
    for declared in schedules:
        slug, body = declared["slug"], schedule_body(declared)
        what = f"schedule {name} {slug}"
        if slug not in stored:
            plan.create(what, body, partial(api.call, "POST", path, [body]))
            continue
        schedule = stored.pop(slug)
        rule = body["schedule"]
        before = {**schedule, "schedule": comparable_rule(schedule["schedule"], rule)}
        if "interval" in rule and "interval" in schedule["schedule"]:
            # Keep the phase of an interval that only changes its length.
            body = {**body, "schedule": {**rule, "anchor_date": schedule["schedule"]["anchor_date"]}}
        send = partial(update_schedule, api, f"{path}/{schedule['id']}", body)
        plan.update(what, before, {**body, "schedule": rule}, send)
    for slug, schedule in stored.items():
        before = {name: schedule[name] for name in ("schedule", "active", "parameters")}
        plan.delete(f"schedule {name} {slug}", before, partial(api.call, "DELETE", f"{path}/{schedule['id']}"))


def update_schedule(api: PrefectApi, path: str, body: dict[str, Any], _differing: dict[str, Any]) -> None:
    """The server empties what a change of a schedule leaves out, so all of it is sent."""
    api.call("PATCH", path, body)


def schedule_body(declared: dict[str, Any]) -> dict[str, Any]:
    body = {"slug": declared["slug"], "schedule": schedule_rule(declared), "parameters": declared["parameters"]}
    if declared["active"] is not None:
        body["active"] = declared["active"]
    return body


def wanted_fields(declared: dict[str, Any], directory: str, version: str | None) -> dict[str, Any]:
    """The API's fields of a declared deployment, without what only its code knows."""
    fields = {
        "version": version,
        "entrypoint": declared["entrypoint"],
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": directory}}],
        "work_pool_name": declared["work_pool"],
        "work_queue_name": declared["work_queue"],
        "parameters": declared["parameters"],
        "tags": sorted(declared["tags"]),
        "job_variables": declared["job_variables"],
        "enforce_parameter_schema": declared["enforce_parameter_schema"],
    }
    fields.update({name: declared[name] for name in ("description", "paused") if declared[name] is not None})
    if declared["concurrency_limit"] is not None:
        fields["concurrency_limit"] = None if declared["concurrency_limit"] == -1 else declared["concurrency_limit"]
    return fields


def current_fields(deployment: dict[str, Any]) -> dict[str, Any]:
    """A stored deployment in the words of the API's requests."""
    limit = deployment.get("global_concurrency_limit")
    return {
        **deployment,
        "tags": sorted(deployment["tags"]),
        "concurrency_limit": limit["limit"] if limit else None,
    }


class Server:
    """What the server knows of the declared deployments, read with two requests."""

    def __init__(self, api: PrefectApi) -> None:
        self.api = api
        self.flows: dict[str, str] = {}
        self.deployments: dict[str, dict[str, Any]] = {}

    def read(self, declared: list[dict[str, Any]]) -> None:
        flows = {"name": {"any_": sorted({d["flow"] for d in declared})}}
        names = {"name": {"any_": sorted({d["name"] for d in declared})}}
        self.flows = {flow["name"]: flow["id"] for flow in self.api.filter("/flows/filter", flows=flows)}
        flow_names = {identifier: name for name, identifier in self.flows.items()}
        found = self.api.filter("/deployments/filter", flows=flows, deployments=names)
        self.deployments = {f"{flow_names[d['flow_id']]}/{d['name']}": d for d in found}

    def create(self, declared: dict[str, Any], body: dict[str, Any]) -> None:
        if declared["flow"] not in self.flows:
            self.flows[declared["flow"]] = self.api.call("POST", "/flows/", {"name": declared["flow"]})["id"]
        self.api.call("POST", "/deployments/", {**body, "flow_id": self.flows[declared["flow"]]})

    def update(self, identifier: str, wanted: dict[str, Any], differing: dict[str, Any]) -> None:
        # The server finds a queue by the pool's name and its own, so the two travel together.
        if {"work_pool_name", "work_queue_name"} & set(differing):
            differing = {**differing, **{name: wanted[name] for name in ("work_pool_name", "work_queue_name")}}
        self.api.call("PATCH", f"/deployments/{identifier}", differing)


def make_plan(server: Server, declared: list[dict[str, Any]], environment: Environment, may_lack_code: bool) -> Plan:
    directory = environment.flows_directory
    versions = {d["entrypoint"]: code_version(directory, d["entrypoint"], may_lack_code) for d in declared}
    changed = []
    for deployment in declared:
        version = versions[deployment["entrypoint"]]
        stored = server.deployments.get(label(deployment), {})
        if version is not None and (stored.get("version"), stored.get("entrypoint")) != (
            version,
            deployment["entrypoint"],
        ):
            changed.append(deployment)
    loaded: dict[str, dict[str, Any]] = {}
    if changed and (not may_lack_code or Path(environment.python).exists()):
        loaded = load_flows(environment, sorted({d["entrypoint"] for d in changed}))
        check_flows(changed, loaded)

    plan = Plan()
    for deployment in declared:
        name = label(deployment)
        wanted = wanted_fields(deployment, directory, versions[deployment["entrypoint"]])
        if deployment in changed and deployment["entrypoint"] in loaded:
            flow = loaded[deployment["entrypoint"]]
            wanted["parameter_openapi_schema"] = flow["schema"]
            wanted.setdefault("description", flow["description"])
        stored_fields = server.deployments.get(name)
        if stored_fields is None:
            body = {"name": deployment["name"], **wanted, "schedules": [*map(schedule_body, deployment["schedules"])]}
            plan.create(f"deployment {name}", body, partial(server.create, deployment, body))
        else:
            if wanted["version"] is None:
                del wanted["version"]
            identifier = stored_fields["id"]
            plan.update(
                f"deployment {name}", current_fields(stored_fields), wanted, partial(server.update, identifier, wanted)
            )
            plan_schedules(plan, server.api, name, stored_fields, deployment["schedules"])
    return plan


def check_flows(declared: list[dict[str, Any]], loaded: dict[str, dict[str, Any]]) -> None:
    problems = []
    for deployment in declared:
        flow = loaded[deployment["entrypoint"]]
        if "error" in flow:
            problems.append(f"Deployment {label(deployment)}: {deployment['entrypoint']}: {flow['error']}.")
        elif flow["name"] != deployment["flow"]:
            problems.append(
                f"Deployment {label(deployment)}: {deployment['entrypoint']} is the flow {flow['name']}, "
                f"not {deployment['flow']}."
            )
    if problems:
        raise PrefectError(" ".join(problems))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_ARGUMENTS,
            "flows_directory": {"type": "path", "required": True},
            "virtualenv": {"type": "path", "required": True},
            "user": {"type": "str"},
            "deployments": {"type": "list", "elements": "dict", "required": True, "options": DEPLOYMENT_ARGUMENTS},
        },
        supports_check_mode=True,
    )
    declared = module.params["deployments"]
    problems = declaration_problems(declared)
    if problems:
        module.fail_json(msg=" ".join(problems))

    api = PrefectApi(module.params["api_url"], module.params["api_auth_string"], module.params["api_timeout"])
    server = Server(api)
    environment = Environment(*(module.params[name] for name in Environment._fields))
    try:
        try:
            server.read(declared)
        except PrefectUnreachable as error:
            if not module.check_mode:
                raise
            module.warn(f"{error} Check mode takes it for a server without deployments.")
        plan = make_plan(server, declared, environment, may_lack_code=module.check_mode)
        if plan.changes and not module.check_mode:
            plan.apply()
            server.read(declared)
    except PrefectError as error:
        module.fail_json(msg=str(error))
    ids = {label(d): server.deployments[label(d)]["id"] for d in declared if label(d) in server.deployments}
    module.exit_json(**plan.result(), ids=ids)


if __name__ == "__main__":
    main()
