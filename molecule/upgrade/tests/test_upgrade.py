"""An upgrade of a site in use: it goes back by itself where it fails, and on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.scenario import PSQL, Playbook, Typed, changed, wait_for_health

UPGRADE = ("playbooks/upgrade_prefect.yml", "-e", "prefect_version=3.9.1")
HOLD = "psql --no-psqlrc mltrading -c 'BEGIN; LOCK TABLE prefect.automation; SELECT pg_sleep(600)'"
# What the worker starts for a run.
TEMPLATE = """UPDATE prefect.work_pool SET base_job_template =
jsonb_set(base_job_template, '{variables,properties,command,default}', '%s')"""
# Each table but those that time moves by itself, with a hash of its rows.
TABLES = """
SELECT string_agg(quote_ident(tablename), ' ' ORDER BY 1) FROM pg_tables
WHERE schemaname = 'prefect' AND tablename NOT IN
('alembic_version', 'events', 'event_resources', 'worker', 'work_queue', 'work_pool', 'deployment', 'csrf_token', 'log',
 'flow_run', 'flow_run_state', 'task_run', 'task_run_state', 'automation_held_event', 'artifact', 'artifact_collection',
 'automation_bucket', 'concurrency_limit_v2', 'composite_trigger_child_firing')
"""
RUNS = """SELECT md5(string_agg(id::text || state_type::text || name, ',' ORDER BY id)) FROM prefect.flow_run
WHERE NOT state_type = 'SCHEDULED'"""
Contents = Callable[[], list[str]]


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


def runs_release(host: Host, release: str) -> None:
    """Everything that runs is of one release."""
    for unit in ("prefect-server@prefect", "prefect-worker@prefect-default-1"):
        main = host.check_output("systemctl show --property MainPID --value %s", unit)
        assert f"/opt/prefect/{release}/" in host.check_output("tr '\\0' ' ' </proc/%s/cmdline", main), unit
    wait_for_health(host)


@pytest.fixture
def held(host: Host) -> Iterator[None]:
    """Somebody takes a table as soon as the upgrade has looked for such locks."""
    wait = "until [ -e /etc/prefect/upgrade.json ]; do sleep 0.1; done; "
    host.check_output("rm -f /etc/prefect/upgrade.json")
    host.check_output("systemd-run --unit=holder --uid=postgres sh -c %s", wait + "exec " + HOLD)
    yield
    host.run("systemctl stop holder")


@pytest.mark.usefixtures("completed_run", "held")
def test_it_goes_back_where_a_lock_is_held(host: Host, playbook: Playbook, contents: Contents) -> None:
    before = contents()
    done = playbook(*UPGRADE)
    assert done.returncode != 0 and "waited 60 s for the session" in " ".join(done.stdout.split()), done.stdout
    assert "3.8.8 runs again as before" in " ".join(done.stdout.split()), done.stdout
    assert contents() == before
    runs_release(host, "3.8.8")


def test_it_goes_back_where_the_trial_run_crashes(host: Host, playbook: Playbook, contents: Contents) -> None:
    before = contents()
    host.check_output(PSQL, TEMPLATE % '"false"')
    try:
        done = playbook(*UPGRADE)
    finally:
        host.check_output(PSQL, TEMPLATE % "null")
    said = " ".join(done.stdout.split())
    assert done.returncode != 0 and "The trial run on the work pool" in said and "3.8.8 runs again as before" in said, (
        said
    )
    assert contents() == before
    runs_release(host, "3.8.8")


class Outage(threading.Thread):
    """Asks the API until it is stopped, and counts the seconds in which it did not answer."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host, self.ended, self.gaps = host, threading.Event(), list[float]()

    def run(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(0.3):
            if self.host.run("curl --silent --fail --max-time 2 http://127.0.0.1:4200/api/ready").rc == 0:
                self.gaps.append(time.monotonic() - last)
                last = time.monotonic()


def test_upgraded_as_the_page_says(host: Host, typed: Typed, playbook: Playbook, contents: Contents) -> None:
    before = contents()
    would, checked = typed("upgrade.md", "Before")
    assert changed(would) == [0] and "e7f54680bce3" in would and "automation_held_event" in checked, would + checked
    assert contents() == before
    outage = Outage(host)
    outage.start()
    try:
        (done,) = typed("upgrade.md", "Upgrade")
    finally:
        outage.ended.set()
        outage.join()
    assert "Prefect 3.8.8 became 3.9.1" in done, done
    print(f"The API did not answer for {max(outage.gaps):.1f} s.")
    assert max(outage.gaps) < 60
    after = contents()
    assert after[:-1] == before[:-1] and after[-1] == "91e2b8f3d6a4"
    runs_release(host, "3.9.1")
    assert "completed in" in typed("upgrade.md", "Try each work pool")[0]
    again = playbook(*UPGRADE)
    assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout
    site = playbook("site.yml", "-e", "prefect_version=3.9.1")
    assert site.returncode == 0 and changed(site.stdout) == [0], site.stdout


def test_taken_back_as_the_page_says(host: Host, typed: Typed, playbook: Playbook, contents: Contents) -> None:
    before = contents()
    (done,) = typed("upgrade.md", "Go back")
    assert "Prefect 3.8.8 runs again" in done, done
    assert contents() == [*before[:-1], "d4a7e1c93f52"]
    runs_release(host, "3.8.8")
    site = playbook("site.yml")
    assert site.returncode == 0 and changed(site.stdout) == [0], site.stdout
    again: Any = playbook("playbooks/roll_back_prefect.yml")
    assert again.returncode != 0 and "taken back already" in again.stdout
