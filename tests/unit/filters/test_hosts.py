"""Addresses by which hosts reach each other."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from filter_plugins.hosts import host_addresses, host_networks, local_address


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
