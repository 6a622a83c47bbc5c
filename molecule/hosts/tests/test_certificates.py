"""The site's own certificates: where the keys are, and how one that ends soon is renewed while everything goes on."""

from __future__ import annotations

import json
import re
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.x509 import Certificate, load_der_x509_certificate, load_pem_x509_certificate
from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.scenario import PSQL, SCENARIO, Playbook, Typed

FOLDER = SCENARIO / "inventory/.secrets/tls"
OWN = FOLDER / "database.postgresql.pem"


@pytest.fixture(scope="module")
def host(database: Host) -> Host:
    """Where `typed` types what is not for the controller."""
    return database


def served(database: Host) -> Certificate:
    """Return the certificate that PostgreSQL shows to whoever asks for TLS."""
    address = database.check_output("hostname --all-ip-addresses").split()[0]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address, 5432), timeout=10) as plain:
        plain.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))  # SSLRequest
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as encrypted:
            shown = encrypted.getpeercert(binary_form=True)
    assert shown
    return load_der_x509_certificate(shown)


def days_left(certificate: Certificate) -> float:
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def test_the_keys_are_where_they_are_needed_and_nowhere_else(database: Host, server: Host, worker: Host) -> None:
    files = database.check_output("find /etc/prefect/tls -type f -name '[!.]*' -printf '%f %m %u %g\n'")
    assert set(files.splitlines()) == {
        "ca.pem 644 root root",
        "postgresql.pem 644 root root",
        "postgresql.key 640 root ssl-cert",
    }
    hosts = [database, server, worker]
    for key, holders in ((FOLDER / "ca.key", []), (FOLDER / "database.postgresql.key", [database])):
        assert key.stat().st_mode & 0o777 == 0o600
        line = key.read_text().splitlines()[1]
        search = "grep --recursive --no-messages --quiet --fixed-strings %s /etc /home /opt /root /usr/local /var /tmp"
        assert [host for host in hosts if host.run(search, line).rc == 0] == holders


def test_a_certificate_that_ends_soon_is_renewed(database: Host, playbook: Playbook, typed: Typed) -> None:
    """Health warns of it, the playbook renews it, PostgreSQL loads it, and no session ends for that."""
    OWN.unlink()
    soon = "prefect_certificates_days=10 prefect_certificates_renew_days=5"
    assert playbook("playbooks/certificates.yml", "--extra-vars", soon).returncode == 0
    assert 9 < days_left(served(database)) < 10
    degraded = json.loads(database.run("pgprefect health --json").stdout)
    assert degraded["checks"]["certificates"] == "degraded"
    (message,) = [problem["message"] for problem in degraded["problems"] if problem["code"] == "certificate_ends"]
    assert "/etc/prefect/tls/postgresql.pem ends on 2" in message and "in 10 days" in message

    # A session that was there before: Prefect's services listen for as long as they run.
    started = """SELECT pg_postmaster_start_time(), min(backend_start)
                 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'prefect_server'"""
    before, key = database.check_output(PSQL, started), OWN.with_suffix(".key").read_text()
    check, run = typed("tls.md", "Renew", **{" --ask-become-pass": ""})
    assert re.search(r"postgresql of database: it ends on 2\d\d\d-", check) and sum(changed(check)) > 0, check
    assert sum(changed(run)) > 0, run
    assert days_left(served(database)) > 390
    assert served(database) == load_pem_x509_certificate(OWN.read_bytes())
    assert OWN.with_suffix(".key").read_text() == key
    assert database.check_output(PSQL, started) == before
    again = playbook("playbooks/certificates.yml")
    assert again.returncode == 0 and set(changed(again.stdout)) == {0}, again.stdout
    assert json.loads(database.run("pgprefect health --json").stdout)["checks"]["certificates"] == "healthy"
