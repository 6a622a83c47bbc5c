"""What docs/managed.md asks of the provider is typed as it stands on the provider's server."""

from __future__ import annotations

import os

import pytest
import testinfra
from testinfra.host import Host

from tests.support.scenario import PSQL, Typed


@pytest.fixture
def host() -> Host:
    """The provider's server."""
    return testinfra.get_host(f"docker://prefect-managed-provider{os.environ.get('MOLECULE_SUFFIX', '')}")


def test_what_to_ask_for(host: Host, typed: Typed) -> None:
    typed("managed.md", "What to ask for", site_admin="other_admin", mltrading="other")
    powers = "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'other_admin'"
    assert host.check_output(PSQL, powers) == "f|t|f"
