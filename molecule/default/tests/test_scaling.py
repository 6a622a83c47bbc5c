"""Workers that scale: a burst, what stays after it, and a site that is applied meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from tests.support import burst
from tests.support.hosts import changed, wait_for_health
from tests.support.scenario import PREFECT, PSQL, Playbook, Typed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.thorough
RUNS, SECONDS = 40, 15
ALONE = 5  # runs by which the pace of one worker is measured
KILL = "systemctl kill --signal KILL prefect-scale.service"


def arguments(most: int, least: int = 1) -> list[str]:
    return ["--extra-vars", json.dumps(burst.tenants({"min": least, "max": most}))]


def up(host: Host) -> list[int]:
    """The numbers of the pool's workers that run."""
    listed = "systemctl list-units --plain --no-legend --state active 'prefect-worker@prefect-default-*'"
    return sorted(int(line.split(".")[0].rpartition("-")[2]) for line in host.check_output(listed).splitlines())


def runs(host: Host, tag: str) -> burst.Burst:
    return burst.parse(host.check_output(PSQL, burst.question(tag)))


def begin(host: Host, tag: str, many: int, seconds: float) -> None:
    host.check_output("sh -c %s", burst.begin(f"{PREFECT}/bin/python", tag, many, seconds))


def journal(host: Host) -> str:
    return str(host.check_output("journalctl --unit prefect-scale --lines 40 --no-pager --output cat"))


@pytest.fixture(scope="module", autouse=True)
def scaled(host: Host, playbook: Playbook) -> Iterator[None]:
    """The site's pool scales meanwhile, and not afterwards."""
    done = playbook("site.yml", *arguments(most=4))
    assert done.returncode == 0, done.stdout
    host.check_output("sh -c %s", burst.install())
    yield
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout
    assert not host.file("/etc/prefect/scaling.json").exists
    assert not host.service("prefect-scale.timer").is_running and up(host) == [1]


def test_the_site_leaves_the_scaling_alone_and_a_lower_maximum_drains(host: Host, playbook: Playbook) -> None:
    wait_for(lambda: up(host) == [1], lambda: journal(host), 120)
    assert host.service("prefect-scale.timer").is_enabled
    begin(host, "three", 3, 120)
    wait_for(lambda: runs(host, "three").running == 3, lambda: journal(host), 90)
    assert up(host) == [1, 2, 3]
    enabled = [host.service(f"prefect-worker@prefect-default-{number}").is_enabled for number in (1, 2, 3, 4)]
    assert enabled == [True, False, False, False]
    again = playbook("site.yml", *arguments(most=4))
    assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout
    assert up(host) == [1, 2, 3] and runs(host, "three").running == 3

    fewer = playbook("playbooks/workers.yml", *arguments(most=2))
    assert fewer.returncode == 0, fewer.stdout
    assert host.check_output("ls /etc/prefect/worker").split() == ["prefect-default-1.env", "prefect-default-2.env"]
    wait_for(lambda: not runs(host, "three").open, lambda: journal(host), 150)
    assert runs(host, "three").completed == runs(host, "three").starts == 3
    more = playbook("playbooks/workers.yml", *arguments(most=4))
    assert more.returncode == 0, more.stdout


def test_a_burst_is_done_sooner_and_nothing_is_killed(host: Host) -> None:
    wait_for(lambda: up(host) == [1], lambda: journal(host), 120)
    host.check_output("systemctl stop prefect-scale.timer")
    begin(host, "alone", ALONE, SECONDS)
    wait_for(lambda: not runs(host, "alone").open, lambda: journal(host), ALONE * 120)
    alone = runs(host, "alone")
    assert alone.completed == ALONE and alone.seconds is not None and up(host) == [1]
    one_worker = alone.seconds / ALONE * RUNS
    host.check_output("systemctl start prefect-scale.timer")

    # The first looks at it are killed, each at another moment.
    host.check_output("systemd-run --quiet sh -c %s", f"for _ in $(seq 40); do sleep 0.4; {KILL}; done")
    begin(host, "burst", RUNS, SECONDS)
    wait_for(lambda: up(host) == [1, 2, 3, 4], lambda: journal(host), 90)
    wait_for(lambda: not runs(host, "burst").open, lambda: journal(host), one_worker)
    found = runs(host, "burst")
    assert (found.completed, found.starts) == (RUNS, RUNS)
    assert found.seconds is not None
    print(f"{RUNS} runs of {SECONDS} s took {found.seconds:.0f} s, by the pace of one worker {one_worker:.0f} s")
    assert found.seconds <= one_worker / 3
    wait_for(lambda: up(host) == [1], lambda: journal(host), 120)
    time.sleep(15)
    assert up(host) == [1]
    wait_for_health(host)


def test_without_an_api_nothing_changes(host: Host) -> None:
    host.check_output("systemctl stop prefect-server@prefect")
    try:
        looked = host.run("pgprefect workers scale")
        assert looked.rc == 3 and "No Prefect API answers at http://127.0.0.1:4200/api" in looked.stderr
        assert up(host) == [1]
    finally:
        host.check_output("systemctl start prefect-server@prefect")
    wait_for_health(host)


def test_the_page(host: Host, typed: Typed) -> None:
    dry, _, timers, *_ = typed("scaling.md", "See what it does")
    assert "prefect-default: 0 due, 0 busy; 1 run a worker; 1 wanted, 1 running; nothing to do" in dry
    assert "prefect-scale.timer" in timers
    runs = typed("scaling.md", "By a playbook")
    assert [changed(run) for run in runs] == [[0], [0]], runs
    typed("scaling.md", "Switch it off for a while")
    assert host.service("prefect-scale.timer").is_running
