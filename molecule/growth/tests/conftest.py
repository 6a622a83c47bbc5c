"""A newcomer who types docs/several_servers.md in a clone of the repository."""

from __future__ import annotations

import pytest

from tests.support.newcomer import Clone, make_clone
from tests.support.scenario import Typed


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_clone(tmp_path_factory.mktemp("newcomer") / "a clone", tmp_path_factory.mktemp("keys"), "cluster")


@pytest.fixture(scope="session")
def typed(clone: Clone) -> Typed:
    return clone.typing("server-2")
