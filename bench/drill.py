"""The restore drill of a backup set beside the guide's restore: `zcat | psql`, one schema after the other."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from pgprefect.backup.create import back_up, wanted_parts
from pgprefect.backup.sets import APP, WORKFLOW

from bench.backup import fill_both, guide, login
from bench.support import DURABLE, prefect_database, show, timed
from tests.conftest import ROOT, Site, docker

ROUNDS = 3
# As cron runs it, on the database's host, but as eager as the guide, so that others' load is not measured; Prefect is
# not installed there, so none is started.
DRILL = """
import json, pathlib, sys
sys.path.insert(0, "/var/tmp/bench")
from pgprefect.core import process as pipeline
from pgprefect.schema.declaration import declare
from pgprefect.backup.drill import drill
pipeline._NICENESS = 0
print(drill(pathlib.Path(sys.argv[1]), declare(**json.loads(sys.argv[2]))).rows)
"""
GUIDE = """
set -euo pipefail
createdb guide
psql -qX -d guide -c 'CREATE SCHEMA extensions; CREATE EXTENSION pg_trgm SCHEMA extensions; DROP SCHEMA public'
for schema; do zcat "/var/tmp/bench/$schema.gz" | psql -qX -v ON_ERROR_STOP=1 -o /dev/null -d guide; done
"""


def within(site: Site, *command: str) -> str:
    return docker("exec", "--user", "postgres", site.server.container, *command)


def declared(site: Site) -> str:
    """The declaration as the database's host has it."""
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
        guide(who, site, home)
        made = back_up(who, site.database, wanted_parts(site.declaration, [APP, WORKFLOW]), home)
        subprocess.run(["cp", "--recursive", ROOT / "module_utils/pgprefect", home], check=True)
        docker("cp", str(home), f"{site.server.container}:/var/tmp")
        docker("exec", "--user", "root", site.server.container, "chown", "-R", "postgres", "/var/tmp/bench")
        seconds: dict[str, list[float]] = {"guide": [], "drill": []}
        for _ in range(ROUNDS):  # in turns: the load varies
            with timed() as took:
                within(site, "bash", "-c", GUIDE, "-", site.declaration.app_schema, site.tenant.schema)
            seconds["guide"] += took
            within(site, "dropdb", "guide")
            with timed() as took:
                rows = within(site, "python3", "-c", DRILL, f"/var/tmp/bench/{made.name}", declared(site))
            seconds["drill"] += took
            assert int(rows) == sum(sum(part.rows.values()) for part in made.parts)
    show(
        f"A restore of both schemas of {megabytes:,} MB, median of {ROUNDS} rounds",
        [
            ("zcat | psql, one schema after the other", median(seconds["guide"]), "", None),
            (
                "a drill: restored beside, counted, compared",
                median(seconds["drill"]),
                "zcat | psql",
                median(seconds["guide"]) / median(seconds["drill"]),
            ),
        ],
    )
    print("All rounds:", {way: [round(one, 1) for one in took] for way, took in seconds.items()})


if __name__ == "__main__":
    main()
