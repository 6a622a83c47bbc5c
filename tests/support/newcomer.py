"""A newcomer's clone of the repository, and how Ansible logs in to the hosts of inventory/example from there."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from testinfra.host import Host

from tests.support.project import ROOT

# The addresses that the example has.
HOSTS = {"database-1": "192.0.2.10", "server-1": "192.0.2.20", "worker-1": "192.0.2.30"}
DATABASE, SERVER, WORKER = HOSTS.values()
SUDO_PASSWORD = 'it\'s "secret" $1'
NETWORK = f"prefect-example{os.environ.get('MOLECULE_SUFFIX', '')}"


@dataclass(frozen=True)
class Clone:
    """The folder, and the one with the keys."""

    folder: Path
    keys: Path

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

    def edit_addresses(self, addresses: dict[str, str]) -> None:
        """Edit what the example's hosts.yml asks to be edited."""
        path = self.folder / "inventory/mine/hosts.yml"
        text = path.read_text()
        for example, address in addresses.items():
            text = text.replace(example, address)
        path.write_text(text)

    @property
    def secrets(self) -> dict[str, str]:
        """What was made for the site, by name."""
        files = [path for path in (self.folder / "inventory/mine/.secrets").iterdir() if path.is_file()]
        return {path.name: path.read_text().strip() for path in files}

    @property
    def authority(self) -> str:
        return str(self.folder / "inventory/mine/.secrets/tls/ca.pem")


def make_clone(folder: Path, keys: Path, hosts: dict[str, Host], addresses: dict[str, str]) -> Clone:
    """Copy the repository, and let the newcomer in to the hosts by a key, as their administrator does."""
    left_out = shutil.ignore_patterns(".git", ".venv*", ".cache", ".*_cache", ".secrets", "__pycache__", "mine")
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "key"], check=True)
    (keys / "sudo").write_text(SUDO_PASSWORD)
    (keys / "sudo").chmod(0o600)
    for name, host in hosts.items():
        let_in(host, "deploy", (keys / "key.pub").read_text().strip())
        with (keys / "known_hosts").open("a") as file:
            file.write(f"{addresses[HOSTS[name]]} {host_key(host)}\n")
    return Clone(folder, keys)


def let_in(host: Host, user: str, public_key: str) -> None:
    """Let somebody log in as a user of a host by a key."""
    host.check_output(f"install -d -o {user} -g {user} -m 0700 ~{user}/.ssh")
    host.check_output(f"echo %s >~{user}/.ssh/authorized_keys", public_key)
    host.check_output(f"chown {user}: ~{user}/.ssh/authorized_keys")


def host_key(host: Host) -> str:
    """Return how known_hosts names a host's key."""
    return str(host.check_output("cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub"))
