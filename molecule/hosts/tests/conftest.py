"""The hosts of the scenario, one for each job."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from tests.support.scenario import container_of, host_of


@pytest.fixture(scope="session")
def container() -> str:
    """Where a person runs the command prefect."""
    return container_of("server")


@pytest.fixture(scope="session")
def database() -> Host:
    return host_of("database")


@pytest.fixture(scope="session")
def server() -> Host:
    return host_of("server")


@pytest.fixture(scope="session")
def worker() -> Host:
    return host_of("worker")


@pytest.fixture(scope="session")
def watcher() -> Host:
    return host_of("watcher")
