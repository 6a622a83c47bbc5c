"""A newcomer who types docs/site.md, and somebody who watches the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import testinfra
from testinfra.host import Host

from tests.support.newcomer import HOSTS, Clone, make_clone
from tests.support.pages import sections
from tests.support.postgresql import docker
from tests.support.scenario import CONTROLLER, Typed, container_of


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    return {name: testinfra.get_host(f"docker://{container_of(name)}") for name in HOSTS}


@pytest.fixture(scope="session")
def addresses(hosts: dict[str, Host]) -> dict[str, str]:
    """What the example's addresses are here."""
    return {HOSTS[name]: host.check_output("hostname --all-ip-addresses").strip() for name, host in hosts.items()}


@pytest.fixture(scope="session")
def clone(hosts: dict[str, Host], addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder, keys = tmp_path_factory.mktemp("newcomer") / "a clone", tmp_path_factory.mktemp("keys")
    return make_clone(folder, keys, hosts, addresses)


@pytest.fixture(scope="session")
def typed(clone: Clone, hosts: dict[str, Host], addresses: dict[str, str]) -> Typed:
    """Type the commands of a section in the clone, or as root on a host, and return their outputs."""

    def run(page: str, heading: str, on: str = "server-1", options: str = "") -> list[str]:
        answers = []
        for kind, text in sections(page)[heading]:
            assert kind == "console"
            for word, instead in addresses.items():
                text = text.replace(word, instead)
            if text.startswith(CONTROLLER) or "inventory/mine" in text:
                done = clone.run(f"{text} {options}")
                assert done.returncode == 0, done.stdout
                answers.append(done.stdout)
            else:
                answers.append(hosts[on].check_output("bash --login -c %s", text))
        return answers

    return run


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
