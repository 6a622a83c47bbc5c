"""An upgrade of several servers, and its way back: one host after the other, while clients go on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

from tests.support.hosts import changed, command_of
from tests.support.load import Load
from tests.support.project import host_virtualenv
from tests.support.scenario import PSQL, Playbook
from tests.support.servers import SAMPLE, end, healthy, lost_runs, not_starting, other_packages
from tests.support.waiting import wait_for

pytestmark = pytest.mark.thorough
UNITS = ("prefect-server@prefect", "prefect-services@prefect", "prefect-worker@prefect-default-1")
REVISION = "SELECT version_num FROM prefect.alembic_version"


@contextlib.contextmanager
def no_request_fails(database: Host, load: Load) -> Iterator[None]:
    """Let clients read and create runs until the end of the block, and workers run one that was started before it."""
    with load.running():
        wait_for(lambda: load.answered > 100, lambda: load.failures)
        load.start(SAMPLE, source="sample")
        begun, before = time.monotonic(), load.answered
        yield
        taken = time.monotonic() - begun
        load.start(SAMPLE, source="sample")
    asked = load.answered - before
    print(f"{len(load.failures)} of {asked} requests in {taken:.0f} s failed, the slowest took {load.slowest:.1f} s")
    assert load.failures == [] and not lost_runs(database, load)
    assert end(database, load) == ["COMPLETED"] * 2


def run_release(release: str, *hosts: Host) -> None:
    """Everything that runs on the hosts is of one release."""
    for host in hosts:
        for unit in UNITS:
            assert f"{host_virtualenv(release)}/bin/" in command_of(host, unit)
    healthy(*hosts)


def test_both_go_back_where_the_second_does_not_start(
    database: Host, first: Host, second: Host, load: Callable[..., Load], playbook: Playbook
) -> None:
    with no_request_fails(database, load("app1", reads=4)), not_starting(second, "3.9.1"):
        done = playbook("playbooks/upgrade_prefect.yml", "-e", "prefect_version=3.9.1")
    said = " ".join(done.stdout.split())
    assert done.returncode != 0 and "Not all servers became ready" in said, said
    assert "3.8.8 runs again as before" in said, said
    run_release("3.8.8", first, second)
    assert database.check_output(PSQL, REVISION) == "d4a7e1c93f52"


def test_an_upgrade_of_both_fails_no_request(
    database: Host, first: Host, second: Host, load: Callable[..., Load], playbook: Playbook
) -> None:
    with no_request_fails(database, load("app2", reads=4)):
        done = playbook("playbooks/upgrade_prefect.yml", "-e", "prefect_version=3.9.1")
    assert done.returncode == 0 and "Prefect 3.8.8 became 3.9.1" in " ".join(done.stdout.split()), done.stdout
    run_release("3.9.1", first, second)
    again = playbook("site.yml", "-e", "prefect_version=3.9.1")
    assert again.returncode == 0 and set(changed(again.stdout)) == {0}, again.stdout


def test_the_way_back_fails_no_request(
    database: Host, first: Host, second: Host, load: Callable[..., Load], playbook: Playbook
) -> None:
    """Also where the newer release got another lock since, so that what runs is no longer called as it would be."""
    with no_request_fails(database, load("app1", reads=4)), other_packages("3.9.1"):
        done = playbook("playbooks/roll_back_prefect.yml")
    assert done.returncode == 0 and "Prefect 3.8.8 runs again" in done.stdout, done.stdout
    run_release("3.8.8", first, second)
    assert database.check_output(PSQL, REVISION) == "d4a7e1c93f52"
    again = playbook("site.yml")
    assert again.returncode == 0 and set(changed(again.stdout)) == {0}, again.stdout
