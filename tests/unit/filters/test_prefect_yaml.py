"""deployments_from: the plain part of a prefect.yaml, and a refusal by name of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from filter_plugins.prefect_yaml import deployments_from
from tests.support.inventories import run
from tests.support.project import ROOT

CODE = """
from prefect import flow

NAME = "x"

@flow
def check_the_risk(portfolio: str = "") -> None: ...

@flow(name="Kurse holen", log_prints=True)
def collect() -> None: ...

@flow(name=NAME)
def dynamic() -> None: ...
"""
PLAIN = {"name": "daily", "entrypoint": "risk.py:check_the_risk", "work_pool": {"name": "default"}}
CLONE = "prefect.deployments.steps.git_clone"
DIRECTORY = "prefect.deployments.steps.set_working_directory"


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return what a file with these contents declares."""
    (tmp_path / "risk.py").write_text(CODE)

    def declared(content: Any) -> Any:
        file = tmp_path / "prefect.yaml"
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True))
        (tenant,) = deployments_from(
            [{"name": "prefect", "deployments": [{"name": "own"}], "deployments_from": str(file)}]
        )
        assert tenant["deployments"][0] == {"name": "own"} and "deployments_from" not in tenant
        return tenant["deployments"][1:]

    return declared


def test_the_plain_part(read: Any) -> None:
    whole = {
        "name": "täglich",
        "entrypoint": "risk.py:collect",
        "version": None,
        "description": "D",
        "tags": ["a"],
        "parameters": {"symbols": ["MSFT"], "n": 1},
        "concurrency_limit": 2,
        "enforce_parameter_schema": False,
        "triggers": [],
        "schedules": [{"cron": "5 2 * * *", "timezone": "Europe/Berlin"}, {"slug": "often", "interval": 600}],
        "work_pool": {"name": "default", "work_queue_name": "q", "job_variables": {"env": {"A": "b"}}},
    }
    project: dict[str, Any] = {
        "name": "project",
        "prefect-version": "3.9.1",
        "build": None,
        "push": None,
        "pull": [{DIRECTORY: {}}],
    }
    assert read({**project, "deployments": [PLAIN, whole]}) == [
        {
            "name": "daily",
            "flow": "check-the-risk",
            "entrypoint": "risk.py:check_the_risk",
            "work_pool": "default",
        },
        {
            "name": "täglich",
            "flow": "Kurse holen",
            "entrypoint": "risk.py:collect",
            "work_pool": "default",
            "work_queue": "q",
            "job_variables": {"env": {"A": "b"}},
            "description": "D",
            "tags": ["a"],
            "parameters": {"symbols": ["MSFT"], "n": 1},
            "concurrency_limit": 2,
            "enforce_parameter_schema": False,
            "schedules": [
                {"slug": "schedule-1", "cron": "5 2 * * *", "timezone": "Europe/Berlin"},
                {"slug": "often", "interval": 600},
            ],
        },
    ]


def test_a_repository_is_a_source(read: Any) -> None:
    clone = {"repository": "https://git.example.com/flows.git", "branch": "main"}
    (found,) = read({"pull": [{CLONE: clone}], "deployments": [{**PLAIN, "schedule": {"cron": "0 1 * * *"}}]})
    assert found["source"] == {"git": "https://git.example.com/flows.git", "ref": "main"}
    assert found["schedules"] == [{"slug": "schedule-1", "cron": "0 1 * * *"}]


def test_without_a_file_nothing_is_added() -> None:
    tenants: list[dict[str, Any]] = [{"name": "a"}, {"name": "b", "deployments": []}]
    assert deployments_from(tenants) == tenants


IMAGE = {"prefect_docker.deployments.steps.build_docker_image": {"image_name": "x"}}
PUSH = {"prefect_aws.deployments.steps.push_to_s3": {"bucket": "x"}}
REFUSED: list[tuple[Any, str]] = [
    ("a: [", "prefect.yaml cannot be read"),
    ("just text", "has no list of deployments"),
    ({"deployments": {}}, "has no list of deployments"),
    ({"deployments": ["a"]}, "has no list of deployments"),
    ({"deployments": [PLAIN], "bild": []}, "bild: unknown key"),
    (
        {"build": [IMAGE], "deployments": [PLAIN]},
        "build (prefect_docker.deployments.steps.build_docker_image): the site",
    ),
    ({"deployments": [{**PLAIN, "build": [IMAGE]}]}, "deployment daily: build (prefect_docker.deployments.steps."),
    ({"deployments": [{**PLAIN, "push": [PUSH]}]}, "push (prefect_aws.deployments.steps.push_to_s3): the site copies"),
    (
        {"deployments": [{**PLAIN, "pull": [PUSH]}]},
        "pull: the step prefect_aws.deployments.steps.push_to_s3 is unknown",
    ),
    ({"deployments": [{**PLAIN, "pull": [{CLONE: {"repository": "x"}}]}]}, "takes a repository with a branch"),
    (
        {"deployments": [{**PLAIN, "pull": [{CLONE: {"repository": "x", "branch": "y", "access_token": "z"}}]}]},
        "declare source for credentials",
    ),
    ({"deployments": [{**PLAIN, "triggers": [{"a": 1}]}]}, "triggers: declare the tenant's automations"),
    ({"deployments": [{**PLAIN, "version": "1"}]}, "version: the version follows from the code"),
    ({"deployments": [{**PLAIN, "tag": ["a"]}]}, "tag: unknown key"),
    ({"deployments": [{**PLAIN, "parameters": {"a": ["{{ get-commit.stdout }}"]}}]}, "parameters.a[0]: '{{ get-commit"),
    ({"deployments": [{**PLAIN, "description": "{$ENV}"}]}, "description: '{$ENV}' has a template"),
    ({"deployments": [{**PLAIN, "work_pool": "default"}]}, "work_pool: it must be a mapping with a name"),
    ({"deployments": [{**PLAIN, "work_pool": {"name": "a", "queue": "b"}}]}, "work_pool.queue: unknown key"),
    (
        {"deployments": [{**PLAIN, "schedules": [{"cron": "* * * * *", "day_or": True}]}]},
        "schedules: day_or is",
    ),
    ({"deployments": [{**PLAIN, "entrypoint": "nope.py:x"}]}, "entrypoint: nope.py:x cannot be read below"),
    ({"deployments": [{**PLAIN, "entrypoint": "risk.py:x"}]}, "entrypoint: risk.py has no function x"),
    ({"deployments": [{**PLAIN, "entrypoint": "risk.py:dynamic"}]}, "dynamic works out its name; declare it"),
    ({"deployments": [{"name": "a", "work_pool": {"name": "b"}}]}, "entrypoint: None cannot be read"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_the_rest_is_refused_by_name(read: Any, content: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError) as refused:
        read(content)
    assert message in str(refused.value)


def test_the_inventory_is_checked_with_it(tmp_path: Path) -> None:
    flows = ROOT / "flows"
    sound = {"name": "daily", "entrypoint": "check_risk_limits.py:check_risk_limits", "work_pool": {"name": "default"}}
    schedule = {"cron": "61 * * * *"}
    hosts = {}
    files: dict[str, Any] = {
        "sound": [sound],
        "schedule": [{**sound, "schedules": [schedule]}],
        "pool": [{**sound, "work_pool": {"name": "nope"}}],
        "build": [{**sound, "build": [IMAGE]}],
        "twice": [sound, sound],
    }
    for name, deployments in files.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "check_risk_limits.py").write_text((flows / "check_risk_limits.py").read_text())
        (folder / "prefect.yaml").write_text(yaml.safe_dump({"deployments": deployments}))
        hosts[name] = {"prefect_tenants": [{"name": "prefect", "deployments_from": f"{folder}/prefect.yaml"}]}
    hosts["missing"] = {"prefect_tenants": [{"name": "prefect", "deployments_from": f"{tmp_path}/nope.yaml"}]}
    hosts["relative"] = {"prefect_tenants": [{"name": "prefect", "deployments_from": "flows/prefect.yaml"}]}
    groups = ("postgresql", "prefect_server", "prefect_worker")
    status, said = run(tmp_path, {group: {"hosts": hosts} for group in groups})
    assert status != 0 and "it cannot be worked out" not in said
    for message in (
        "prefect_tenants[0].deployments[0].schedules[0].cron is '61 * * * *'",
        "prefect_tenants[0].deployments[0].work_pool: the tenant's work_pools have no nope/default",
        "prefect_tenants[0].deployments_from: ",
        "build (prefect_docker.deployments.steps.build_docker_image): the site builds no images",
        "prefect_tenants[0].deployments[1]: it has the same flow and name",
        "(there is no such file on this machine)",
        "deployments_from is 'flows/prefect.yaml', but it must be the absolute path of a file of this machine",
        "(it is not absolute)",
    ):
        assert message in said, (message, said)
    groups_of_one = {group: {"hosts": {"sound": hosts["sound"]}} for group in groups}
    status, said = run(tmp_path, groups_of_one)
    assert status == 0, said
