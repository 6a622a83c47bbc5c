"""Proof of who listens on a port."""

from __future__ import annotations

import os
import socket

import pytest
from pgprefect.core.listeners import foreign_listener, is_local, listening_users
from pgprefect.core.users import user_number


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
)
def test_whose_process_listens(family: socket.AddressFamily, address: str) -> None:
    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        assert listening_users(port) == {os.getuid()}
        url = f"http://127.0.0.1:{port}/api"
        assert foreign_listener(url, os.getuid()) is None
        problem = foreign_listener(url, 54321)
        assert problem and problem.code == "port_taken" and "not of user 54321" in problem.message
        # What listens on another host is not to be seen from here.
        assert foreign_listener(f"http://192.0.2.1:{port}/api", 54321) is None
        # A proxy, which proves by its certificate who it is.
        assert foreign_listener(url.replace("http:", "https:"), 54321) is None
    assert listening_users(port) == set()


def test_addresses_of_this_host() -> None:
    assert is_local("http://127.0.0.1:4200/api") and is_local("http://localhost:4200") and is_local("http://[::1]:1")
    assert not is_local("http://192.0.2.1:4200/api") and not is_local("http://no-such-host.invalid:1")


def test_users() -> None:
    assert user_number("root") == 0 and user_number("no-such-user") is None
