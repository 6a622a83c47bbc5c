"""A molecule scenario: its folder, and what its tests run on the controller and on the hosts."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host

from tests.support.project import ROOT, host_virtualenv

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
Sql = Callable[[str, str], Any]
Typed = Callable[..., list[str]]
PSQL = "runuser --user postgres -- psql --no-psqlrc --quiet --tuples-only --no-align --dbname mltrading --command %s"
# The virtualenv of Prefect on the hosts.
PREFECT = host_virtualenv()
# How the pages begin what they tell to type on the controller; all else is typed on the host.
CONTROLLER = (".venv/bin/", "box/", "cp -r inventory/", "requirements/lock ")
Playbook = Callable[..., subprocess.CompletedProcess[str]]


def container_of(host: str) -> str:
    """Return the container of a host of a scenario that has several."""
    return f"prefect-{SCENARIO.name}-{host}{os.environ.get('MOLECULE_SUFFIX', '')}"


def host_of(name: str) -> Host:
    """Return a host of a scenario that has several, as tests ask it."""
    return testinfra.get_host(f"docker://{container_of(name)}")


def on_the_controller(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the root of the repository; inventory/mine is the scenario's."""
    return subprocess.run(
        [part.replace("inventory/mine", str(SCENARIO / "inventory")) for part in command],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@contextlib.contextmanager
def lost(host: str) -> Iterator[None]:
    """Take the power of a host of a scenario that has several away for the block."""
    subprocess.run(["docker", "kill", container_of(host)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "start", container_of(host)], check=True, capture_output=True)


def state_of(host: Host, run: str) -> str:
    """The type of a flow run's state, asked of the database on this host."""
    return str(host.check_output(PSQL, f"SELECT state_type FROM prefect.flow_run WHERE id = '{run}'"))


def as_cron(host: Host, file: str, user: str, command: str) -> Any:
    """Run a command of a file of cron as cron does: in a shell of the user's home that knows next to nothing."""
    settings = re.findall(r"^(\w+)=(.*)$", host.file(file).content_string, re.MULTILINE)
    home = host.user(user).home
    known = " ".join([f"HOME={home}", f"LOGNAME={user}", *(f"{name}={value}" for name, value in settings)])
    inside = f"cd {home} && exec env --ignore-environment {known} /bin/sh -c {shlex.quote(command)} </dev/null"
    return host.run("runuser --user %s -- sh -c %s", user, inside)
