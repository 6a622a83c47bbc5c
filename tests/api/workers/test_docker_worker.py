"""The worker of Docker pools on a real engine: the host decides what a container gets, and none is forgotten."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.http import PrefectApi
from pgprefect.runs.taken_runs import resolve_taken_runs

from filter_plugins.workers import container_files, container_settings
from tests.api.conftest import AUTH_STRING
from tests.support.postgresql import SUITE, docker
from tests.support.project import ROOT, VIRTUALENV
from tests.support.waiting import wait_for
from tests.support.worker_site import WorkerSite

IMAGE = f"ansible-prefect-host:{SUITE}"
NAME = "host-tenant-contained-1"
POOL = "contained"
PASSWORD = AUTH_STRING.partition(":")[2]
REGISTRY = {"address": "registry.example.com", "username": "flows", "password": "r3gistry s3cret"}
OUR_LABEL = f"label=io.prefect.worker-name={NAME}"


@dataclass
class DockerSite(WorkerSite):
    """Its containers are of the image."""

    image: str = ""


def containers(run: str) -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"label=io.prefect.flow-run-id={run}").split()


def python_prefix() -> str:
    """The folder of the interpreter that the virtualenv's python is a link to."""
    return docker_free([str(VIRTUALENV / "bin/python"), "-I", "-c", "import sys; print(sys.base_prefix)"])


def docker_free(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def site(
    api: Callable[..., Any],
    api_arguments: dict[str, str],
    prefect_environment: dict[str, str],
    run_module: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> Iterator[DockerSite]:
    image = docker("image", "inspect", "--format", "{{.Id}}", IMAGE)
    job = {"image": image, "network_mode": "host", "memory": "512M"}
    registry = {**REGISTRY, "name": str(uuid.uuid4())}
    pool = {"name": POOL, "type": "docker", "docker": {**job, "registry": registry["name"]}}

    def declare(password: str) -> dict[str, Any]:
        registries = [{**registry, "password": password}]
        made = run_module("prefect_work_pools", **api_arguments, pools=[pool], registries=registries)
        assert "s3cret" not in json.dumps(made)
        return made

    block = f"docker-registry-credentials block registry-{registry['name']}"
    assert declare("0lder s3cret").get("actions") == [f"create {block}", f"create work pool {POOL}"]
    assert declare(registry["password"])["actions"] == [f"update {block}: password"]
    assert not declare(registry["password"])["changed"]

    files, code = tmp_path / "files", tmp_path / "code"
    files.mkdir()
    code.mkdir()
    worker = {"docker": job, "container_api_url": api_arguments["api_url"]}
    for name, text in container_files(worker, PASSWORD, {}).items():
        (files / name).write_text(text)
    settings = container_settings(worker, ["DECLARED"], str(files), str(ROOT / "flows"))
    # What an image of flows has in it: Prefect, and here also the code.
    settings["volumes"] += [f"{folder}:{folder}:ro" for folder in (python_prefix(), str(VIRTUALENV.resolve()))]
    settings["volumes"].append(f"{code}:{code}:rw")
    settings["env"]["PATH"] = f"{VIRTUALENV.resolve()}/bin:/usr/bin:/bin"
    environment = {**prefect_environment, "PGPREFECT_CONTAINERS": json.dumps(settings)}
    made_site = DockerSite(api, code, environment, POOL, NAME, image=image)
    yield made_site
    made_site.tidy()
    if left := docker("ps", "--all", "--quiet", "--filter", OUR_LABEL).split():
        docker("rm", "--force", *left)


def test_the_host_decides_what_a_container_gets(site: DockerSite) -> None:
    # Somebody with the API's password wants to be root of the host.
    template = site.api("GET", f"/work_pools/{POOL}")["base_job_template"]
    template["job_configuration"].update(
        privileged=True, auto_remove=True, volumes=["/:/host"], container_create_kwargs={"cap_add": ["SYS_ADMIN"]}
    )
    site.api("PATCH", f"/work_pools/{POOL}", {"base_job_template": template})
    site.start()
    run = site.begin(parameters={"gate": "may_end"}, job_variables={"env": {"OWN": "env"}})
    (container,) = containers(run)
    text = docker("inspect", container)
    (found,) = json.loads(text)
    assert not found["HostConfig"]["Privileged"] and not found["HostConfig"]["AutoRemove"]
    assert not found["HostConfig"]["CapAdd"] and found["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
    assert not [bind for bind in found["HostConfig"]["Binds"] if bind.startswith("/:")]
    assert found["HostConfig"]["Memory"] == found["HostConfig"]["MemorySwap"] == 512 * 1024**2
    assert found["Image"] == site.image
    seen = site.seen()
    assert (seen["OWN"], seen["DECLARED"], seen["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) == ("env", "yes", "30")
    assert not {"UNDECLARED", "PREFECT_HOME", "PREFECT_WORKER_QUERY_SECONDS", "PGPREFECT_CONTAINERS"} & seen.keys()
    for secret in (PASSWORD, "r3gistry s3cret"):
        assert secret not in text and json.dumps(secret)[1:-1] not in text
    (site.folder / "may_end").touch()
    assert site.end(run)[0] == "COMPLETED"
    wait_for(lambda: not containers(run), lambda: docker("ps", "--all"))

    moving = site.run(job_variables={"image": IMAGE})
    state, message = site.end(moving)
    assert state == "CRASHED" and "is not pinned by its digest" in message
    assert containers(moving) == []


@pytest.mark.thorough  # molecule/pools shows it on a host
def test_a_container_outlives_its_worker_and_is_not_forgotten(site: DockerSite, api_arguments: dict[str, str]) -> None:
    client = PrefectApi(api_arguments["api_url"], AUTH_STRING)

    def take_up() -> list[str]:
        return [run.id for run in resolve_taken_runs(client, NAME, POOL, "its worker ended")]

    first = site.start()
    lives = site.begin(parameters={"gate": "may_end"})
    killed = site.begin(parameters={"gate": "never"})
    lost = site.begin(parameters={"gate": "never"})
    first.send_signal(signal.SIGKILL)
    first.wait()
    docker("kill", *containers(lost))
    # What the worker's unit calls after it, and before the next one.
    assert take_up() == [lost] and take_up() == []
    state, message = site.state(lost)
    assert state == "CRASHED" and "its container has ended (Exited (137)" in message
    assert {site.state(run)[0] for run in (lives, killed)} == {"RUNNING"}

    second = site.start()
    wait_for(lambda: site.log.read_text().count("again.") == 2, site.log.read_text)
    docker("kill", *containers(killed))
    state, message = site.end(killed)
    assert state == "CRASHED" and "137" in message, message
    failed = site.run(parameters={"code": 3})
    state, message = site.end(failed)
    assert state == "CRASHED" and re.search("status code:? 3", message), message
    assert docker("inspect", "--format", "{{.State.ExitCode}}", *containers(killed)) == "137"  # kept to be looked at
    # Removed by somebody: Prefect's own worker takes it for one that ended well.
    removed = site.begin(parameters={"gate": "never"})
    docker("rm", "--force", *containers(removed))
    assert site.end(removed)[0] == "CRASHED"

    second.send_signal(signal.SIGTERM)
    wait_for(lambda: "takes no new runs and has 1 going on" in site.log.read_text(), site.log.read_text)
    (site.folder / "may_end").touch()
    assert second.wait(60) == 0, site.log.read_text()
    assert site.end(lives)[0] == "COMPLETED" and containers(lives) == []


def test_a_pool_that_was_made_anew_with_another_type_gets_no_worker(site: DockerSite) -> None:
    """Somebody with the API's password wants the rights of the worker's unit for the code of a flow."""
    site.api("DELETE", f"/work_pools/{POOL}")
    site.api("POST", "/work_pools/", {"name": POOL, "type": "process"})
    assert site.start().wait(60) == 1
    assert f"{POOL} is of the type process, and this host declares docker" in site.log.read_text()


def test_without_an_answer_of_the_engine_nothing_is_resolved(site: DockerSite, api_arguments: dict[str, str]) -> None:
    client = PrefectApi(api_arguments["api_url"], AUTH_STRING)
    from pgprefect.core.errors import ProblemError

    with pytest.raises(ProblemError) as failed:
        resolve_taken_runs(client, NAME, POOL, "its worker ended", ask=lambda: None)
    assert [problem.code for problem in failed.value.problems] == ["docker_engine_down"]
    site.environment["PGPREFECT_CONTAINERS"] = site.environment["PGPREFECT_CONTAINERS"].replace(
        site.image, "sha256:" + 64 * "0"
    )
    assert site.start().wait(60) == 1
    assert "The Docker engine of this host lacks what the pool declares" in site.log.read_text()
