"""A proxy in a host's environment does not come between Prefect and its own API."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from tests.support.project import ROOT, VIRTUALENV

DEAD = dict.fromkeys(
    ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9"
)


def read_pools(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(VIRTUALENV / "bin/prefect"), "work-pool", "ls"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("role", ["prefect_server", "prefect_worker"])
def test_the_units_environment_leads_past_a_proxy(prefect_environment: dict[str, str], role: str) -> None:
    defaults = yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())
    hosts = ",".join([*defaults[f"{role}_no_proxy"], "2001:db8::1", "server-1", ".example.com"])
    done = read_pools({**prefect_environment, **DEAD, "NO_PROXY": hosts, "no_proxy": hosts})
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_it_the_proxy_is_asked(prefect_environment: dict[str, str]) -> None:
    assert read_pools({**prefect_environment, **DEAD}).returncode != 0
