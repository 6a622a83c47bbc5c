"""An upgrade of a site in use: it goes back by itself where it fails, and on demand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import testinfra
from pgprefect.core.http import PrefectApi, is_ready
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.project import ROOT, host_virtualenv
from tests.support.scenario import PSQL, SCENARIO, Playbook, Typed, container_of, state_of
from tests.support.servers import not_starting
from tests.support.waiting import wait_for

URL = f"http://127.0.0.1:{os.environ.get('MOLECULE_PORT', '4216')}"
WORKER = "prefect-worker@prefect-default-1"
UPGRADE = ("playbooks/upgrade_prefect.yml", "-e", "prefect_version=3.9.1")
HOLD = "psql --no-psqlrc mltrading -c 'BEGIN; LOCK TABLE prefect.automation; SELECT pg_sleep(600)'"
# PostgreSQL does not see that its client is gone while it sleeps.
RELEASE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%LOCK TABLE%' AND pid <> pg_backend_pid()"
)
WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'prefect-migrate@%'"
)
# What the worker starts for a run.
TEMPLATE = """UPDATE prefect.work_pool SET base_job_template =
jsonb_set(base_job_template, '{variables,properties,command,default}', '%s')"""
# Each table but those that time moves by itself, and the types of blocks, which each release registers at its start.
TABLES = """
SELECT string_agg(quote_ident(tablename), ' ' ORDER BY 1) FROM pg_tables
WHERE schemaname = 'prefect' AND tablename NOT IN
('alembic_version', 'block_type', 'block_schema', 'block_schema_reference', 'events', 'event_resources', 'worker',
 'work_queue', 'work_pool', 'deployment', 'csrf_token', 'log', 'flow_run', 'flow_run_state', 'task_run',
 'task_run_state', 'automation_held_event', 'artifact', 'artifact_collection', 'automation_bucket',
 'concurrency_limit_v2', 'composite_trigger_child_firing')
"""
RUNS = """SELECT md5(string_agg(id::text || state_type::text || name, ',' ORDER BY id)) FROM prefect.flow_run
WHERE NOT state_type = 'SCHEDULED' AND name NOT LIKE 'slow-%'"""
SLOW = "import time\nfrom prefect import flow\n@flow\ndef slow(): time.sleep(90)\n"
Contents = Callable[[], list[str]]


@pytest.fixture(scope="session")
def container() -> str:
    """The container of the host with the server."""
    return f"prefect-upgrade{os.environ.get('MOLECULE_SUFFIX', '')}"


@pytest.fixture
def contents(host: Host) -> Contents:
    """What the schema holds, of which nothing may be lost."""

    def read() -> list[str]:
        tables = host.check_output(PSQL, TABLES).split()
        hashed = "SELECT '{0}', md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM prefect.{0} t"
        found = host.check_output(PSQL, " UNION ALL ".join(hashed.format(name) for name in tables))
        return [*sorted(found.splitlines()), host.check_output(PSQL, RUNS), revision(host)]

    return read


def revision(host: Host) -> str:
    return str(host.check_output(PSQL, "SELECT version_num FROM prefect.alembic_version"))


def commands(host: Host) -> list[str]:
    """The processes of the server and of both hosts' workers, with their command lines."""
    worker = testinfra.get_host(f"docker://{container_of('worker')}")
    found = []
    # The last one has libraries of its own.
    units = (
        (host, "prefect-server@prefect"),
        (host, WORKER),
        (worker, WORKER),
        (worker, "prefect-worker@prefect-gpu-1"),
    )
    for on, unit in units:
        process = on.check_output("systemctl show --property MainPID --value %s", unit)
        found.append(process + on.check_output("tr '\\0' ' ' </proc/%s/cmdline", process))
    return found


def runs_release(host: Host, release: str) -> None:
    """Everything that runs is of one release."""
    for command in commands(host):
        assert f"/{release}+" in command
    wait_for_health(host)


@pytest.fixture
def as_before(host: Host, playbook: Playbook, contents: Contents) -> Iterator[Contents]:
    """The site after the test equals the one before: what it holds, what runs, and that nothing is to be done."""
    before = contents()
    yield contents
    assert contents() == before
    runs_release(host, "3.8.8")
    site = playbook("site.yml")
    assert site.returncode == 0 and changed(site.stdout) == [0, 0], site.stdout


def said_by(done: subprocess.CompletedProcess[str]) -> str:
    """What a playbook that failed has said, in one line."""
    assert done.returncode != 0, done.stdout
    return " ".join(done.stdout.split())


@pytest.fixture
def small_disk(host: Host) -> Iterator[None]:
    """There is no room for the new virtualenv."""
    host.check_output("mkdir /mnt/small && mount -t tmpfs -o size=60m tmpfs /mnt/small")
    host.check_output("ln -s /mnt/small %s", host_virtualenv("3.9.1"))
    yield
    host.check_output("rm -f %s; umount /mnt/small; rmdir /mnt/small", host_virtualenv("3.9.1"))


@pytest.mark.usefixtures("completed_run", "as_before", "small_disk")
def test_nothing_stops_where_the_disk_is_full(host: Host, playbook: Playbook) -> None:
    before = commands(host)
    said = said_by(playbook(*UPGRADE))
    assert "The virtualenv of 3.9.1 could not be made, and nothing was stopped." in said and "o space left" in said
    assert commands(host) == before
    assert not host.file("/etc/prefect/upgrade.json").exists


def test_nothing_begins_without_a_lock_that_the_way_back_needs(host: Host, playbook: Playbook) -> None:
    lock = SCENARIO / "libraries/gpu-3.8.8.txt"
    aside = lock.rename(lock.with_suffix(".aside"))
    try:
        said = said_by(playbook(*UPGRADE))
    finally:
        aside.rename(lock)
    assert f"3.8.8 would need {lock}, which is not there" in said
    assert f"requirements/lock {lock.parent}/gpu 3.8.8" in said
    assert not host.file(host_virtualenv("3.9.1")).exists


@pytest.fixture
def held(host: Host) -> Iterator[None]:
    """Somebody takes a table as soon as the upgrade has looked for such locks."""
    wait = "until [ -e /etc/prefect/upgrade.json ]; do sleep 0.1; done; "
    host.check_output("rm -f /etc/prefect/upgrade.json")
    host.check_output("systemd-run --collect --unit=holder --uid=postgres sh -c %s", wait + "exec " + HOLD)
    yield
    host.run("systemctl stop holder")
    host.check_output(PSQL, RELEASE)


@pytest.mark.usefixtures("as_before", "held")
def test_it_goes_back_where_a_lock_is_held(playbook: Playbook) -> None:
    said = said_by(playbook(*UPGRADE))
    assert "waited 60 s for the session" in said and "3.8.8 runs again as before" in said, said


@pytest.fixture
def killer(host: Host) -> Iterator[None]:
    """Kills everything of the migration while it waits for a table in its middle."""
    psql = "runuser --user postgres -- psql --no-psqlrc --tuples-only --no-align mltrading --command"
    script = f"""until [ -e /etc/prefect/upgrade.json ]; do sleep 1; done
until {psql} "{WAITS}" | grep -q 1; do sleep 1; done
systemctl kill --signal=KILL prefect-migrate@prefect
{psql} "{RELEASE}"
"""
    host.check_output("printf %%s %s >/run/killer.sh", script)
    host.check_output("systemd-run --collect --unit=killer sh /run/killer.sh")
    yield
    host.run("systemctl stop killer")


@pytest.mark.usefixtures("as_before", "held", "killer")
def test_it_goes_back_where_the_migration_is_killed(playbook: Playbook) -> None:
    said = said_by(playbook(*UPGRADE))
    assert "The migration of tenant prefect failed" in said and "3.8.8 runs again as before" in said, said


@pytest.fixture
def broken_server(host: Host) -> Iterator[None]:
    """Servers of the new release do not start."""
    with not_starting(host, "3.9.1"):
        yield


@pytest.fixture
def slow_run(host: Host) -> Iterator[str]:
    """A run that goes on for longer than the upgrade takes to stop its worker."""
    password = host.check_output('. /etc/prefect/prefect.env; echo "$PREFECT_API_AUTH_STRING"').strip()
    api = PrefectApi(f"{URL}/api", password)
    flow = api.call("POST", "/flows/", {"name": "slow"})["id"]
    step = {"script": "sh -c 'printf %s \"$CODE\" >slow.py'", "env": {"CODE": SLOW}}
    content = {
        "name": "slow",
        "flow_id": flow,
        "work_pool_name": "default",
        "entrypoint": "slow.py:slow",
        "pull_steps": [{"prefect.deployments.steps.run_shell_script": step}],
    }
    deployment = api.call("POST", "/deployments/", content)["id"]
    run = str(api.call("POST", f"/deployments/{deployment}/create_flow_run", {"name": "slow-1"})["id"])
    wait_for(lambda: state_of(host, run) == "RUNNING", seconds=90)
    yield run
    api.call("DELETE", f"/flows/{flow}")


@pytest.fixture
def drilled(host: Host) -> None:
    """The newest backup set is verified."""
    host.check_output("pgprefect backup")
    assert "passed the drill" in host.check_output("pgprefect drill")


@pytest.mark.usefixtures("drilled", "as_before", "broken_server")
def test_it_goes_back_where_the_server_does_not_start(host: Host, playbook: Playbook, slow_run: str) -> None:
    said = said_by(playbook(*UPGRADE))
    assert "Not all servers became ready" in said and "3.8.8 runs again as before" in said, said
    assert "Took, because it passed a drill" in said, said
    assert state_of(host, slow_run) == "COMPLETED"


@pytest.mark.usefixtures("as_before")
def test_it_goes_back_where_the_trial_run_crashes(host: Host, playbook: Playbook) -> None:
    host.check_output(PSQL, TEMPLATE % '"false"')
    try:
        said = said_by(playbook(*UPGRADE))
    finally:
        host.check_output(PSQL, TEMPLATE % "null")
    assert "The trial run on the work pool" in said and "3.8.8 runs again as before" in said, said


class Outage(threading.Thread):
    """Asks the API until it is stopped, and counts the seconds in which it did not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.ended, self.gaps = threading.Event(), list[float]()

    def run(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(0.1):
            if is_ready(f"{URL}/api/ready"):
                self.gaps.append(time.monotonic() - last)
                last = time.monotonic()


def test_upgraded_as_the_page_says(host: Host, typed: Typed, playbook: Playbook, contents: Contents) -> None:
    before = contents()
    would, checked = typed("upgrade.md", "Before")
    assert changed(would) == [0, 0] and "e7f54680bce3" in would, would
    assert "passed a drill, is not older than a day, and would be taken" in " ".join(would.split()), would
    assert "+ table automation_held_event" in checked and "prefect-default-1 of default (3.8.8)" in checked, checked
    assert contents() == before
    outage = Outage()
    outage.start()
    try:
        (done,) = typed("upgrade.md", "Upgrade")
    finally:
        outage.ended.set()
        outage.join()
    said = " ".join(done.split())
    assert "Prefect 3.8.8 became 3.9.1" in said and "In the schema: + table automation_held_event." in said, said
    (away,) = re.findall(r"The API of prefect was away for ([\d.]+) s", said)
    times = re.findall(r"Times: .*?\.\"|The API of .*? start [\d.]+ s", said)
    print(f"The API did not answer for {max(outage.gaps):.1f} s, by the report {away} s. {times}")
    assert abs(max(outage.gaps) - float(away)) < 5 and max(outage.gaps) < 60
    assert "virtualenv" in said and "drain" in said and "the backup set is 2" in said, said
    assert "Online are workers" not in said.partition("became 3.9.1")[2], said
    after = contents()
    assert after[:-1] == before[:-1] and after[-1] == "91e2b8f3d6a4"
    runs_release(host, "3.9.1")
    assert "completed in" in typed("upgrade.md", "Try each work pool")[0]
    again = playbook(*UPGRADE)
    assert again.returncode == 0 and changed(again.stdout) == [0, 0], again.stdout
    site = playbook("site.yml", "-e", "prefect_version=3.9.1")
    assert site.returncode == 0 and changed(site.stdout) == [0, 0], site.stdout


def test_taken_back_as_the_page_says(host: Host, typed: Typed, playbook: Playbook, contents: Contents) -> None:
    before = contents()
    # What is killed in its middle is typed again.
    killed = subprocess.Popen(
        [ROOT / ".venv/bin/ansible-playbook", "-i", str(SCENARIO / "inventory"), "playbooks/roll_back_prefect.yml"],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: host.run("systemctl is-active --quiet prefect-server@prefect").rc != 0, seconds=180)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (done,) = typed("upgrade.md", "Go back")
    assert "Prefect 3.8.8 runs again" in done, done
    assert contents() == [*before[:-1], "d4a7e1c93f52"]
    runs_release(host, "3.8.8")
    site = playbook("site.yml")
    assert site.returncode == 0 and changed(site.stdout) == [0, 0], site.stdout
    again: Any = playbook("playbooks/roll_back_prefect.yml")
    assert again.returncode != 0 and "taken back already" in again.stdout
