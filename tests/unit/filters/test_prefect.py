"""The filters: defaults filled in, and every wrong input refused by name."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_plugins.access import hba_lines, hba_rules, networks
from filter_plugins.hosts import host_addresses, host_networks, local_address
from filter_plugins.jobs import enabled_jobs
from filter_plugins.roles import role_defaults
from filter_plugins.secrets import api_passwords, api_secrets, secrets_of
from filter_plugins.tenants import prefect_tenants, prefect_workers
from filter_plugins.text import created_tables, env_quote, pgpass_lines, search_path
from tests.support.project import ROOT


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
        ([{"name": "Prefect"}], r"prefect_tenants\[0\].name: 'Prefect' can not name a tenant"),
        ([{"name": "a" * 25}], "1 to 24 lower-case letters"),
        ([{"name": "a"}, {"name": "b"}], r"prefect_tenants\[1\].port: is missing"),
        ([{"name": "a", "port": 80}], r"port: 80 is not allowed. Give a whole number from 1024 to 65535"),
        ([{"name": "a", "port": "x"}], "'x' is not allowed"),
        ([{"name": "a", "port": True}], "True is not allowed"),
        ([{"name": "a", "schema": "public"}], "'public' can not be a tenant's schema"),
        ([{"name": "a", "schema": "pg_x"}], "'pg_x' can not be"),
        ([{"name": "a", "schema": ""}], "'' can not be"),
        ([{"name": "a", "schema": "a/b"}], "'a/b' can not be"),
        ([{"name": "a", "schema": "a=b"}], "'a=b' can not be"),
        ([{"name": "a", "schema": "a\n"}], "can not be"),
        ([{"name": "a", "schema": "ä" * 28}], "1 to 54 bytes"),
        ([{"name": "a", "event_retention": 7}], "7 is not a duration"),
        ([{"name": "a", "event_retention": "PT"}], "'PT' is not a duration"),
        ([{"name": "a", "work_pools": "default"}], "work_pools: is not a list"),
        ([{"name": "a", "work_pools": [{"type": "process"}]}], r"work_pools\[0\]: has no name"),
        ([{"name": "a", "work_pools": [{"name": "x y"}]}], "'x y' can not be part of a unit's name"),
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


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from("\"'$`\\ #%!"), max_size=20), max_size=20
    )
)
def test_a_shell_reads_back_what_was_quoted(values: list[str]) -> None:
    script = "".join(f"x={env_quote(value)}\nprintf '%s\\0' \"$x\"\n" for value in values)
    output = subprocess.run(["sh"], input=script.encode(), check=True, capture_output=True).stdout
    assert output.decode().split("\0")[:-1] == values


def test_a_line_break_can_not_add_a_variable() -> None:
    with pytest.raises(AnsibleFilterError, match="line break"):
        env_quote("a\nLD_PRELOAD=x")


def test_search_path_quotes_only_what_needs_it() -> None:
    assert search_path(["prefect", "extensions"]) == "prefect, extensions"
    assert search_path(["Research-2", 'a"b']) == '"Research-2", "a""b"'


def test_addresses() -> None:
    hostvars = {"a": {"ansible_host": "192.0.2.1"}, "b": {"ansible_host": "x", "private_address": "10.0.0.2"}, "c": {}}
    assert host_addresses(["a", "b", "c"], hostvars) == ["192.0.2.1", "10.0.0.2", "c"]
    assert host_networks(["192.0.2.1", "2001:db8::1"]) == ["192.0.2.1/32", "2001:db8::1/128"]
    with pytest.raises(AnsibleFilterError, match="set private_address or ansible_host"):
        host_networks(["c"])


def test_networks_of_a_user() -> None:
    assert networks(["192.0.2.64/28", "192.0.2.1", "2001:db8::/48"], "app_networks") == [
        "192.0.2.64/28",
        "192.0.2.1/32",
        "2001:db8::/48",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["::1", "10.0.0.1/8 trust"], r"app_networks\[1\]: '10.0.0.1/8 trust'"),
        (["10.0.0.1/8"], r"app_networks\[0\]: 10.0.0.1/8 has host bits set"),
        (["10.0.0.0/33"], "'10.0.0.0/33' does not appear"),
        (["all"], "'all' does not appear"),
        (["10.0.0.0/8\nhost all all all trust"], "does not appear"),
        ([8], "'8' does not appear"),
        ("10.0.0.0/8", "app_networks: '10.0.0.0/8' is not a list"),
    ],
)
def test_networks_that_would_break_the_access_rules(value: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        networks(value, "app_networks")


RULE = {"type": "host", "databases": ["trading"], "users": ["app", 'a "b"'], "address": "192.0.2.0/24"}


def test_access_rules() -> None:
    local = {"type": "local", "databases": ["trading"], "users": ["backup"], "method": "peer"}
    assert hba_lines([local, RULE]) == [
        'local "trading" "backup" peer',
        'host "trading" "app","a ""b""" 192.0.2.0/24 scram-sha-256',
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"address": "192.0.2.0/24 trust"}, r"postgresql_hba_rules\[0\].address: '192.0.2.0/24 trust'"),
        ({"address": None}, r"postgresql_hba_rules\[0\].address"),
        ({"users": ["app\nlocal all all trust"]}, r"postgresql_hba_rules\[0\].users"),
        ({"databases": [""]}, r"postgresql_hba_rules\[0\].databases"),
    ],
)
def test_access_rules_that_postgresql_could_not_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        hba_lines([{**RULE, **change}])


def test_access_rules_follow_a_table_of_logins() -> None:
    table = [
        {"roles": ["backup"]},
        {"roles": ["app", "server"], "networks": ["127.0.0.1/32", "::1/128"]},
        {"roles": ["server"], "networks": ["192.0.2.20/32", "192.0.2.20/32"]},
        {"roles": ["app"], "networks": []},
    ]
    both, database = {"users": ["app", "server"], "databases": ["a b"]}, {"databases": ["a b"]}
    assert hba_rules(table, "a b") == [
        {"type": "local", **database, "users": ["backup"], "method": "peer"},
        {"type": "host", **both, "address": "127.0.0.1/32"},
        {"type": "host", **both, "address": "::1/128"},
        {"type": "hostssl", **database, "users": ["server"], "address": "192.0.2.20/32"},
    ]


@pytest.mark.parametrize(
    ("listening", "local"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.20", "192.0.2.20")]
)
def test_a_host_reaches_its_own_service(listening: str, local: str) -> None:
    assert local_address(listening) == local


def test_jobs_of_the_rows_that_are_enabled() -> None:
    table = [
        {"names": ["backup", "drill"], "schedule": "/etc/cron.d/a", "folder": "/var/lib/b", "enabled": True},
        {"names": ["pitr"], "schedule": "/etc/cron.d/c", "folder": "/var/lib/d", "enabled": False},
        {"names": ["cleanup"], "schedule": "/etc/cron.d/e", "tenants": ["x", "y"], "enabled": True},
        {"names": ["cleanup"], "schedule": "/etc/cron.d/e", "tenants": [], "enabled": True},
    ]
    assert enabled_jobs(table) == [
        {"name": "backup", "schedule": "/etc/cron.d/a", "folder": "/var/lib/b"},
        {"name": "drill", "schedule": "/etc/cron.d/a", "folder": "/var/lib/b"},
        {"tenant": "x", "name": "cleanup", "schedule": "/etc/cron.d/e"},
        {"tenant": "y", "name": "cleanup", "schedule": "/etc/cron.d/e"},
    ]


def test_secrets_go_to_those_that_they_are_for() -> None:
    secrets = {"app": "1", "prefect_api": "2", "research_api": "3"}
    tenants = [{"name": "prefect"}, {"name": "research"}]
    assert api_secrets(tenants) == ["prefect_api", "research_api"]
    assert api_passwords(secrets, tenants) == {"prefect": "2", "research": "3"}
    assert secrets_of(secrets, ["app"]) == {"app": "1"} and secrets_of(secrets, []) == {}


def test_a_password_file_is_quoted() -> None:
    assert pgpass_lines({"b": "p:a\\ss", "a:c": "x"}) == "*:*:*:a\\:c:x\n*:*:*:b:p\\:a\\\\ss\n"


def test_tables_of_a_script() -> None:
    script = (
        "CREATE TABLE IF NOT EXISTS one (\n);\n-- CREATE TABLE IF NOT EXISTS no (\nCREATE TABLE IF NOT EXISTS two ("
    )
    assert created_tables(script) == ["one", "two"]


def test_defaults_of_the_roles() -> None:
    defaults = role_defaults(str(ROOT / "roles"))
    assert defaults["prefect_backup_kinds"] == ["full"] and defaults["pgbackrest_enabled"] is False
    wiring = "".join(path.read_text() for path in (ROOT / "playbooks/group_vars/all").glob("*.yml"))
    read = set(re.findall(r"__site_defaults\.(\w+)", wiring))
    # A template in a default would reach the roles as text.
    assert read and not [name for name in read if "{{" in str(defaults[name])]
