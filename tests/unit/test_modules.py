"""All modules of library/: true documentation, one way to fail, and no more files on the host than needed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.playbook.block import Block
from ansible.playbook.task import Task

from tests.support.ansible import Result
from tests.support.payloads import payload
from tests.support.project import ROOT

KEYWORDS = {*Task.fattributes, *Block.fattributes}
MODULES = sorted(path.stem for path in (ROOT / "library").glob("*.py"))


class Specification(Exception):
    """Carries a module's argument_spec out of its main()."""


@pytest.fixture
def specification(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Return the arguments with which a module makes its AnsibleModule."""

    def find(name: str) -> dict[str, Any]:
        module = importlib.import_module(f"library.{name}")

        def stop(*positional: Any, **arguments: Any) -> None:
            spec = positional[0] if positional else arguments["argument_spec"]
            raise Specification({**arguments, "argument_spec": spec})

        monkeypatch.setattr(module, "AnsibleModule", stop)
        with pytest.raises(Specification) as found:
            module.main()
        specification: dict[str, Any] = found.value.args[0]
        return specification

    return find


@pytest.fixture(scope="module")
def documentation() -> dict[str, Any]:
    run = subprocess.run(
        [Path(sys.executable).parent / "ansible-doc", "-M", "library", "--json", *MODULES],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_LOCAL_TEMP": "/tmp"},
        capture_output=True,
        text=True,
        check=True,
    )
    documents: dict[str, Any] = json.loads(run.stdout)
    return documents


def compare(where: str, options: dict[str, Any], spec: dict[str, Any]) -> None:
    assert set(options) == set(spec), where
    for name, declared in spec.items():
        documented = options[name]
        assert documented["description"], f"{where}.{name}"
        assert documented.get("type", "str") == declared.get("type", "str"), f"{where}.{name}"
        for key in ("elements", "choices", "default"):
            assert documented.get(key) == declared.get(key), f"{where}.{name}.{key}"
        assert documented.get("required", False) == declared.get("required", False), f"{where}.{name}"
        compare(f"{where}.{name}", documented.get("suboptions") or {}, declared.get("options") or {})


@pytest.mark.parametrize("name", MODULES)
def test_documentation_and_specification_agree(
    name: str, documentation: dict[str, Any], specification: Callable[[str], dict[str, Any]]
) -> None:
    found = specification(name)
    assert found["supports_check_mode"]
    document = documentation[name]
    compare(name, document["doc"]["options"], found["argument_spec"])
    assert {"check_mode", "diff_mode", "idempotent"} <= set(document["doc"]["attributes"])
    assert document["return"], "every key of the result is documented"


@pytest.mark.parametrize("name", MODULES)
def test_secrets_are_not_logged(name: str, specification: Callable[[str], dict[str, Any]]) -> None:
    for option, declared in specification(name)["argument_spec"].items():
        if "password" in option or "auth_string" in option:
            assert declared.get("no_log") is True, option


@pytest.mark.parametrize("name", MODULES)
def test_the_module_accepts_its_examples(
    name: str, documentation: dict[str, Any], specification: Callable[[str], dict[str, Any]]
) -> None:
    # Others may stand beside it, to show what calls it or what follows.
    tasks = [task for task in yaml.safe_load(documentation[name]["examples"]) if name in task]
    assert tasks
    for task in tasks:
        validated = ArgumentSpecValidator(specification(name)["argument_spec"]).validate(task[name])
        assert validated.error_messages == []


@pytest.mark.parametrize("name", MODULES)
def test_every_key_of_the_result_is_described(name: str, documentation: dict[str, Any]) -> None:
    for key, described in documentation[name]["return"].items():
        assert described["description"] and described["returned"] and described["type"], key
        assert "elements" in described or described["type"] != "list", key


def test_a_host_gets_only_the_rooms_that_a_module_needs() -> None:
    rooms = {name: {file.split("/")[1] for file in payload(name) if file.startswith("pgprefect/")} for name in MODULES}
    database = {"__init__.py", "core", "site", "schema"}
    assert rooms["prefect_schema"] == rooms["prefect_adopt"] == rooms["prefect_schema_verify"] == database
    assert rooms["prefect_cleanup"] == rooms["prefect_workflow_statistics"] == {"__init__.py", "core", "runs"}
    assert rooms["prefect_work_pools"] == rooms["prefect_deployments"] == {"__init__.py", "core", "objects"}
    assert rooms["prefect_health_check"] == {"__init__.py", "core", "site", "schema", "health"}


CHECKED = {
    "prefect_schema": {"statements", "diff"},
    "prefect_schema_verify": {
        "verified",
        "connection_test",
        "public_schema",
        "prefect_schema",
        "tenants",
        "problems",
        "not_checked",
    },
    "prefect_health_check": {"overall_status", "checks", "problems", "details"},
    "prefect_revision": {"state", "current", "head", "pending", "message"},
}
DECLARED = {
    "database": "mltrading",
    "app_owner": "o",
    "app_login": "a",
    "monitor": "m",
    "backup": "b",
    "tenants": [
        {"name": "p", "schema": "p", "owner": "po", "migrator": "pm", "server": "ps", "api_url": "http://[::1]:1"}
    ],
}
NOWHERE = {"login_port": 1, "login_host": "127.0.0.1"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "prefect_schema": DECLARED,
    "prefect_schema_verify": {**DECLARED, **NOWHERE},
    "prefect_health_check": {
        "database": "x",
        "tenants": DECLARED["tenants"],
        "thresholds": {"late_s": {"warning": 60}},
        "disk_paths": ["/"],
        **NOWHERE,
    },
    "prefect_revision": {"database": "x", "schema": "p", "virtualenv": "/nowhere", **NOWHERE},
}


FAILING: dict[str, dict[str, Any]] = {
    "prefect_adopt": {**DECLARED, **NOWHERE},
    "prefect_schema": {**DECLARED, **NOWHERE},
    "prefect_revision": {"database": "x", "schema": "p", "virtualenv": "/nowhere", **NOWHERE},
    "prefect_cleanup": {"database": "x", "schema": "p", **NOWHERE},
    "prefect_workflow_statistics": {"database": "x", **NOWHERE},
    "prefect_work_pools": {"api_url": "http://127.0.0.1:9/api", "pools": [{"name": "x"}]},
}


@pytest.mark.parametrize("name", FAILING)
def test_a_module_fails_with_problems(
    run_module: Callable[..., Result], documentation: dict[str, Any], name: str
) -> None:
    result = run_module(name, **FAILING[name])
    assert result["failed"] and "problems" in documentation[name]["return"]
    if name == "prefect_revision":
        assert "/nowhere" in result["msg"] and result["problems"] == []
    else:
        (problem,) = result["problems"]
        assert problem["code"] in ("connection_failed", "api_not_ready")
        assert problem["message"] in result["msg"] and problem["remedy"] in result["msg"]


@pytest.mark.parametrize(
    ("policy", "message"), [({"days_to_keep": -1}, "the cut-off would lie in the future"), ({}, "Start PostgreSQL")]
)
def test_a_cleanup_that_can_not_be_done_says_why(
    run_module: Callable[..., Result], policy: dict[str, Any], message: str
) -> None:
    result = run_module("prefect_cleanup", check=True, database="x", schema="p", policy=policy, **NOWHERE)
    assert result["failed"] and message in result["msg"]


@pytest.mark.parametrize("name", CHECKED)
def test_check_mode_where_nothing_is_installed_yet(
    run_module: Callable[..., Result], documentation: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "prefect_schema":
        monkeypatch.setattr("glob.glob", lambda _pattern: [])
    result = run_module(name, check=True, **ARGUMENTS[name])
    assert not result.get("failed") and result["changed"] == (name == "prefect_schema")
    assert set(result) >= CHECKED[name]
    assert set(result) - {"changed", "diff", "invocation"} <= set(documentation[name]["return"])


@pytest.mark.parametrize("name", ["prefect_schema", "prefect_schema_verify"])
def test_a_wrong_declaration_is_refused(run_module: Callable[..., Result], name: str) -> None:
    result = run_module(name, check=True, **{**ARGUMENTS[name], "app_owner": "pg_x"})
    assert result["failed"] and "'pg_x' is reserved" in result["msg"]


def named_modules(tasks: Any) -> Iterator[str]:
    """Yield the names of modules, without those of collections, that tasks and their blocks have."""
    for task in tasks or []:
        yield from (name for name in task if "." not in name and name not in KEYWORDS)
        for part in ("block", "rescue", "always"):
            yield from named_modules(task.get(part))


def test_each_module_that_a_task_names_is_there() -> None:
    """Tasks that are included are read only where they run."""
    there = {path.stem for folder in ("library", "action_plugins") for path in (ROOT / folder).glob("*.py")}
    files = [*(ROOT / "roles").glob("*/tasks/*.yml"), *(ROOT / "roles").glob("*/handlers/*.yml")]
    tasks = {path: yaml.safe_load(path.read_text()) for path in files}
    for path in (ROOT / "playbooks").glob("*.yml"):
        plays = yaml.safe_load(path.read_text())
        tasks[path] = [task for play in plays for part in ("tasks", "handlers") for task in play.get(part) or []]
    found = {name: path for path, listed in tasks.items() for name in named_modules(listed)}
    assert "file_tree" in found and {name: path for name, path in found.items() if name not in there} == {}
