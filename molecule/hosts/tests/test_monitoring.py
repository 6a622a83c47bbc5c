"""Prometheus on a host of its own: it asks the others, its figures are the database's, and its alerts arrive."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.project import ROOT
from tests.support.scenario import PSQL, SCENARIO, Playbook, on_the_controller
from tests.support.waiting import wait_for

UNIT = "prefect-worker@prefect-default-1.service"
POSTED = "/run/posted"
PAGE = ROOT / "roles/prefect_prometheus/files/page"
# Who is told of alerts: prints a line for each alert that is posted.
RECEIVER = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("/run/posted", "a") as file:
            file.writelines(json.dumps(alert) + "\\n" for alert in content["alerts"])
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 9999), Handler).serve_forever()
"""


@pytest.fixture(name="hosts", scope="module")
def all_hosts(database: Host, server: Host, worker: Host, watcher: Host) -> dict[str, Host]:
    return {"database": database, "server": server, "worker": worker, "watcher": watcher}


def get(watcher: Host, path: str) -> str:
    script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
    return str(watcher.check_output("python3 -c %s %s", script, f"http://127.0.0.1:9090/{path}"))


def fetch(watcher: Host, path: str, **parameters: str) -> Any:
    """Return what Prometheus answers."""
    answer = json.loads(get(watcher, f"api/v1/{path}?{urlencode(parameters)}"))
    assert answer["status"] == "success", answer
    return answer["data"]


def ask(watcher: Host, expression: str) -> list[tuple[dict[str, str], float]]:
    """Return the labels and the value of each series that an expression gives."""
    found = fetch(watcher, "query", query=expression)["result"]
    return [(series["metric"], float(series["value"][1])) for series in found]


@pytest.fixture(name="posted", scope="module")
def receiver_of_alerts(watcher: Host) -> Iterator[Any]:
    """Return what gives the alerts that were posted, as pairs of name and state."""
    watcher.check_output("systemd-run --unit receiver --collect python3 -c %s", RECEIVER)

    def posted() -> list[dict[str, Any]]:
        file = watcher.file(POSTED)
        return [json.loads(line) for line in file.content_string.splitlines()] if file.exists else []

    yield posted
    watcher.check_output("systemctl stop receiver; rm -f " + POSTED)


def test_prometheus_asks_all_hosts(watcher: Host, hosts: dict[str, Host]) -> None:
    wait_for(
        lambda: {labels["instance"] for labels, value in ask(watcher, "up") if value == 1} == set(hosts), seconds=30
    )
    wait_for(lambda: len(ask(watcher, "pgprefect_info")) == 2, seconds=30)
    assert {labels["instance"] for labels, _ in ask(watcher, "pgprefect_info")} == {"database", "server"}
    # What one of them cannot see, such as the jobs of the other's host, it leaves out.
    assert ask(watcher, "pgprefect_collect_success == 0") == []


def test_the_figures_are_the_database_s(watcher: Host, hosts: dict[str, Host], completed_run: str) -> None:
    assert completed_run
    count = int(
        hosts["database"].check_output(PSQL, "SELECT count(*) FROM prefect.flow_run WHERE state_type = 'COMPLETED'")
    )
    counted = 'max without (instance) (pgprefect_flow_runs{state="COMPLETED"})'
    wait_for(lambda: [value for _, value in ask(watcher, counted)] == [count], seconds=30)
    ((labels, ready),) = ask(watcher, "max without (instance) (pgprefect_api_ready)")
    assert (labels["tenant"], ready) == ("prefect", 1)


def test_the_page_has_what_it_needs(watcher: Host) -> None:
    page = get(watcher, "user/index.html")
    for file in re.findall(r'(?:src|href)="([a-z][a-zA-Z./]+)"', page):
        assert get(watcher, f"user/{file}").strip() == (PAGE / file).read_text().strip(), file
    assert list(json.loads(get(watcher, "user/site.json"))["tenants"]) == ["prefect"]


def test_no_alert_fires(watcher: Host) -> None:
    assert ask(watcher, 'ALERTS{alertstate="firing"}') == []
    groups = fetch(watcher, "rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_only_the_watcher_reaches_an_exporter(hosts: dict[str, Host], watcher: Host) -> None:
    """Prometheus and the Alertmanager are on loopback, and a host's exporter at its declared address alone."""
    for name, host in hosts.items():
        address = host.check_output("hostname --all-ip-addresses").strip()
        sockets = host.check_output("ss --no-header --listening --tcp --numeric").splitlines()
        listening = {line.split()[3] for line in sockets if line.split()[3].endswith((":9090", ":9093", ":9100"))}
        own = {"127.0.0.1:9090", "127.0.0.1:9093"} if host is watcher else set()
        assert listening == {f"{address}:9100"} | own, name


def test_no_service_of_the_packages_runs(hosts: dict[str, Host]) -> None:
    services = ("haproxy", "prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
    for host in hosts.values():
        states = {name: host.run("systemctl is-enabled %s", name).stdout.strip() for name in services}
        assert "enabled" not in states.values() and not any(host.service(name).is_running for name in services), states


@pytest.mark.parametrize(
    ("unit", "host"),
    [
        ("prefect-metrics", "server"),
        ("prefect-node-exporter", "server"),
        ("prefect-prometheus", "watcher"),
        ("prefect-alertmanager", "watcher"),
    ],
)
def test_the_units_may_do_little(hosts: dict[str, Host], unit: str, host: str) -> None:
    judged = hosts[host].check_output("systemd-analyze security --no-pager %s.service | tail -n 1", unit)
    assert float(judged.split(": ")[1].split()[0]) < (
        2 if unit in ("prefect-prometheus", "prefect-alertmanager") else 5.5
    ), judged


@pytest.mark.thorough
def test_a_worker_that_was_killed_is_told_of(hosts: dict[str, Host], posted: Any) -> None:
    """The alert arrives at the webhook, and so does its end."""
    worker = hosts["worker"]

    def states(name: str) -> list[str]:
        return [alert["status"] for alert in posted() if alert["labels"]["alertname"] == name]

    worker.check_output(f"systemctl mask --runtime {UNIT} && systemctl kill --signal KILL {UNIT}")
    try:
        wait_for(lambda: states("PrefectWorkersDown") == ["firing"], seconds=420)
        (alert,) = [alert for alert in posted() if alert["labels"]["alertname"] == "PrefectWorkersDown"]
        assert alert["annotations"]["summary"] == "No worker of the work pool default of the tenant prefect is online."
        assert (alert["labels"]["severity"], alert["labels"]["pool"]) == ("critical", "default")
        # Which is said by the worse alert already.
        assert states("PrefectWorkersMissing") == []
    finally:
        worker.check_output(f"systemctl unmask --runtime {UNIT} && systemctl start {UNIT}")
    wait_for(lambda: "resolved" in states("PrefectWorkersDown"), seconds=240)


@pytest.mark.thorough
def test_a_unit_that_failed(watcher: Host, hosts: dict[str, Host]) -> None:
    def failed() -> set[str]:
        return {
            labels["name"] for labels, _ in ask(watcher, 'ALERTS{alertname="PrefectUnitFailed", alertstate="firing"}')
        }

    assert failed() == set()
    hosts["worker"].run("systemd-run --unit prefect-fault --wait false")
    try:
        wait_for(lambda: failed() == {"prefect-fault.service"}, seconds=240)
    finally:
        hosts["worker"].check_output("systemctl reset-failed prefect-fault.service")
    wait_for(lambda: failed() == set(), seconds=60)


@pytest.mark.thorough
def test_a_site_that_is_watched_no_more_loses_the_units(
    hosts: dict[str, Host], playbook: Playbook, tmp_path: Path
) -> None:
    """A host that left the inventory with its group keeps what it has, and docs/monitoring.md says so."""
    watched = ("database", "server", "worker")

    def units() -> set[str]:
        kinds = ("metrics", "node", "prom", "alert")
        listed = [f"/etc/systemd/system/prefect-{kind}*" for kind in kinds]
        return {path for name in watched for path in hosts[name].run(f"ls {' '.join(listed)}").stdout.split()}

    assert len(units()) == 3
    # In a folder of theirs, and then nowhere.
    figures = [f"/var/lib/{folder}/pgprefect.prom" for folder in ("prefect-metrics", "prometheus/node-exporter")]
    done = playbook("playbooks/monitoring.yml", "-e", "prefect_metrics_directory=/var/lib/prometheus/node-exporter")
    assert done.returncode == 0, done.stdout
    assert [hosts["server"].file(path).exists for path in figures] == [False, True]

    inventory = yaml.safe_load((SCENARIO / "inventory/hosts.yml").read_text())
    del inventory["all"]["children"]["monitoring"], inventory["all"]["hosts"]["watcher"]
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    for name in ("group_vars", ".secrets"):
        (tmp_path / name).symlink_to(SCENARIO / "inventory" / name)
    for changes in (True, False):
        done = on_the_controller(
            ".venv/bin/ansible-playbook", "-i", str(tmp_path / "hosts.yml"), "playbooks/monitoring.yml"
        )
        assert done.returncode == 0 and (sum(changed(done.stdout)) > 0) == changes, done.stdout
    assert units() == set()
    assert not [path for path in figures if hosts["server"].file(path).exists]
    assert hosts["watcher"].service("prefect-prometheus").is_running
