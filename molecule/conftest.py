"""What the tests of every scenario use: the host, its playbooks, its secrets, and its journal when a test fails."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Generator
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from tests.support.pages import sections
from tests.support.scenario import CONTROLLER, PSQL, SCENARIO, Playbook, Sql, Typed, on_the_controller


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print what the units said when a test fails."""
    report = yield
    hosts = {name: value for name, value in getattr(item, "funcargs", {}).items() if isinstance(value, Host)}
    if report.when == "call" and report.failed:
        units = "--unit 'prefect-*' --unit 'postgresql@*'"
        for name, host in hosts.items():
            journal = host.run(f"journalctl --no-pager --lines 60 {units}; systemctl --failed --no-pager")
            report.sections.append((f"journal of {name}", journal.stdout))
    return report


@pytest.fixture(scope="session")
def playbook() -> Playbook:
    """Run a playbook of the project against the scenario's hosts."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return on_the_controller(".venv/bin/ansible-playbook", "-i", "inventory/mine", name, *arguments)

    return run


@pytest.fixture
def typed(host: Host) -> Typed:
    """Type the commands of a section, with some words replaced, and return their outputs.

    tests/unit/docs/test_commands.py requires this for every command of the pages.
    """

    def run(page: str, heading: str, **words: str) -> list[str]:
        answers = []
        for kind, text in sections(page)[heading]:
            for word, instead in words.items():
                text = text.replace(word, instead)
            if kind == "sql":
                answers.append(host.check_output(PSQL, text))
            elif text.startswith(CONTROLLER):
                done = on_the_controller(*shlex.split(text))
                assert done.returncode == 0, done.stdout
                answers.append(done.stdout)
            elif kind == "console":
                answers.append(host.check_output("sh -c %s", text))
        return answers

    return run


@pytest.fixture(scope="session")
def secrets() -> dict[str, str]:
    """Every secret of the scenario by its name: those made once, and the user's own."""
    inventory = (SCENARIO / "inventory/group_vars").rglob("*.yml")
    variables = {name: value for path in inventory for name, value in yaml.safe_load(path.read_text()).items()}
    files = [path for path in (SCENARIO / "inventory/.secrets").iterdir() if path.is_file()]
    made = {path.name: path.read_text().strip() for path in files}
    own = {name: value for name, value in variables.items() if name.endswith("_token")}
    return {**made, **variables.get("prefect_secrets", {}), **own}


@pytest.fixture(scope="module")
def tenants(host: Host) -> list[str]:
    """The tenants that the host has."""
    files = host.check_output("ls /etc/prefect").split()
    return [name.removesuffix("-server.env") for name in files if name.endswith("-server.env")]


@pytest.fixture(scope="module")
def workers(host: Host) -> list[str]:
    """The workers that the host has."""
    return [name.removesuffix(".env") for name in host.check_output("ls /etc/prefect/worker").split()]


@pytest.fixture(scope="module")
def relays(host: Host) -> list[str]:
    """The tenants of the host that have database events."""
    units = host.check_output("systemctl list-units --plain --no-legend 'prefect-events@*'").splitlines()
    return [line.split(".")[0].partition("@")[2] for line in units]


@pytest.fixture(scope="module")
def sql(host: Host, secrets: dict[str, str]) -> Sql:
    """Run a statement over TCP as a login role, with its real password."""

    def run(role: str, statement: str) -> Any:
        psql = "psql --no-psqlrc --tuples-only --no-align --host 127.0.0.1 --dbname mltrading"
        password = shlex.quote(secrets[role])
        return host.run(
            f"PGPASSWORD={password} {psql} --username {shlex.quote(role)} --command {shlex.quote(statement)}"
        )

    return run


@pytest.fixture(scope="session")
def container() -> str:
    """The container of the scenario's only host."""
    inventory = yaml.safe_load((SCENARIO / "inventory/hosts.yml").read_text())
    (name,) = inventory["all"]["hosts"]
    return str(name) + os.environ.get("MOLECULE_SUFFIX", "")


@pytest.fixture(scope="module")
def address(container: str) -> str:
    """Where Docker publishes the first tenant."""
    published = subprocess.run(["docker", "port", container, "4200"], check=True, text=True, capture_output=True).stdout
    return f"http://{published.split()[0]}"


@pytest.fixture(scope="session")
def completed_run(container: str) -> str:
    """Run the sample deployment on the real worker and return the run's name."""
    command = ["docker", "exec", container, "prefect", "deployment", "run", "collect-market-data/sample", "--watch"]
    output = subprocess.run(command, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    assert "Flow run finished successfully in 'Completed'" in output, output
    return next(line.split("'")[1] for line in output.splitlines() if "Created flow run" in line)
