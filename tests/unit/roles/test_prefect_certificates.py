"""The role on this machine: its authority, the certificates of some hosts, and runs that were killed."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible import CHECKED, run_cases
from tests.support.certificates import Authority

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="its files belong to root")

ROLE = {"ansible.builtin.include_role": {"name": "prefect_certificates"}}
PREFLIGHT = {"ansible.builtin.include_role": {"name": "prefect_certificates", "tasks_from": "preflight"}}


def given(folder: Path, host: str, **variables: Any) -> dict[str, Any]:
    """What the site wires for a host."""
    proxy = {"name": "proxy", "names": [host, "127.0.0.1"], "clients": [host], "combined": True}
    values = {
        "mode": "private_ca",
        "folder": str(folder / "secrets/tls"),
        "home": str(folder / host),
        "purposes": [proxy],
        **variables,
    }
    checked = {**CHECKED, "common_requirements": {"prefect_certificates": {}}, "common_host": {"missing_packages": []}}
    return {**checked, **{f"prefect_certificates_{name}": value for name, value in values.items()}}


def own(folder: Path, certificate: Path, key: Path) -> dict[str, Any]:
    """What the site wires for a host whose certificate is the user's."""
    files = {"proxy": {"certificate": str(certificate), "key": str(key)}}
    return given(folder, "own", mode="files", ca_file=str(folder / "own.pem"), files=files)


def test_the_life_of_certificates(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o700)
    authority, secrets = Authority(), tmp_path / "secrets/tls"
    (tmp_path / "own.pem").write_text(authority.certificate)
    hosts = ["same", "killed", "renamed"]
    mine = own(tmp_path, *authority.write(tmp_path, "mine", "own"))
    cases = [*(given(tmp_path, host) for host in hosts), mine]
    outcomes = run_cases(tmp_path, cases, ROLE)
    assert [(outcome.changed, outcome.text) for outcome in outcomes] == [(True, "")] * 4

    names = {f"case{number}.proxy.{kind}" for number in range(3) for kind in ("key", "pem")}
    assert {path.name for path in secrets.iterdir()} == {"ca.key", "ca.pem"} | names
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.glob("*.key")} == {0o600}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    texts = {path.name: path.read_text() for path in (tmp_path / "same").iterdir()}
    assert texts["ca.pem"] == (secrets / "ca.pem").read_text()
    assert texts["proxy-combined.pem"] == texts["proxy.pem"] + texts["proxy.key"]
    assert (tmp_path / "own/ca.pem").read_text() == authority.certificate
    assert (tmp_path / "own/proxy.pem").read_text() == (tmp_path / "mine.pem").read_text()
    # As strictly as Debian 13's Python.
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "same"]
    subprocess.run([*verify, "-CAfile", tmp_path / "same/ca.pem", tmp_path / "same/proxy.pem"], check=True)

    # A run that was killed has installed one and its service has not loaded it; another host gets one more name.
    (tmp_path / "killed/.loaded-proxy").unlink()
    cases[2]["prefect_certificates_purposes"][0]["names"].append("more.example.com")
    before = (tmp_path / "renamed/proxy.pem").read_text()
    key = (tmp_path / "renamed/proxy.key").read_text()
    outcomes = run_cases(tmp_path, cases, ROLE)
    assert [(outcome.changed, outcome.text) for outcome in outcomes] == [
        (False, ""),
        (True, ""),
        (True, ""),
        (False, ""),
    ]
    assert (tmp_path / "renamed/proxy.pem").read_text() != before
    assert (tmp_path / "renamed/proxy.key").read_text() == key


def test_what_would_not_work_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    authority, folder = Authority(), tmp_path / "secrets/tls"
    (tmp_path / "own.pem").write_text(authority.certificate)
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_text(authority.certificate)
    cases = [
        given(tmp_path, "a"),
        own(tmp_path, *Authority("foreign").write(tmp_path, "foreign", "own")),
        own(tmp_path, *authority.write(tmp_path, "other", "other")),
    ]
    outcomes = run_cases(tmp_path, cases, PREFLIGHT)
    for outcome, words in zip(
        outcomes,
        (
            f"{folder}/ca.key is not there",
            "no authority in site_tls_ca_file has signed it",
            "clients reach this host by DNS:own, and it is for DNS:other",
        ),
        strict=True,
    ):
        assert outcome.failed and words in outcome.text, outcome.text
    assert os.listdir(folder) == ["ca.pem"]
