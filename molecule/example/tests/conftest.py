"""A newcomer who types docs/site.md, and somebody who watches the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from testinfra.host import Host

from tests.support.newcomer import Clone, make_clone
from tests.support.postgresql import docker
from tests.support.scenario import Typed


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("newcomer") / "a clone", tmp_path_factory.mktemp("keys"), "example")


@pytest.fixture(scope="session")
def hosts(clone: Clone) -> Mapping[str, Host]:
    return clone.hosts


@pytest.fixture(scope="session")
def addresses(clone: Clone) -> Mapping[str, str]:
    """What the example's addresses are here."""
    return clone.addresses


@pytest.fixture(scope="session")
def typed(clone: Clone) -> Typed:
    return clone.typing("server-1")


@pytest.fixture(scope="session")
def watcher() -> Iterator[str]:
    """A machine that sees all of the network, and is none of the site's hosts."""
    rights = ("--network=host", "--cap-add=NET_ADMIN", "--cap-add=NET_RAW")
    container = docker("run", "--detach", "--rm", *rights, "ansible-prefect-host:trixie", "sleep", "infinity")
    try:
        install = "apt-get update -q && apt-get install -q --yes --no-install-recommends nmap tcpdump"
        docker("exec", "--env=DEBIAN_FRONTEND=noninteractive", container, "sh", "-c", install)
        yield container
    finally:
        docker("rm", "--force", container)
