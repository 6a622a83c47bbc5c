"""Copies elsewhere: encrypted there, waiting here while the target is away, and what brings a lost host back."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.project import ROOT
from tests.support.scenario import PSQL, Playbook, Typed

HOME = "/var/backups/prefect"
FOLDER = "/var/lib/prefect_backup"
THERE = "/srv/copies"
# What a copy logs in with.
FILES = f"find {FOLDER} -regextype egrep -regex '.*/(ssh_key|known_hosts|rclone.conf)'"


@dataclass
class Vault:
    """The other host, here the same one: an account that is reached by ssh alone."""

    secret: str
    variables: list[str]
    identity: Path  # age's private key, which the host never sees
    environment: dict[str, str]  # with which the controller's administrator copies from there
    address: str


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def vault(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    keys = tmp_path_factory.mktemp("keys")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "ssh_key")
    run("age-keygen", "-o", keys / "identity")
    host.check_output(
        "DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends openssh-server rsync"
    )
    host.check_output("useradd --create-home vault && install -d -o vault -m 0700 ~vault/.ssh " + THERE)
    public = (keys / "ssh_key.pub").read_text().strip()
    host.check_output("echo %s > ~vault/.ssh/authorized_keys && systemctl start ssh", public)
    address = host.check_output("hostname --all-ip-addresses").split()[0]
    # All of them: rclone's own ssh takes another kind than the one that is known.
    public_keys = host.check_output("cat /etc/ssh/ssh_host_*_key.pub").splitlines()
    known = [f"{address} {' '.join(key.split()[:2])}" for key in public_keys]
    (keys / "known_hosts").write_text("\n".join(known) + "\n")
    (keys / "variables.json").write_text(
        json.dumps(
            {
                "prefect_backup_copy": {"tool": "rsync", "target": f"vault@{address}:{THERE}"},
                "prefect_backup_copy_secret": (keys / "ssh_key").read_text(),
                "prefect_backup_copy_known_hosts": known,
                "prefect_backup_age_recipient": run("age-keygen", "-y", keys / "identity"),
            }
        )
    )
    variables = ["--extra-vars", f"@{keys / 'variables.json'}"]
    shell = f"ssh -i {keys}/ssh_key -o UserKnownHostsFile={keys}/known_hosts"
    (keys / "rclone.conf").write_text(
        f"[store]\ntype = sftp\nhost = {address}\nuser = vault\nkey_file = {keys}/ssh_key\n"
        f"known_hosts_file = {keys}/known_hosts\n"
    )
    yield Vault(
        secret=(keys / "ssh_key").read_text().splitlines()[2],
        variables=variables,
        identity=keys / "identity",
        environment={"PATH": os.environ["PATH"], "RSYNC_RSH": shell, "RCLONE_CONFIG": str(keys / "rclone.conf")},
        address=f"vault@{address}:{THERE}",
    )
    host.check_output(f"systemctl stop ssh; userdel --remove vault; rm -r {THERE}")


def shell(page: str, heading: str) -> list[str]:
    """What a section of a page says to type in a shell of the controller."""
    text = (ROOT / "docs" / page).read_text()
    (section,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    found: list[str] = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return found


def newest(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output("pgprefect backup list --json"))[-1]
    return found


def checks(host: Host) -> tuple[str, str]:
    """What health says of the backup and of the copy."""
    found = json.loads(host.run("pgprefect health --json").stdout)["checks"]
    return found["backup"], found["copy"]


def there(host: Host) -> list[str]:
    found: list[str] = host.check_output(f"find {THERE} -type f -printf '%P\\n' | sort").splitlines()
    return found


def test_what_logs_in_there_is_only_its_user_s_and_stands_in_no_output(
    host: Host, playbook: Playbook, vault: Vault
) -> None:
    schedule = "playbooks/backup_schedule.yml"
    for name, changes in ((schedule, True), ("playbooks/prefect.yml", True), (schedule, False)):
        done = playbook(name, *vault.variables, "--diff", "-v")
        assert done.returncode == 0 and vault.secret not in done.stdout, done.stdout
        assert (changed(done.stdout) != [0]) == changes, done.stdout
    listed = host.check_output(f"stat -c '%n %a %U' {FOLDER}/ssh_key {FOLDER}/known_hosts")
    assert listed.splitlines() == [f"{FOLDER}/{name} 600 prefect_backup" for name in ("ssh_key", "known_hosts")]
    assert host.run(f"grep -rl {vault.secret} /etc /usr/local").stdout == ""


def test_each_set_is_copied_encrypted_and_what_waited_goes_with_the_next(
    host: Host, typed: Typed, vault: Vault
) -> None:
    made = host.run("pgprefect backup")
    assert made.rc == 0, made.stderr
    assert f"Copied to {vault.address}: {newest(host)['name']}" in made.stdout
    assert newest(host)["copied_to"] == f"rsync {vault.address}"
    name = newest(host)["name"]
    files = [f"{part['file']}.age" for part in newest(host)["parts"]] + ["manifest.json.age"]
    assert [path for path in there(host) if path.startswith(name)] == sorted(f"{name}/{file}" for file in files)
    assert (
        host.check_output(f"find {THERE} -type f -exec head -c 21 {{}} \\; -printf '\\n' | sort -u")
        == "age-encryption.org/v1"
    )
    assert checks(host) == ("healthy", "healthy")

    host.check_output("systemctl stop ssh")
    try:
        before = there(host)
        failed = host.run("pgprefect backup")
        assert failed.rc == 2, failed.stdout
        waiting = newest(host)
        said = f"The set {waiting['name']} is complete on this host, but is not copied to {vault.address}: "
        assert f"backup_not_copied: {said}" in failed.stderr and "Connection refused" in failed.stderr
        assert checks(host) == ("healthy", "degraded")
        assert "Connection refused" in host.run("pgprefect health").stdout
        assert there(host) == before
        assert host.run("pgprefect backup check").rc == 0
        assert host.run(f"ls -d {HOME}/.outgoing").rc != 0
    finally:
        host.check_output("systemctl start ssh")
    copied = host.run("pgprefect backup")
    assert copied.rc == 0, copied.stderr
    assert f"{newest(host)['name']}, {waiting['name']}" in copied.stdout
    assert checks(host) == ("healthy", "healthy")
    assert typed("backup.md", "Copies elsewhere")[0] == f"Copied to {vault.address}: no set."


def test_a_lost_host_comes_back_from_there(
    host: Host, playbook: Playbook, typed: Typed, vault: Vault, tmp_path: Path
) -> None:
    confirmed = ("--extra-vars", "prefect_backup_restore_confirmed=true")
    row = "VALUES (gen_random_uuid(), 'before the fire') ON CONFLICT DO NOTHING"
    host.check_output(PSQL, f"INSERT INTO prefect.flow (id, name) {row}")
    host.check_output("pgprefect backup")
    lost = newest(host)["name"]
    host.check_output(PSQL, "DELETE FROM prefect.flow WHERE name = 'before the fire'")
    host.check_output(f"rm -r {HOME}/{lost}")

    by_rsync, by_rclone, decrypt = shell("restore.md", "The host is lost")
    places = {"backup@vault.example.org:/srv/prefect/HOST": vault.address, "store:backups/HOST": f"store:{THERE}"}
    for block, folder in ((by_rsync, tmp_path), (by_rclone, tmp_path / "again")):
        folder.mkdir(exist_ok=True)
        for place, real in places.items():
            block = block.replace(place, real)
        command = ["bash", "-euc", block.replace("NAME", lost)]
        subprocess.run(command, cwd=folder, env=vault.environment, check=True)
    run("diff", "--recursive", tmp_path / lost, tmp_path / "again" / lost)
    upload = ("--extra-vars", f"prefect_backup_restore_upload={tmp_path}/{lost}")
    refused = playbook("playbooks/restore_backup.yml", *upload)
    assert refused.returncode != 0 and "decrypt them before" in refused.stdout, refused.stdout
    decrypt = decrypt.replace("NAME", lost).replace("KEYFILE", str(vault.identity))
    subprocess.run(["bash", "-euc", decrypt], cwd=tmp_path, check=True)

    checked = playbook("playbooks/restore_backup.yml", *upload, "--check")
    assert checked.returncode == 0, checked.stdout
    assert host.run(f"ls -d {HOME}/{lost} {HOME}/.upload").stdout == ""

    file = tmp_path / lost / newest(host)["parts"][0]["file"]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    started = host.check_output("systemctl show --property MainPID prefect-server@prefect")
    damaged = playbook("playbooks/restore_backup.yml", *upload, *confirmed)
    assert damaged.returncode != 0 and "is not what was written" in damaged.stdout, damaged.stdout
    assert host.run(f"ls -d {HOME}/{lost} {HOME}/.upload").stdout == ""
    assert host.check_output("systemctl show --property MainPID prefect-server@prefect") == started

    file.write_bytes(whole)
    typed("restore.md", "The host is lost", **{"/path/to/NAME": f"{tmp_path}/{lost}"})
    assert host.check_output(PSQL, "SELECT count(*) FROM prefect.flow WHERE name = 'before the fire'") == "1"
    host.check_output(PSQL, "DELETE FROM prefect.flow WHERE name = 'before the fire'")
    host.check_output(f"pgprefect backup check --set {lost}")
    assert host.check_output(f"find {HOME}/{lost} -printf '%u %m\\n' | sort -u").splitlines() == [
        "prefect_backup 600", "prefect_backup 700",
    ]  # fmt: skip


@pytest.mark.thorough
def test_the_controller_gets_what_leaves_the_host(
    host: Host, playbook: Playbook, typed: Typed, vault: Vault, tmp_path: Path
) -> None:
    typed("backup.md", "To the controller", **{"/srv/backups": str(tmp_path)})
    made = newest(host)
    [path] = tmp_path.glob(f"*/{made['name']}")
    names = sorted({*(f"{part['file']}.age" for part in made["parts"]), "manifest.json.age"})
    assert sorted(file.name for file in path.iterdir()) == names
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600} and path.stat().st_mode & 0o777 == 0o700
    manifest = json.loads(run("age", "--decrypt", "--identity", vault.identity, path / "manifest.json.age"))
    assert manifest["name"] == made["name"]
    variables = {"prefect_backup_fetch": str(tmp_path), "prefect_backup_fetch_set": made["name"]}
    again = playbook("playbooks/create_backup.yml", "--extra-vars", json.dumps(variables))
    assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout
    assert newest(host)["name"] == made["name"]
    assert host.run("ls -d /var/tmp/prefect-backup.*").rc != 0


def configure(playbook: Playbook, *variables: str) -> None:
    for name in ("playbooks/backup_schedule.yml", "playbooks/prefect.yml"):
        done = playbook(name, *variables)
        assert done.returncode == 0, done.stdout


@pytest.mark.thorough
def test_another_tool_takes_the_place(host: Host, playbook: Playbook, vault: Vault) -> None:
    assert vault.secret in host.check_output(f"cat {FOLDER}/ssh_key")
    host.check_output("install -d -o prefect_backup -m 0700 /srv/disk")
    variables = {
        "prefect_backup_copy": {"tool": "rclone", "target": "disk:/srv/disk"},
        "prefect_backup_copy_secret": "[disk]\ntype = local\n",
    }
    configure(playbook, "--extra-vars", json.dumps(variables))
    host.check_output(f"rm -f {HOME}/*/copied.json")
    assert host.check_output(f"{FILES} -printf '%p %m %u'") == f"{FOLDER}/rclone.conf 600 prefect_backup"
    listed = json.loads(host.check_output("pgprefect backup list --json"))
    names = [found["name"] for found in listed if not found["name"].endswith("-safety")]
    copied = host.run("pgprefect copy")
    assert copied.rc == 0, copied.stderr
    assert copied.stdout == f"Copied to disk:/srv/disk: {', '.join(reversed(names))}.\n"
    compare = f"for file in *.zst manifest.json; do cmp $file /srv/disk/{names[-1]}/$file; done"
    host.check_output(f"cd {HOME}/{names[-1]} && {compare} && rm -r /srv/disk")


@pytest.mark.usefixtures("vault")
def test_nothing_is_left_in_the_end(host: Host, playbook: Playbook) -> None:
    assert host.check_output(FILES)
    configure(playbook)
    assert host.check_output(FILES) == ""
    assert "copy" not in json.loads(host.run("pgprefect health --json").stdout)["checks"]
    assert "No target is declared" in host.run("pgprefect copy").stderr
