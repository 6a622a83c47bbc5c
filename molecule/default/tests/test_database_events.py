"""Rows that start runs, on a site whose relay runs under systemd."""

from __future__ import annotations

import json
import time

import pytest
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.scenario import PSQL, Playbook, Typed
from tests.support.waiting import wait_for

UNIT = "prefect-events@prefect"
ORDER: dict[str, object] = {
    "name": "new_order",
    "table": "orders",
    "operations": ["insert"],
    "values": {"portfolios": ["portfolio"]},
    "deployment": "check-risk-limits/daily",
}
INSERT = """
INSERT INTO portfolios (name, currency, opening_cash, max_position_weight, max_exposure, max_order_value)
VALUES ('events', 'EUR', 1000, 1, 1, 1000) ON CONFLICT DO NOTHING;
INSERT INTO stock_info (symbol, name, currency, source) VALUES ('EVNT', 'x', 'EUR', 'x') ON CONFLICT DO NOTHING;
INSERT INTO orders (client_order_id, portfolio, symbol, side, quantity) VALUES ('{}', 'events', 'EVNT', 'buy', 1)
"""
TRIGGERS = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgprefect-%'"
RUNS = "SELECT count(*) FROM prefect.flow_run WHERE parameters->'portfolios' = '[\"events\"]' {}"


def arguments(*events: dict[str, object]) -> list[str]:
    deployments = "{{ lookup('ansible.builtin.file', playbook_dir ~ '/../flows/deployments.yml') | from_yaml }}"
    tenant = {"name": "prefect", "port": 4200, "deployments": deployments, "database_events": events}
    return ["--extra-vars", json.dumps({"prefect_tenants": [tenant]})]


def journal(host: Host) -> str:
    return str(host.check_output("journalctl --unit %s --lines 40 --no-pager --output cat", UNIT))


def test_an_order_starts_its_check_within_three_seconds(host: Host) -> None:
    host.check_output(PSQL, INSERT.format("first"))
    began = time.monotonic()
    wait_for(lambda: host.check_output(PSQL, RUNS.format("")) != "0", lambda: journal(host))
    assert time.monotonic() - began < 3
    wait_for(lambda: host.check_output(PSQL, RUNS.format("AND state_type = 'COMPLETED'")) == "1", seconds=120)


def test_new_prices_become_signals(host: Host) -> None:
    prices = "SELECT 'EVNT', date '2024-01-01' + n, 1, 1, 1, 1, 1, 0, 'x' FROM generate_series(0, 40) n"
    host.check_output(PSQL, f"INSERT INTO market_data {prices}")
    signals = "SELECT count(*) > 0 FROM trading_signals WHERE symbol = 'EVNT'"
    wait_for(lambda: host.check_output(PSQL, signals) == "t", lambda: journal(host), seconds=120)
    runs = "SELECT count(*) FROM prefect.flow_run WHERE parameters->'symbols' = '[\"EVNT\"]'"
    assert host.check_output(PSQL, runs) == "1"


def test_a_killed_relay_comes_back_and_sends_what_waits(host: Host) -> None:
    host.check_output("systemctl kill --signal KILL %s", UNIT)
    host.check_output(PSQL, INSERT.format("second"))
    wait_for(lambda: host.check_output(PSQL, RUNS.format("")) == "2", lambda: journal(host))


def test_what_cannot_work_is_refused_before_anything_is_touched(playbook: Playbook) -> None:
    done = playbook("site.yml", *arguments({**ORDER, "values": {"portfolios": ["portfolo"]}}))
    assert done.returncode != 0 and "names portfolo" in done.stdout and changed(done.stdout) == [0], done.stdout


def test_the_page(typed: Typed) -> None:
    status, dead, *_ = typed("database_events.md", "Look")
    assert "0 rows waiting to be sent, 0 dead letters." in status and "There is no dead letter." in dead


def test_an_application_that_listens_is_told_of_a_run_s_events(host: Host, typed: Typed) -> None:
    typed("flows.md", "An application that is told")
    listen = "psql --dbname mltrading --command 'LISTEN workflow_events' --command 'SELECT pg_sleep(1)'"
    again = " --command 'SELECT pg_sleep(1)'" * 60
    host.check_output(f"systemd-run --uid postgres --unit listener -p StandardOutput=file:/tmp/heard {listen}{again}")
    wait_for(lambda: "LISTEN" in host.file("/tmp/heard").content_string)
    host.check_output("prefect deployment run check-risk-limits/daily --watch 2>&1")
    heard = 'Asynchronous notification "workflow_events" with payload "{"id" : '
    wait_for(lambda: heard in host.file("/tmp/heard").content_string, seconds=60)
    said = host.file("/tmp/heard").content_string
    assert '"type" : "risk_limits_checked", "status" : "success"' in said, said
    host.check_output("systemctl stop listener")
    host.check_output(PSQL, "DROP TRIGGER notify_event ON system_logs; DROP FUNCTION notify_event()")


@pytest.mark.thorough
def test_an_event_that_is_removed_and_comes_back(host: Host, playbook: Playbook) -> None:
    done = playbook("site.yml", *arguments())
    assert done.returncode == 0, done.stdout
    assert not host.service(UNIT).is_running and not host.file("/etc/prefect/events/prefect.env").exists
    assert host.check_output(PSQL, TRIGGERS) == "0"
    check = playbook("site.yml", "--check")
    assert check.returncode == 0 and changed(check.stdout) != [0], check.stdout
    for changes in (True, False):
        done = playbook("site.yml")
        assert done.returncode == 0 and (changed(done.stdout) != [0]) is changes, done.stdout
    assert host.service(UNIT).is_running and host.check_output(PSQL, TRIGGERS) != "0"
