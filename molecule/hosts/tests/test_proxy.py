"""The way to the API from other hosts: TLS by the proxy, and no other."""

from __future__ import annotations

import base64
import http.client
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable, text_to_be_present_in_element
from testinfra.host import Host

from tests.support.browser import log_in, running_browser
from tests.support.hosts import start_run
from tests.support.proxy import write_configuration
from tests.support.scenario import PREFECT, PSQL, Playbook, Typed
from tests.support.waiting import wait_for

WORKER = "/etc/prefect/worker/prefect-default-1.env"
AUTHORITY = "/etc/prefect/tls/ca.pem"
PERSON = "anna:correct horse"  # prefect_proxy_people of the scenario


@pytest.fixture(scope="module")
def host(server: Host) -> Host:
    """Where `typed` types what is not for the controller."""
    return server


@pytest.fixture(scope="module")
def address(server: Host) -> str:
    return str(server.check_output("hostname --all-ip-addresses")).strip()


@dataclass(frozen=True)
class Client:
    """Somebody on the controller who trusts the site's authority."""

    address: str
    context: ssl.SSLContext

    def ask(self, path: str, login: str = "", method: str = "GET") -> http.client.HTTPResponse:
        """Send a request; ``login`` is a user and a password."""
        headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
        with closing(http.client.HTTPSConnection(self.address, context=self.context, timeout=30)) as connection:
            connection.request(method, path, "{}" if method == "POST" else None, headers)
            answer = connection.getresponse()
            answer.read()
            return answer

    def statuses(self, *paths: str, login: str = "") -> list[int]:
        return [self.ask(path, login).status for path in paths]


@pytest.fixture(scope="module")
def client(server: Host, address: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    authority: Path = tmp_path_factory.mktemp("authority") / "authority.pem"
    authority.write_text(server.file(AUTHORITY).content_string)
    return Client(address, ssl.create_default_context(cafile=str(authority)))


@pytest.fixture(scope="module")
def admin(secrets: dict[str, str]) -> str:
    return f"admin:{secrets['prefect_api']}"


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with running_browser(any_certificate=True) as driver:
        yield driver


def test_a_worker_of_another_host_speaks_tls_alone(
    database: Host, server: Host, worker: Host, address: str, completed_run: str
) -> None:
    environment = worker.check_output("cat %s", WORKER)
    assert f'PREFECT_API_URL="https://{address}/api"' in environment
    journal = worker.check_output("journalctl --no-pager --output cat --unit prefect-worker@prefect-default-1")
    assert f"Flow run '{completed_run}' - Finished in state Completed()" in journal
    # The flow's own events came by a WebSocket.
    heartbeats = "SELECT count(*) > 0 FROM prefect.events WHERE event = 'prefect.flow-run.heartbeat'"
    assert database.check_output(PSQL, heartbeats) == "t"
    connect = f"import socket; socket.create_connection(({address!r}, 4200), 5)"
    assert "ConnectionRefusedError" in worker.run("python3 -c %s", connect).stderr
    listening = server.check_output("ss --no-header --listening --tcp --numeric 'sport = 4200'")
    assert listening.split()[3] == "127.0.0.1:4200"


def test_a_client_refuses_a_foreign_authority_and_another_name(worker: Host, address: str) -> None:
    once = "export PREFECT_HOME=/tmp/asks PREFECT_CLIENT_MAX_RETRIES=0"
    ask = f"set -a; . {WORKER}; {once}; %s {PREFECT}/bin/prefect work-pool ls"
    assert worker.run("sh -c %s", ask % "").rc == 0
    foreign = worker.run("sh -c %s", ask % "PREFECT_API_SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt")
    assert foreign.rc != 0 and "CERTIFICATE_VERIFY_FAILED" in foreign.stdout + foreign.stderr
    worker.check_output(f"grep -q elsewhere /etc/hosts || echo '{address} elsewhere' >>/etc/hosts")
    other = worker.run("sh -c %s", ask % "PREFECT_API_URL=https://elsewhere/api NO_PROXY=elsewhere")
    assert other.rc != 0 and "CERTIFICATE_VERIFY_FAILED" in other.stdout + other.stderr
    # As systemd runs it before the worker.
    wait = f"{PREFECT}/bin/python -I -m pgprefect wait --user prefect https://{address}/api/ready"
    assert worker.run(f"PREFECT_API_SSL_CERT_FILE={AUTHORITY} timeout 10 {wait}").rc == 0
    assert worker.run(f"timeout 3 {wait}").rc == 124


def test_old_tls_is_refused_and_http_is_redirected(client: Client, address: str) -> None:
    for version in ("-tls1", "-tls1_1"):
        old = ["openssl", "s_client", "-connect", f"{address}:443", version, "-cipher", "ALL:@SECLEVEL=0"]
        refused = subprocess.run(old, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert refused.returncode == 1 and "alert protocol version" in refused.stderr, refused.stderr
    assert client.statuses("/api/ready") == [200]
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        connection.request("GET", "/runs?page=2", headers={"Host": "elsewhere.example.com"})
        answer = connection.getresponse()
        answer.read()
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{address}/runs?page=2")


def test_what_is_open_and_what_a_browser_is_told(client: Client, admin: str) -> None:
    documentation = ("/docs", "/redoc", "/openapi.json", "/%64ocs", "//docs")
    assert client.statuses(*documentation) == [401] * 5
    # Not the whole description, whose making stops the API for seconds.
    assert client.statuses("/docs", "/%72edoc", login=admin) == [200, 200]
    assert client.statuses("/api/ready", "/ui-settings", "/") == [200] * 3
    assert client.statuses("/api/admin/version", "/api/docs", "/api/openapi.json") == [401] * 3
    headers = client.ask("/").headers
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    # Its redirections stay encrypted.
    assert client.ask("/api/flows", admin).headers.get("Location", "https:").startswith("https:")


def test_a_person_sees_a_run_in_the_browser(
    browser: webdriver.Chrome, server: Host, address: str, client: Client, completed_run: str
) -> None:
    assert client.statuses("/api/admin/version", login=PERSON) == [200]
    wait = log_in(browser, f"https://{address}/runs", PERSON)
    wait.until(element_to_be_clickable((By.LINK_TEXT, completed_run))).click()
    wait.until(text_to_be_present_in_element((By.TAG_NAME, "body"), "Subflow Runs"))
    assert "Completed" in browser.find_element(By.TAG_NAME, "body").text
    # The page of a run that has not begun shows its logs and its end by itself.
    run = start_run(server, "collect-market-data/sample")
    browser.get(f"https://{address}/runs/flow-run/{run}")
    wait.until(text_to_be_present_in_element((By.TAG_NAME, "body"), "Finished in state Completed"))
    stopped = browser.execute_async_script("""
        const done = arguments[0];
        document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective + ' ' + e.blockedURI));
        fetch('https://sr-client-cfg.amplitude.com/config').catch(() => undefined);
        setTimeout(() => done('nothing'), 5000);
    """)
    assert stopped.startswith("connect-src https://sr-client-cfg.amplitude.com")
    # Who did something, by name.
    assert "{anna}" in server.check_output("journalctl --no-pager --output cat --unit prefect-proxy")


@pytest.mark.thorough
def test_new_files_are_read_without_a_restart(server: Host, playbook: Playbook, client: Client, typed: Typed) -> None:
    def state() -> str:
        return str(server.check_output("systemctl show --property MainPID --property NRestarts prefect-proxy"))

    def promised() -> str | None:
        return client.ask("/").headers["Strict-Transport-Security"]

    before = state()
    limit = ["--extra-vars", "prefect_proxy_hsts_seconds=60"]
    changed = playbook("playbooks/proxy.yml", *limit)
    assert changed.returncode == 0, changed.stdout
    wait_for(lambda: promised() == "max-age=60", promised)
    # A run that was killed before the reload.
    server.check_output("sed -i s/max-age=60/max-age=61/ /etc/prefect/proxy/haproxy.cfg")
    mended = playbook("playbooks/proxy.yml", "--diff")
    assert mended.returncode == 0 and "-    http-after-response set-header Strict-Transport-Security" in mended.stdout
    wait_for(lambda: promised() == "max-age=31536000", promised)
    assert "changed=0" in typed("proxy.md", "The site's own proxy")[0]
    bad = playbook("playbooks/proxy.yml", "--extra-vars", "prefect_proxy_bind_address=192.0.2.1")
    assert bad.returncode != 0 and "This host has no address 192.0.2.1" in " ".join(bad.stdout.split())
    assert state() == before and client.statuses("/api/ready") == [200]


def test_several_tenants_behind_one_port(server: Host, address: str, tmp_path: Path) -> None:
    """The configuration of a larger site, in a second HAProxy on the same host."""
    urls = {
        "prefect": (4200, "https://prefect.example.com:9443"),
        "research": (4999, "https://research.example.com:9443"),
        "other": (4200, "https://prefect.example.com:9444"),
    }
    write_configuration(tmp_path, urls, prefect_proxy_http_port=0, __prefect_proxy_folder="/root/several")
    for file in tmp_path.iterdir():
        content = file.read_text().replace("/run/prefect-proxy", "/root/several")
        server.check_output("mkdir -p /root/several && printf %%s %s >/root/several/%s", content, file.name)
    haproxy = "PREFECT_PROXY_CERTIFICATE=/etc/prefect/tls/proxy-combined.pem haproxy %s -f people.cfg -f haproxy.cfg"
    server.check_output(f"cd /root/several && {haproxy % '-c'} && {haproxy % '-D -p pid'} >log 2>&1")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def status(port: int, host: str) -> int:
        with closing(http.client.HTTPSConnection(address, port, context=context, timeout=30)) as connection:
            connection.request("GET", "/api/ready", headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            return answer.status

    try:
        wait_for(lambda: status(9443, "prefect.example.com") == 200, seconds=20)
        assert status(9443, "research.example.com:9443") == 503
        assert status(9443, address) == 421
        assert status(9444, address) == 200
    finally:
        server.check_output("kill $(cat /root/several/pid)")


def test_somebody_who_guesses_passwords_is_stopped_alone(client: Client, worker: Host, admin: str) -> None:
    guesses = [client.ask("/api/admin/version", f"admin:{number}").status for number in range(30)]
    assert guesses[0] == 401 and guesses[-1] == 429
    # Neither is the right one told from the others now, and others are let in.
    refused = client.ask("/api/admin/version", admin)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "60")
    ask = f"set -a; . {WORKER}; PREFECT_HOME=/tmp/asks exec {PREFECT}/bin/prefect work-pool ls"
    worker.check_output("sh -c %s", ask)
