"""prefect_deployments against a real server."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_for

Result = dict[str, Any]
Api = Callable[..., Any]

FLOW = '''
import datetime
from typing import Literal

import not_installed_here
from prefect import flow

from helpers.dates import Weekday


@flow(name="{name}")
def greet(who: Literal["world", "moon"] = "world", day: Weekday = 1, since: datetime.date | None = None) -> None:
    """Say hello."""


def not_a_flow() -> None:
    pass
'''


class Deployment:
    """One flow of its own, its declaration, and what the server made of it."""

    def __init__(self, folder: Path, run_module: Callable[..., Result], api: Api, arguments: dict[str, Any]) -> None:
        self.folder, self.run_module, self.api, self.arguments = folder, run_module, api, arguments
        self.flow = f"greet-{uuid.uuid4()}"
        (folder / "helpers").mkdir()
        (folder / "helpers/dates.py").write_text("from typing import Literal\nWeekday = Literal[1, 2]\n")
        (folder / "greet.py").write_text(FLOW.format(name=self.flow))

    def declaration(self, **changes: Any) -> dict[str, Any]:
        return {
            "name": "daily",
            "flow": self.flow,
            "entrypoint": "greet.py:greet",
            "work_pool": "deployments",
            **changes,
        }

    def apply(self, *, check: bool = False, **changes: Any) -> Result:
        return self.run_module(
            "prefect_deployments", check=check, **self.arguments, deployments=[self.declaration(**changes)]
        )

    def stored(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", f"/deployments/name/{self.flow}/daily")
        return found

    def runs(self) -> set[str]:
        runs = self.api("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [self.stored()["id"]]}}})
        return {run["id"] for run in runs}


@pytest.fixture
def deployment(
    tmp_path: Path, run_module: Callable[..., Result], api: Api, api_arguments: dict[str, str], virtualenv: Path
) -> Deployment:
    run_module("prefect_work_pools", **api_arguments, pools=[{"name": "deployments", "queues": [{"name": "urgent"}]}])
    return Deployment(
        tmp_path, run_module, api, {**api_arguments, "flows_directory": str(tmp_path), "virtualenv": str(virtualenv)}
    )


CRON = {"slug": "evening", "cron": "30 22 * * 1-5", "timezone": "Europe/Berlin"}


def test_a_deployment_comes_out_as_declared(deployment: Deployment) -> None:
    declared: dict[str, Any] = {
        "parameters": {"who": "moon"},
        "tags": ["b", "a"],
        "work_queue": "urgent",
        "concurrency_limit": 2,
        "schedules": [CRON, {"slug": "hourly", "interval": 3600}, {"slug": "rule", "rrule": "FREQ=DAILY;INTERVAL=2"}],
    }
    foretold = deployment.apply(check=True, **declared)
    assert foretold["actions"] == [f"create deployment {deployment.flow}/daily"]
    assert not deployment.api("POST", "/flows/filter", {"flows": {"name": {"any_": [deployment.flow]}}})

    done = deployment.apply(**declared)
    assert (done["actions"], done["diff"]) == (foretold["actions"], foretold["diff"])
    stored = deployment.stored()
    assert done["ids"] == {f"{deployment.flow}/daily": stored["id"]}
    assert stored["description"] == "Say hello."
    assert (stored["work_pool_name"], stored["work_queue_name"]) == ("deployments", "urgent")
    assert stored["global_concurrency_limit"]["limit"] == 2
    assert stored["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(deployment.folder)}}
    ]
    properties = stored["parameter_openapi_schema"]["properties"]
    assert properties["who"]["enum"] == ["world", "moon"]
    assert properties["day"]["enum"] == [1, 2]
    assert properties["since"]["anyOf"][0]["format"] == "date"
    assert {s["slug"] for s in stored["schedules"]} == {"evening", "hourly", "rule"}


def test_a_second_run_keeps_schedules_and_future_runs(deployment: Deployment) -> None:
    declared: dict[str, Any] = {
        "schedules": [CRON, {"slug": "hourly", "interval": 3600}, {"slug": "rule", "rrule": "FREQ=DAILY"}]
    }
    deployment.apply(**declared)
    runs = wait_for(deployment.runs)
    stored = deployment.stored()

    again = deployment.apply(**declared)
    assert not again["changed"] and again["diff"] == {"before": {}, "after": {}}
    assert deployment.stored()["schedules"] == stored["schedules"]
    assert deployment.stored()["updated"] == stored["updated"]
    assert runs <= deployment.runs()


def test_only_the_field_that_differs_is_changed(deployment: Deployment) -> None:
    deployment.apply(tags=["a"], concurrency_limit=1, schedules=[CRON])
    before = deployment.stored()
    deployment.api("PATCH", f"/deployments/{before['id']}", {"paused": True})

    changed = deployment.apply(tags=["a", "b"], schedules=[CRON])
    assert changed["actions"] == [f"update deployment {deployment.flow}/daily: tags"]
    after = deployment.stored()
    assert after["tags"] == ["a", "b"] and after["paused"]
    same = ("id", "schedules", "parameter_openapi_schema", "version", "work_queue_id")
    assert {field: after[field] for field in same} == {field: before[field] for field in same}
    assert after["global_concurrency_limit"]["limit"] == 1

    assert deployment.apply(tags=["a", "b"], schedules=[CRON], concurrency_limit=-1)["changed"]
    assert deployment.stored()["global_concurrency_limit"] is None
    assert deployment.apply(tags=["a", "b"], schedules=[CRON], work_queue="urgent")["changed"]
    assert deployment.stored()["work_queue_name"] == "urgent"


def test_schedules_follow_their_declaration_and_those_made_by_hand_stay(deployment: Deployment) -> None:
    deployment.apply(schedules=[CRON, {"slug": "hourly", "interval": 3600, "parameters": {"who": "moon"}}])
    stored = deployment.stored()
    path = f"/deployments/{stored['id']}/schedules"
    by_hand = {"schedule": {"cron": "1 1 * * *", "timezone": "UTC"}, "active": True}
    deployment.api("POST", path, [by_hand])
    before = {s["slug"]: s for s in deployment.stored()["schedules"]}
    # Somebody switched a schedule off, whose declaration does not say that it is on.
    deployment.api("PATCH", f"{path}/{before['hourly']['id']}", {"active": False, "parameters": {"who": "moon"}})

    changed = deployment.apply(schedules=[{"slug": "hourly", "interval": 7200, "parameters": {"who": "moon"}}])
    assert changed["actions"] == [
        f"update schedule {deployment.flow}/daily hourly: schedule",
        f"delete schedule {deployment.flow}/daily evening",
    ]
    after = {s["slug"]: s for s in deployment.stored()["schedules"]}
    assert set(after) == {"hourly", None}
    hourly, was = after["hourly"], before["hourly"]
    assert (hourly["id"], hourly["active"], hourly["parameters"]) == (was["id"], False, {"who": "moon"})
    assert hourly["schedule"] == {**was["schedule"], "interval": 7200}
    assert after[None]["id"] == before[None]["id"]

    added = deployment.apply(
        schedules=[{"slug": "hourly", "interval": 7200, "parameters": {"who": "moon"}, "active": True}, CRON]
    )
    assert added["actions"] == [
        f"update schedule {deployment.flow}/daily hourly: active",
        f"create schedule {deployment.flow}/daily evening",
    ]


def test_changed_code_is_a_new_version(deployment: Deployment) -> None:
    deployment.apply()
    before = deployment.stored()
    code = deployment.folder / "greet.py"
    code.write_text(code.read_text() + "# nothing that a parameter could tell\n")
    assert deployment.apply()["actions"] == [f"update deployment {deployment.flow}/daily: version"]

    (deployment.folder / "helpers/dates.py").write_text("from typing import Literal\nWeekday = Literal[1, 2, 3]\n")
    assert deployment.apply(check=True)["changed"]
    assert deployment.apply()["actions"] == [
        f"update deployment {deployment.flow}/daily: parameter_openapi_schema, version"
    ]
    after = deployment.stored()
    assert after["parameter_openapi_schema"]["properties"]["day"]["enum"] == [1, 2, 3]
    assert after["id"] == before["id"] and after["version"] != before["version"]
    assert not deployment.apply()["changed"]


def test_without_an_api_check_mode_needs_neither_code_nor_virtualenv(deployment: Deployment) -> None:
    deployment.arguments.update(
        api_url="http://127.0.0.1:9/api", flows_directory="/nowhere/flows", virtualenv="/nowhere/venv"
    )
    foretold = deployment.apply(check=True)
    assert foretold["actions"] == [f"create deployment {deployment.flow}/daily"]
    assert "No Prefect API answers" in str(foretold["warnings"])
    assert deployment.apply()["failed"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schedule": []}, "schedule"),
        ({"schedules": [{"slug": "never"}]}, "never needs exactly one of cron, interval, rrule"),
        ({"schedules": [{"slug": "both", "interval": 1, "cron": "* * * * *"}]}, "both needs exactly one of"),
        ({"schedules": [{"slug": "now", "interval": 0}]}, "must be positive"),
        ({"schedules": [CRON, CRON]}, "declared twice"),
        ({"schedules": [{"slug": "odd", "cron": "61 * * * *"}]}, "cron"),
        ({"name": "a/b"}, "must not be empty or contain"),
        ({"flow": " "}, "must not be empty or contain"),
        ({"entrypoint": "../greet.py:greet"}, "must read file.py:function"),
        ({"entrypoint": "lost.py:greet"}, "lost.py does not exist"),
        ({"concurrency_limit": 0}, "-1 for no limit"),
        ({"on_lost": "retry"}, "must be crash or reschedule"),
        ({"tags": ["on_lost:reschedule"]}, "declare on_lost: reschedule"),
        ({"parameters": {"who": "mars"}}, "'mars' is not one of"),
        ({"work_pool": "lost"}, 'Work pool "lost" not found'),
    ],
)
def test_nonsense_is_refused(deployment: Deployment, changes: dict[str, Any], complaint: str) -> None:
    result = deployment.apply(**changes)
    assert result.get("failed") and complaint in result["msg"], result
    assert deployment.api("POST", "/deployments/filter", {"flows": {"name": {"any_": [deployment.flow]}}}) == []


def test_entrypoints_that_are_not_the_flow_are_refused_together(
    deployment: Deployment, run_module: Callable[..., Result]
) -> None:
    wrong = [
        deployment.declaration(name="a", entrypoint="greet.py:lost"),
        deployment.declaration(name="b", entrypoint="greet.py:not_a_flow"),
        deployment.declaration(name="c", flow="another"),
    ]
    result = run_module("prefect_deployments", **deployment.arguments, deployments=wrong)
    assert result["failed"]
    assert [problem["code"] for problem in result["problems"]] == ["flow_not_loadable"] * 3
    assert f"Deployment {deployment.flow}/a: greet.py:lost: " in result["msg"]
    assert "greet.py:not_a_flow: MissingFlowError: Function with name 'not_a_flow' is not a flow" in result["msg"]
    assert f"Deployment another/c: greet.py:greet is the flow {deployment.flow}, not another." in result["msg"]


def test_code_that_does_not_parse_is_refused_with_its_line(deployment: Deployment) -> None:
    (deployment.folder / "greet.py").write_text("from prefect import flow\ndef (\n")
    result = deployment.apply()
    assert result["failed"] and f"{deployment.folder}/greet.py, line 2:" in result["msg"]


def test_a_missing_virtualenv_is_named(deployment: Deployment) -> None:
    deployment.arguments["virtualenv"] = "/nowhere/venv"
    result = deployment.apply()
    assert result["failed"] and "/nowhere/venv/bin/python" in result["msg"]


def test_a_flow_is_loaded_with_the_libraries_of_its_pool(deployment: Deployment, virtualenv: Path) -> None:
    own = deployment.folder / "own"
    subprocess.run([virtualenv / "bin/python", "-m", "venv", "--without-pip", own], check=True)
    packages, prefect = (next(one.glob("lib/python3*/site-packages")) for one in (own, virtualenv))
    (packages / "prefect.pth").write_text(f"{prefect}\n")
    (packages / "not_installed_here.py").write_text("SAID = 'With what is installed there.'\n")
    code = deployment.folder / "greet.py"
    code.write_text(code.read_text().replace("@flow(", "@flow(description=not_installed_here.SAID, "))
    # Where it is not, as in check mode before the first run, the virtualenv of all is taken.
    for pools in ({}, {"deployments": "/nowhere"}, {"others": str(own)}):
        deployment.arguments["pool_virtualenvs"] = pools
        result = deployment.apply()
        assert result["failed"] and "No module named 'not_installed_here'" in result["msg"]
    deployment.arguments["pool_virtualenvs"] = {"deployments": str(own)}
    assert deployment.apply()["changed"]
    assert deployment.stored()["description"] == "With what is installed there."
    assert not deployment.apply()["changed"]


def test_one_flow_that_is_declared_twice_is_refused(deployment: Deployment, run_module: Callable[..., Result]) -> None:
    result = run_module("prefect_deployments", **deployment.arguments, deployments=[deployment.declaration()] * 2)
    assert result["failed"] and "declared twice" in result["msg"]


def test_a_flow_in_a_package_is_loaded_as_a_worker_does(deployment: Deployment) -> None:
    helpers = "import enum\n\n\nclass Mode(enum.Enum):\n    fast = 'fast'\n    full = 'full'\n"
    daily = (
        "from etl.common import helpers\nfrom prefect import flow\n\n\n@flow\n"
        "def etl_daily(mode: helpers.Mode = helpers.Mode.fast) -> str:\n    return mode.value\n"
    )
    files = {
        "etl/__init__.py": "",
        "etl/common/__init__.py": "",
        "etl/common/helpers.py": helpers,
        "etl/daily.py": daily,
    }
    for name, text in files.items():
        (deployment.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (deployment.folder / name).write_text(text)
    deployment.flow = "etl-daily"
    package: dict[str, Any] = {"entrypoint": "etl/daily.py:etl_daily"}
    assert not deployment.apply(**package).get("failed")
    stored = deployment.stored()
    schema = stored["parameter_openapi_schema"]
    assert schema["properties"]["mode"]["default"] == "fast"
    assert schema["definitions"]["Mode"]["enum"] == ["fast", "full"]
    assert not deployment.apply(**package)["changed"]

    versions = {stored["version"]}
    for name in files:
        (deployment.folder / name).write_text(files[name] + "# a change\n")
        assert deployment.apply(**package)["actions"] == ["update deployment etl-daily/daily: version"], name
        versions.add(deployment.stored()["version"])
    assert len(versions) == 1 + len(files)


def test_modules_of_one_name_beside_two_flows_are_not_mixed_up(
    deployment: Deployment, run_module: Callable[..., Result]
) -> None:
    for name, default in (("a", 1), ("b", 2)):
        (deployment.folder / name).mkdir()
        (deployment.folder / name / "settings.py").write_text(f"DEFAULT = {default}\n")
        (deployment.folder / name / "run.py").write_text(
            "import settings\nfrom prefect import flow\n"
            f"@flow(name='{deployment.flow}-{name}')\ndef run(number: int = settings.DEFAULT) -> None: ...\n"
        )
    declared = [
        deployment.declaration(flow=f"{deployment.flow}-{name}", entrypoint=f"{name}/run.py:run") for name in "ab"
    ]
    assert not run_module("prefect_deployments", **deployment.arguments, deployments=declared).get("failed")
    for name, default in (("a", 1), ("b", 2)):
        stored = deployment.api("GET", f"/deployments/name/{deployment.flow}-{name}/daily")
        assert stored["parameter_openapi_schema"]["properties"]["number"]["default"] == default


def test_a_flow_that_ends_the_process_is_named(deployment: Deployment) -> None:
    (deployment.folder / "greet.py").write_text("import os\nos._exit(3)\n")
    result = deployment.apply()
    assert result["failed"] and "greet.py:greet: the process that loaded it was killed" in result["msg"]


def test_a_failure_in_the_middle_says_what_was_done(deployment: Deployment, run_module: Callable[..., Result]) -> None:
    declared = [deployment.declaration(), deployment.declaration(name="lost", work_pool="lost")]
    result = run_module("prefect_deployments", **deployment.arguments, deployments=declared)
    assert result["failed"] and result["changed"]
    assert result["changes"] == [f"create deployment {deployment.flow}/daily"]
    assert deployment.stored()["name"] == "daily"
