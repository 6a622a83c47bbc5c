"""The hosts of the scenario: two of one database, and one of the server and the workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from testinfra.host import Host

from tests.support.scenario import host_of
from tests.support.writes import taking_writes


@pytest.fixture(scope="session")
def members() -> dict[str, Host]:
    return {name: host_of(name) for name in ("db1", "db2")}


@pytest.fixture(scope="session")
def app() -> Host:
    return host_of("app")


@pytest.fixture(scope="session")
def host(app: Host) -> Host:
    """Where the pages' commands are typed that are not the controller's."""
    return app


@pytest.fixture(scope="session")
def primaries(members: dict[str, Host]) -> Callable[[], list[str]]:
    return partial(taking_writes, members)
