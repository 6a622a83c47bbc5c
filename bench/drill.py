"""Measure the restore drill of a backup set against `zcat | psql`, one schema after the other."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.sets import APP, WORKFLOW

from bench.backup import dump_and_gzip, fill_both, login
from bench.support import DURABLE, prefect_database, show, timed
from tests.support.postgresql import docker
from tests.support.project import ROOT
from tests.support.site import Site

ROUNDS = 3
# As cron runs it, on the database's host, but with the priority of `zcat | psql`, so that other load slows both alike.
# Prefect is not installed there, so the drill starts no server.
DRILL = """
import json, pathlib, sys, tempfile
sys.path.insert(0, "/var/tmp/bench")
from pgprefect.core import process
from pgprefect.schema.declaration import declare
from pgprefect.backup.drill import prove, unpack
process._NICENESS = 0
path = pathlib.Path(sys.argv[1])
with tempfile.TemporaryDirectory() as copy, tempfile.TemporaryDirectory() as work:
    unpack(path, pathlib.Path(copy))
    print(prove(pathlib.Path(copy, path.name), pathlib.Path(work), declare(**json.loads(sys.argv[2]))).rows)
"""
BY_HAND = """
set -euo pipefail
createdb by_hand
psql -qX -d by_hand -c 'CREATE SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions; DROP SCHEMA public'
for schema; do zcat "/var/tmp/bench/$schema.gz" | psql -qX -v ON_ERROR_STOP=1 -o /dev/null -d by_hand; done
"""


def within(site: Site, *command: str) -> str:
    return docker("exec", "--user", "postgres", site.server.container, *command)


def declared(site: Site) -> str:
    """Return the declaration as the database's host has it."""
    declaration = site.declaration
    names = ("database", "app_owner", "app_login", "monitor", "backup", "app_schema_tables")
    tenants = [vars(tenant) for tenant in declaration.tenants]
    return json.dumps({**{name: getattr(declaration, name) for name in names}, "tenants": tenants})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    options = parser.parse_args()
    with prefect_database(DURABLE) as site, tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        fill_both(site, options.runs)
        ((megabytes,),) = site.sql("SELECT pg_database_size(current_database()) / 1000000")
        home = Path(name) / "bench"
        home.mkdir()
        who = login(site)
        dump_and_gzip(who, site, home)
        made = back_up(who, site.database, wanted_parts(site.declaration, [APP, WORKFLOW]), home)
        subprocess.run(["cp", "--recursive", ROOT / "module_utils/pgprefect", home], check=True)
        docker("cp", str(home), f"{site.server.container}:/var/tmp")
        docker("exec", "--user", "root", site.server.container, "chown", "-R", "postgres", "/var/tmp/bench")
        seconds: dict[str, list[float]] = {"by_hand": [], "drill": []}
        for _ in range(ROUNDS):  # in turn, because the load varies
            with timed() as took:
                within(site, "bash", "-c", BY_HAND, "-", site.declaration.app_schema, site.tenant.schema)
            seconds["by_hand"] += took
            within(site, "dropdb", "by_hand")
            with timed() as took:
                rows = within(site, "python3", "-c", DRILL, f"/var/tmp/bench/{made.name}", declared(site))
            seconds["drill"] += took
            assert int(rows) == sum(sum(part.rows.values()) for part in made.parts)
    show(
        f"A restore of both schemas of {megabytes:,} MB, median of {ROUNDS} rounds",
        [
            ("zcat | psql, one schema after the other", median(seconds["by_hand"]), "", None),
            (
                "a drill: restored into a temporary cluster, counted, compared",
                median(seconds["drill"]),
                "zcat | psql",
                median(seconds["by_hand"]) / median(seconds["drill"]),
            ),
        ],
    )
    print("All rounds:", {method: [round(one, 1) for one in took] for method, took in seconds.items()})


if __name__ == "__main__":
    main()
