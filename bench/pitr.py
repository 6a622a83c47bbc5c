"""Measure a restore to a point in time by pgBackRest against the logical restore of a set, on the same data."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.restore import restore
from pgprefect.backup.sets import APP, WORKFLOW, read_manifest

from bench.backup import MARKET_DATA, login
from bench.data import fill
from bench.support import DURABLE, prefect_database, show, timed
from tests.support.postgresql import docker
from tests.support.site import Site

ROUNDS = 3
# As the role pgbackrest writes it, but with a longer timeout.
CONFIGURATION = """
[global]
repo1-path=/var/lib/pgbackrest
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=bench
repo1-retention-full=2
repo1-bundle=y
compress-type=zst
process-max=2
start-fast=y
log-level-file=off
archive-timeout=600
[main]
pg1-path=/var/lib/postgresql/data
"""
PG_CTL = "$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)/pg_ctl"
COPY = "/var/lib/postgresql/copy"
# Recovery notices that it has reached the target at the next commit.
LATER = "UPDATE market_data SET volume = volume + 1 WHERE symbol LIKE 'S1%'"


def inside(site: Site, *command: str, user: str = "postgres") -> str:
    return docker("exec", "--user", user, site.server.container, *command)


def archive_by(site: Site, command: str) -> None:
    site.server.sql("postgres", f"ALTER SYSTEM SET archive_command = '{command}'")
    site.server.sql("postgres", "SELECT pg_reload_conf()")


def begin(site: Site) -> None:
    """Install pgBackRest in the container, archive with it, and make a full backup."""
    install = "apt-get update -qq && apt-get install -qq -y --no-install-recommends pgbackrest"
    inside(site, "sh", "-c", f"{install} && printf '%s' '{CONFIGURATION}' >/etc/pgbackrest.conf", user="root")
    inside(site, "pgbackrest", "--stanza=main", "stanza-create")
    archive_by(site, "pgbackrest --stanza=main archive-push %p")
    inside(site, "pgbackrest", "--stanza=main", "check")
    inside(site, "pgbackrest", "--stanza=main", "backup", "--type=full")


def by_time(site: Site, moment: str) -> None:
    """Restore into a copy of the cluster and wait until it accepts writes."""
    inside(
        site, "pgbackrest", "--stanza=main", f"--pg1-path={COPY}", "--type=time", f"--target={moment}",
        "--target-action=promote", "--archive-mode=off", "restore",
    )  # fmt: skip
    options = "-p 5433 -c listen_addresses= -c unix_socket_directories=/tmp -c max_connections=200"
    inside(site, "sh", "-c", f"{PG_CTL} start -w -t 600 -D {COPY} -l /tmp/copy.log -o '{options}'")
    while inside(site, "psql", "-h", "/tmp", "-p", "5433", "-Atc", "SELECT pg_is_in_recovery()").strip() != "f":
        time.sleep(0.1)


def remove(site: Site) -> None:
    inside(site, "sh", "-c", f"{PG_CTL} stop -m immediate -D {COPY}; rm -rf {COPY}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    options = parser.parse_args()
    settings = f"{DURABLE} -c archive_mode=on"
    with prefect_database(settings) as site, tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        archive_by(site, "true")  # WAL from before the first backup is not needed
        print(f"Fill the database with {options.runs:,} runs ...", flush=True)
        with contextlib.closing(site.server.connect(site.database)) as connection:
            fill(connection, site.tenant.schema, options.runs)
            with connection.cursor() as cursor:
                for statement in MARKET_DATA.split(";"):
                    cursor.execute(statement)
        ((megabytes,),) = site.sql("SELECT pg_database_size(current_database()) / 1000000")
        begin(site)
        site.sql(LATER)  # four in ten rows of market data are only in the WAL
        who = login(site)
        administrator = replace(site.server.login, host=who.host, port=who.port)  # without docker's proxy
        made = back_up(who, site.database, wanted_parts(site.declaration, [APP, WORKFLOW]), home)
        ((moment,),) = site.sql("SELECT clock_timestamp()::text")
        site.sql(LATER)
        inside(site, "pgbackrest", "--stanza=main", "check")
        archive_by(site, "true")  # the logical restore must not wait for archiving
        path = Path(home, made.name)
        parts = read_manifest(path).parts
        rounds = []
        for _ in range(ROUNDS):  # in turn, because the load varies
            os.sync()
            with timed() as logical:
                restore(administrator, site.declaration, path, parts, into="aside")
            site.server.sql("postgres", "DROP DATABASE aside WITH (FORCE)")
            os.sync()
            with timed() as physical:
                by_time(site, moment)
            remove(site)
            rounds.append((logical[0], physical[0]))
            print(f"Logical {logical[0]:.1f} s, point in time {physical[0]:.1f} s", flush=True)
    logical_seconds, physical_seconds = (median(one[method] for one in rounds) for method in (0, 1))
    ratio = logical_seconds / physical_seconds
    show(
        f"A restore of {megabytes:,} MB, median of {ROUNDS} rounds",
        [
            ("logical: a set into its own database", logical_seconds, "", None),
            ("point in time: a backup, and the WAL up to a time", physical_seconds, "logical", ratio),
        ],
    )
    print(f"RestorePoint in time takes {physical_seconds / logical_seconds:.2f} of the logical restore.")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        raise SystemExit(f"{failed}\n{failed.stderr}") from failed
