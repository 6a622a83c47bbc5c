"""A newcomer's clone of the repository, and how Ansible logs in to the hosts of a shipped inventory from there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.pages import sections
from tests.support.project import ROOT
from tests.support.scenario import CONTROLLER, Typed, host_of

SUDO_PASSWORD = 'it\'s "secret" $1'


def addresses_in(inventory: str) -> dict[str, str]:
    """Return the hosts of a shipped inventory with the addresses that it has for them."""
    hosts = yaml.safe_load((ROOT / "inventory" / inventory / "hosts.yml").read_text())["all"]["hosts"]
    return {name: variables["ansible_host"] for name, variables in hosts.items()}


@dataclass(frozen=True)
class Clone:
    """The folder, the one with the keys, the hosts by their names, and what the inventory's addresses are here."""

    folder: Path
    keys: Path
    hosts: Mapping[str, Host]
    addresses: Mapping[str, str]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type a command in the folder."""
        known = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
        ssh = f"-o UserKnownHostsFile={self.keys}/known_hosts -o StrictHostKeyChecking=yes"
        settings = {"ANSIBLE_PRIVATE_KEY_FILE": f"{self.keys}/key", "ANSIBLE_SSH_COMMON_ARGS": ssh}
        return subprocess.run(
            ["bash", "-c", command.replace("--ask-become-pass", f"--become-password-file {self.keys}/sudo")],
            cwd=self.folder,
            env={**known, **settings, "ANSIBLE_NOCOLOR": "1"},
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def with_addresses(self, text: str) -> str:
        """Replace the addresses of the shipped inventory by those of the hosts."""
        for shipped, address in self.addresses.items():
            text = text.replace(shipped, address)
        return text

    def edit_addresses(self) -> None:
        """Edit what the inventory's hosts.yml asks to be edited."""
        path = self.folder / "inventory/mine/hosts.yml"
        path.write_text(self.with_addresses(path.read_text()))

    def typing(self, default: str) -> Typed:
        """Return what types the commands of a section in the clone, or as root on a host, and returns their outputs."""

        def run(page: str, heading: str, on: str = default, options: str = "") -> list[str]:
            answers = []
            for kind, text in sections(page)[heading]:
                assert kind == "console"
                command = self.with_addresses(text)
                if command.startswith(CONTROLLER) or "inventory/mine" in command:
                    done = self.run(f"{command} {options}")
                    assert done.returncode == 0, done.stdout
                    answers.append(done.stdout)
                else:
                    answers.append(self.hosts[on].check_output("bash --login -c %s", command))
            return answers

        return run

    def assert_first_run(self, check: str, run: str) -> None:
        """Both runs changed each host, none said a secret, and umask 077 was in force."""
        assert len(changed(check)) == len(changed(run)) == len(self.hosts) and min(changed(check)) > 0, check
        said = check + run
        assert not [name for name, secret in {**self.secrets, "sudo": SUDO_PASSWORD}.items() if secret in said]
        for host in self.hosts.values():
            assert host.check_output("runuser -u deploy -- bash --login -c umask") == "0077"

    @property
    def secrets(self) -> dict[str, str]:
        """What was made for the site, by name."""
        files = [path for path in (self.folder / "inventory/mine/.secrets").iterdir() if path.is_file()]
        return {path.name: path.read_text().strip() for path in files}

    @property
    def authority(self) -> str:
        return str(self.folder / "inventory/mine/.secrets/tls/ca.pem")


def make_clone(folder: Path, keys: Path, inventory: str) -> Clone:
    """Copy the repository, and let the newcomer in to the inventory's hosts by a key, as their administrator does."""
    left_out = shutil.ignore_patterns(".git", ".venv*", ".cache", ".*_cache", ".secrets", "__pycache__", "mine")
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "key"], check=True)
    (keys / "sudo").write_text(SUDO_PASSWORD)
    (keys / "sudo").chmod(0o600)
    hosts, addresses = {}, {}
    for name, shipped in addresses_in(inventory).items():
        host = hosts[name] = host_of(name)
        addresses[shipped] = host.check_output("hostname --all-ip-addresses").strip()
        let_in(host, "deploy", (keys / "key.pub").read_text().strip())
        with (keys / "known_hosts").open("a") as file:
            file.write(f"{addresses[shipped]} {host_key(host)}\n")
    return Clone(folder, keys, hosts, addresses)


def let_in(host: Host, user: str, public_key: str) -> None:
    """Let somebody log in as a user of a host by a key."""
    host.check_output(f"install -d -o {user} -g {user} -m 0700 ~{user}/.ssh")
    host.check_output(f"echo %s >~{user}/.ssh/authorized_keys", public_key)
    host.check_output(f"chown {user}: ~{user}/.ssh/authorized_keys")


def host_key(host: Host) -> str:
    """Return how known_hosts names a host's key."""
    return str(host.check_output("cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub"))
