"""Point in time by PostgreSQL 17, with the repository in an S3-compatible store and on another host."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator

import pytest
import requests
from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.scenario import PSQL, Playbook

# The scenario backup restores from a repository on its own host.
pytestmark = pytest.mark.thorough

NAME, BUCKET, SECRET = "store.test", "backups", "the-secret-of-the-store"
AUTHORITY = "/etc/ssl/store.pem"
# The second one begins on a timeline that a restore of the first began, and does not have its history.
REPOSITORIES = ("s3", "sftp")
THERE = "/home/keeper/repository"
Arguments = dict[str, tuple[str, ...]]


def objects() -> dict[str, bytes]:
    """What the store has, by its own account."""
    (backend,) = s3_backends[DEFAULT_ACCOUNT_ID].values()
    return {name: key.value for name, key in backend.buckets[BUCKET].keys.items()}


@pytest.fixture(scope="module")
def store(host: Host, container: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a store that the host knows by its name."""
    folder = tmp_path_factory.mktemp("store")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    # Where the host sees this machine.
    address = host.check_output("ip -4 route show default").split()[2]
    subprocess.run(
        f"openssl req -x509 -days 1 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -keyout {key.name}"
        f" -out {certificate.name} -subj /CN={NAME} -addext subjectAltName=DNS:{BUCKET}.{NAME},IP:{address}".split(),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    subprocess.run(["docker", "cp", certificate, f"{container}:{AUTHORITY}"], check=True, capture_output=True)
    host.check_output("chmod a+r %s", AUTHORITY)
    host.check_output("echo %s >>/etc/hosts", f"{address} {BUCKET}.{NAME}")
    server = wsgi.Server((address, 0), DomainDispatcherApplication(create_backend_app))
    server.ssl_adapter = BuiltinSSLAdapter(str(certificate), str(key))
    server.prepare()
    threading.Thread(target=server.serve).start()
    try:
        port = server.bind_addr[1]
        url = f"https://{address}:{port}/{BUCKET}"
        requests.put(url, verify=str(certificate), timeout=30).raise_for_status()
        yield port
    finally:
        server.stop()


@pytest.fixture(scope="module")
def keeper(host: Host) -> tuple[str, list[str]]:
    """The private key and the known hosts of another host's user, who has sftp alone; it is the same host here."""
    host.check_output("apt-get install --yes --no-install-recommends openssh-server")
    host.check_output("useradd --create-home --shell /usr/sbin/nologin keeper")
    host.check_output("install -d -o keeper -m 700 /home/keeper/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/keeper")
    host.check_output("install -o keeper -m 600 /root/keeper.pub /home/keeper/.ssh/authorized_keys")
    host.check_output("echo 'ForceCommand internal-sftp' >/etc/ssh/sshd_config.d/sftp.conf && systemctl restart ssh")
    keys = host.check_output("cat /etc/ssh/ssh_host_*_key.pub").splitlines()
    return host.check_output("cat /root/keeper"), [f"127.0.0.1 {key}" for key in keys]


@pytest.fixture(scope="module")
def arguments(store: int, keeper: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Arguments:
    """What an inventory would say of each repository."""
    s3 = {"type": "s3", "bucket": BUCKET, "endpoint": NAME, "port": store, "region": "eu", "ca_file": AUTHORITY}
    sftp = {"type": "sftp", "host": "127.0.0.1", "user": "keeper", "path": THERE, "known_hosts": keeper[1]}
    found: Arguments = {}
    for name in REPOSITORIES:
        settings = {
            "pgbackrest_enabled": True,
            "pgbackrest_repository": sftp if name == "sftp" else {**s3, "path": "/site"},
            "pgbackrest_s3_key": "key",
            "pgbackrest_s3_key_secret": SECRET,
            "pgbackrest_sftp_key": keeper[0],
            "pgbackrest_full_schedule": "0 0 30 2 *",  # never, nor the other one
            "pgbackrest_incremental_schedule": "0 0 30 2 *",
        }
        file = tmp_path_factory.mktemp("variables") / "pitr.json"
        file.write_text(json.dumps(settings))
        found[name] = ("--extra-vars", f"@{file}")
    return found


@pytest.fixture(scope="module", autouse=True)
def archiving(host: Host, playbook: Playbook, arguments: Arguments) -> Iterator[None]:
    """The site archives meanwhile, and not afterwards."""
    done = playbook("playbooks/pgbackrest.yml", *arguments["s3"], "--diff")
    assert done.returncode == 0 and SECRET not in done.stdout, done.stdout
    yield
    done = playbook("playbooks/pgbackrest.yml", "--extra-vars", "pgbackrest_enabled=false")
    assert done.returncode == 0, done.stdout
    assert host.check_output(PSQL, "SHOW archive_mode") == "off"
    # What is still of use is what reads the repository that the inventory names.
    assert host.check_output("ls /etc/pgbackrest").split() == ["conf.d", "pgbackrest.conf"]


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_back_to_between_two_writes(host: Host, playbook: Playbook, arguments: Arguments, repository: str) -> None:
    for changes in (repository != "s3", False):
        done = playbook("playbooks/pgbackrest.yml", *arguments[repository], "--diff")
        assert done.returncode == 0 and (changed(done.stdout) != [0]) == changes, done.stdout
        assert SECRET not in done.stdout and "PRIVATE KEY" not in done.stdout
    write = f"INSERT INTO system_logs (event_type, message) VALUES ('{repository}', "
    host.check_output(PSQL, write + "'kept')")
    point = host.check_output("pgprefect pitr point between").split()[3]
    host.check_output(PSQL, write + "'lost')")
    to = {"pgbackrest_restore_point": point, "pgbackrest_restore_confirmed": True}
    done = playbook("playbooks/restore_cluster.yml", *arguments[repository], "--extra-vars", json.dumps(to))
    assert done.returncode == 0, done.stdout
    assert host.check_output(PSQL, f"SELECT message FROM system_logs WHERE event_type = '{repository}'") == "kept"
    for tenant in ("prefect", "research"):
        wait_for_health(host, tenant)


def test_nobody_reads_the_store() -> None:
    """Neither the data nor the WAL: what is encrypted begins with OpenSSL's salt."""
    assert {name.split("/")[1] for name in objects()} == {"archive", "backup"}
    assert {content[:6] for content in objects().values()} == {b"Salted"}


def test_nobody_reads_what_is_on_the_other_host(host: Host) -> None:
    files = host.check_output("find %s -type f -exec head --bytes 6 {} ';' -exec echo ';'", THERE)
    assert set(files.split()) == {"Salted"}
    key = host.file("/etc/pgbackrest/sftp_key")
    assert (key.user, key.group, key.mode) == ("root", "postgres", 0o640)
