"""What must come back, or be refused, without anybody's help."""

from __future__ import annotations

import subprocess
import time

from testinfra.host import Host

from tests.support.scenario import PSQL, Playbook, Sql, wait_for_health
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


def test_a_missing_migration_is_refused_until_it_is_made(host: Host, tenants: list[str], playbook: Playbook) -> None:
    unit = f"prefect-server@{tenants[0]}"
    host.check_output("systemctl stop %s", unit)
    as_migrator = "--property User=prefect --property EnvironmentFile=/etc/prefect/%s-migrate.env"
    downgrade = "/opt/prefect/3.8.8/bin/prefect server database downgrade --yes"
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
        host.check_output("systemctl stop squatter; systemctl start %s %s", unit, worker)
    wait_for(lambda: ready(host), seconds=90)


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


SLOW = """
import time
from prefect import flow

@flow
def slow():
    time.sleep(15)

if __name__ == "__main__":
    slow.from_source("/opt/slow", "slow.py:slow").deploy("slow", work_pool_name="default", print_next_steps=False)
"""


def test_a_stopping_worker_lets_its_runs_finish(host: Host, sql: Sql, tenants: list[str]) -> None:
    unit = f"prefect-worker@{tenants[0]}-default-1"
    host.check_output("mkdir -p /opt/slow && printf %%s %s > /opt/slow/slow.py", SLOW)
    deploy = f". /etc/prefect/{tenants[0]}.env; /opt/prefect/3.8.8/bin/python /opt/slow/slow.py"
    host.check_output("PREFECT_HOME=/tmp/client sh -c %s", f"set -a; {deploy}")
    host.check_output("prefect deployment run slow/slow")

    def state() -> str:
        query = """SELECT state_type FROM prefect.flow_run JOIN prefect.flow ON flow.id = flow_id
                   WHERE flow.name = 'slow' ORDER BY flow_run.created DESC LIMIT 1"""
        return str(sql("mltrading_app", query).stdout.strip())

    wait_for(lambda: state() == "RUNNING", seconds=60)
    host.check_output("systemctl stop %s", unit)
    assert state() == "COMPLETED"
    host.check_output("systemctl start %s", unit)


def test_everything_comes_back_after_a_boot(host: Host, container: str, playbook: Playbook) -> None:
    subprocess.run(["docker", "restart", "--time", "60", container], check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: ready(host), seconds=120)
    wait_for(lambda: playbook("playbooks/verify.yml").returncode == 0, seconds=120)
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


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
