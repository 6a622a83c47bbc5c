"""A host for each job: each has what its job needs and no more, and they reach each other as declared only."""

from __future__ import annotations

import re
import shlex
import subprocess
import time

import psycopg2
import pytest
from testinfra.host import Host

from tests.support.hosts import start_run
from tests.support.scenario import PSQL, Playbook, container_of, state_of
from tests.support.waiting import wait_for

WORKER = "/etc/prefect/worker/prefect-default-1.env"


def address(host: Host) -> str:
    return str(host.check_output("hostname --all-ip-addresses")).strip()


def remote_sockets(host: Host) -> set[str]:
    """What listens beyond loopback."""
    sockets = {line.split()[3] for line in host.check_output("ss --no-header --listening --tcp --numeric").splitlines()}
    return {socket for socket in sockets if not socket.startswith(("127.0.0.", "[::1]"))}


def test_a_run_on_the_worker_wrote_to_both_schemas(database: Host, worker: Host, completed_run: str) -> None:
    journal = worker.check_output("journalctl --no-pager --output cat --unit prefect-worker@prefect-default-1")
    assert f"Flow run '{completed_run}' - Finished in state Completed()" in journal
    state = f"SELECT state_type FROM prefect.flow_run WHERE name = '{completed_run}'"
    assert database.check_output(PSQL, state) == "COMPLETED"
    counts = "SELECT (SELECT count(*) FROM market_data), (SELECT count(*) FROM stock_info)"
    prices, stocks = map(int, database.check_output(PSQL, counts).split("|"))
    assert prices > 100 and stocks == 3


def test_every_login_was_over_tls(database: Host, server: Host, completed_run: str) -> None:
    assert completed_run
    now = """SELECT DISTINCT host(client_addr), ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE usename = 'prefect_server'"""
    assert database.check_output(PSQL, now) == f"{address(server)}|t|TLSv1.3"
    clear = """SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
               WHERE NOT ssl AND client_addr NOT IN ('127.0.0.1', '::1')"""
    assert database.check_output(PSQL, clear) == "0"
    # Since the first start, those that have ended as well.
    log = database.check_output("cat /var/log/postgresql/postgresql-*-main.log")
    local = set(re.findall(r"\[(\d+)\] .*connection received: host=\[local\]", log))
    logins = re.findall(r"\[(\d+)\] .*connection authorized: user=(\w+) database=mltrading(.*)", log)
    remote = [(user, rest) for process, user, rest in logins if process not in local]
    assert {user for user, _ in remote} == {"prefect_migrator", "prefect_server", "prefect_monitor", "mltrading_app"}
    assert not [login for login in remote if not re.search(r"SSL enabled \(protocol=TLSv1\.[23],", login[1])]


def test_each_host_is_let_in_by_its_own_rule(database: Host, server: Host, worker: Host) -> None:
    rules = """SELECT type, address, array_to_string(user_name, ' ') FROM pg_hba_file_rules
               WHERE address NOT IN ('127.0.0.1', '::1') AND auth_method <> 'reject'"""
    assert set(database.check_output(PSQL, rules).splitlines()) == {
        f"hostssl|{address(server)}|prefect_monitor prefect_server prefect_migrator",
        f"hostssl|{address(worker)}|mltrading_app",
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("PGSSLMODE=disable", "pg_hba.conf rejects connection .*no encryption"),
        ("PGUSER=prefect_server", "pg_hba.conf rejects connection"),
        # What would be true if somebody else answered.
        ("PGHOSTADDR=$PGHOST PGHOST=elsewhere", "does not match host name"),
        ("PGSSLROOTCERT=/etc/ssl/certs/ca-certificates.crt", "certificate verify failed"),
    ],
)
def test_a_flow_connects_as_declared_only(worker: Host, setting: str, message: str) -> None:
    connect = "python3 -c 'import psycopg2; psycopg2.connect(\"\")'"
    script = f"set -a; . {WORKER}; %s {connect}"
    assert worker.run(f"sh -c {shlex.quote(script % '')}").rc == 0
    refused = worker.run(f"sh -c {shlex.quote(script % setting)}")
    assert refused.rc == 1 and re.search(message, refused.stderr), refused


def test_a_stranger_is_refused(database: Host, secrets: dict[str, str]) -> None:
    # The controller is on the same network, and it knows the password.
    with pytest.raises(psycopg2.OperationalError, match=r"pg_hba.conf rejects connection for host .* SSL encryption"):
        psycopg2.connect(
            host=address(database),
            dbname="mltrading",
            user="mltrading_app",
            password=secrets["mltrading_app"],
            sslmode="require",
        )


def test_what_listens(database: Host, server: Host, worker: Host) -> None:
    exporters = [f"{address(host)}:9100" for host in (database, server, worker)]
    assert remote_sockets(database) == {f"{address(database)}:5432", exporters[0]}
    assert remote_sockets(server) == {"0.0.0.0:80", "0.0.0.0:443", exporters[1]}
    assert remote_sockets(worker) == {exporters[2]}


def test_what_others_had_in_the_cluster_is_as_it_was(database: Host) -> None:
    """Another application lived there before the first site.yml: its login, its rule, its setting."""
    webshop = (
        "PGPASSWORD=x psql --host 127.0.0.1 --username webshop_app --no-align --tuples-only --dbname %s --command %s"
    )
    assert database.check_output(webshop, "webshop", "SELECT count(*) FROM orders") == "1"
    assert database.check_output(webshop, "webshop", "SHOW max_connections") == "300"
    rules = database.check_output("sed '1,/^# END ansible-prefect$/d' /etc/postgresql/15/main/pg_hba.conf")
    assert rules == database.check_output("cat /root/pg_hba.conf")
    refused = database.run(webshop, "mltrading", "SELECT 1")
    assert refused.rc == 2 and "pg_hba.conf rejects connection" in refused.stderr


def test_no_host_has_what_it_does_not_need(database: Host, server: Host, worker: Host, secrets: dict[str, str]) -> None:
    assert not database.user("prefect").exists and database.check_output("ls /opt/prefect") == "lib"
    assert not server.user("prefect-prefect").exists and not server.user("postgres").exists
    assert not worker.user("postgres").exists and not worker.file("/usr/local/bin/prefect").exists
    files = worker.check_output("find /etc/prefect -type f -printf '%p %m\n'")
    everybody = {"/etc/prefect/pgprefect.json 644", "/etc/prefect/tls/ca.pem 644"}
    assert set(files.splitlines()) == {f"{WORKER} 600", "/etc/prefect/pgpass 600"} | everybody
    for host, needed in (
        (database, set()),
        (server, {"prefect_api", "prefect_migrator", "prefect_monitor", "prefect_server"}),
        (worker, {"mltrading_app", "prefect_api"}),
    ):
        search = "grep --recursive --no-messages --quiet --fixed-strings %s /etc /home /opt /root /usr/local /var"
        assert {name for name, value in secrets.items() if host.run(search, value).rc == 0} == needed


def test_the_command_answers_on_each_host(database: Host, server: Host, worker: Host, completed_run: str) -> None:
    for host in (database, server, worker):
        for command in ("health", "verify"):
            result = host.run("pgprefect %s", command)
            assert result.rc == 0, (command, result.stdout, result.stderr)
        assert completed_run in host.check_output("pgprefect stats")
    assert "batch_collection" in worker.check_output("pgprefect events")
    refused = server.run("pgprefect events")
    assert refused.rc == 3 and "permission denied" in refused.stderr
    server.check_output("pgprefect cleanup --dry-run")
    server.check_output("pgprefect cleanup --yes")
    assert worker.run("pgprefect cleanup --yes").rc != 0
    elsewhere = server.run("pgprefect backup list")
    assert elsewhere.rc == 3 and "on the host of the database" in elsewhere.stderr


def test_the_site_s_health_has_the_jobs_of_the_database_s_host(database: Host, playbook: Playbook) -> None:
    assert "backup: healthy, drill: healthy" in playbook("playbooks/health.yml").stdout
    database.check_output("mv /etc/cron.d/prefect-backup /root")
    try:
        said = playbook("playbooks/health.yml")
    finally:
        database.check_output("mv /root/prefect-backup /etc/cron.d")
    assert said.returncode == 0, said.stdout
    assert "backup: degraded, drill: degraded" in said.stdout


SLOW = """
import time
from prefect import flow

@flow
def slow(seconds: int):
    time.sleep(seconds)

if __name__ == "__main__":
    slow.from_source("/opt/slow", "slow.py:slow").deploy("slow", work_pool_name="default", print_next_steps=False)
"""


@pytest.mark.thorough
def test_a_recovery_resolves_the_runs_of_a_lost_host_alone(database: Host, server: Host, worker: Host) -> None:
    """A worker that is paused, and a network that is cut for a minute, lose no run. A power cut loses what ran."""
    for host in (server, worker):
        host.check_output("mkdir -p /opt/slow && printf %%s %s > /opt/slow/slow.py", SLOW)
    python = "PREFECT_HOME=/tmp/client /opt/prefect/3.*/bin/python"
    deploy = f"set -a; . /etc/prefect/prefect.env; {python} /opt/slow/slow.py"
    server.check_output("sh -c %s", deploy)

    def begin(seconds: int, tag: str) -> str:
        return start_run(server, "slow/slow", f"--param seconds={seconds} --tag {tag}")

    def state(run: str) -> str:
        return state_of(database, run)

    short, long, again = begin(130, "short"), begin(900, "long"), begin(900, "on_lost:reschedule")
    wait_for(lambda: {state(run) for run in (short, long, again)} == {"RUNNING"}, seconds=90)
    main = worker.check_output("systemctl show --property MainPID --value prefect-worker@prefect-default-1")
    worker.check_output(f"kill -STOP {main}; ip route add blackhole {address(server)}")
    time.sleep(60)
    worker.check_output(f"ip route del blackhole {address(server)}")
    time.sleep(40)
    assert {state(run) for run in (short, long, again)} == {"RUNNING"}
    worker.check_output(f"kill -CONT {main}")
    wait_for(lambda: state(short) == "COMPLETED", seconds=120)
    assert {state(run) for run in (long, again)} == {"RUNNING"}

    subprocess.run(["docker", "kill", container_of("worker")], check=True, stdout=subprocess.DEVNULL)
    since = time.monotonic()
    try:
        wait_for(lambda: (state(long), state(again)) == ("CRASHED", "SCHEDULED"), seconds=180)
        print(f"resolved after {time.monotonic() - since:.0f} s")
    finally:
        subprocess.run(["docker", "start", container_of("worker")], check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: state(again) == "RUNNING", seconds=120)
    server.check_output("prefect flow-run cancel %s", again)
    wait_for(lambda: state(again) == "CANCELLED", seconds=90)
