"""The hosts of the scenario, and a stream of requests to its APIs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from testinfra.host import Host

from tests.support.load import Load
from tests.support.scenario import SCENARIO, container_of, host_of

NAME = "prefect.cluster.test"


@pytest.fixture(scope="session")
def container() -> str:
    """Where a person runs the command prefect."""
    return container_of("app1")


@pytest.fixture(scope="session")
def database() -> Host:
    return host_of("db1")


@pytest.fixture(scope="session")
def first() -> Host:
    return host_of("app1")


@pytest.fixture(scope="session")
def host(first: Host) -> Host:
    """Where the pages' commands are typed that are not the controller's."""
    return first


@pytest.fixture(scope="session")
def second() -> Host:
    return host_of("app2")


@pytest.fixture(scope="session")
def redis() -> Host:
    return host_of("redis1")


@pytest.fixture(scope="session")
def load(secrets: dict[str, str]) -> Callable[..., Load]:
    """Requests by the proxy of a host."""

    def make(host: str, rate: float = 20, reads: int = 0) -> Load:
        (found,) = json.loads(subprocess.check_output(["docker", "inspect", container_of(host)]))
        (network,) = found["NetworkSettings"]["Networks"].values()
        ca_file = SCENARIO / "inventory/.secrets/tls/ca.pem"
        return Load(network["IPAddress"], NAME, ca_file, f"admin:{secrets['prefect_api']}", rate, reads)

    return make
