"""inventory/example with its addresses edited: set up over SSH, watched on its network, and scanned."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing

import pytest
import yaml
from testinfra.host import Host

from tests.support.capture import watching
from tests.support.hosts import changed, wait_for_health
from tests.support.newcomer import SUDO_PASSWORD, Clone, addresses_in, host_key, let_in
from tests.support.postgresql import docker
from tests.support.scenario import Typed
from tests.support.waiting import wait_for

DATABASE, SERVER, WORKER = addresses_in("example").values()
NETWORK = f"prefect-example{os.environ.get('MOLECULE_SUFFIX', '')}"
FIREWALL = ".venv/bin/ansible-playbook -i inventory/mine playbooks/firewall.yml --ask-become-pass"
# What would be seen of a connection that is not encrypted.
CLEAR = ("SELECT ", "INSERT INTO", "flow_run", "uthorization:", "PGDMP", "prefect_server", "HTTP/1.1 200")
MARKER = "/somebody-asks-without-encryption"
DECLARED = {DATABASE: {22, 5432}, SERVER: {22, 80, 443, 8443}, WORKER: {22}}
# SQL of a flow, with what its worker has in its environment.
FLOW = """set -a; . /etc/prefect/worker/prefect-default-1.env; /opt/prefect/3.*/bin/python -c '
import psycopg2
cursor = psycopg2.connect("").cursor()
cursor.execute("SELECT count(*) FROM prefect.flow_run")
assert cursor.fetchall()'"""


@pytest.fixture(scope="module", autouse=True)
def site(clone: Clone, typed: Typed) -> None:
    """Begin as the page does, and edit the addresses."""
    typed("site.md", "Addresses")
    clone.edit_addresses()
    clone.assert_first_run(*typed("site.md", "The first run"))


def login(clone: Clone, address: str, port: int, tenant: str) -> int:
    """Ask a tenant's API as a browser does with its login, and return the status."""
    context = ssl.create_default_context(cafile=clone.authority)
    account = base64.b64encode(f"admin:{clone.secrets[f'{tenant}_api']}".encode()).decode()
    with closing(http.client.HTTPSConnection(address, port, context=context, timeout=30)) as connection:
        connection.request("POST", "/api/flows/filter", "{}", {"Authorization": f"Basic {account}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status


def open_ports(watcher: str, addresses: Mapping[str, str]) -> dict[str, set[int]]:
    """Return what a scan of all ports of all hosts finds, by the example's addresses."""
    scan = ("nmap", "-n", "-Pn", "-sS", "-p-", "-T5", "--min-rate=8000", "--max-retries=2", "-oG", "-")
    said = docker("exec", watcher, *scan, *addresses.values())
    lines = dict(re.findall(r"^Host: (\S+) .*?Ports: (.*)$", said, re.MULTILINE))
    return {
        example: {int(port) for port in re.findall(r"(\d+)/open/tcp", lines[address])}
        for example, address in addresses.items()
    }


def test_a_second_run_changes_nothing(clone: Clone) -> None:
    for options in ("--check --diff", ""):
        done = clone.run(f".venv/bin/ansible-playbook -i inventory/mine site.yml --ask-become-pass {options}")
        assert done.returncode == 0 and changed(done.stdout) == [0, 0, 0], done.stdout


def test_the_tenants_answer(typed: Typed, clone: Clone, addresses: Mapping[str, str]) -> None:
    password, ready = typed("site.md", "Log in")
    assert password.strip() == clone.secrets["prefect_api"] and "OK" in ready
    assert login(clone, addresses[SERVER], 443, "prefect") == login(clone, addresses[SERVER], 8443, "research") == 200
    canary, pools, health = typed("site.md", "A run")
    assert "completed in" in canary and "default" in pools and "healthy" in health
    _, verified = typed("site.md", "From month to month")
    assert "apart as declared" in verified and changed(verified) == [0, 0], verified


def declare_the_copy(clone: Clone, hosts: Mapping[str, Host], addresses: Mapping[str, str]) -> str:
    """Let the backup's user in to worker-1, and write that into the inventory; return a line of the key."""
    pair = clone.keys / "vault"
    clone.run(f"ssh-keygen -q -t ed25519 -N '' -f {pair}")
    let_in(hosts["worker-1"], "vault", pair.with_suffix(".pub").read_text().strip())
    variables = {
        "prefect_backup_copy": {"tool": "rsync", "target": f"vault@{addresses[WORKER]}:/srv/copies"},
        "prefect_backup_copy_secret": pair.read_text(),
        "prefect_backup_copy_known_hosts": [f"{addresses[WORKER]} {host_key(hosts['worker-1'])}"],
    }
    (clone.folder / "inventory/mine/group_vars/all/copy.yml").write_text(yaml.safe_dump(variables))
    return pair.read_text().splitlines()[2]


def test_nothing_crosses_the_network_in_clear(
    typed: Typed, clone: Clone, hosts: Mapping[str, Host], addresses: Mapping[str, str], watcher: str
) -> None:
    """A login, runs of flows, SQL of a flow, a backup and its copy: all that is said is SSH or TLS."""
    typed("site.md", "A copy of the backups", on="worker-1")
    key = declare_the_copy(clone, hosts, addresses)
    with watching(watcher, NETWORK) as seen:
        # Its connections to the database begin now.
        hosts["server-1"].check_output("systemctl restart prefect-server@prefect")
        assert (
            login(clone, addresses[SERVER], 443, "prefect") == login(clone, addresses[SERVER], 8443, "research") == 200
        )
        typed("site.md", "A run")
        hosts["worker-1"].check_output("sh -c %s", FLOW)
        typed("site.md", "Where to")
        # So that it is known that clear text would be seen.
        with closing(http.client.HTTPConnection(addresses[SERVER], timeout=30)) as connection:
            connection.request("GET", MARKER)
            assert connection.getresponse().status == 308
        wait_for(lambda: MARKER.encode() in seen.so_far())
    copied = json.loads(hosts["database-1"].check_output("pgprefect backup list --json"))[-1]
    assert hosts["worker-1"].file(f"/srv/copies/{copied['name']}/manifest.json").exists, copied

    # What apt fetches is signed, and none of the site's.
    seen.connections = [one for one in seen.connections if b"\r\nUser-Agent: Debian APT" not in one.asked]
    names = {addresses[example]: example for example in addresses}
    kinds = {(names.get(server, server), port, protocol) for server, port, protocol in seen.kinds()}
    needed = {
        (DATABASE, 5432, "tls"),
        (SERVER, 443, "tls"),
        (SERVER, 8443, "tls"),
        (WORKER, 22, "ssh"),
        (SERVER, 80, "clear"),
    }
    # Ansible may have gone on with a connection of before.
    assert needed <= kinds <= needed | {(DATABASE, 22, "ssh"), (SERVER, 22, "ssh")}
    assert [one.asked.split()[1] for one in seen.connections if one.protocol == "clear"] == [MARKER.encode()]
    secrets = {**clone.secrets, "sudo": SUDO_PASSWORD, "key": key, **{word: word for word in CLEAR}}
    encoded = {f"{name} encoded": base64.b64encode(f"admin:{one}".encode()).decode() for name, one in secrets.items()}
    assert [name for name, text in {**secrets, **encoded}.items() if text.encode() in seen.raw] == []


def test_only_what_is_declared_is_open(watcher: str, addresses: Mapping[str, str], hosts: Mapping[str, Host]) -> None:
    assert open_ports(watcher, addresses) == DECLARED
    for host in hosts.values():
        listed = host.check_output("ss --no-header --udp --listening --numeric").splitlines()
        assert [one for one in (line.split()[3] for line in listed) if not one.startswith(("127.0.0.", "[::1]"))] == []


def served(address: str, port: int) -> bytes:
    """Return the certificate that a service shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=10) as plain, context.wrap_socket(plain) as encrypted:
        return encrypted.getpeercert(binary_form=True) or b""


def test_health_asks_the_proxy_for_its_certificate(
    typed: Typed, clone: Clone, hosts: Mapping[str, Host], addresses: Mapping[str, str]
) -> None:
    before = served(addresses[SERVER], 443)
    (clone.folder / "inventory/mine/.secrets/tls/server-1.proxy.pem").unlink()
    renewed, _ = typed("site.md", "From month to month")
    assert sum(changed(renewed)) > 0
    now = served(addresses[SERVER], 443)
    assert now == ssl.PEM_cert_to_DER_cert(hosts["server-1"].check_output("cat /etc/prefect/tls/proxy.pem")) != before
    # Installed by somebody who did not reload it.
    old = ssl.DER_cert_to_PEM_cert(before)
    server, file = hosts["server-1"], "/etc/prefect/tls/proxy.pem"
    server.check_output(f"cp -p {file} /root && printf %%s %s >{file}", old)
    health = json.loads(server.run("pgprefect health --json").stdout)
    server.check_output(f"mv /root/proxy.pem {file}")
    assert health["checks"]["certificates"] == "degraded"
    stale = [one["object"] for one in health["problems"] if one["code"] == "certificate_not_loaded"]
    assert stale == ["address 127.0.0.1:443"]
    assert server.run("pgprefect health").rc == 0


def test_the_firewall_opens_what_is_declared_and_locks_nobody_out(
    typed: Typed, clone: Clone, hosts: Mapping[str, Host], addresses: Mapping[str, str], watcher: str
) -> None:
    """Rules that do not let Ansible in go by themselves, on hosts that had none, and on hosts that had others."""
    chosen, worker = clone.folder / "inventory/mine/group_vars/all/firewall.yml", hosts["worker-1"]
    on = {"prefect_firewall_enabled": True}
    for had_rules in (False, True):
        rules = worker.run("nft list table inet prefect").stdout
        assert bool(rules) == had_rules
        chosen.write_text(yaml.safe_dump({**on, "prefect_firewall_ssh_networks": ["203.0.113.0/24"]}))
        refused = clone.run(FIREWALL)
        assert "the former ones are back, and the host is reached" in " ".join(refused.stdout.split()), refused.stdout
        assert len(re.findall(r"unreachable=0 +failed=1 .*rescued=1", refused.stdout)) == 3, refused.stdout
        assert open_ports(watcher, addresses) == ({**DECLARED, DATABASE: {22}} if had_rules else DECLARED)
        assert worker.run("nft list table inet prefect").stdout == rules
        # They do not come with the next start of the host either.
        assert "203.0.113" not in worker.run("cat /etc/prefect/firewall-kept.nft").stdout
        chosen.write_text(yaml.safe_dump(on))
        typed("site.md", "Firewall")
    again = clone.run(FIREWALL)
    assert again.returncode == 0 and changed(again.stdout) == [0, 0, 0], again.stdout
    assert open_ports(watcher, addresses) == {**DECLARED, DATABASE: {22}}
    assert login(clone, addresses[SERVER], 443, "prefect") == 200
    assert "completed in" in hosts["server-1"].check_output("pgprefect upgrade canary")


def test_unattended_upgrades_leave_the_site_healthy(hosts: Mapping[str, Host]) -> None:
    """The real ones, of packages that count as older than Debian's; PostgreSQL's restarts it, the proxy goes on."""
    packages = {"database-1": ("postgresql-17", "cron"), "server-1": ("haproxy", "openssl"), "worker-1": ("rsync",)}
    postmaster = "systemctl show --property MainPID --value postgresql@17-main"
    proxy = "systemctl show --property MainPID --value prefect-proxy"
    before = hosts["database-1"].check_output(postmaster), hosts["server-1"].check_output(proxy)
    for name, host in hosts.items():
        host.check_output("DEBIAN_FRONTEND=noninteractive apt-get install --yes unattended-upgrades")
        for package in packages[name]:
            host.check_output(f"sed -i '/^Package: {package}$/,/^$/s/^Version: .*/&~old/' /var/lib/dpkg/status")
        host.check_output("unattended-upgrade --verbose")
        versions = host.check_output(f"dpkg-query --show --showformat '${{Version}} ' {' '.join(packages[name])}")
        assert "~old" not in versions, host.check_output("tail /var/log/unattended-upgrades/unattended-upgrades.log")
    after = hosts["database-1"].check_output(postmaster), hosts["server-1"].check_output(proxy)
    assert after[0] != before[0] and after[1] == before[1]
    for host in hosts.values():
        wait_for_health(host)
        assert host.check_output("systemctl --failed --no-legend --plain") == ""
    assert not hosts["server-1"].service("haproxy").is_running
    assert "completed in" in hosts["server-1"].check_output("pgprefect upgrade canary")
