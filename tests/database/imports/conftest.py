"""SQLite files of real Prefect servers, and the order to import one."""

from __future__ import annotations

import contextlib
import lzma
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pgprefect.cli.common import this_program
from pgprefect.core.connection import Login
from pgprefect.imports.expiry import Retention
from pgprefect.imports.plan import Order

from tests.support.prefect_server import Api, running_server
from tests.support.project import VIRTUALENV
from tests.support.site import Site
from tests.support.waiting import wait_for

HERE = Path(__file__).parent
Orders = Callable[..., Order]

# What a client can list, with an order that does not depend on the database.
LISTS: dict[str, dict[str, Any]] = {
    "/flows/filter": {"sort": "NAME_ASC"},
    "/flow_runs/filter": {"sort": "ID_DESC"},
    "/task_runs/filter": {"sort": "ID_DESC"},
    "/deployments/filter": {"sort": "NAME_ASC"},
    "/logs/filter": {"sort": "TIMESTAMP_ASC"},
    "/artifacts/filter": {"sort": "ID_DESC"},
    "/artifacts/latest/filter": {"sort": "ID_DESC"},
    "/variables/filter": {"sort": "NAME_ASC"},
    "/automations/filter": {"sort": "NAME_ASC"},
    "/block_documents/filter": {"sort": "NAME_ASC", "include_secrets": True},
    "/block_types/filter": {},
    "/concurrency_limits/filter": {},
    "/v2/concurrency_limits/filter": {},
    "/work_pools/filter": {},
    "/work_pools/old pool/queues/filter": {},
}
PAGE = 7
# Computed from the time of the question.
OF_THE_MOMENT = ("estimated_run_time", "estimated_start_time_delta", "status")


def pages(api: Api, path: str) -> list[list[dict[str, Any]]]:
    """Return all pages of a list."""
    found: list[list[dict[str, Any]]] = []
    while not found or len(found[-1]) == PAGE:
        answer = api("POST", path.replace(" ", "%20"), {**LISTS[path], "limit": PAGE, "offset": PAGE * len(found)})
        found.append([stable(row) for row in answer])
    return found


def stable(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what depends on the moment, and without the time at which a server registered a type."""
    kept = {name: value for name, value in row.items() if name not in OF_THE_MOMENT}
    for registered in (kept if "slug" in kept else {}, kept.get("block_type"), kept.get("block_schema")):
        if registered:
            registered.pop("updated", None)
            stable_type = registered.get("block_type")
            if stable_type:
                stable_type.pop("updated", None)
    return kept


def events(api: Api) -> list[dict[str, Any]]:
    """Return the events by their ids."""
    found = api("POST", "/events/filter", {"filter": {}, "limit": 50})
    rows, following = list(found["events"]), found["next_page"]
    while following:
        found = api("GET", following.partition("/api")[2])
        rows, following = rows + found["events"], found["next_page"]
    return sorted(rows, key=lambda event: str(event["id"]))


def fill(api: Api) -> None:
    """Make a little of everything over the API."""
    api("POST", "/work_pools/", {"name": "old pool", "type": "process", "base_job_template": {}})
    flow, child = (api("POST", "/flows/", {"name": name, "tags": ["Größe"]})["id"] for name in ("nightly", "part ☃"))
    schedule = {"active": True, "schedule": {"cron": "0 3 * * *", "timezone": "Europe/Vienna"}}
    deployment = api(
        "POST",
        "/deployments/",
        {
            "name": "each night", "flow_id": flow, "work_pool_name": "old pool", "schedules": [schedule],
            "parameters": {"when": "today"}, "concurrency_limit": 2, "job_variables": {"env": {"A": "b"}},
        },
    )["id"]  # fmt: skip
    for number in range(9):
        add_run(api, flow, child, number, deployment_id=deployment)
    for name, value in (("number", 5), ("text", 'x\ty\n"z" 😀'), ("nested", {"a": [1.5, None, True]})):
        api("POST", "/variables/", {"name": name, "value": value, "tags": ["t"]})
    api("POST", "/concurrency_limits/", {"tag": "database", "concurrency_limit": 2})
    limit = {"name": "api", "limit": 3, "slot_decay_per_second": 0.1}
    api("POST", "/v2/concurrency_limits/", limit)
    trigger = {"type": "event", "posture": "Reactive", "threshold": 1, "within": 0, "expect": ["a.b"]}
    action = {"type": "run-deployment", "source": "selected", "deployment_id": deployment, "parameters": {}}
    api("POST", "/automations/", {"name": "react", "trigger": trigger, "actions": [action]})
    kind = api("GET", "/block_types/slug/secret")["id"]
    schema = api("POST", "/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})[0]["id"]
    for number in range(3):
        block = {"name": f"token-{number}", "block_type_id": kind, "block_schema_id": schema}
        api("POST", "/block_documents/", {**block, "data": {"value": f"hush {number}"}})


def add_run(api: Api, flow: str, child: str, number: int, **more: Any) -> None:
    """Add a run with a subflow run, task runs, logs and artifacts."""
    run = {"flow_id": flow, "name": f"run {number} é", "parameters": {"n": number}, "tags": ["x"], **more}
    parent = api("POST", "/flow_runs/", {**run, "state": {"type": "PENDING"}})["id"]
    task = {"task_key": "t", "dynamic_key": str(number), "flow_run_id": parent, "state": {"type": "PENDING"}}
    dummy = api("POST", "/task_runs/", task)["id"]
    below = api("POST", "/flow_runs/", {"flow_id": child, "parent_task_run_id": dummy, "state": {"type": "PENDING"}})[
        "id"
    ]
    for kind, name in (("flow_runs", parent), ("flow_runs", below), ("task_runs", dummy)):
        for state in ("RUNNING", "FAILED" if number == 3 else "COMPLETED"):
            data = {"state": {"type": state, "message": f"{state} ü"}, "force": True}
            api("POST", f"/{kind}/{name}/set_state", data)
    moment = f"2026-01-0{number + 1}T12:00:00.123456+02:00"
    logs = [
        {"name": "prefect", "level": 20 + line, "message": f'line {line}\nof\t{number}, "q"', "timestamp": moment}
        for line in range(3)
    ]
    api(
        "POST",
        "/logs/",
        [
            {**log, "timestamp": moment.replace(":00.", f":0{line}."), "flow_run_id": parent}
            for line, log in enumerate(logs)
        ],
    )
    artifact = {
        "key": "report",
        "type": "markdown",
        "data": "# Größe\n",
        "flow_run_id": parent,
        "metadata_": {"a": "1"},
    }
    api("POST", "/artifacts/", artifact)


@dataclass(frozen=True)
class Old:
    """The file of a stopped server, and what its API listed before."""

    file: Path
    lists: dict[str, Any]
    events: list[dict[str, Any]]
    states: dict[str, Any]


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    """A server of this Prefect on SQLite with a little of everything, and its answers."""
    home = tmp_path_factory.mktemp("old")
    file = home / "prefect.db"
    with running_server(home, {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{file}"}) as api:
        fill(api)
        wait_for(lambda: settled(api))
        return Old(file, {path: pages(api, path) for path in LISTS}, events(api), states(api))


def settled(api: Api) -> bool:
    """Say whether events are there, and no more come."""
    before = len(events(api))
    time.sleep(3)
    return 0 < before == len(events(api))


def states(api: Api) -> dict[str, Any]:
    """Return the states of each flow run."""
    runs = [run["id"] for page in pages(api, "/flow_runs/filter") for run in page]
    return {run: api("GET", f"/flow_run_states/?flow_run_id={run}") for run in runs}


@pytest.fixture(scope="session")
def of_3_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that a server of Prefect 3.2.15 has written."""
    path = tmp_path_factory.mktemp("of-3.2") / "prefect.db"
    path.write_bytes(lzma.decompress((HERE / "prefect-3.2.15.db.xz").read_bytes()))
    return path


@pytest.fixture
def file(old: Old, tmp_path: Path) -> Path:
    """A copy of the stopped server's file, to be changed."""
    path = tmp_path / "prefect.db"
    with contextlib.closing(sqlite3.connect(old.file)) as source, contextlib.closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    return path


@pytest.fixture
def order(prefect: Site, tmp_path: Path) -> Iterator[Orders]:
    """Make the order to import a file into the database; nothing is left in the scratch folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def make(source: Path, site: Site = prefect, **more: Any) -> Order:
        given = {
            "source": source,
            "login": login(site, site.tenant.migrator),
            "observer": login(site, site.declaration.monitor),
            "database": site.database,
            "tenant": site.tenant,
            "virtualenv": str(VIRTUALENV),
            "program": this_program(),
            "scratch": scratch,
            "service_user": "root",  # the tests' Prefect is in a folder that nobody else may read
            "retention": Retention("P36500D"),
            **more,
        }
        return Order(**given)

    yield make
    assert list(scratch.iterdir()) == []


def login(site: Site, role: str) -> Login:
    """Return the login of a role, by its password."""
    return replace(site.server.login, user=role, password=site.declaration.passwords[role])
