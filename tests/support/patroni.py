"""A PostgreSQL cluster of several hosts: its members, and writes whose acknowledgements are remembered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from typing import Any

from testinfra.host import Host

from tests.support.scenario import PREFECT, PSQL
from tests.support.waiting import wait_for

LIST = "timeout 20 patronictl -c /etc/patroni/config.yml list -f json"
# Each acknowledged number goes into a file, with the time. It logs in as a flow does: by the worker's environment.
WRITER = """
import itertools, os, time
import psycopg2
connection = None
for number in itertools.count():
    while True:
        try:
            connection = connection or psycopg2.connect("", connect_timeout=3)
            with connection, connection.cursor() as cursor:
                cursor.execute("INSERT INTO acknowledged VALUES (%s) ON CONFLICT DO NOTHING", (number,))
            break
        except psycopg2.Error:
            connection = None
            time.sleep(0.1)
    print(number, time.time(), flush=True)
    time.sleep(0.05)
"""


def members_of(host: Host) -> list[dict[str, Any]]:
    """Return the members as patronictl on one of them lists them; none where it does not answer."""
    found = host.run(LIST)
    return list(json.loads(found.stdout)) if found.rc == 0 else []


def is_whole(host: Host, names: Collection[str]) -> bool:
    """Say whether these are the members, and all of them run."""
    running = {row["Member"]: row["Role"] for row in members_of(host) if row["State"] in ("running", "streaming")}
    expected = ["Leader", *["Replica"] * (len(names) - 2), "Sync Standby"]
    return sorted(running) == sorted(names) and sorted(running.values()) == expected


def health(host: Host) -> tuple[str, list[str]]:
    """What health says of the cluster on one of its hosts."""
    said = json.loads(host.run("pgprefect health --json").stdout)
    codes = [problem["code"] for problem in said["problems"]]
    return said["checks"]["patroni"], [code for code in codes if code.startswith(("patroni", "etcd"))]


def acknowledged(app: Host) -> list[tuple[int, float]]:
    """Return the numbers that the writer has written, each with its time."""
    lines = app.check_output("cat /tmp/acknowledged").splitlines()
    return [(int(number), float(when)) for number, when in (line.split() for line in lines)]


@contextlib.contextmanager
def writing(app: Host, primary: Host) -> Iterator[None]:
    """Write into a table from the host of the workers until the end of the block."""
    table = "DROP TABLE IF EXISTS public.acknowledged; CREATE TABLE public.acknowledged (number int PRIMARY KEY)"
    primary.check_output(PSQL, f"SET ROLE mltrading_owner; {table}")
    app.check_output("printf %%s %s >/tmp/writer.py", WRITER)
    app.check_output(
        "set -a; . /etc/prefect/worker/prefect-default-1.env; "
        f"setsid {PREFECT}/bin/python /tmp/writer.py >/tmp/acknowledged 2>/tmp/writer.log </dev/null & "
        "echo $! >/tmp/writer.pid"
    )
    try:
        wait_for(lambda: len(acknowledged(app)) > 20, seconds=30)
        yield
    finally:
        app.check_output("kill $(cat /tmp/writer.pid)")


def lost_rows(app: Host, primary: Host) -> set[int]:
    """Return the numbers that were acknowledged, and that the database does not have."""
    found = primary.check_output(PSQL, "SELECT number FROM acknowledged").split()
    return {number for number, _ in acknowledged(app)} - set(map(int, found))
