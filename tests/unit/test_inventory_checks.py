"""Mistakes in an inventory are found on the controller, all at once, each with its place and what to do."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from filter_plugins.tenants import prefect_tenants
from plugin_utils.inventory_checks.code import Flows, locked_modules
from plugin_utils.inventory_checks.groups import check_addresses, check_groups
from plugin_utils.inventory_checks.managed import check_managed
from plugin_utils.inventory_checks.members import check_members
from plugin_utils.inventory_checks.proxy import check_api_urls, check_encryption, check_proxy
from plugin_utils.inventory_checks.several_servers import check_connections, check_several_servers
from plugin_utils.inventory_checks.specification import read
from plugin_utils.inventory_checks.tenants import check_code, check_placement, check_ports, check_tenants
from plugin_utils.inventory_checks.values import check_value
from plugin_utils.inventory_checks.variables import PREFIXES, Definition, check_names
from tests.support.ansible import run_tasks
from tests.support.inventories import run
from tests.support.project import ROOT

SPECIFICATION = read(ROOT)
GROUPS = {"postgresql": ["a"], "prefect_server": ["b"], "prefect_worker": ["c"]}
CONTAINER = {"ansible_connection": "community.docker.docker"}


def names(*misspelt: str, others: tuple[str, ...] = ()) -> list[str]:
    return list(check_names([Definition(name, "s3cret", "group all") for name in misspelt], SPECIFICATION, others))


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("app_databse", "app_database"),
        ("prefect_tenant", "prefect_tenants"),
        ("prefect_retention_enable", "prefect_retention_enabled"),
        ("database_prt", "database_port"),
        ("backup_directry", "backup_directory"),
        ("postgresql_setings", "postgresql_settings"),
    ],
)
def test_a_misspelt_variable(misspelt: str, meant: str) -> None:
    assert names(misspelt) == [f"{misspelt} (group all): nothing reads this variable; did you mean {meant}?"]


def test_a_variable_that_is_near_no_other() -> None:
    (mistake,) = names("app_colour")
    assert "app_colour (group all): nothing reads this variable. Remove it, or list it in site_other_vari" in mistake
    assert names("app_colour", others=("app_colour",)) == []


def test_variables_of_others_and_of_roles_are_left_alone() -> None:
    assert names("nginx_port", "ansible_user", "__site_x", "postgresql_memory_mb", "prefect_backup_schedule") == []


@pytest.mark.parametrize(
    ("wired", "instead"),
    [
        ("postgresql_port", "Set database_port instead."),
        ("prefect_backup_directory", "Set backup_directory instead."),
        ("prefect_database_name", "Set app_database instead."),
        ("prefect_server_tenants", "prefect_tenants"),
        ("prefect_database_passwords", "prefect_secrets"),
        ("prefect_server_bind_address", "Set prefect_bind_address instead."),
        ("prefect_backup_role", "Remove it."),
    ],
)
def test_a_variable_that_the_wiring_sets(wired: str, instead: str) -> None:
    (mistake,) = names(wired)
    assert mistake.startswith(f"{wired} (group all): the playbooks set this variable. ")
    assert instead in mistake


def test_every_variable_begins_like_ours() -> None:
    others = {name.partition("_")[0] for name in SPECIFICATION.options if not name.startswith(PREFIXES)}
    # `common` takes its variables from other roles. The rest are words that belong to everybody.
    assert others <= {"common", "private", "site"}


def test_every_place_of_a_name_is_told_once() -> None:
    found = [Definition("app_databse", "", where) for where in ("group all", "host a", "--extra-vars")]
    (mistake,) = check_names(found, SPECIFICATION, ())
    assert mistake.startswith("app_databse (group all, host a, --extra-vars): ")


def test_every_variable_that_the_wiring_reads_is_declared() -> None:
    wiring = "".join(path.read_text() for path in (ROOT / "playbooks/group_vars/all").glob("*.yml"))
    read_there = set(re.findall(r"\b(?:app|database|backup|prefect)_[a-z_]+(?= *\| *default)", wiring))
    assert read_there
    assert read_there - set(SPECIFICATION.options) == set()


def test_defaults_are_the_wirings() -> None:
    wiring = "".join(path.read_text() for path in (ROOT / "playbooks/group_vars/all").glob("*.yml"))
    found = re.findall(r"\b([a-z_]+) \| default\('?([\w./-]+)'?\)", wiring)
    said = {name: str(spec["default"]) for name, spec in SPECIFICATION.site.items() if spec.get("default")}
    assert {name: value for name, value in found if name in said} == said


@pytest.mark.parametrize(
    ("module", "key", "own"),
    [
        (
            "prefect_work_pools",
            "work_pools",
            {
                "workers",
                "environment",
                "hosts",
                "memory_max",
                "cpu_weight",
                "limit",
                "libraries",
                "kubernetes.kubeconfig",
            },
        ),
        ("prefect_deployments", "deployments", {"environment"}),
    ],
)
def test_objects_have_the_keys_of_their_module(module: str, key: str, own: set[str]) -> None:
    def keys(options: dict[str, Any]) -> dict[str, Any]:
        return {name: keys(spec.get("options", spec.get("suboptions", {}))) for name, spec in options.items()}

    tree = ast.parse((ROOT / "library" / f"{module}.py").read_text())
    (text,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DOCUMENTATION"
    ]
    documented = yaml.safe_load(text)["options"]["pools" if key == "work_pools" else key]["suboptions"]
    declared = SPECIFICATION.site["prefect_tenants"]["options"][key]["options"]
    expected = keys(documented)
    for name in own:
        outer, _, last = name.rpartition(".")
        (expected[outer] if outer else expected)[last] = {}
    assert keys(declared) == expected


def test_groups_that_are_there() -> None:
    assert list(check_groups({"all": ["a"], "ungrouped": [], "web": ["w"], **GROUPS}, False)) == []
    assert list(check_groups({**GROUPS, "prefect_workers": ["c"]}, False)) == []
    assert list(check_groups({**GROUPS, "postgresql": []}, True)) == []
    assert list(check_groups({**GROUPS, "prefect_worker": []}, False)) == []


MANAGED = {"database_host": "db.example.org", "database_administrator": {"name": "a"}, "database_ca_file": "/ca.pem"}


@pytest.mark.parametrize(
    ("groups", "variables", "own", "beginnings"),
    [
        (GROUPS, {}, True, []),
        (GROUPS, MANAGED, False, ["database_administrator is for a server of others"]),
        ({**GROUPS, "postgresql": []}, MANAGED, False, []),
        ({**GROUPS, "postgresql": []}, MANAGED, True, ["The group postgresql is empty, and this playbook works on"]),
        (
            {**GROUPS, "postgresql": []},
            {"database_host": "db.example.org", "pgbackrest_enabled": "yes", "postgresql_audit": True},
            False,
            [
                "database_administrator is missing",
                "database_ca_file is missing",
                "postgresql_audit is true",
                "pgbackrest_enabled is true",
            ],
        ),
    ],
)
def test_a_server_of_others(
    groups: dict[str, list[str]], variables: dict[str, Any], own: bool, beginnings: list[str]
) -> None:
    mistakes = list(check_managed(groups, variables.get, own))
    assert len(mistakes) == len(beginnings)
    for mistake, beginning in zip(mistakes, beginnings, strict=True):
        assert mistake.startswith(beginning) and "docs/managed.md" in mistake


CLUSTER = {"postgresql_patroni": True, "site_tls": "private_ca"}


@pytest.mark.parametrize(
    ("hosts", "variables", "one", "own", "beginnings"),
    [
        ("a", {}, True, True, []),
        ("abc", CLUSTER, False, False, []),
        ("ab", {}, False, False, ["The group postgresql has 2 hosts (a, b), which would be databases"]),
        ("abcd", CLUSTER, False, False, ["The group postgresql has 4 hosts (a, b, c, d), and postgresql_patroni"]),
        ("a", CLUSTER, False, False, ["The group postgresql has 1 hosts (a), and postgresql_patroni"]),
        ("abc", {**CLUSTER, "site_tls": "files"}, False, False, ["postgresql_patroni is true, and the hosts"]),
        ("abc", CLUSTER, False, True, ["postgresql_patroni is true, and the hosts"]),
        ("abc", CLUSTER, True, False, ["The group postgresql has several hosts, and this playbook"]),
        ("abc", {**CLUSTER, "pgbackrest_enabled": True}, False, False, ["pgbackrest_enabled is true, and pgbackrest_"]),
        (
            "abc",
            {**CLUSTER, "pgbackrest_enabled": "yes", "pgbackrest_repository": {"type": "path"}},
            False,
            False,
            ["pgbackrest_enabled is true, and pgbackrest_repository does not say where"],
        ),
        *(
            ("abc", {**CLUSTER, "pgbackrest_enabled": True, "pgbackrest_repository": shared}, False, False, [])
            for shared in ({"path": "/srv/backups"}, {"type": "s3", "bucket": "backups"}, {"type": "sftp", "host": "b"})
        ),
        (["a", "b c", "d"], CLUSTER, False, False, ["The host b c of the group postgresql"]),
        (
            "abc",
            {
                **CLUSTER,
                "database_host": "db.example.org",
                "postgresql_audit": True,
                "postgresql_settings": {"Cluster_Name": "x", "work_mem": "1MB"},
            },
            False,
            False,
            ["database_host is", "postgresql_audit is", "postgresql_settings.cluster_name"],
        ),
    ],
)
def test_a_cluster_of_several_hosts(
    hosts: Sequence[str], variables: dict[str, Any], one: bool, own: bool, beginnings: list[str]
) -> None:
    assert_members(hosts, variables, one, own, beginnings, "docs/cluster.md")


def assert_members(
    hosts: Sequence[str], variables: dict[str, Any], one: bool, own: bool, beginnings: list[str], page: str
) -> None:
    mistakes = list(check_members({"postgresql": list(hosts)}, variables.get, one, own))
    assert len(mistakes) == len(beginnings), mistakes
    for mistake, beginning in zip(mistakes, beginnings, strict=True):
        assert mistake.startswith(beginning) and page in mistake


def test_the_playbooks_that_know_one_host_only() -> None:
    told = {path.name for path in (ROOT / "playbooks").glob("*.yml") if "site_one_postgresql: true" in path.read_text()}
    assert told == {"adopt_database.yml", "upgrade_postgresql.yml"}


STANDBY = {"postgresql_replica": True, "site_tls": "private_ca"}


@pytest.mark.parametrize(
    ("hosts", "variables", "one", "own", "beginnings"),
    [
        ("ab", STANDBY, False, False, []),
        ("ab", {}, False, False, ["The group postgresql has 2 hosts (a, b), which would be databases"]),
        (
            "ab",
            {**STANDBY, "postgresql_patroni": "yes"},
            False,
            False,
            ["postgresql_patroni and postgresql_replica are"],
        ),
        ("abc", STANDBY, False, False, ["The group postgresql has 3 hosts (a, b, c), and postgresql_replica"]),
        ("a", STANDBY, False, False, ["The group postgresql has 1 hosts (a), and postgresql_replica"]),
        (["a-1", "A_1"], STANDBY, False, False, ["The group postgresql has 2 hosts (a-1, A_1), whose names"]),
        (["a", "b" * 48], STANDBY, False, False, ["The host bbbb"]),
        ("ab", {"postgresql_replica": True}, False, False, ["postgresql_replica is true, and the hosts"]),
        ("ab", STANDBY, False, True, ["postgresql_replica is true, and the hosts"]),
        ("ab", STANDBY, True, False, ["The group postgresql has several hosts, and this playbook"]),
        (
            "ab",
            {**STANDBY, "pgbackrest_enabled": True, "postgresql_settings": {"primary_conninfo": "x"}},
            False,
            False,
            ["postgresql_settings.primary_conninfo", "pgbackrest_enabled is true, and postgresql_replica"],
        ),
    ],
)
def test_a_database_with_a_standby(
    hosts: Sequence[str], variables: dict[str, Any], one: bool, own: bool, beginnings: list[str]
) -> None:
    assert_members(hosts, variables, one, own, beginnings, "docs/standby.md")


def test_an_address_made_of_the_hosts_name() -> None:
    """Where one host has another one do something, Ansible would connect to the first one."""
    made = Definition("ansible_host", "{{ inventory_hostname }}.example.com", "group all")
    plain = Definition("ansible_host", "192.0.2.7", "host a")
    (mistake,) = check_addresses([made, plain], GROUPS)
    assert mistake.startswith("ansible_host (group all): it is {{ inventory_hostname }}.example.com, of which Ansible")
    alone = {name: ["a"] for name in GROUPS}
    assert list(check_addresses([made], alone)) == []


@pytest.mark.parametrize("name", GROUPS)
def test_a_missing_group(name: str) -> None:
    (mistake,) = check_groups({group: hosts for group, hosts in GROUPS.items() if group != name}, False)
    assert f"group {name}: it is missing in the inventory" in mistake
    assert "inventory/example/hosts.yml" in mistake


@pytest.mark.parametrize("misspelt", ["prefect_servers", "prefect_serve", "prefect-server"])
def test_a_misspelt_group(misspelt: str) -> None:
    groups = {"postgresql": ["a"], misspelt: ["b"], "prefect_worker": ["c"]}
    assert list(check_groups(groups, False)) == [
        f"group {misspelt}: b would be left out. The group's name is prefect_server."
    ]


def tenant(**keys: Any) -> list[str]:
    return list(check_value("prefect_tenants", [{"name": "prefect", **keys}], SPECIFICATION.site["prefect_tenants"]))


def test_keys_inside_tenants_are_told_with_their_path_and_without_a_value() -> None:
    deployment = {"name": "a", "flow": "a", "entrypoint": "a.py:a", "work_pool": "default"}
    mistakes = tenant(
        prot=4300,
        work_pools=[{"name": "default", "queues": [{"name": "urgent", "priorities": 1}]}],
        deployments=[deployment, {**deployment, "schedules": [{"slug": "x", "crn": "s3cret"}]}, {"work_pol": "s3cret"}],
    )
    assert mistakes[:4] == [
        "prefect_tenants[0].prot: unknown key; did you mean port?",
        "prefect_tenants[0].work_pools[0].queues[0].priorities: unknown key; did you mean priority?",
        "prefect_tenants[0].deployments[1].schedules[0].crn: unknown key; did you mean cron?",
        "prefect_tenants[0].deployments[2].work_pol: unknown key; did you mean work_pool?",
    ]
    assert "prefect_tenants[0].deployments[2].flow: it is missing" in mistakes[5]
    assert "s3cret" not in str(mistakes)


def test_a_value_of_another_form() -> None:
    assert "prefect_tenants[0].deployments is 'x', but it must be a list" in tenant(deployments="x")[0]
    assert "must be a mapping of name, flow" in tenant(deployments=["x"])[0]
    assert "prefect_tenants[0].deployments is null" in tenant(deployments=None)[0]


def test_what_does_not_fit_together(tmp_path: Path) -> None:
    (tmp_path / "collect.py").write_text("from prefect import flow\n@flow\ndef collect(): ...\n")
    daily = {"name": "daily", "flow": "collect", "entrypoint": "collect.py:collect", "work_pool": "default"}
    pools = [{"name": "default", "workers": 1, "queues": [{"name": "urgent"}]}]
    one = {"port": 4200, "schema": "prefect"}

    def check(**keys: Any) -> list[str]:
        tenants = [{**one, "work_pools": pools, "deployments": [{**daily, **keys}]}]
        return [*check_tenants(tenants), *check_code(tenants, lambda _libraries: Flows(tmp_path, {"prefect"}))]

    path = "prefect_tenants[0].deployments[0]"
    assert check(work_queue="urgent", schedules=[{"slug": "close", "cron": "30 22 * * 1-5"}]) == []
    assert check(work_pool="lost")[0].startswith(f"{path}.work_pool: the tenant's work_pools have no lost/default")
    assert check(work_queue="lost")[0].startswith(f"{path}.work_queue: the tenant's work_pools have no default/lost")
    when = f"{path}.schedules[0]: it needs exactly one of cron, interval, rrule"
    assert check(schedules=[{"slug": "never"}]) == [when]
    assert check(schedules=[{"slug": "both", "cron": "* * * * *", "interval": 60}]) == [when]
    (lost,) = check(entrypoint="colect.py:collect")
    assert lost.startswith(f"{path}.entrypoint: colect.py:collect: colect.py is not in the folder of the flows")
    assert lost.endswith("; did you mean collect.py?")
    # Nothing is said of what is in a repository.
    assert check(entrypoint="colect.py:collect", source={"git": "https://git.example.com/x.git", "ref": "main"}) == []


TOGETHER = [
    ([{"name": "a"}, {"name": "b"}], "prefect_tenants[1].port is 4200, as prefect_tenants[0] has it"),
    ([{"name": "a"}, {"name": "b", "port": "4200"}], "prefect_tenants[1].port is 4200, as prefect_tenants[0] has it"),
    ([{"name": "a", "schema": "b"}, {"name": "b", "port": 4300}], "prefect_tenants[1].schema is 'b', as"),
    ([{"name": "a", "work_pools": [{"name": "x y"}]}], "prefect_tenants[0].work_pools[0].name is 'x y', which cannot"),
    ([{"name": "a", "work_pools": [{"name": "x y", "workers": 0}]}], ""),
    ([{"name": "a"}, {"name": "b", "port": 4300}], ""),
]


@pytest.mark.parametrize(("tenants", "fault"), TOGETHER)
def test_tenants_that_do_not_fit_together(tenants: list[dict[str, Any]], fault: str) -> None:
    faults = list(check_tenants(prefect_tenants(tenants)))
    assert (len(faults) == 1 and faults[0].startswith(fault)) if fault else faults == []


PLACES = [
    ("gpu", ""),
    ("prefect_worker", ""),
    ("gpus", "gpus', but the inventory has no such group; did you mean gpu?"),
    (
        "elsewhere",
        "elsewhere', but the inventory has no such group: add the group with its hosts, or name another one.",
    ),
    ("none", "none', but that group has no hosts: add some, or name another one."),
    ("mixed", "mixed', but b of it is not in prefect_worker: add it there, or name another group."),
]


@pytest.mark.parametrize(("group", "fault"), PLACES)
def test_a_pool_on_a_group_whose_hosts_run_no_workers(group: str, fault: str) -> None:
    tenants = prefect_tenants([{"name": "a", "work_pools": [{"name": "default"}, {"name": "x", "hosts": group}]}])
    faults = list(check_placement(tenants, {**GROUPS, "gpu": ["c"], "none": [], "mixed": ["c", "b"]}))
    start = f"prefect_tenants[0].work_pools[1].hosts is '{fault}"
    assert (len(faults) == 1 and faults[0].startswith(start)) if fault else faults == []


APART = {"prefect_server": ["server"], "prefect_worker": ["server", "one", "two"]}
PROXIED = {**APART, "prefect_proxy": ["server"]}


def test_workers_on_other_hosts_send_no_password_in_clear() -> None:
    tenants = [{"name": "a", "api_url": "https://a.example.com/api"}, {"name": "b"}]
    (mistake,) = check_encryption(tenants, APART, plain_http=False)
    assert mistake.startswith("prefect_tenants: workers on one, two would send the password of the API of b over plain")
    assert all(way in mistake for way in ("group prefect_proxy", "api_url", "prefect_allow_plain_http"))
    assert list(check_encryption(tenants, APART, plain_http=True)) == []
    assert list(check_encryption(tenants[:1], APART, plain_http=False)) == []
    assert list(check_encryption(tenants, {**APART, "prefect_worker": ["server"]}, plain_http=False)) == []
    assert list(check_encryption(tenants, PROXIED, plain_http=False)) == []
    (own,) = check_api_urls(tenants, PROXIED)
    assert own.startswith("prefect_tenants[0].api_url: the group prefect_proxy has hosts")
    assert list(check_api_urls(tenants, APART)) == []


BEHIND = [
    ("", {}, ""),
    ("https://flows.example.com:8443", {}, ""),
    ("", {"ui_url": "https://b.example.com"}, ""),
    (
        "http://flows.example.com",
        {},
        "prefect_tenants[0]: its address behind the proxy is http://flows.example.com:4200",
    ),
    ("https://flows.example.com/prefect", {}, "prefect_tenants[0]: its address behind the proxy is https://flows.exam"),
    ("", {"ui_url": "https://server"}, "prefect_tenants[1]: its address behind the proxy is https://server, but that"),
    ("", {"ui_url": "https://b:5432"}, "prefect_tenants[1]: its address behind the proxy is https://b:5432, but Postg"),
    (
        "",
        {"ui_url": ""},
        "prefect_tenants[1]: its address behind the proxy is https://server:4300, but the API of b has",
    ),
]


@pytest.mark.parametrize(("site", "second", "fault"), BEHIND)
def test_each_tenant_has_an_address_of_its_own_behind_the_proxy(site: str, second: dict[str, str], fault: str) -> None:
    second = {"ui_url": "https://b.example.com", **second}
    tenants = prefect_tenants([{"name": "a"}, {"name": "b", "port": 4300, **second}], ui_url=site, proxy="server")
    faults = list(check_proxy(tenants, PROXIED, True, {5432: "PostgreSQL"}))
    assert (len(faults) == 1 and faults[0].startswith(fault)) if fault else faults == []


def test_a_proxy_stands_on_a_servers_host_and_has_a_certificate() -> None:
    elsewhere, missing = check_proxy(
        prefect_tenants([{"name": "a"}], proxy="x"), {**APART, "prefect_proxy": ["x"]}, False, {}
    )
    assert elsewhere.startswith("group prefect_proxy: x runs no server, and what goes there from a server's host is")
    assert missing.startswith("prefect_proxy_certificate is missing")
    assert list(check_proxy([], APART, False, {})) == []


BOTH = {"prefect_server": ["one", "two"], "prefect_worker": ["one", "two"]}
SHARED = {**BOTH, "prefect_proxy": ["one", "two"], "redis": ["three"]}
SEVERAL: list[tuple[dict[str, list[str]], int, bool, bool, str]] = [
    (SHARED, 2, True, True, ""),
    ({**SHARED, "prefect_proxy": []}, 1, True, False, ""),
    ({"prefect_server": ["one"], "redis": ["one"]}, 4, False, False, ""),
    ({"prefect_server": ["one"]}, 1, False, False, ""),
    ({**SHARED, "prefect_services": ["two"]}, 1, True, True, ""),
    (BOTH, 1, True, True, "group prefect_server: one, two would each run every tenant's server"),
    ({"prefect_server": ["one"]}, 2, True, True, "prefect_server_processes is 2, but processes share what they know"),
    (
        {"prefect_server": ["one"], "prefect_services": ["one"]},
        1,
        True,
        True,
        "group prefect_services: one would run the background services a second time",
    ),
    ({**SHARED, "redis": ["three", "four"]}, 1, True, True, "group redis: it has three, four, but a tenant has one"),
    (
        {**SHARED, "prefect_services": ["three"]},
        1,
        True,
        True,
        "group prefect_services: three is not in prefect_server",
    ),
    ({**SHARED, "prefect_services": []}, 1, True, True, "group prefect_services: it is empty"),
    (SHARED, 1, False, True, "site_tls is not private_ca, but Redis on three and one, two prove"),
    ({**SHARED, "prefect_proxy": ["one"]}, 1, True, True, "group prefect_proxy: two of prefect_server is not in it"),
    (SHARED, 1, True, False, "prefect_ui_url is missing: with several proxies"),
]


@pytest.mark.parametrize(("groups", "processes", "authority", "named", "fault"), SEVERAL)
def test_several_processes_of_a_server_share_what_they_know(
    groups: dict[str, list[str]], processes: int, authority: bool, named: bool, fault: str
) -> None:
    faults = list(check_several_servers(groups, processes, authority=authority, named=named))
    assert (len(faults) == 1 and faults[0].startswith(fault)) if fault else faults == []


def test_a_servers_role_may_open_what_its_processes_do() -> None:
    tenants = prefect_tenants([{"name": "a"}, {"name": "b", "port": 4300}])
    assert list(check_connections(tenants, {"a_server": 66}, processes=3, pool=20)) == []
    (fault,) = check_connections(tenants, {"b_server": 65, "other": 1}, processes=3, pool=20)
    assert fault.startswith("prefect_database_connection_limits.b_server is 65, but its 3 processes open up to 66,")


def test_a_tenants_port_is_not_one_that_another_ones_redis_or_proxies_have() -> None:
    tenants = prefect_tenants([{"name": "a"}, {"name": "b", "port": 5200}, {"name": "c", "port": 6400}])
    assert list(check_ports(tenants, 5432, (), BOTH)) == []
    by_proxies, by_redis = check_ports(tenants, 5432, (), {**SHARED, "redis": ["one"]})
    assert by_proxies.startswith(
        "prefect_tenants[1].port is 5200, which another host's proxy, for the API of the tenant a"
    )
    assert by_redis == "prefect_tenants[2].port is 6400, which Redis of the tenant a has: choose another port."


FLOW = """
from os import path
import yaml, pandas.io
from etl.common import helpers
from .near import thing
import sibling
from prefect import flow
try:
    import optional_one
except ImportError:
    optional_one = None
if path.sep == "x":
    import never
@flow
def etl_daily() -> None:
    import late
@flow(name="Another one")
def named() -> None: ...
@flow(name=json.dumps("x"))
def computed() -> None: ...
def plain() -> None: ...
made = flow(plain)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder of flows with a package; a module of it is missing in every lock."""
    files = {
        "etl/daily.py": FLOW,
        "etl/near.py": "thing = 1\n",
        "etl/sibling.py": "",
        "etl/common/helpers.py": "import numpy, lost_one\n",
        "broken.py": "def (\n",
        "old.py": "print 1\n",
    }
    for name, text in files.items():
        (tmp_path / "flows" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flows" / name).write_text(text)
    (tmp_path / "outside.py").write_text("def x(): ...\n")
    (tmp_path / "flows/link.py").symlink_to(tmp_path / "outside.py")
    return tmp_path / "flows"


@pytest.mark.parametrize(
    ("entrypoint", "flow", "fault"),
    [
        ("etl/daily.py:etl_daily", "etl-daily", ""),
        ("etl/daily.py:named", "Another one", ""),
        ("etl/daily.py:computed", "whatever", ""),
        ("etl/daily.py:made", "plain", ""),
        ("etl/daily.py:etl_daily", "daily", ".flow is 'daily', but etl/daily.py:etl_daily is the flow 'etl-daily'"),
        ("etl/daily.py:plain", "plain", "plain has no decorator @flow in daily.py"),
        ("etl/daily.py:etl_dayly", "x", "daily.py has no function etl_dayly; did you mean etl_daily?"),
        ("link.py:x", "x", "leads through a link"),
        ("lost.py:x", "x", "lost.py is not in the folder of the flows"),
        ("broken.py:x", "x", "broken.py, line 1 cannot be read as Python"),
        ("old.py:x", "x", "old.py, line 1 cannot be read as Python"),
    ],
)
def test_the_code_of_a_deployment(code: Path, entrypoint: str, flow: str, fault: str) -> None:
    flows = Flows(code, {"prefect", "yaml", "pandas", "numpy", "lost_one"})
    faults = list(flows.faults("here", {"entrypoint": entrypoint, "flow": flow}))
    assert (fault in faults[0] and len(faults) == 1) if fault else faults == []


def test_imports_that_no_lock_has(code: Path) -> None:
    faults = list(
        Flows(code, {"prefect"}).faults("here", {"entrypoint": "etl/daily.py:etl_daily", "flow": "etl-daily"})
    )
    assert [re.findall(r": (\S+ imports \S+),", fault) for fault in faults] == [
        [f"etl/daily.py imports {name}"] for name in ("yaml", "pandas")
    ] + [[f"etl/common/helpers.py imports {name}"] for name in ("numpy", "lost_one")]
    assert "requirements/flows.in" in faults[0] and "prefect_flows_modules" in faults[0]


def test_the_names_by_which_packages_are_imported() -> None:
    modules = locked_modules(ROOT / f"requirements/{kind}-3.9.1.txt" for kind in ("prefect", "flows"))
    assert {
        "prefect",
        "yaml",
        "dateutil",
        "pydantic",
        "pandas",
        "yfinance",
        "bs4",
        "google",
        "pydantic_core",
    } <= modules
    assert "not_there" not in modules


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "flows").glob("*.py")))
def test_the_example_flows_have_no_fault(file: str) -> None:
    locks = [ROOT / f"requirements/{kind}-3.9.1.txt" for kind in ("prefect", "flows")]
    name = file.removesuffix(".py")
    found = list(
        Flows(ROOT / "flows", locked_modules(locks)).faults(
            "here", {"entrypoint": f"{file}:{name}", "flow": name.replace("_", "-")}
        )
    )
    assert found == [] or name == "trading"  # which is no flow


def test_an_inventory_whose_workers_are_apart(tmp_path: Path) -> None:
    hosts: dict[str, Any] = {
        group: {"hosts": {host: {} for host in names}} for group, names in {**APART, "postgresql": ["one"]}.items()
    }
    status, said = run(tmp_path, hosts)
    assert status != 0 and "workers on one, two would send the password of the API of prefect over plain HTTP" in said
    assert run(tmp_path, hosts, "--extra-vars", "prefect_allow_plain_http=true")[0] == 0
    proxied = {**hosts, "prefect_proxy": {"hosts": {"server": {}}}}
    status, said = run(tmp_path, proxied)
    assert status != 0 and "prefect_proxy_certificate is missing" in said and "plain HTTP" not in said
    status, said = run(tmp_path, proxied, "--extra-vars", "prefect_proxy_certificate=/etc/ssl/private/proxy.pem")
    assert status == 0, said


def site(**variables: Any) -> dict[str, Any]:
    return {group: {"hosts": {"somewhere": variables}} for group in GROUPS}


def test_an_inventory_with_mistakes_in_every_place(tmp_path: Path) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/site.yml").write_text(
        'app_databse: s3cret\nprefect_tenants: \'{{ [{"name": shared, "prot": 1}] }}\'\nshared: prefect\n'
    )
    (tmp_path / "group_vars/prefect_server.yml").write_text("prefect_server_tenants: x\n")
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/somewhere.yml").write_text("prefect_monitoring_thresholds: {latncy_ms: {warning: 1}}\n")
    status, said = run(
        tmp_path, site(backup_directry="x"), "--extra-vars", "prefect_tenant=s3cret", "--limit", "somewhere"
    )
    assert status != 0
    assert "The inventory has 6 mistakes; nothing was changed." in said
    for mistake in (
        "app_databse (group all)",
        "backup_directry (host somewhere)",
        "prefect_server_tenants (group prefect_server): the playbooks set this variable. Set prefect_tenants",
        "prefect_tenant (--extra-vars)",
        "prefect_tenants[0].prot: unknown key",
        "prefect_monitoring_thresholds.latncy_ms: unknown key; did you mean latency_ms?",
    ):
        assert mistake in said, said
    assert "s3cret" not in said


@pytest.mark.parametrize(("megabytes", "fault"), [(8192, ""), (20, "postgresql_memory_mb is 10, but it must be")])
def test_a_value_that_follows_from_a_hosts_facts(tmp_path: Path, megabytes: int, fault: str) -> None:
    half = {"postgresql_memory_mb": "{{ ansible_facts['memtotal_mb'] // 2 }}"}
    assert run(tmp_path, site(**half))[0] == 0
    facts = {"ansible.builtin.set_fact": {"ansible_facts": {"memtotal_mb": megabytes}}}
    done = run_tasks(tmp_path, half, facts, {"check_inventory": {"later": ["postgresql_memory_mb"]}})
    assert (done.returncode != 0) == bool(fault) and fault in " ".join(done.stdout.split()), done.stdout


@pytest.mark.parametrize("name", ["box", "example", "localhost"])
def test_the_shipped_inventories_have_no_mistake(name: str, tmp_path: Path) -> None:
    status, said = run(tmp_path, {}, "--inventory", f"inventory/{name}", default=True)
    assert status == 0, said


def test_variables_of_a_playbook_that_imports_ours(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    ours = str(ROOT / "playbooks/check_inventory.yml")
    mine.write_text(
        json.dumps([{"ansible.builtin.import_playbook": ours, "vars": {"backup_directory": "/etc", "app_login": "a"}}])
    )
    status, said = run(tmp_path, site(), playbook=str(mine))
    assert status != 0 and "backup_directory is '/etc'" in said and "app_login" not in said, said


def test_a_certificate_on_the_host_needs_its_authority_on_the_others(tmp_path: Path) -> None:
    own = {"site_tls": "private_ca", "postgresql_tls_certificate": "/etc/ssl/db.pem"}
    assert "database_ca_file does not name the authority of that certificate" in run(tmp_path, site(**own))[1]
    assert run(tmp_path, site(**own, database_ca_file="/etc/ssl/ca.pem"))[0] == 0


def test_a_variable_that_stands_twice_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text("app_database: shop\napp_login: a\napp_database: store\n")
    status, said = run(tmp_path, site())
    assert status != 0 and "duplicate mapping key 'app_database'" in said, said


def test_a_value_that_another_one_replaces_need_not_fit(tmp_path: Path) -> None:
    lost = {"name": "a", "flow": "a", "entrypoint": "lost.py:a", "work_pool": "default"}
    hosts = site(prefect_tenants=[{"name": "prefect", "deployments": [lost]}])
    assert "lost.py is not in the folder of the flows" in run(tmp_path, hosts)[1]
    status, said = run(tmp_path, hosts, "--extra-vars", '{"prefect_tenants": [{"name": "prefect"}]}')
    assert status == 0, said


def checked_playbooks() -> Iterator[Any]:
    """Yield the playbooks that check the inventory otherwise than by check_inventory.yml; few for each run of CI."""
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        if yaml.safe_load(path.read_text())[0].get("ansible.builtin.import_playbook") != "check_inventory.yml":
            marks = () if path.stem in ("database", "server", "workers") else pytest.mark.thorough
            yield pytest.param(path.name, marks=marks)


@pytest.mark.parametrize("name", [*checked_playbooks()])
def test_each_playbook_refuses_bad_input_before_it_changes_anything(tmp_path: Path, name: str) -> None:
    """Alone, too, and not only after the preflight of site.yml. In check mode: this machine is the host.

    The defaults of its roles are no input.
    """
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    groups = site(**host, site_tls="private_ca", prefect_worker_drain_seconds=-1)
    status, said = run(tmp_path, groups, "--check", playbook=f"playbooks/{name}")
    assert status != 0 and "changed=0" in said, said
    assert "has a mistake" in said and "prefect_worker_drain_seconds is -1, but it must be" in said, said


def test_an_environment_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "croniter.py").write_text("raise ModuleNotFoundError(\"No module named 'croniter'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    status, said = run(tmp_path, site())
    assert status != 0 and "No module named 'croniter'" in said and "Renew .venv by box/controller" in said


def test_an_inventory_without_hosts(tmp_path: Path) -> None:
    status, said = run(tmp_path, {})
    assert status != 0
    assert "group postgresql: it is missing in the inventory" in said


def test_a_playbook_that_deletes_wants_the_inventory_named(tmp_path: Path) -> None:
    explicit = ("--extra-vars", "site_explicit_inventory=true")
    status, said = run(tmp_path, site(), *explicit, default=True)
    assert status != 0
    assert f"deletes or replaces data on somewhere, and no inventory was named: {tmp_path}" in said
    assert run(tmp_path, site(), *explicit)[0] == 0
    assert run(tmp_path, site(**CONTAINER), *explicit, default=True)[0] == 0


@pytest.mark.parametrize("path", sorted((ROOT / "playbooks").glob("*.yml")), ids=lambda path: str(path.stem))
def test_which_playbooks_want_it(path: Path) -> None:
    deletes = path.stem in (
        "adopt_database",
        "clean_up_runs",
        "failover",
        "import_sqlite",
        "members",
        "recover_runs",
        "rejoin",
        "restore_backup",
        "restore_cluster",
        "restore_table",
        "retire",
        "roll_back_prefect",
        "switchover",
        "upgrade_postgresql",
        "upgrade_prefect",
    )
    first = yaml.safe_load(path.read_text())[0]
    assert first.get("vars", {}).get("site_explicit_inventory", False) is deletes
    if deletes:
        assert first["ansible.builtin.import_playbook"] == "check_inventory.yml"
