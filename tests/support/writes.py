"""Writes from a worker's host whose acknowledgements are remembered, whichever of a database's hosts takes them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping

from testinfra.host import Host

from tests.support.scenario import PSQL
from tests.support.waiting import wait_for

# Each acknowledged number goes into a file, with the time. It logs in as a flow does: by the worker's environment.
_WRITER = """
import itertools, time
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
    time.sleep(0.02)
"""


def taking_writes(hosts: Mapping[str, Host]) -> list[str]:
    """Ask each of a database's hosts that answers whether it takes writes, and return the names of those that do."""
    command = "timeout 5 runuser --user postgres -- psql -XAtc 'SELECT NOT pg_is_in_recovery()'"
    return [name for name, host in hosts.items() if host.run(command).stdout.strip() == "t"]


@contextlib.contextmanager
def writing(app: Host, primary: Host) -> Iterator[None]:
    """Write into a new table from the host of the workers until the end of the block."""
    table = "DROP TABLE IF EXISTS public.acknowledged; CREATE TABLE public.acknowledged (number int PRIMARY KEY)"
    primary.check_output(PSQL, f"SET ROLE mltrading_owner; {table}")
    app.check_output("printf %%s %s >/tmp/writer.py", _WRITER)
    app.check_output(
        "set -a; . /etc/prefect/worker/prefect-default-1.env; "
        "python=$(ls /opt/prefect/[0-9]*/bin/python | head -1); "
        "setsid $python /tmp/writer.py >/tmp/acknowledged 2>/tmp/writer.log </dev/null & "
        "echo $! >/tmp/writer.pid"
    )
    try:
        wait_for(lambda: len(acknowledged(app)) > 20, seconds=30)
        yield
    finally:
        app.check_output("kill $(cat /tmp/writer.pid)")


def acknowledged(app: Host) -> list[tuple[int, float]]:
    """Return the numbers that the writer has written, each with its time."""
    lines = app.check_output("cat /tmp/acknowledged").splitlines()
    return [(int(number), float(when)) for number, when in (line.split() for line in lines)]


def writes_go_on(app: Host) -> None:
    """Wait until more rows have been acknowledged."""
    before = len(acknowledged(app))
    wait_for(lambda: len(acknowledged(app)) > before + 20, seconds=30)


def longest_gap(app: Host) -> float:
    """Return the longest time without an acknowledged write, in seconds, and print it."""
    times = [when for _number, when in acknowledged(app)]
    gap = max(after - before for before, after in itertools.pairwise(times))
    print(f"{len(times)} writes, and none was acknowledged for {gap:.1f} s")
    return gap


def written_rows(host: Host) -> set[int]:
    """Return the numbers that a host of the database has."""
    return set(map(int, host.check_output(PSQL, "SELECT number FROM acknowledged").split()))


def lost_rows(app: Host, host: Host) -> set[int]:
    """Return the numbers that were acknowledged, and that a host of the database does not have."""
    return {number for number, _when in acknowledged(app)} - written_rows(host)
