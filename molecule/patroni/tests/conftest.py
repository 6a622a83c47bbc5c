"""The hosts of the scenario: three of one database, and one of the server and the workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml
from testinfra.host import Host

from tests.support.patroni import switch_over
from tests.support.scenario import SCENARIO, host_of
from tests.support.writes import taking_writes

MEMBERS = ("db1", "db2", "db3")


@pytest.fixture(scope="session")
def members() -> dict[str, Host]:
    return {name: host_of(name) for name in MEMBERS}


@pytest.fixture(scope="session")
def host() -> Host:
    """Where commands of the pages are typed: the one that is a member in all tests."""
    return host_of("db1")


@pytest.fixture(scope="session")
def app() -> Host:
    return host_of("app")


@pytest.fixture(scope="session")
def primaries(members: dict[str, Host]) -> Callable[[], list[str]]:
    return partial(taking_writes, members)


@pytest.fixture
def primary(members: dict[str, Host], primaries: Callable[[], list[str]]) -> str:
    """The primary, which is not the first host of the group."""
    (found,) = primaries()
    return found if found != MEMBERS[0] else switch_over(members, found)


@pytest.fixture
def inventory_of(tmp_path: Path) -> Callable[..., str]:
    """The scenario's inventory with other members of the cluster, and with a host that cannot be reached."""

    def make(names: Sequence[str], unreachable: str = "") -> str:
        folder = tmp_path / "-".join(names)
        shutil.copytree(SCENARIO / "inventory", folder, ignore=lambda *_: [".secrets"])
        (folder / ".secrets").symlink_to(SCENARIO / "inventory/.secrets")
        inventory = yaml.safe_load((folder / "hosts.yml").read_text())["all"]
        inventory["children"]["postgresql"]["hosts"] = dict.fromkeys(names)
        if unreachable:
            lost = inventory["hosts"][unreachable]
            lost |= {"ansible_connection": "ssh", "ansible_host": lost["private_address"]}
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": inventory}))
        return str(folder)

    return make
