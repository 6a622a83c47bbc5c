#!/usr/bin/python
"""Keep a Prefect server's work pools and queues as declared."""

from __future__ import annotations

import shlex
from functools import partial
from typing import Any
from urllib.parse import quote

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
module: prefect_work_pools
short_description: Keep a Prefect server's work pools and queues as declared
description:
  - Creates the declared work pools and queues that are missing, and changes only those fields of existing ones that
    differ.
  - Pools and queues that are not declared are left alone, and nothing is ever deleted.
  - An option without a default that is not given is left as it is on the server.
  - In check mode, an API that cannot be reached is taken for a server without pools, with a warning, so that the plan
    for a host on which nothing is installed yet can be shown.
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
  pools:
    description: The work pools.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the pool. Names that begin with C(prefect) are reserved by the server.
        type: str
        required: true
      type:
        description:
          - What runs the flows, for instance C(process).
          - It cannot be changed later; a pool of another type is refused.
        type: str
        default: process
      description:
        description: What the pool is for.
        type: str
      concurrency_limit:
        description: How many flow runs may run at once; C(-1) takes a limit away.
        type: int
      paused:
        description: Whether the pool hands out no work.
        type: bool
      base_job_template:
        description: The template of its jobs. Where the pool has none, its first worker stores the default of its type.
        type: dict
      queues:
        description: Queues of the pool. Every pool has a queue C(default) of its own.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Name of the queue.
            type: str
            required: true
          description:
            description: What the queue is for.
            type: str
          priority:
            description: Its rank among the pool's queues, C(1) is served first.
            type: int
          concurrency_limit:
            description: How many flow runs of the queue may run at once; C(-1) takes a limit away.
            type: int
          paused:
            description: Whether the queue hands out no work.
            type: bool
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
- name: Two pools, one with a queue for urgent runs
  prefect_work_pools:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "{{ prefect_api_auth_string }}"
    pools:
      - name: default
        concurrency_limit: 4
      - name: market-hours
        description: Runs that must not wait
        queues:
          - name: urgent
            priority: 1
            concurrency_limit: 2
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: always
  sample: ["create work pool default", "create queue default/urgent", "update queue priorities default: urgent"]
ids:
  description: The identifier of each declared pool, by name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {"default": "8f4d9d4e-6d8f-4f3c-9d1c-0d8f5c1c9a53"}
"""

QUEUE_ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str"},
    "priority": {"type": "int"},
    "concurrency_limit": {"type": "int"},
    "paused": {"type": "bool"},
}
POOL_ARGUMENTS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "type": {"type": "str", "default": "process"},
    "description": {"type": "str"},
    "concurrency_limit": {"type": "int"},
    "paused": {"type": "bool"},
    "base_job_template": {"type": "dict"},
    "queues": {"type": "list", "elements": "dict", "default": [], "options": QUEUE_ARGUMENTS},
}

# What the server itself gives to each new pool.
DEFAULT_QUEUE = {"name": "default", "priority": 1, "concurrency_limit": None, "is_paused": False}


def wanted_fields(declared: dict[str, Any]) -> dict[str, Any]:
    """The API's fields of a declared pool or queue: only those that were given."""
    names = {"description", "concurrency_limit", "paused", "base_job_template"}
    given = {name: declared[name] for name in names if declared.get(name) is not None}
    if "paused" in given:
        given["is_paused"] = given.pop("paused")
    if given.get("concurrency_limit") == -1:
        given["concurrency_limit"] = None
    return given


def declaration_problems(pools: list[dict[str, Any]]) -> list[str]:
    problems = [f"Work pool {name} is declared twice." for name in duplicates([p["name"] for p in pools])]
    for pool in pools:
        name = pool["name"]
        if name.lower().startswith("prefect"):
            problems.append(f"Work pool {name}: the server reserves names that begin with 'prefect'; choose another.")
        queues = pool["queues"]
        problems += [f"Queue {name}/{q} is declared twice." for q in duplicates([q["name"] for q in queues])]
        priorities = [str(q["priority"]) for q in queues if q["priority"] is not None]
        problems += [f"Work pool {name}: priority {p} is given to two queues." for p in duplicates(priorities)]
        for what, item in [(name, pool), *((f"{name}/{q['name']}", q) for q in queues)]:
            problems += name_problems(what, item["name"])
            if (item["concurrency_limit"] or 0) < -1:
                problems.append(f"{what}: concurrency_limit must be 0 or more, or -1 for no limit.")
            if item.get("priority") is not None and item["priority"] < 1:
                problems.append(f"{what}: priority must be 1 or more.")
    return problems


def make_plan(
    api: PrefectApi,
    pools: list[dict[str, Any]],
    current_pools: dict[str, dict[str, Any]],
    current_queues: dict[tuple[str, str], dict[str, Any]],
) -> Plan:
    plan = Plan()
    for pool in pools:
        name, wanted = pool["name"], wanted_fields(pool)
        path = "/work_pools/" + quote(name, safe="")
        current = current_pools.get(name)
        if current is None:
            body = {"name": name, "type": pool["type"], **wanted}
            plan.create(f"work pool {name}", body, partial(api.call, "POST", "/work_pools/", body))
        elif current["type"] != pool["type"]:
            raise PrefectError(
                f"Work pool {name} is of type {current['type']}, declared is {pool['type']}: a pool's type cannot "
                "change. Declare a pool of another name, or delete this one first: "
                f"prefect work-pool delete {shlex.quote(name)}"
            )
        else:
            plan.update(f"work pool {name}", current, wanted, partial(api.call, "PATCH", path))
        priorities: dict[str, int | None] = {}
        for queue in pool["queues"]:
            what, wanted = f"queue {name}/{queue['name']}", wanted_fields(queue)
            queue_path = f"{path}/queues/{quote(queue['name'], safe='')}"
            existing = current_queues.get((name, queue["name"]))
            if existing is None and current is None and queue["name"] == "default":
                existing = DEFAULT_QUEUE
            if existing is None:
                body = {"name": queue["name"], **wanted}
                plan.create(what, body, partial(api.call, "POST", path + "/queues", body))
            else:
                plan.update(what, existing, wanted, partial(api.call, "PATCH", queue_path))
                priorities[queue["name"]] = existing["priority"]
        wanted = {queue["name"]: queue["priority"] for queue in pool["queues"] if queue["priority"] is not None}
        plan.update(f"queue priorities {name}", priorities, wanted, partial(set_priorities, api, path, wanted))
    return plan


def set_priorities(api: PrefectApi, path: str, wanted: dict[str, int], _differing: dict[str, int]) -> None:
    """Set them all, from the first on: giving a queue a priority moves the queues that had it, or come after, down."""
    for name, priority in sorted(wanted.items(), key=lambda item: item[1]):
        api.call("PATCH", f"{path}/queues/{quote(name, safe='')}", {"priority": priority})


def read(
    api: PrefectApi, pools: list[dict[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], dict[str, Any]]]:
    """The declared pools and queues as they are, in one request each."""
    names = [pool["name"] for pool in pools]
    found = {pool["name"]: pool for pool in api.filter("/work_pools/filter", work_pools={"name": {"any_": names}})}
    queues = sorted({queue["name"] for pool in pools for queue in pool["queues"]})
    if not queues:
        return found, {}
    queues_found = api.filter("/work_queues/filter", work_queues={"name": {"any_": queues}})
    return found, {(queue["work_pool_name"], queue["name"]): queue for queue in queues_found}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_ARGUMENTS,
            "pools": {"type": "list", "elements": "dict", "required": True, "options": POOL_ARGUMENTS},
        },
        supports_check_mode=True,
    )
    pools = module.params["pools"]
    problems = declaration_problems(pools)
    if problems:
        module.fail_json(msg=" ".join(problems))

    api = PrefectApi(module.params["api_url"], module.params["api_auth_string"], module.params["api_timeout"])
    current_pools: dict[str, dict[str, Any]] = {}
    current_queues: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        try:
            current_pools, current_queues = read(api, pools)
        except PrefectUnreachable as error:
            if not module.check_mode:
                raise
            module.warn(f"{error} Check mode takes it for a server without work pools.")
        plan = make_plan(api, pools, current_pools, current_queues)
        if plan.changes and not module.check_mode:
            plan.apply()
            current_pools, _ = read(api, pools)
    except PrefectError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**plan.result(), ids={name: pool["id"] for name, pool in current_pools.items()})


if __name__ == "__main__":
    main()
