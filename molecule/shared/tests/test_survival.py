"""What must come back, or be refused, without anybody's help."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from testinfra.host import Host

from tests.support.hosts import start_run, wait_for_health
from tests.support.scenario import PREFECT, PSQL, Playbook, state_of
from tests.support.waiting import wait_for


def ready(host: Host) -> bool:
    """Whether the first tenant's API answers."""
    request = "python3 -c 'import urllib.request as r; r.urlopen(\"http://127.0.0.1:4200/api/ready\")'"
    return bool(host.run(request).rc == 0)


def journal(host: Host, unit: str) -> str:
    """The last lines that a unit said."""
    return str(host.check_output("journalctl --no-pager --output cat --lines 20 --unit %s", unit))


def test_a_schema_of_another_release_is_refused_at_start(host: Host, tenants: list[str]) -> None:
    unit = f"prefect-server@{tenants[0]}"
    revision = host.check_output(PSQL, "SELECT version_num FROM prefect.alembic_version")

    try:
        host.check_output(PSQL, "UPDATE prefect.alembic_version SET version_num = 'ffffffffffff'")
        host.check_output("systemctl restart --no-block %s", unit)
        wait_for(lambda: "ffffffffffff" in journal(host, unit), seconds=60)
        assert not host.service(unit).is_running
    finally:
        host.check_output(PSQL, f"UPDATE prefect.alembic_version SET version_num = '{revision}'")
    wait_for(lambda: ready(host), seconds=90)


@pytest.mark.thorough
def test_a_missing_migration_is_refused_until_it_is_made(host: Host, tenants: list[str], playbook: Playbook) -> None:
    unit = f"prefect-server@{tenants[0]}"
    host.check_output("systemctl stop %s", unit)
    as_migrator = "--property User=prefect --property EnvironmentFile=/etc/prefect/%s-migrate.env"
    downgrade = f"{PREFECT}/bin/prefect server database downgrade --yes"
    host.check_output(f"systemd-run --quiet --pipe --wait {as_migrator} {downgrade}", tenants[0])

    host.check_output("systemctl start --no-block %s", unit)
    wait_for(lambda: "1 migrations behind" in journal(host, unit), seconds=60)
    refusal = playbook("playbooks/server.yml", "--extra-vars", '{"prefect_server_migrate": false}')
    assert refusal.returncode != 0
    assert "prefect_server_migrate is false: set it to true" in " ".join(refusal.stdout.split())

    result = playbook("playbooks/server.yml")
    assert result.returncode == 0, result.stdout
    assert ready(host)


def test_nobody_else_answers_in_the_servers_place(host: Host, tenants: list[str], workers: list[str]) -> None:
    """A local user takes the port while the server is away: no client starts, and health says whose it is."""
    unit, worker = f"prefect-server@{tenants[0]}", f"prefect-worker@{workers[0]}"
    squat = "import http.server as s; s.HTTPServer(('', 4200), s.BaseHTTPRequestHandler).serve_forever()"
    taken = "Port 4200 of this host is listened on by a process of nobody"
    host.check_output("systemctl stop %s %s", worker, unit)
    host.check_output("systemd-run --uid=nobody --unit=squatter python3 -c %s", squat)
    try:
        wait_for(lambda: host.run("ss -Hltn 'sport = :4200' | grep -q .").rc == 0, seconds=30)
        assert taken in host.run("pgprefect health").stdout
        host.check_output("systemctl start --no-block %s %s", unit, worker)
        wait_for(lambda: taken in journal(host, worker), seconds=60)
        assert not host.service(worker).is_running and not host.service(unit).is_running
    finally:
        # A start that still meets the squatter would fail.
        host.check_output("systemctl stop squatter %s %s; systemctl start %s %s", worker, unit, unit, worker)
    wait_for(lambda: ready(host), seconds=90)


@pytest.mark.thorough
def test_a_stopped_database_is_waited_for(host: Host, tenants: list[str]) -> None:
    unit = "postgresql@*-main.service"
    host.check_output("systemctl stop %s", unit)
    try:
        host.check_output("systemctl restart --no-block %s", f"prefect-server@{tenants[0]}")
        wait_for(lambda: not ready(host), seconds=60)
    finally:
        host.check_output("systemctl start postgresql")
    wait_for(lambda: ready(host), seconds=90)


def test_a_killed_database_comes_back(host: Host, tenants: list[str]) -> None:
    version, cluster = host.check_output("pg_lsclusters --no-header").split()[:2]
    unit = f"postgresql@{version}-{cluster}.service"

    def postmaster() -> str:
        return str(host.check_output("systemctl show --property MainPID --value %s", unit))

    killed = postmaster()
    host.check_output("kill -KILL %s", killed)
    wait_for(lambda: postmaster() not in ("0", killed), seconds=60)
    for tenant in tenants:
        wait_for_health(host, tenant)
    assert host.check_output("systemctl --failed --no-legend --plain") == ""

    # Stopped on purpose it stays stopped, also by Debian's own command, of which systemd does not know.
    wait_for(lambda: host.service(unit).is_running, seconds=60)
    host.check_output("runuser --user postgres -- pg_ctlcluster %s %s stop", version, cluster)
    try:
        time.sleep(5)
        assert postmaster() == "0"
    finally:
        host.check_output("systemctl reset-failed %s; systemctl start %s", unit, unit)
    wait_for(lambda: ready(host), seconds=90)


@pytest.mark.thorough
def test_a_database_that_is_killed_while_it_recovers_comes_back(host: Host, tenants: list[str]) -> None:
    version, cluster = host.check_output("pg_lsclusters --no-header").split()[:2]
    file = f"/var/lib/postgresql/{version}/{cluster}/postmaster.pid"
    for _ in range(4):  # each but the first as soon as the server has written its number
        host.check_output(f"until kill -KILL $(head -n 1 {file}); do sleep 0.1; done")
    for tenant in tenants:
        wait_for_health(host, tenant)
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


SLOW = """
import time
from prefect import flow, task

@task
def step():
    time.sleep(1)

@flow
def slow(seconds: int = 15, megabytes: int = 0):
    taken = bytearray(megabytes * 1024 * 1024)
    for _ in range(seconds):
        step()
    return len(taken)

if __name__ == "__main__":
    slow.from_source("/opt/slow", "slow.py:slow").deploy("slow", work_pool_name="default", print_next_steps=False)
"""


@pytest.fixture(scope="module")
def slow(host: Host, tenants: list[str]) -> None:
    """A deployment of a flow that takes as many seconds and megabytes as it is told."""
    host.check_output("mkdir -p /opt/slow && printf %%s %s > /opt/slow/slow.py", SLOW)
    deploy = f". /etc/prefect/{tenants[0]}.env; {PREFECT}/bin/python /opt/slow/slow.py"
    host.check_output("PREFECT_HOME=/tmp/client sh -c %s", f"set -a; {deploy}")


def begin(host: Host, seconds: int, megabytes: int = 0, tag: str = "slow") -> str:
    """Start a run, and return its ID."""
    return start_run(host, "slow/slow", f"--param seconds={seconds} --param megabytes={megabytes} --tag {tag}")


def named_dead(host: Host, tenant: str) -> dict[str, str]:
    """What health says of each dead run."""
    health = json.loads(host.run(f"pgprefect --tenant {tenant} health --json").stdout)
    details: dict[str, str] = health["details"]["dead_runs"]["dead"]
    named = {problem["object"].split()[-1] for problem in health["problems"] if problem["code"] == "run_dead"}
    assert named == set(details)
    return details


def message(host: Host, run: str) -> str:
    """What the state of a run says."""
    state_id = f"SELECT state_id FROM prefect.flow_run WHERE id = '{run}'"
    return str(host.check_output(PSQL, f"SELECT message FROM prefect.flow_run_state WHERE id = ({state_id})"))


def lost(host: Host) -> dict[str, str]:
    """The evidence of each lost run."""
    found = json.loads(host.check_output("pgprefect runs recover --dry-run --json"))["lost"]
    return {one["id"]: one["evidence"] for runs in found.values() for one in runs}


@pytest.mark.thorough
@pytest.mark.usefixtures("slow")
def test_a_stopping_worker_drains(host: Host, tenants: list[str]) -> None:
    """It lets its runs finish, and takes no new ones meanwhile."""
    unit = f"prefect-worker@{tenants[0]}-default-1"
    run = begin(host, seconds=15)
    wait_for(lambda: state_of(host, run) == "RUNNING", seconds=120)
    host.check_output("systemctl stop --no-block %s", unit)
    later = begin(host, seconds=1)
    wait_for(lambda: host.run("systemctl is-active %s", unit).stdout.strip() == "inactive", seconds=90)
    assert (state_of(host, run), state_of(host, later)) == ("COMPLETED", "SCHEDULED")
    host.check_output("systemctl start %s", unit)
    wait_for(lambda: state_of(host, later) == "COMPLETED", seconds=90)


@pytest.mark.usefixtures("slow")
@pytest.mark.thorough
def test_a_run_that_outlasts_the_drain_is_resolved(host: Host, tenants: list[str]) -> None:
    unit = f"prefect-worker@{tenants[0]}-default-1"
    place = f"/run/systemd/system/{unit}.service.d"
    host.check_output(f"mkdir -p {place} && printf '[Service]\\nTimeoutStopSec=5\\n' > {place}/limit.conf")
    host.check_output("systemctl daemon-reload")
    try:
        run, again = begin(host, seconds=600), begin(host, 600, 0, "on_lost:reschedule")
        wait_for(lambda: {state_of(host, run), state_of(host, again)} == {"RUNNING"}, seconds=90)
        host.check_output("systemctl stop %s", unit)
        assert (state_of(host, run), state_of(host, again)) == ("CRASHED", "SCHEDULED")
        assert "prefect_worker_drain_seconds" in message(host, run)
        assert host.run(f"pgrep --uid prefect-{tenants[0]}").rc == 1
    finally:
        host.check_output(f"rm -r {place}; systemctl daemon-reload; systemctl start {unit}")
    wait_for(lambda: state_of(host, again) == "RUNNING", seconds=90)
    host.check_output("prefect flow-run cancel %s", again)
    wait_for(lambda: state_of(host, again) == "CANCELLED", seconds=90)


@pytest.mark.usefixtures("slow")
def test_a_run_survives_outages_of_the_database_and_of_the_api(host: Host, tenants: list[str]) -> None:
    run = begin(host, seconds=50)
    wait_for(lambda: state_of(host, run) == "RUNNING", seconds=120)
    version, cluster = host.check_output("pg_lsclusters --no-header").split()[:2]
    for unit in (f"postgresql@{version}-{cluster}", f"prefect-server@{tenants[0]}"):
        host.check_output("systemctl stop %s", unit)
        time.sleep(10)
        host.check_output("systemctl start %s", unit)
        wait_for(lambda: ready(host), seconds=90)
    assert run not in named_dead(host, tenants[0])
    wait_for(lambda: state_of(host, run) != "RUNNING", seconds=180)
    assert state_of(host, run) == "COMPLETED"


@pytest.mark.thorough
@pytest.mark.usefixtures("slow")
def test_a_run_survives_an_upgrade_of_debians_packages(host: Host, tenants: list[str]) -> None:
    """Such as unattended-upgrades does: the packages restart PostgreSQL, and replace what Python is made of."""
    run = begin(host, 15)
    wait_for(lambda: state_of(host, run) == "RUNNING", seconds=60)
    version, cluster = host.check_output("pg_lsclusters --no-header").split()[:2]
    process = f"systemctl show --property MainPID --value postgresql@{version}-{cluster}"
    before = host.check_output(process)
    packages = f"postgresql-{version} postgresql-common python3 openssl"
    host.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get install --reinstall --yes {packages}")
    assert host.check_output(process) not in (before, "0")
    wait_for(lambda: state_of(host, run) == "COMPLETED", lambda: state_of(host, run), 120)
    for tenant in tenants:
        wait_for_health(host, tenant)
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


@pytest.mark.usefixtures("slow")
def test_the_runs_of_a_killed_worker_are_resolved(host: Host, tenants: list[str]) -> None:
    """By its unit; and where that finds no API, at its next start, or by a recovery."""
    tenant, unit = tenants[0], f"prefect-worker@{tenants[0]}-default-1"
    run = begin(host, seconds=600)
    wait_for(lambda: state_of(host, run) == "RUNNING", seconds=120)
    assert run not in named_dead(host, tenant) and run not in lost(host)
    worker = host.check_output("systemctl show --property MainPID --value %s", unit)
    host.check_output("kill -STOP %s", worker)  # it is silent, and its run lives
    time.sleep(5)
    assert run not in lost(host)
    host.check_output("kill -KILL %s", worker)
    wait_for(lambda: state_of(host, run) == "CRASHED", seconds=30)
    assert "its worker" in message(host, run)  # was ended by a signal, or, where the timer came first, started again

    wait_for(lambda: host.service(unit).is_running, seconds=60)
    timer = host.run("systemctl is-active prefect-recover.timer").rc == 0
    host.check_output("systemctl stop prefect-recover.timer")
    run = begin(host, seconds=600)
    wait_for(lambda: state_of(host, run) == "RUNNING", seconds=120)
    host.check_output(f"systemctl stop prefect-server@{tenant}; systemctl kill --signal KILL %s", unit)
    host.check_output("systemctl stop %s", unit)
    host.check_output(f"systemctl start prefect-server@{tenant}")
    assert "does not run on this host" in named_dead(host, tenant)[run] and "does not run" in lost(host)[run]
    host.check_output("pgprefect runs recover --yes")
    assert state_of(host, run) == "CRASHED" and lost(host) == {} and run not in named_dead(host, tenant)
    host.check_output(f"systemctl start {unit} {'prefect-recover.timer' if timer else ''}")


@pytest.mark.thorough
@pytest.mark.usefixtures("slow")
def test_a_run_that_takes_too_much_memory_ends_alone(host: Host, tenants: list[str]) -> None:
    unit = f"prefect-worker@{tenants[0]}-default-1"
    worker = host.check_output("systemctl show --property MainPID --value %s", unit)
    modest = begin(host, seconds=40)
    wait_for(lambda: state_of(host, modest) == "RUNNING", seconds=60)
    host.check_output("systemctl set-property --runtime %s MemoryMax=700M", unit)
    try:
        greedy = begin(host, seconds=5, megabytes=1000)
        wait_for(lambda: state_of(host, greedy) == "CRASHED", seconds=90)
        wait_for(lambda: state_of(host, modest) == "COMPLETED", seconds=120)
    finally:
        host.check_output("systemctl set-property --runtime %s MemoryMax=4G", unit)
    assert host.check_output("systemctl show --property MainPID --value %s", unit) == worker


@pytest.mark.thorough
@pytest.mark.usefixtures("slow")
def test_what_a_worker_had_taken_and_not_begun_runs_after_its_next_start(host: Host, tenants: list[str]) -> None:
    unit = f"prefect-worker@{tenants[0]}-default-1"
    pending = """SELECT count(*) > 0 FROM prefect.flow_run WHERE state_type = 'PENDING'"""
    runs = [begin(host, seconds=1) for _ in range(3)]
    wait_for(lambda: host.check_output(PSQL, pending) == "t", seconds=60)
    host.check_output("systemctl kill --kill-whom main --signal KILL %s", unit)
    taken = [run for run in runs if state_of(host, run) in ("PENDING", "SCHEDULED")]
    assert taken
    wait_for(lambda: {state_of(host, run) for run in taken} == {"COMPLETED"}, seconds=180)
    # What had begun is dead.
    assert {state_of(host, run) for run in set(runs) - set(taken)} <= {"COMPLETED", "CRASHED"}


@pytest.mark.thorough
def test_a_stopped_database_is_started_by_the_site(host: Host, tenants: list[str], playbook: Playbook) -> None:
    host.check_output("systemctl stop 'postgresql@*-main.service'")
    done = playbook("site.yml")
    assert done.returncode == 0, done.stdout
    for tenant in tenants:
        wait_for_health(host, tenant)


@pytest.mark.usefixtures("slow")
def test_everything_comes_back_after_a_power_cut(host: Host, container: str, playbook: Playbook) -> None:
    runs = begin(host, seconds=600), begin(host, 600, 0, "on_lost:reschedule")
    wait_for(lambda: {state_of(host, run) for run in runs} == {"RUNNING"}, seconds=90)
    for command in ("kill", "start"):
        subprocess.run(["docker", command, container], check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: ready(host), seconds=120)
    wait_for(lambda: playbook("playbooks/verify.yml").returncode == 0, seconds=120)
    assert host.check_output("systemctl --failed --no-legend --plain") == ""
    wait_for(lambda: [state_of(host, run) for run in runs] == ["CRASHED", "RUNNING"], seconds=90)
    host.check_output("prefect flow-run cancel %s", runs[1])
    wait_for(lambda: state_of(host, runs[1]) == "CANCELLED", seconds=90)


@pytest.mark.thorough
def test_a_proxy_of_the_host_does_not_keep_the_worker_from_its_api(
    host: Host, workers: list[str], container: str
) -> None:
    """Nothing listens at the proxy, which every unit inherits."""
    units = " ".join(f"prefect-worker@{worker} prefect-server@{worker.partition('-')[0]}" for worker in workers)
    names = "http_proxy HTTP_PROXY https_proxy all_proxy"
    host.check_output(f"systemctl set-environment {' '.join(f'{name}=http://127.0.0.1:9' for name in names.split())}")
    try:
        host.check_output(f"systemctl restart {units}")
        command = ["prefect", "deployment", "run", "collect-market-data/sample", "--watch"]
        done = subprocess.run(["docker", "exec", container, *command], text=True, capture_output=True, check=False)
        assert "Flow run finished successfully in 'Completed'" in done.stdout, done.stdout
    finally:
        host.check_output(f"systemctl unset-environment {names}")
        host.check_output(f"systemctl restart {units}")
