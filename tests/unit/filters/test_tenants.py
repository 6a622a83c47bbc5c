"""Tenants: defaults filled in."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.proxy import proxy_frontends, proxy_logins
from filter_plugins.tenants import prefect_scaled_pools, prefect_tenants, prefect_workers, tenant_views


def test_one_line_is_a_whole_tenant() -> None:
    (tenant,) = prefect_tenants([{"name": "prefect"}])
    assert tenant == {
        "name": "prefect",
        "schema": "prefect",
        "owner": "prefect_owner",
        "migrator": "prefect_migrator",
        "server": "prefect_server",
        "relay": "",
        "outbox": "prefect_outbox",
        "database_events": [],
        "port": 4200,
        "peer_port": 5200,
        "redis": False,
        "redis_port": 6400,
        "api_url": "http://127.0.0.1:4200/api",
        "container_api_url": "http://127.0.0.1:4200/api",
        "api_ca_file": "",
        "ui_url": "http://127.0.0.1:4200",
        "event_retention": "P90D",
        "work_pools": [{"name": "default", "workers": 1, "min_workers": 1}],
        "workers": 1,
        "pool_workers": {"default": 1},
        "scaled_pools": [],
        "deployments": [],
        "variables": [],
        "concurrency_limits": [],
        "automations": [],
        "planned_objects": {"deployments": [], "work_pools": ["default"], "work_queues": [], "blocks": []},
        "own_blocks": [],
    }


def test_an_ipv6_address_of_the_api_is_in_brackets() -> None:
    (tenant,) = prefect_tenants([{"name": "prefect"}], api_host="2001:db8::1")
    assert tenant["api_url"] == "http://[2001:db8::1]:4200/api"


def test_a_second_tenant_is_two_lines() -> None:
    first, second = prefect_tenants([{"name": "prefect", "port": 4200}, {"name": "research", "port": 4300}])
    shared = {key for key in first if first[key] == second[key]}
    assert shared == {
        "api_ca_file",
        "redis",
        "relay",
        "database_events",
        "event_retention",
        "work_pools",
        "workers",
        "pool_workers",
        "scaled_pools",
        "deployments",
        "variables",
        "concurrency_limits",
        "automations",
        "planned_objects",
        "own_blocks",
    }


@pytest.mark.parametrize(
    ("ui_url", "expected"),
    [
        ("http://flows.example.com", ["http://flows.example.com:4200", "http://flows.example.com:4300"]),
        ("http://flows.example.com/", ["http://flows.example.com:4200", "http://flows.example.com:4300"]),
        ("https://[2001:db8::1]:8443", ["https://[2001:db8::1]:8443", "https://[2001:db8::1]:4300"]),
        ("https://flows.example.com/", ["https://flows.example.com", "https://flows.example.com:4300"]),
        ("https://flows.example.com/prefect", ["https://flows.example.com/prefect", "https://flows.example.com:4300"]),
        ("http://flows.example.com:80/p", ["http://flows.example.com:80/p", "http://flows.example.com:4300"]),
        ("http://127.0.0.1:4212", ["http://127.0.0.1:4212", "http://127.0.0.1:4300"]),
    ],
)
def test_browsers_address(ui_url: str, expected: list[str]) -> None:
    tenants = prefect_tenants([{"name": "a", "port": 4200}, {"name": "b", "port": 4300}], ui_url=ui_url)
    assert [tenant["ui_url"] for tenant in tenants] == expected


def test_a_tenants_own_address_wins() -> None:
    (tenant,) = prefect_tenants([{"name": "a", "ui_url": "https://flows.example.com/"}], ui_url="http://other")
    assert tenant["ui_url"] == "https://flows.example.com"


def test_an_api_behind_a_proxy_is_reached_there_by_other_hosts_alone() -> None:
    tenants: list[dict[str, Any]] = [
        {"name": "a", "api_url": "https://flows.example.com:8443/a/api/"},
        {"name": "b", "port": 4300, "api_url": "https://b.example.com/api", "ui_url": "https://ui.example.com/b"},
        {"name": "c", "port": 4400},
    ]
    elsewhere = prefect_tenants(tenants, api_host="192.0.2.20", local=False, ui_url="http://c.example.com")
    assert [tenant["api_url"] for tenant in elsewhere] == [
        "https://flows.example.com:8443/a/api",
        "https://b.example.com/api",
        "http://192.0.2.20:4400/api",
    ]
    assert [tenant["ui_url"] for tenant in elsewhere] == [
        "https://flows.example.com:8443/a",
        "https://ui.example.com/b",
        "http://c.example.com:4400",
    ]
    local = prefect_tenants(tenants, ui_url="http://c.example.com")
    assert [tenant["api_url"] for tenant in local] == [f"http://127.0.0.1:{port}/api" for port in (4200, 4300, 4400)]
    assert [tenant["ui_url"] for tenant in local] == [tenant["ui_url"] for tenant in elsewhere]


@pytest.mark.parametrize("address", ["192.0.2.20", "2001:db8::20"])
def test_other_hosts_reach_an_api_by_the_sites_own_proxy(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    declared: list[dict[str, Any]] = [{"name": "a"}, {"name": "b", "port": 4300, "ui_url": "https://b.example.com"}]
    here = prefect_tenants(declared, proxy=address)
    there = prefect_tenants(declared, proxy=address, local=False, api_ca_file="/ca.pem")
    assert [tenant["api_url"] for tenant in there] == [f"https://{host}/api", "https://b.example.com/api"]
    assert [tenant["ui_url"] for tenant in there] == [f"https://{host}", "https://b.example.com"]
    assert [tenant["api_url"] for tenant in here] == ["http://127.0.0.1:4200/api", "http://127.0.0.1:4300/api"]
    assert {tenant["api_ca_file"] for tenant in tenant_views(there)["pgprefect"]} == {"/ca.pem"}
    (tenant,) = prefect_tenants([{"name": "a"}], proxy=address, local=False, ui_url="https://flows.example.com:8443/")
    assert tenant["api_url"] == "https://flows.example.com:8443/api"


def test_each_port_of_the_proxy_has_its_tenants() -> None:
    urls = {"a": "https://x.example.com", "b": "https://x.example.com:8443", "c": "https://c.example.com"}
    assert proxy_frontends([{"name": name, "ui_url": url} for name, url in urls.items()]) == [
        {"port": 443, "tenants": [{"name": "a", "host": "x.example.com"}, {"name": "c", "host": "c.example.com"}]},
        {"port": 8443, "tenants": [{"name": "b", "host": "x.example.com"}]},
    ]
    assert proxy_logins({"a": "s3cret", "b": "x"}, [{"name": "a"}]) == {"a": "Basic YWRtaW46czNjcmV0"}


def test_workers_have_a_name_and_a_port_each() -> None:
    tenants = prefect_tenants(
        [
            {"name": "a", "port": 4200, "work_pools": [{"name": "fast", "workers": 2}, {"name": "off", "workers": 0}]},
            {"name": "b", "port": 4300},
        ],
        worker_hosts=3,
    )
    workers = prefect_workers(tenants)
    assert [worker["instance"] for worker in workers] == ["a-fast-1", "a-fast-2", "b-default-1"]
    ports = {worker["instance"]: worker["health_port"] for worker in workers}
    assert len(set(ports.values())) == 3 and all(8100 <= port < 8400 for port in ports.values())
    # A further worker leaves the others where they are.
    more = [{"name": "first", "port": 4400, "work_pools": [{"name": "default", "workers": 4}]}, *tenants]
    assert (
        ports.items() <= {one["instance"]: one["health_port"] for one in prefect_workers(prefect_tenants(more))}.items()
    )
    assert [tenant["workers"] for tenant in tenants] == [6, 3]


def test_a_pool_runs_on_the_hosts_of_its_group_and_counts_there() -> None:
    groups = {"prefect_worker": ["one", "two", "three"], "gpu": ["two"], "big": ["two", "three"]}
    pools = [
        {"name": "default"},
        {"name": "gpu", "hosts": "gpu", "workers": 2, "memory_max": "8G", "cpu_weight": 500, "limit": 1},
        {"name": "big", "hosts": "big", "workers": {"min": 1, "max": 3}},
    ]
    (tenant,) = prefect_tenants([{"name": "a", "work_pools": pools}], worker_hosts=3, groups=groups)
    assert (tenant["workers"], tenant["pool_workers"]) == (7, {"default": 3, "gpu": 2, "big": 2})
    found = {host: prefect_workers([tenant], host, groups) for host in groups["prefect_worker"]}
    assert {host: [worker["instance"] for worker in workers] for host, workers in found.items()} == {
        "one": ["a-default-1"],
        "two": ["a-default-1", "a-gpu-1", "a-gpu-2", "a-big-1", "a-big-2", "a-big-3"],
        "three": ["a-default-1", "a-big-1", "a-big-2", "a-big-3"],
    }
    own = {"memory_max": "8G", "cpu_weight": 500, "limit": 1}
    assert own.items() <= found["two"][1].items() and not own.keys() & found["two"][0].keys()
    scaled = {"tenant": "a", "pool": "big", "min": 1, "max": 3, "hosts": ["two", "three"]}
    assert prefect_scaled_pools([tenant], "three", groups) == [scaled]
    assert prefect_scaled_pools([tenant], "one", groups) == []


def test_workers_that_are_scaled_are_declared_and_not_expected() -> None:
    pools = [
        {"name": "fixed", "workers": 2},
        {"name": "idle", "workers": {"max": 2}},
        {"name": "same", "workers": {"min": 1, "max": 1}},
        {"name": "wide", "workers": {"min": "1", "max": "3"}},
    ]
    (tenant,) = prefect_tenants([{"name": "a", "work_pools": pools}], worker_hosts=2)
    assert tenant["pool_workers"] == {"fixed": 4, "idle": 0, "same": 2, "wide": 2}
    assert (tenant["workers"], tenant["scaled_pools"]) == (8, ["idle", "wide"])
    assert prefect_scaled_pools([tenant]) == [
        {"tenant": "a", "pool": "idle", "min": 0, "max": 2},
        {"tenant": "a", "pool": "wide", "min": 1, "max": 3},
    ]
    scaled = [worker["instance"] for worker in prefect_workers([tenant]) if worker["scaled"]]
    assert scaled == ["a-idle-1", "a-idle-2", "a-wide-2", "a-wide-3"]


def test_a_tenant_with_database_events_has_a_relay() -> None:
    event = {"name": "filled", "table": "orders", "operations": ["update"], "event": "orders.filled"}
    [tenant] = prefect_tenants([{"name": "prefect", "schema": "flows", "database_events": [event]}])
    assert (tenant["relay"], tenant["outbox"], tenant["database_events"]) == ("flows_relay", "flows_outbox", [event])
    [view] = tenant_views([tenant])["events"]
    assert set(view) == {"name", "api_url", "relay", "outbox", "database_events"}


def test_an_automation_may_name_what_the_site_makes_of_credentials() -> None:
    (tenant,) = prefect_tenants(
        [
            {
                "name": "prefect",
                "blocks": [{"type": "slack-webhook", "name": "alerts"}],
                "git_credentials": [{"name": "forge", "token": "x"}, {"name": "by-key", "key": "x"}],
                "docker_registries": [{"name": "hub"}],
            }
        ]
    )
    made = ["secret/git-forge", "docker-registry-credentials/registry-hub"]
    assert tenant["own_blocks"] == made
    assert tenant["planned_objects"]["blocks"] == ["slack-webhook/alerts", *made]
