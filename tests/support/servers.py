"""Several hosts with the same servers: which of them the proxies use, and what has become of their clients' runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from testinfra.host import Host

from tests.support.hosts import start_run, wait_for_health
from tests.support.load import Load
from tests.support.project import ROOT
from tests.support.scenario import PSQL, state_of
from tests.support.waiting import wait_for

SAMPLE = "collect-market-data/sample"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# What a proxy is told, or asked, by its socket.
TELLING = (
    "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/prefect-proxy/admin.sock');"
    "s.sendall(b'{}\\n'); print(s.makefile().read())"
)
_SHOW_REDIS = """set -a; . /etc/prefect/TENANT.env; python3 -c '
import base64, json, os, urllib.request as r
login = base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
asked = r.Request(os.environ["PREFECT_API_URL"] + "/admin/settings", headers={"Authorization": "Basic " + login})
print(json.load(r.urlopen(asked))["server"]["docket"]["url"])'"""


@contextlib.contextmanager
def other_packages(release: str) -> Iterator[None]:
    """Let a release's lock of the flows be another one until the end of the block."""
    lock = ROOT / f"requirements/flows-{release}.txt"
    former = lock.read_bytes()
    lock.write_bytes(former + b"# Another one.\n")
    try:
        yield
    finally:
        lock.write_bytes(former)


def used_servers(host: Host) -> dict[str, str]:
    """Return what the proxy of a host says of each server's host, such as UP."""
    said = host.check_output("python3 -c %s", TELLING.format("show stat"))
    rows = [line.split(",") for line in said.splitlines() if line.startswith("tenant_prefect,app")]
    return {row[1]: row[17] for row in rows}


def lost_runs(database: Host, load: Load) -> set[str]:
    """Return the acknowledged runs that the database does not have."""
    return set(load.acknowledged) - set(database.check_output(PSQL, "SELECT id FROM prefect.flow_run").split())


def completes(database: Host, host: Host) -> None:
    """Run the sample from a host, until the services have written its task runs too."""
    run = start_run(host, SAMPLE, "--param source=sample")
    wait_for(lambda: state_of(database, run) == "COMPLETED", lambda: state_of(database, run), 120)
    task_runs = f"SELECT count(*) FROM prefect.task_run WHERE flow_run_id = '{run}'"
    wait_for(lambda: int(database.check_output(PSQL, task_runs)) > 0)


def end(database: Host, load: Load) -> list[str]:
    """Wait until all runs that were started have ended, and return how."""
    wait_for(lambda: all(state in ENDED for state in states(database, load)), lambda: states(database, load), 180)
    return states(database, load)


def states(database: Host, load: Load) -> list[str]:
    """Return the states of the runs that were started."""
    return [state_of(database, run) for run in load.runs]


@contextlib.contextmanager
def not_starting(host: Host, release: str) -> Iterator[None]:
    """Let no server of a release start on a host until the end of the block."""
    folder = "/etc/systemd/system/prefect-server@.service.d"
    asks = f"! grep --quiet --fixed-strings /{release}+ /etc/systemd/system/prefect-server@.service"
    drop_in = f"[Service]\nExecStartPre=/bin/sh -c '{asks}'\n"
    host.check_output("mkdir --parents %s", folder)
    host.check_output("printf %%s %s >%s", drop_in, f"{folder}/not_starting.conf")
    host.check_output("systemctl daemon-reload")
    try:
        yield
    finally:
        host.check_output("rm -r %s; systemctl daemon-reload", folder)


def as_a_client(host: Host, unit: str, program: str) -> None:
    """Run a Python program with Prefect in the background, as a unit that knows the API of the host."""
    host.check_output(
        "systemd-run --unit=%s --collect --property=EnvironmentFile=/etc/prefect/prefect.env "
        "--setenv=PREFECT_HOME=/tmp/client $(ls /opt/prefect/[0-9]*/bin/python | head -1) -c %s",
        unit,
        program,
    )


def healthy(*hosts: Host) -> None:
    for host in hosts:
        wait_for_health(host)


def shown_redis(host: Host, tenant: str) -> str:
    """Return the address of a tenant's Redis, which its API shows to whoever has the API's password."""
    return str(host.check_output("sh -c %s", _SHOW_REDIS.replace("TENANT", tenant)))


def ask_redis(host: Host, user: str, address: str) -> Any:
    """Speak to Redis as a user of a host. The address has a password, and the journal keeps runuser's arguments."""
    ask = "import redis, sys; redis.Redis.from_url(sys.stdin.read()).ping()"
    return host.run("printf %%s %s | runuser --user %s -- python3 -c %s", address, user, ask)
