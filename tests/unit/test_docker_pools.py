"""Docker work pools: what the inventory may say of them, and what workers, containers and Prefect get of it."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml
from pgprefect.core.errors import InputError
from pgprefect.objects import work_pools
from pgprefect.objects.docker_jobs import DockerJob, DockerRegistry, job_template

from filter_plugins.tenants import docker_registries, git_keys, prefect_tenants, prefect_workers
from filter_plugins.workers import container_files, container_settings, worker_limits, worker_user
from plugin_utils.inventory_checks.docker import check_docker, check_reach
from plugin_utils.inventory_checks.specification import read
from plugin_utils.inventory_checks.values import check_value
from tests.support.project import ROOT

SPECIFICATION = read(ROOT)
DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example.com:5000/team/flows@{DIGEST}"
POOL = {"name": "containers", "type": "docker", "docker": {"image": IMAGE}}
REGISTRY = {"name": "ours", "address": "registry.example.com:5000", "username": "flows", "password": "s3cret"}
PATH = "prefect_tenants[0].work_pools[0]"
JOB = "prefect_tenants[0].deployments[0].job_variables"


def faults(pool: dict[str, Any], deployment: dict[str, Any] | None = None, **tenant: Any) -> list[str]:
    made = {"name": "d", "flow": "f", "entrypoint": "f.py:f", "work_pool": "containers", **(deployment or {})}
    given = [{"name": "prefect", "work_pools": [pool], "deployments": [made], **tenant}]
    return [*check_value("prefect_tenants", given, SPECIFICATION.options["prefect_tenants"]), *check_docker(given)]


@pytest.mark.parametrize(
    "pool",
    [
        POOL,
        {**POOL, "docker": {"image": DIGEST, "network_mode": "host", "memory": "512M"}},
        {**POOL, "docker": {"image": f"flows@{DIGEST}", "networks": ["flows"], "registry": "ours"}},
        {**POOL, "docker": {"image": IMAGE, "volumes": ["/srv/data:/data", "prices:/prices:ro"]}},
        {**POOL, "docker": {"image": IMAGE, "volumes": ["/etc/ssl/certs:/etc/ssl/certs:ro"], "database_login": True}},
        {"name": "containers", "type": "docker", "workers": 0},  # its workers are elsewhere
    ],
)
def test_what_can_work_is_accepted(pool: dict[str, Any]) -> None:
    assert faults(pool, {"job_variables": {"image": DIGEST, "env": {"A": "b"}}}, docker_registries=[REGISTRY]) == []


def docker(**keys: Any) -> dict[str, Any]:
    return {**POOL, "docker": {"image": IMAGE, **keys}}


REFUSED = [
    (docker(image="registry.example.com/flows:1.2"), f"{PATH}.docker.image", "a tag moves"),
    (docker(image=f"flows:1.2@{DIGEST}"), f"{PATH}.docker.image", "leave the tag out"),
    (docker(image="flows@sha256:12"), f"{PATH}.docker.image", "no digest"),
    (docker(image="docker inspect"), f"{PATH}.docker.image", "must be REPOSITORY@sha256"),
    (docker(volumes=["/var/run/docker.sock:/var/run/docker.sock"]), f"{PATH}.docker.volumes[0]", "the system"),
    (docker(volumes=["/:/host:ro"]), f"{PATH}.docker.volumes[0]", "the system"),
    (docker(volumes=["/etc/prefect:/secrets:ro"]), f"{PATH}.docker.volumes[0]", "the system"),
    (docker(volumes=["/etc/ssl/certs:/certs"]), f"{PATH}.docker.volumes[0]", "the system"),
    (docker(volumes=["../x:/x"]), f"{PATH}.docker.volumes[0]", "must be SOURCE:TARGET"),
    (docker(volumes=["data:/run/prefect"]), f"{PATH}.docker.volumes[0]", "the site's own"),
    (docker(network_mode="container:web"), f"{PATH}.docker.network_mode", "one of bridge, host"),
    (docker(network_mode="none"), f"{PATH}.docker.network_mode", "one of bridge, host"),
    (docker(networks=["host"]), f"{PATH}.docker.networks", "a network of Docker"),
    (docker(networks=["a"], network_mode="host"), f"{PATH}.docker:", "remove one of the two"),
    (docker(memory="1GiB"), f"{PATH}.docker.memory", "a size as 512M or 2G"),
    (docker(registry="our"), f"{PATH}.docker.registry is 'our'", "did you mean ours"),
    (docker(auto_remove=True), f"{PATH}.docker.auto_remove", "unknown key"),
    (docker(privileged=True), f"{PATH}.docker.privileged", "unknown key"),
    ({**POOL, "type": "process"}, f"{PATH}.docker:", "set type: docker"),
    ({**POOL, "base_job_template": {}}, f"{PATH}.base_job_template", "remove one of the two"),
    ({"name": "containers", "type": "docker"}, f"{PATH}.docker is missing", "at least its image"),
]


@pytest.mark.parametrize(("pool", "begin", "reason"), REFUSED)
def test_what_cannot_work_is_refused_by_name(pool: dict[str, Any], begin: str, reason: str) -> None:
    found = faults(pool, docker_registries=[REGISTRY])
    assert len(found) == 1 and found[0].startswith(begin) and reason in found[0], found
    assert "s3cret" not in found[0]


@pytest.mark.parametrize(
    ("deployment", "begin", "reason"),
    [
        ({"job_variables": {"auto_remove": True}}, f"{JOB}.auto_remove", "takes its exit code with it"),
        ({"job_variables": {"privileged": True}}, f"{JOB}.privileged", "root of the host"),
        ({"job_variables": {"volumes": ["/:/host"]}}, f"{JOB}.volumes", "the pool decides this"),
        ({"job_variables": {"image": "python:3"}}, f"{JOB}.image", "a tag moves"),
        (
            {"source": {"git": "https://git.example.com/x.git", "ref": "main", "credentials": "web"}},
            "prefect_tenants[0].deployments[0].source.credentials",
            "containers get no credentials",
        ),
    ],
)
def test_a_deployment_cannot_take_more_than_its_pool(deployment: dict[str, Any], begin: str, reason: str) -> None:
    (found,) = faults(POOL, deployment)
    assert found.startswith(begin) and reason in found


GROUPS = {"prefect_server": ["a"], "prefect_worker": ["a", "b"], "elsewhere": ["b"]}


@pytest.mark.parametrize(
    ("pool", "tenant", "host", "reached"),
    [
        (POOL, {}, "127.0.0.1", False),
        ({**POOL, "hosts": "elsewhere"}, {}, "127.0.0.1", True),
        (docker(network_mode="host"), {}, "127.0.0.1", True),
        (docker(networks=["flows"]), {}, "127.0.0.1", False),
        (POOL, {"api_url": "https://flows.example.com/api"}, "127.0.0.1", True),
        (POOL, {}, "192.0.2.10", True),
        ({**POOL, "workers": 0}, {}, "127.0.0.1", True),
    ],
)
def test_containers_must_reach_the_api(pool: dict[str, Any], tenant: dict[str, Any], host: str, reached: bool) -> None:
    resolved = prefect_tenants([{"name": "prefect", "work_pools": [pool], **tenant}], host)
    found = list(check_reach(resolved, GROUPS))
    assert (found == []) is reached
    assert reached or (found[0].startswith(f"{PATH}.docker: on a the API") and "network_mode: host" in found[0])


def test_a_worker_gets_what_its_pool_declares_and_no_secret() -> None:
    given = {"name": "prefect", "work_pools": [docker(registry="ours"), {"name": "default"}]}
    given["docker_registries"] = [REGISTRY]
    given["git_credentials"] = [{"name": "deploy", "key": "k", "known_hosts": ["h"]}]
    resolved = prefect_tenants([given], "127.0.0.1", proxy="192.0.2.1", ui_url="https://flows.example.com")
    contained, other = prefect_workers(resolved, "a", GROUPS)
    assert [worker_user(worker) for worker in (contained, other)] == ["docker-prefect", "prefect-prefect"]
    assert "s3cret" not in json.dumps(resolved) and docker_registries([given]) == {"prefect": [REGISTRY]}
    assert git_keys([given], [contained]) == {} and git_keys([given], [other]).keys() == {"prefect"}

    settings = container_settings(contained, ["TZ"], "/etc/prefect/containers/x", "/opt/prefect/flows", "/etc/ca.pem")
    assert settings == {
        "type": "docker",
        "image": IMAGE,
        "networks": [],
        "network_mode": "bridge",
        "volumes": [
            "/etc/prefect/containers/x:/run/prefect:ro",
            "/opt/prefect/flows:/opt/prefect/flows:ro",
            "/etc/ca.pem:/run/prefect-api-authority.pem:ro",
        ],
        "mem_limit": "1G",
        "variables": ["TZ"],
        "env": {
            "PREFECT_API_URL": "https://flows.example.com/api",
            "PREFECT_PROFILES_PATH": "/run/prefect/profiles.toml",
            "PREFECT_API_SSL_CERT_FILE": "/run/prefect-api-authority.pem",
        },
    }
    on_the_host = docker(network_mode="host", database_login=True)
    (tenant,) = prefect_tenants([{**given, "work_pools": [on_the_host]}], proxy="192.0.2.1")
    (worker,) = prefect_workers([tenant])
    settings = container_settings(worker, [], "/files", "/flows", database_ca_file="/etc/db.pem")
    assert settings["env"]["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert settings["env"]["PGSERVICEFILE"] == "/run/prefect/pg_service.conf" and settings["network_mode"] == "host"
    assert settings["volumes"][-1] == "/etc/db.pem:/run/prefect-database-authority.pem:ro"


def test_secrets_are_in_files_of_the_containers() -> None:
    password = 'p"\\w#é'
    files = container_files({"docker": {"database_login": True}}, password, {"host": "db", "password": "x y"}, "/ca")
    profile = tomllib.loads(files["profiles.toml"])
    assert profile["profiles"][profile["active"]] == {"PREFECT_API_AUTH_STRING": f"admin:{password}"}
    assert files["pg_service.conf"].splitlines()[:3] == ["[application]", "host=db", "password=x y"]
    assert "sslmode=verify-full" in files["pg_service.conf"]
    assert container_files({"docker": {}}, password, {"password": "x"}).keys() == {"profiles.toml"}


def test_an_engine_of_others_is_never_replaced() -> None:
    """What a role requires is installed with all else before it has looked for an engine."""
    variables = yaml.safe_load((ROOT / "roles/prefect_worker/vars/main.yml").read_text())
    assert "packages" not in variables["__prefect_worker_requirements"]
    tasks = yaml.safe_load((ROOT / "roles/prefect_worker/tasks/configure.yml").read_text())
    (install,) = [task for task in tasks if "ansible.builtin.apt" in task]
    assert "__prefect_worker_lacks_engine" in install["when"]
    assert install["ansible.builtin.apt"]["fail_on_autoremove"]


def test_the_containers_of_a_worker_fit_into_its_memory() -> None:
    workers: list[dict[str, Any]] = [
        {"instance": "a", "docker": {"memory": "512M"}},
        {"instance": "b", "docker": {}},
        {"instance": "c", "docker": {"memory": "8G"}},
        {"instance": "d", "docker": {}, "limit": 9},
    ]
    assert worker_limits(workers, 0, "4G", 64000, 4) == {"a": 8, "b": 4, "c": 1, "d": 9}


def test_the_template_leaves_a_deployment_no_more_than_its_variables() -> None:
    template = job_template(DockerJob(IMAGE, volumes=["/srv/data:/data"], registry="ours"))
    variables = template["variables"]["properties"]
    credentials = variables.pop("registry_credentials")
    assert credentials["default"] == "{{ prefect.blocks.docker-registry-credentials.registry-ours }}"
    assert set(variables) == {"command", "env", "image", "labels", "name"}
    job = template["job_configuration"]
    assert {name: job[name] for name in ("auto_remove", "privileged", "network_mode", "mem_limit")} == {
        "auto_remove": False,
        "privileged": False,
        "network_mode": "bridge",
        "mem_limit": "1G",
    }
    assert job["image_pull_policy"] == "IfNotPresent"
    assert job_template(DockerJob(DIGEST))["job_configuration"]["image_pull_policy"] == "Never"
    assert "network_mode" not in job_template(DockerJob(IMAGE, networks=["flows"]))["job_configuration"]


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (work_pools.WorkPool("p", docker=DockerJob(IMAGE)), "belongs to a pool of the type docker"),
        (work_pools.WorkPool("p", "docker", base_job_template={}, docker=DockerJob(IMAGE)), "without a base_job_"),
        (work_pools.WorkPool("p", "docker", docker=DockerJob("flows:1")), "a tag moves"),
        (work_pools.WorkPool("p", "docker", docker=DockerJob(IMAGE, "host", ["a"])), "give one"),
        (work_pools.WorkPool("p", "docker", docker=DockerJob(IMAGE, registry="x")), "there is no registry x"),
    ],
)
def test_the_module_refuses_the_same(pool: work_pools.WorkPool, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        work_pools.apply(None, [pool], registries=[DockerRegistry(**REGISTRY)])  # type: ignore[arg-type]
