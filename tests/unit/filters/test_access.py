"""PostgreSQL's access rules."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.access import hba_lines, hba_rules, ident_lines, networks


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


def test_words_that_postgresql_knows_stay_unquoted() -> None:
    rule = {"type": "local", "databases": ["all", "replication"], "users": ["all"], "method": "peer"}
    assert hba_lines([rule]) == ["local all,replication all peer"]


TABLE = [
    {"roles": ["backup"], "system_users": ["root", "backup"]},
    {"roles": ["app", "server"], "networks": ["127.0.0.1/32", "::1/128"]},
    {"roles": ["server"], "networks": ["192.0.2.20/32", "192.0.2.20/32"]},
    {"roles": ["app"], "networks": []},
]


def test_access_rules_follow_a_table_of_logins() -> None:
    both, database = {"users": ["app", "server"], "databases": ["a b"]}, {"databases": ["a b"]}
    assert hba_rules(TABLE, "a b") == [
        {"type": "local", "databases": ["all"], "users": ["backup"], "method": "peer map=pgprefect"},
        {"type": "host", **both, "address": "127.0.0.1/32"},
        {"type": "host", **both, "address": "::1/128"},
        {"type": "hostssl", **database, "users": ["server"], "address": "192.0.2.20/32"},
    ]


def test_names_that_would_mean_everybody() -> None:
    with pytest.raises(AnsibleFilterError, match="app_database: 'all'"):
        hba_rules(TABLE, "all")
    with pytest.raises(AnsibleFilterError, match="app_login: 'all'"):
        hba_rules([{"roles": ["all"], "system_users": ["root"]}], "a b")


def test_system_users_take_on_roles_by_the_same_table() -> None:
    assert ident_lines(TABLE) == ['pgprefect "root" "backup"', 'pgprefect "backup" "backup"']
    with pytest.raises(AnsibleFilterError, match="cannot be a name there"):
        ident_lines([{"roles": ["app\npgprefect nobody postgres"], "system_users": ["root"]}])


def test_the_rules_of_a_clusters_members() -> None:
    member = {"roles": ["replicator"], "databases": ["replication"], "networks": ["10.0.0.1/32", "127.0.0.1/32"]}
    assert hba_lines(hba_rules([member], "mltrading")) == [
        'hostssl replication "replicator" 10.0.0.1/32 scram-sha-256',
        'host replication "replicator" 127.0.0.1/32 scram-sha-256',
    ]
