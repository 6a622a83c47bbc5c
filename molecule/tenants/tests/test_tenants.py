"""Two Prefect servers in one database, each alone with its own."""

from __future__ import annotations

import json
import shlex

import pytest
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.scenario import PREFECT, Playbook, Sql


def test_each_has_its_server_and_workers(tenants: list[str], workers: list[str]) -> None:
    assert tenants == ["prefect", "research"]
    assert workers == ["prefect-default-1", "research-default-1", "research-default-2"]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("prefect_server", 'SELECT * FROM "Research-2".flow_run'),
        ("prefect_migrator", 'SELECT * FROM "Research-2".flow_run'),
        ("Research-2_server", "SELECT * FROM prefect.flow_run"),
        ("Research-2_migrator", "SELECT * FROM prefect.flow_run"),
        ("Research-2_migrator", "SET ROLE prefect_owner"),
        ("Research-2_server", "SELECT * FROM public.market_data"),
    ],
)
def test_neither_reads_the_other(sql: Sql, role: str, statement: str) -> None:
    result = sql(role, statement)
    assert result.rc == 1 and "permission denied" in result.stderr, result


def test_the_second_reads_its_own(sql: Sql) -> None:
    assert sql("Research-2_server", "SELECT count(*) FROM flow_run").rc == 0


def test_a_run_of_the_second_is_only_there(host: Host, sql: Sql) -> None:
    pools = json.loads(host.check_output("PREFECT_TENANT=research prefect work-pool ls --output json"))
    assert [(pool["name"], pool["concurrency_limit"]) for pool in pools] == [("default", 3)]
    runs = "SELECT count(*) FROM prefect.flow_run WHERE NOT auto_scheduled"
    before = sql("mltrading_app", runs).stdout
    flow = "from prefect import flow\n@flow(name='only-here')\ndef f(): pass\nf()\n"
    script = f"set -a; . /etc/prefect/research.env; {PREFECT}/bin/python -c {shlex.quote(flow)}"
    host.check_output("PREFECT_HOME=/tmp/client sh -c %s", script)
    count = """SELECT count(*) FROM "Research-2".flow_run JOIN "Research-2".flow ON flow.id = flow_id
               WHERE flow.name = 'only-here' AND state_type = 'COMPLETED'"""
    assert sql("mltrading_app", count).stdout.strip() == "1"
    assert sql("mltrading_app", runs).stdout == before
    assert sql("mltrading_app", "SELECT count(*) FROM prefect.flow WHERE name = 'only-here'").stdout.strip() == "0"


def process(host: Host, unit: str) -> str:
    return str(host.check_output("systemctl show --property MainPID --value %s", unit))


def environment(host: Host, unit: str) -> dict[str, str]:
    """What a unit's process has in its environment."""
    found = host.check_output("tr '\\0' '\\n' < /proc/%s/environ", process(host, unit)).splitlines()
    return dict(line.split("=", 1) for line in found)


def test_each_has_its_environment_and_asks_no_proxy(host: Host, sql: Sql, secrets: dict[str, str]) -> None:
    names = ("HTTP_PROXY", "TZ", "PREFECT_LOGGING_LEVEL", "TOKEN")
    proxy = "http://127.0.0.1:9"
    expected = {
        "prefect-server@prefect": (proxy, None, None, None),
        "prefect-server@research": (proxy, "Asia/Tokyo", "ERROR", None),
        "prefect-worker@prefect-default-1": (proxy, None, "INFO", None),
        "prefect-worker@research-default-2": (proxy, "Asia/Tokyo", "WARNING", secrets["research_token"]),
    }
    found = {unit: environment(host, unit) for unit in expected}
    assert {unit: tuple(one.get(name) for name in names) for unit, one in found.items()} == expected

    # A run has its deployment's level and not its pool's, and its log arrives although the proxy is dead.
    watched = "PREFECT_TENANT=research prefect deployment run collect-market-data/sample --watch"
    assert "Flow run finished successfully" in host.check_output(watched)
    assert int(sql("mltrading_app", 'SELECT min(level) FROM "Research-2".log').stdout) == 10


@pytest.mark.thorough
def test_a_worker_that_is_not_declared_any_more_is_removed(host: Host, playbook: Playbook) -> None:
    fewer = {
        "prefect_tenants": [
            {"name": "prefect"},
            {"name": "research", "port": 4300, "schema": "Research-2", "environment": {"TZ": "Asia/Seoul"}},
        ]
    }
    surplus = "prefect-worker@research-default-2"
    others = [process(host, unit) for unit in ("prefect-worker@prefect-default-1", "prefect-server@research")]
    result = playbook("playbooks/workers.yml", "--extra-vars", json.dumps(fewer))
    assert result.returncode == 0, result.stdout
    # A changed environment restarts the workers that have it, and no other.
    assert environment(host, "prefect-worker@research-default-1")["TZ"] == "Asia/Seoul"
    assert [process(host, unit) for unit in ("prefect-worker@prefect-default-1", "prefect-server@research")] == others
    assert not host.service(surplus).is_running and not host.service(surplus).is_enabled
    assert not host.file("/etc/prefect/worker/research-default-2.env").exists
    assert host.service("prefect-worker@research-default-1").is_running

    # As after a run that was killed when it had written the environment.
    host.check_output("touch /etc/prefect/worker/prefect-default-1.env")
    result = playbook("playbooks/workers.yml")
    assert result.returncode == 0, result.stdout
    assert host.service(surplus).is_running and host.service(surplus).is_enabled
    assert process(host, "prefect-worker@prefect-default-1") != others[0]


@pytest.mark.thorough
def test_an_instance_of_redis_goes_after_the_servers(host: Host, playbook: Playbook) -> None:
    """One that is not declared any more, as after a move to another host: its clients are told first."""
    folder, unit = "/etc/prefect/redis", "prefect-redis@former"
    copied = f"sed s/research/former/ {folder}/research.conf | install -m 0640 -g redis /dev/stdin {folder}/former.conf"
    host.check_output(copied)
    host.check_output(f"systemctl enable --now {unit}")
    done = playbook("playbooks/redis.yml")
    assert done.returncode == 0 and changed(done.stdout) == [0], done.stdout
    assert host.service(unit).is_running
    done = playbook("playbooks/former_redis.yml")
    assert done.returncode == 0 and changed(done.stdout) == [2], done.stdout
    assert not host.service(unit).is_running and not host.service(unit).is_enabled
    assert host.check_output(f"ls {folder}").split() == ["prefect.conf", "research.conf"]
    assert host.service("prefect-redis@research").is_running
