"""Tenants: defaults filled in, and every wrong input refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.tenants import prefect_tenants, prefect_workers


def test_one_line_is_a_whole_tenant() -> None:
    (tenant,) = prefect_tenants([{"name": "prefect"}])
    assert tenant == {
        "name": "prefect",
        "schema": "prefect",
        "owner": "prefect_owner",
        "migrator": "prefect_migrator",
        "server": "prefect_server",
        "port": 4200,
        "api_url": "http://127.0.0.1:4200/api",
        "ui_url": "http://127.0.0.1:4200",
        "event_retention": "P90D",
        "work_pools": [{"name": "default", "workers": 1}],
        "workers": 1,
        "pool_workers": {"default": 1},
        "deployments": [],
    }


def test_an_ipv6_address_of_the_api_is_in_brackets() -> None:
    (tenant,) = prefect_tenants([{"name": "prefect"}], api_host="2001:db8::1")
    assert tenant["api_url"] == "http://[2001:db8::1]:4200/api"


def test_a_second_tenant_is_two_lines() -> None:
    first, second = prefect_tenants([{"name": "prefect", "port": 4200}, {"name": "research", "port": 4300}])
    shared = {key for key in first if first[key] == second[key]}
    assert shared == {"event_retention", "work_pools", "workers", "pool_workers", "deployments"}


@pytest.mark.parametrize(
    ("ui_url", "expected"),
    [
        ("http://flows.example.com", ["http://flows.example.com:4200", "http://flows.example.com:4300"]),
        ("http://127.0.0.1:4212", ["http://127.0.0.1:4212", "http://127.0.0.1:4300"]),
    ],
)
def test_browsers_address(ui_url: str, expected: list[str]) -> None:
    tenants = prefect_tenants([{"name": "a", "port": 4200}, {"name": "b", "port": 4300}], ui_url=ui_url)
    assert [tenant["ui_url"] for tenant in tenants] == expected


def test_a_tenants_own_address_wins() -> None:
    (tenant,) = prefect_tenants([{"name": "a", "ui_url": "https://flows.example.com/"}], ui_url="http://other")
    assert tenant["ui_url"] == "https://flows.example.com"


@pytest.mark.parametrize(
    ("tenants", "message"),
    [
        ([], "prefect_tenants: is not a list of at least one tenant"),
        ("prefect", "is not a list"),
        (["prefect"], r"prefect_tenants\[0\]: 'prefect' is not a mapping"),
        ([{"name": "a", "prot": 4200}], r"unknown keys prot. Allowed: name, port"),
        ([{"name": "Prefect"}], r"prefect_tenants\[0\].name: 'Prefect' cannot name a tenant"),
        ([{"name": "a" * 25}], "1 to 24 lower-case letters"),
        ([{"name": "a"}, {"name": "b"}], r"prefect_tenants\[1\].port: is missing"),
        ([{"name": "a", "port": 80}], r"port: 80 is not allowed. Give a whole number from 1024 to 65535"),
        ([{"name": "a", "port": "x"}], "'x' is not allowed"),
        ([{"name": "a", "port": True}], "True is not allowed"),
        ([{"name": "a", "schema": "public"}], "'public' cannot be a tenant's schema"),
        ([{"name": "a", "schema": "pg_x"}], "'pg_x' cannot be"),
        ([{"name": "a", "schema": ""}], "'' cannot be"),
        ([{"name": "a", "schema": "a/b"}], "'a/b' cannot be"),
        ([{"name": "a", "schema": "a=b"}], "'a=b' cannot be"),
        ([{"name": "a", "schema": "a\n"}], "cannot be"),
        ([{"name": "a", "schema": "ä" * 28}], "1 to 54 bytes"),
        ([{"name": "a", "event_retention": 7}], "7 is not a duration"),
        ([{"name": "a", "event_retention": "PT"}], "'PT' is not a duration"),
        ([{"name": "a", "work_pools": "default"}], "work_pools: is not a list"),
        ([{"name": "a", "work_pools": [{"type": "process"}]}], r"work_pools\[0\]: has no name"),
        ([{"name": "a", "work_pools": [{"name": "x y"}]}], "'x y' cannot be part of a unit's name"),
        ([{"name": "a", "work_pools": [{"name": "x", "workers": -1}]}], r"workers: -1 is not allowed"),
        ([{"name": "a", "port": 4200}, {"name": "b", "port": 4200}], "port 4200 is used twice"),
        ([{"name": "a", "port": 4200}, {"name": "a", "port": 4300}], "name a is used twice"),
        ([{"name": "a", "port": 4200}, {"name": "b", "port": 4300, "schema": "a"}], "schema a is used twice"),
    ],
)
def test_wrong_tenants_are_refused(tenants: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        prefect_tenants(tenants)


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
    assert [worker["health_port"] for worker in workers] == [8100, 8101, 8102]
    assert [tenant["workers"] for tenant in tenants] == [6, 3]
