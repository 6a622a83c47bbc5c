"""The hosts of a site: addresses by which they reach each other, and what each has to run."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.hosts import (
    database_primary,
    host_addresses,
    host_networks,
    local_address,
    members_seen,
    retired_passwords,
    retired_units,
    with_primary_url,
)


def test_addresses() -> None:
    hostvars = {"a": {"ansible_host": "192.0.2.1"}, "b": {"ansible_host": "x", "private_address": "10.0.0.2"}, "c": {}}
    assert host_addresses(["a", "b", "c"], hostvars) == ["192.0.2.1", "10.0.0.2", "c"]
    assert host_networks(["192.0.2.1", "2001:db8::1"]) == ["192.0.2.1/32", "2001:db8::1/128"]
    with pytest.raises(AnsibleFilterError, match="set private_address or ansible_host"):
        host_networks(["c"])


@pytest.mark.parametrize(
    ("listening", "local"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.20", "192.0.2.20")]
)
def test_a_host_reaches_its_own_service(listening: str, local: str) -> None:
    assert local_address(listening) == local


@pytest.mark.parametrize(
    ("seen", "primary"),
    [
        ([{}, {}, {}], "a"),
        ([{"running": True}, {}, {}], "a"),
        ([{}, {"running": True, "data": True}, {}], "b"),
        ([{"running": True, "standby": True}, {"running": True, "standby": True}, {"running": True}], "c"),
        ([{}, {"data": True}, {}], "b"),
        ([{"data": True}, {"data": True}, {"data": True}], ""),
        ([{"running": True}, {"running": True}, {}], ""),
        # A person says whether a copy of what a lost primary has takes over.
        ([{}, {"data": True, "running": True, "standby": True}, {}], ""),
        ([{}, {"data": True, "standby": True}, {}], ""),
        ([{"data": True}, {"data": True, "running": True, "standby": True}, {}], ""),
        ([{}, {"data": True, "disabled": True}, {}], ""),
        ([{"data": True, "disabled": True}, {"data": True, "running": True}, {}], "b"),
    ],
)
def test_the_primary_of_a_cluster(seen: list[dict[str, bool]], primary: str) -> None:
    hostvars = {name: {"__postgresql_present": {"cluster": found}} for name, found in zip("abc", seen, strict=True)}
    assert database_primary(["a", "b", "c"], hostvars) == primary
    assert database_primary(["a"], {"a": {}}) == "a"
    assert database_primary([], {}) == ""


def test_only_hosts_that_answer_are_seen() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "a": {"__postgresql_replica_seen": {"member": {"running": True}}},
        "b": {"__postgresql_replica_seen": {"unreachable": True}},
        "c": {},
    }
    assert members_seen(["a", "b", "c"], hostvars) == [{"host": "a", "running": True}]


def test_the_address_of_a_primary_among_several() -> None:
    settings = {"HOST": "10.0.0.1", "PORT": 5432, "NAME": "a/b", "USER": "u", "PASSWORD": "p@:%"}
    environment = {f"PREFECT_SERVER_DATABASE_{key}": str(value) for key, value in settings.items()}
    assert with_primary_url(environment) == environment
    several = {**environment, "PREFECT_SERVER_DATABASE_HOST": "10.0.0.1,fd00::2"}
    assert with_primary_url(several)["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == (
        "postgresql+asyncpg://u:p%40%3A%25@/a%2Fb?host=10.0.0.1:5432&host=[fd00::2]:5432&target_session_attrs=primary"
    )


def test_what_a_host_has_without_being_in_its_group() -> None:
    units = [
        "prefect-firewall.service",
        "prefect-metrics.timer",
        "prefect-prometheus.service",
        "prefect-proxy.service",
        "prefect-server@prefect.service",
        "prefect-services@prefect.service",
        "prefect-worker@prefect-default-1.service",
        "cron.service",
    ]
    server, worker = [units[5], units[4]], [units[6]]
    assert retired_units(units, ["ungrouped"]) == [*worker, *server, units[3], *units[1:3]]
    assert retired_units(units, ["postgresql"]) == [*worker, *server, units[3]]
    assert retired_units(units, ["prefect_server", "prefect_proxy", "monitoring"]) == worker


def test_passwords_of_what_a_host_no_longer_runs() -> None:
    command = "/etc/prefect/pgpass"
    server = [f"/etc/prefect/{name}.env" for name in ("a-migrate", "a-server", "a", "events/a")]
    worker = "/etc/prefect/worker/a-default-1.env"
    paths = [*server, command, worker]
    assert retired_passwords(paths, ["monitoring"]) == paths
    assert retired_passwords(paths, ["postgresql"]) == [*server, worker]
    assert retired_passwords(paths, ["prefect_worker"]) == server
    assert retired_passwords(paths, ["prefect_server"]) == [worker]
