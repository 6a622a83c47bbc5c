"""A Docker pool on Debian's own engine: runs in containers of a pinned image, and what they cannot reach."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest
import yaml
from testinfra.host import Host

from tests.support.hosts import changed, start_run, wait_for_health
from tests.support.project import ROOT
from tests.support.scenario import PSQL, SCENARIO, Playbook, Typed
from tests.support.waiting import wait_for

WORKER = "prefect-worker@prefect-containers-1"
VARIABLES = yaml.safe_load((SCENARIO / "inventory/group_vars/all.yml").read_text())
DIGEST = (ROOT / ".cache/pools-digest").read_text()
IMAGE = f"{VARIABLES['pools_registry']}/flows@{DIGEST}"


@pytest.fixture(scope="session")
def container() -> str:
    return f"prefect-pools{os.environ.get('MOLECULE_SUFFIX', '')}"


@pytest.fixture(autouse=True)
def healthy(host: Host) -> Iterator[None]:
    yield
    host.run(f"systemctl reset-failed {WORKER}; systemctl start {WORKER}")


def start(host: Host, deployment: str, **parameters: float) -> str:
    """Start a run and return its ID."""
    return start_run(host, deployment, *(f"--param {name}={value}" for name, value in parameters.items()))


def state(host: Host, run: str) -> tuple[str, str]:
    query = f"""SELECT s.type, s.message FROM prefect.flow_run r JOIN prefect.flow_run_state s ON s.id = r.state_id
                WHERE r.id = '{run}'"""
    kind, _, message = host.check_output(PSQL, query).partition("|")
    return kind, message


def journal(host: Host) -> str:
    return str(host.check_output(f"journalctl --no-pager --unit {WORKER} --lines 200"))


def end(host: Host, run: str) -> tuple[str, str]:
    ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    wait_for(lambda: state(host, run)[0] in ends, lambda: journal(host), 180)
    return state(host, run)


def begin(host: Host, **parameters: float) -> str:
    """Start a run in a container and wait until its flow runs."""
    run = start(host, "contained/pinned", **parameters)
    wait_for(lambda: state(host, run)[0] == "RUNNING" and said(host, run), lambda: journal(host), 180)
    return run


def said(host: Host, run: str) -> str:
    return str(host.check_output(PSQL, f"SELECT message FROM prefect.log WHERE flow_run_id = '{run}'"))


def containers(host: Host, run: str) -> list[str]:
    listed = host.check_output(f"docker ps --all --quiet --no-trunc --filter label=io.prefect.flow-run-id={run}")
    return str(listed).split()


def test_a_run_in_a_container_of_the_pinned_image(host: Host, secrets: dict[str, str]) -> None:
    """Pulled from a registry that asks for a login; its user is nobody of the host."""
    run = begin(host, seconds=20)
    (container,) = containers(host, run)
    text = host.check_output("docker inspect %s", container)
    (found,) = json.loads(text)
    assert found["Config"]["Image"] == IMAGE
    assert found["HostConfig"]["NetworkMode"] == "host" and not found["HostConfig"]["Privileged"]
    assert "POOL_LETTERS=abc" in found["Config"]["Env"]
    places = [
        text,
        journal(host),
        host.check_output("ps -eo args"),
        host.check_output("cat /etc/systemd/system/prefect*.service /etc/systemd/system/prefect*.d/*"),
    ]
    pool = host.check_output("PREFECT_LOGGING_LEVEL=ERROR prefect work-pool inspect containers")
    for name, secret in secrets.items():
        assert not [place for place in [*places, pool] if secret in place], name
    assert end(host, run)[0] == "COMPLETED"
    expected = r"contained=True uid=[1-9]\d* login=mltrading_app letters=abc"
    wait_for(lambda: re.search(expected, said(host, run)), lambda: said(host, run), 30)
    wait_for(lambda: not containers(host, run), lambda: host.check_output("docker ps --all"))


def test_the_login_of_the_registry_is_needed(host: Host) -> None:
    refused = host.run("docker pull %s", f"{VARIABLES['pools_registry']}/flows:latest")
    assert refused.rc != 0 and "no basic auth credentials" in refused.stderr
    assert not host.file("/root/.docker/config.json").exists


def test_only_the_unit_of_the_docker_pool_reaches_the_engine(host: Host) -> None:
    run = start(host, "reach-docker/plain")
    assert end(host, run)[0] == "COMPLETED"
    wait_for(lambda: "docker=Permission denied" in said(host, run), lambda: said(host, run), 30)
    assert host.check_output("getent group docker").rstrip().endswith(":")
    assert host.run("runuser -u docker-prefect -- docker ps").rc != 0
    for user in ("prefect-prefect", "docker-prefect"):
        assert host.run("runuser -u %s -- cat /etc/prefect/containers/prefect-containers-1/profiles.toml", user).rc != 0


def test_how_a_run_ended_is_reported(host: Host) -> None:
    """By Prefect in the container, or by the worker where that could not."""
    kind, message = end(host, start(host, "contained/pinned", code=3))
    assert kind == "CRASHED" and re.search("status code:? 3", message), message
    run = begin(host, seconds=600)
    (container,) = containers(host, run)
    host.check_output("docker kill %s", container)
    kind, message = end(host, run)
    assert kind == "CRASHED" and "status code 137" in message, message
    assert host.check_output("docker inspect --format '{{.State.ExitCode}}' %s", container) == "137"


def test_a_stopped_worker_drains_and_a_killed_one_is_replaced(host: Host) -> None:
    run = begin(host, seconds=15)
    host.check_output(f"systemctl stop {WORKER}")  # waits
    assert state(host, run)[0] == "COMPLETED" and "takes no new runs and has 1 going on" in journal(host)
    host.check_output(f"systemctl start {WORKER}")

    run = begin(host, seconds=600)
    host.check_output(f"systemctl kill --signal=KILL {WORKER}")
    wait_for(lambda: "watches the container" in journal(host), lambda: journal(host), 120)
    assert state(host, run)[0] == "RUNNING" and len(containers(host, run)) == 1
    host.check_output("docker kill %s", containers(host, run)[0])
    kind, message = end(host, run)
    assert kind == "CRASHED" and "137" in message


def test_a_recovery_asks_the_engine(host: Host) -> None:
    run = begin(host, seconds=600)
    host.check_output(f"systemctl kill --signal=KILL {WORKER}; systemctl stop {WORKER}")
    assert state(host, run)[0] == "RUNNING"
    assert run not in host.check_output("pgprefect runs recover --dry-run --json")
    host.check_output("docker pause %s", containers(host, run)[0])
    # Nothing is heard of the run, nor of its worker; yet it lives.
    query = f"""SELECT now() - max(received) > interval '95 s' FROM prefect.events
                WHERE resource_id = 'prefect.flow-run.{run}'"""
    wait_for(lambda: host.check_output(PSQL, query) == "t", lambda: journal(host), 180)
    assert run not in host.check_output("pgprefect runs recover --dry-run --json")
    assert state(host, run)[0] == "RUNNING"
    host.check_output("docker kill %s", containers(host, run)[0])
    assert run in host.check_output("pgprefect runs recover --dry-run --json")
    host.check_output(f"systemctl start {WORKER}")
    kind, message = state(host, run)
    assert kind == "CRASHED" and "its container has ended (Exited (137)" in message


def test_an_engine_that_restarts_ends_its_runs(host: Host) -> None:
    run = begin(host, seconds=600)
    host.check_output("systemctl restart docker")
    kind, message = end(host, run)
    assert kind == "CRASHED", message
    assert end(host, start(host, "contained/pinned"))[0] == "COMPLETED"


def test_the_trial_run_of_an_upgrade_works_in_a_container(host: Host) -> None:
    said = host.check_output("pgprefect --tenant prefect upgrade canary")
    assert "containers: completed in" in said and "default: completed in" in said


def test_the_page_can_be_typed(typed: Typed) -> None:
    (answer,) = typed("docker.md", "The image", **{"registry.example.com/team/flows:1.4": IMAGE})
    assert DIGEST in answer and re.search(r" sha256:[0-9a-f]{64}$", answer.strip())
    listed, lines = typed("docker.md", "Look at the containers")
    assert "Exited (137)" in listed and "contained=True" in lines


def test_a_pool_that_is_gone_leaves_nothing_but_the_engine(host: Host, playbook: Playbook) -> None:
    pools = json.dumps({"prefect_tenants": [{"name": "prefect", "work_pools": [{"name": "default"}]}]})
    done = playbook("playbooks/workers.yml", "-e", pools)
    assert done.returncode == 0, done.stdout
    assert not host.file("/etc/prefect/containers/prefect-containers-1/profiles.toml").exists
    assert not host.service(WORKER).is_running and host.service("docker").is_running
    done = playbook("site.yml")
    assert done.returncode == 0 and max(changed(done.stdout)) > 0, done.stdout
    wait_for_health(host)
