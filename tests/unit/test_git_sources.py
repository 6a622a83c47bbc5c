"""Code in git repositories: what the inventory may say of it, what the hosts get, and how git learns the login."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from pgprefect.objects import pull_steps

from filter_plugins.tenants import git_credentials, git_environments, git_keys, needs_git, prefect_tenants
from filter_plugins.workers import deploy_key_folders
from plugin_utils.inventory_checks.git import check_sources
from plugin_utils.inventory_checks.specification import read
from plugin_utils.inventory_checks.values import check_value
from tests.support.project import ROOT

SPECIFICATION = read(ROOT)
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
HOST = "git.example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
TOKEN = {"name": "web", "token": "s3cret"}
DEPLOY = {"name": "deploy", "key": KEY, "known_hosts": [HOST]}
HTTPS = {"git": "https://git.example.com/team/flows.git", "ref": "main"}
SSH = {"git": "git@git.example.com:team/flows.git", "ref": "v1.0", "credentials": "deploy"}


def tenant(*sources: dict[str, Any], credentials: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    deployments = [
        {"name": f"d{index}", "flow": "f", "entrypoint": "f.py:f", "work_pool": "default", "source": source}
        for index, source in enumerate(sources)
    ]
    given = [TOKEN, DEPLOY] if credentials is None else credentials
    return {"name": "prefect", "git_credentials": given, "deployments": deployments}


def test_what_fits_is_accepted() -> None:
    given = [tenant(HTTPS, {**HTTPS, "credentials": "web"}, SSH, {**SSH, "git": "ssh://git@git.example.com:2222/x"})]
    assert list(check_value("prefect_tenants", given, SPECIFICATION.options["prefect_tenants"])) == []
    assert list(check_sources(given)) == []


SOURCE = "prefect_tenants[0].deployments[0].source"
MISFITS = [
    (
        tenant({**HTTPS, "credentials": "wep"}),
        f"{SOURCE}.credentials is 'wep', but git_credentials of the tenant have no",
    ),
    (tenant({**HTTPS, "credentials": "deploy"}), f"{SOURCE}: https://git.example.com/team/flows.git: https needs"),
    (tenant({**SSH, "credentials": "web"}), f"{SOURCE}: git@git.example.com:team/flows.git: ssh needs credentials"),
    (
        tenant({"git": SSH["git"], "ref": "main"}),
        f"{SOURCE}: git@git.example.com:team/flows.git: ssh needs credentials",
    ),
    (
        tenant(credentials=[{**TOKEN, "key": KEY}]),
        "prefect_tenants[0].git_credentials[0]: web: they need exactly one of",
    ),
    (tenant(credentials=[{"name": "web"}]), "prefect_tenants[0].git_credentials[0]: web: they need exactly one of"),
    (
        tenant(credentials=[{"name": "a", "key": KEY}]),
        "prefect_tenants[0].git_credentials[0]: a: a key needs known_hosts",
    ),
]


@pytest.mark.parametrize(("given", "fault"), MISFITS)
def test_what_does_not_fit_is_refused(given: dict[str, Any], fault: str) -> None:
    (found,) = check_sources([given])
    assert found.startswith(fault) and "s3cret" not in found and "BEGIN" not in found, found


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    given = [tenant({**HTTPS, "git": "https://me:s3cret@git.example.com/x.git"})]
    (found,) = check_value("prefect_tenants", given, SPECIFICATION.options["prefect_tenants"])
    assert found.startswith(f"{SOURCE}.git must be the address of a repository") and "s3cret" not in found
    assert "a user or a password does not belong into it; name credentials instead" in found


def test_hosts_get_git_and_keys_only_where_a_deployment_needs_them() -> None:
    plain = {**tenant(), "name": "plain", "port": 4300}
    declared = [tenant(SSH), plain]
    tenants = prefect_tenants(declared)
    assert "s3cret" not in str(tenants) and KEY not in str(tenants)
    here, elsewhere = ({"tenant": name, "pool": "default"} for name in ("prefect", "plain"))
    assert needs_git(tenants, [here]) and needs_git(tenants, [], serves=True)
    assert not needs_git(tenants, [elsewhere]) and not needs_git(prefect_tenants([plain]), [elsewhere], serves=True)
    assert git_credentials(declared)["prefect"] == [TOKEN, DEPLOY]
    keys = git_keys(declared, [here])
    assert keys == {"prefect": [DEPLOY]} and git_keys(declared, []) == {}

    folder, emptied = deploy_key_folders(keys, "/etc/prefect/git", ["former", "prefect"])
    assert folder["files"] == {"deploy": KEY, "deploy.known_hosts": f"{HOST}\n"}
    assert (folder["path"], folder["group"], folder["mode"]) == ("/etc/prefect/git/prefect", "prefect-prefect", "0640")
    assert emptied == {"path": "/etc/prefect/git/former", "only": True}
    assert deploy_key_folders({}, "/etc/prefect/git") == []


def test_git_on_the_servers_host_has_what_the_workers_have() -> None:
    declared = [{**tenant(), "environment": {"https_proxy": "http://proxy:3128", "SECRET": "x"}}, {"name": "plain"}]
    found = git_environments(
        declared, {"GIT_SSL_CAINFO": "/etc/ssl/ca.pem", "TZ": "UTC"}, ["localhost", ".example.com"]
    )
    bypass = dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,.example.com")
    assert found["plain"] == {"GIT_SSL_CAINFO": "/etc/ssl/ca.pem", **bypass}
    assert found["prefect"] == {**found["plain"], "https_proxy": "http://proxy:3128"}


def test_git_gets_the_token_for_its_server_alone_and_only_for_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(host: str) -> str:
        asked = f"protocol=https\nhost={host}\n\n"
        command = ["git", "credential", "fill"]
        return subprocess.run(command, input=asked, capture_output=True, text=True, check=False).stdout

    # A helper that the host's configuration names, and that would answer.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "credential.helper")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "!f() { echo username=other; echo password=other; }; f")
    before = dict(os.environ)
    token = "%s\\n$HOME;`id`'\""
    url = "https://git.example.com:8443/team/flows.git"
    assert pull_steps.log_in_to_git(url, username="robot", access_token=token) == {}
    assert f"username=robot\npassword={token}\n" in ask("git.example.com:8443")
    for other in ("git.example.com", "other.example.com"):
        assert "password=other" in ask(other)
    assert pull_steps.log_out_of_git() == {}
    assert dict(os.environ) == before


def test_ssh_is_called_with_the_key_and_the_known_hosts_alone() -> None:
    command = pull_steps.ssh_command("/etc/prefect/git/a/deploy", "/etc/prefect/git/a/deploy.known_hosts")
    effective = subprocess.run([*command.split(), "-G", "git@host"], capture_output=True, text=True, check=True).stdout
    for line in (
        "stricthostkeychecking true",
        "userknownhostsfile /etc/prefect/git/a/deploy.known_hosts",
        "globalknownhostsfile /dev/null",
        "identitiesonly yes",
        "identityfile /etc/prefect/git/a/deploy",
        "batchmode yes",
    ):
        assert f"\n{line}\n" in f"\n{effective}", line
