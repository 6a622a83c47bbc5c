"""A run of site.yml that is killed anywhere leaves nothing that the next one does not mend.

``INTERRUPTIONS`` sets how often it is killed (1), each time at a random moment, on a host of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.hosts import changed
from tests.support.ports import free_port
from tests.support.project import ROOT

NAME = "prefect-interrupted"
SECONDS = (5.0, 120.0)  # between these a run is killed: the first tasks, and the last


@pytest.fixture
def fresh() -> Iterator[dict[str, str]]:
    """The environment in which the box is a container that has nothing yet."""
    environment = {
        **os.environ,
        "BOX_NAME": NAME,
        "BOX_PORT": str(free_port()),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    remove = ["docker", "rm", "--force", "--volumes", NAME]
    subprocess.run(remove, check=False, capture_output=True)
    try:
        done = run(environment, "molecule/shared/create.yml")
        assert done.returncode == 0, done.stdout
        yield environment
    finally:
        subprocess.run(remove, check=False, capture_output=True)


def command(name: str) -> list[str]:
    return [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(ROOT / "inventory/box"), name]


def run(environment: dict[str, str], name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def kill_after(environment: dict[str, str], seconds: float) -> str:
    """Start site.yml, kill it with all its children after so many seconds, and return the task that it had reached."""
    process = subprocess.Popen(
        command("site.yml"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        process.communicate(timeout=seconds)
        return "the end"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        tasks = [line for line in said.splitlines() if line.startswith("TASK")]
        return tasks[-1].rstrip(" *") if tasks else "before the first task"


@pytest.mark.thorough
def test_a_killed_run_is_mended_by_the_next(fresh: dict[str, str]) -> None:
    reached = []
    for _ in range(int(os.environ.get("INTERRUPTIONS", "1"))):
        seconds = random.uniform(*SECONDS)
        reached.append(f"after {seconds:.0f} s: {kill_after(fresh, seconds)}")
        print(reached[-1], flush=True)
        time.sleep(1)
    started = time.monotonic()
    done = run(fresh, "site.yml")
    assert done.returncode == 0, f"{reached}\n{done.stdout}"
    print(f"converged in {time.monotonic() - started:.0f} s", flush=True)
    again = run(fresh, "site.yml")
    assert again.returncode == 0 and set(changed(again.stdout)) == {0}, f"{reached}\n{again.stdout}"
    health = subprocess.run(
        ["docker", "exec", NAME, "pgprefect", "health", "--json"], capture_output=True, text=True, check=False
    )
    assert json.loads(health.stdout)["overall_status"] == "healthy", f"{reached}\n{health.stdout}"
