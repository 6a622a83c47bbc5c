"""Measure the cleanup against Prefect's own and the REST API, and the API's latency while it runs."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import subprocess
import tempfile
import time
import urllib.parse

from pgprefect.runs.retention import CleanupResult, Policy, clean_up

from bench.data import fill
from bench.support import copied, latencies_during, p99, prefect_database, prefect_server, show
from tests.support.project import VIRTUALENV
from tests.support.site import Site

DAYS = 30.1  # no run is exactly this old
POLICY = Policy(days_to_keep=DAYS, events_days=DAYS)
ORPHANS = """
SELECT (SELECT count(*) FROM {0}.log x WHERE NOT EXISTS (SELECT FROM {0}.flow_run r WHERE r.id = x.flow_run_id))
     + (SELECT count(*) FROM {0}.artifact x WHERE NOT EXISTS (SELECT FROM {0}.flow_run r WHERE r.id = x.flow_run_id))
     + (SELECT count(*) FROM {0}.artifact_collection x
        WHERE NOT EXISTS (SELECT FROM {0}.artifact a WHERE a.id = x.latest_id))
     + (SELECT count(*) FROM {0}.event_resources x WHERE NOT EXISTS (SELECT FROM {0}.events e WHERE e.id = x.event_id))
"""

# Each of Prefect's own functions once, as its service calls them; runs in Prefect's virtualenv.
PREFECTS_OWN = """
import asyncio
import time

from prefect.server.database import provide_database_interface
from prefect.server.services import db_vacuum


async def main() -> None:
    db = provide_database_interface()
    started = time.perf_counter()
    await db_vacuum.vacuum_old_flow_runs(db=db)
    await db_vacuum.vacuum_orphaned_logs(db=db)
    await db_vacuum.vacuum_orphaned_artifacts(db=db)
    await db_vacuum.vacuum_stale_artifact_collections(db=db)
    await db_vacuum.vacuum_old_events(db=db)
    print(time.perf_counter() - started)


asyncio.run(main())
"""


def ours(site: Site) -> CleanupResult:
    server = site.tenant.server
    with contextlib.closing(
        site.server.connect(site.database, server, site.declaration.passwords[server])
    ) as connection:
        return clean_up(connection, site.tenant.schema, POLICY)


def left(site: Site) -> tuple[int, int]:
    """Return the numbers of flow runs and of orphans."""
    runs = site.sql(f"SELECT count(*) FROM {site.tenant.schema}.flow_run")[0][0]
    return runs, site.sql(ORPHANS.format(site.tenant.schema))[0][0]


def prefects_own(site: Site) -> float:
    """Run the functions of Prefect's vacuum service with its batch size, and return their seconds."""
    with tempfile.TemporaryDirectory() as home:
        period = f"P{int(DAYS)}DT{round(DAYS % 1 * 86400)}S"
        environment = {
            **site.environment(role=site.tenant.server, home=home),
            "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": period,
            "PREFECT_SERVER_SERVICES_DB_VACUUM_BATCH_SIZE": "200",
            "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": period,
        }
        done = subprocess.run(
            [VIRTUALENV / "bin/python", "-c", PREFECTS_OWN],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return float(done.stdout)


def rest(site: Site, url: str, sample: int) -> float:
    """Delete some old runs one by one over the API, and return the seconds for one."""
    ids = site.sql(
        f"SELECT id FROM {site.tenant.schema}.flow_run WHERE end_time IS NOT NULL ORDER BY end_time LIMIT %s", sample
    )
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    started = time.perf_counter()
    for (identity,) in ids:
        connection.request("DELETE", f"{parts.path}/flow_runs/{identity}")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 204, answer.status
    seconds = time.perf_counter() - started
    connection.close()
    return seconds / len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=300, help="runs that are deleted over the REST API")
    options = parser.parse_args()
    with prefect_database() as site:
        with contextlib.closing(site.server.connect(site.database)) as connection:
            fill(connection, site.tenant.schema, options.runs)
        with copied(site, "by_prefect") as copy:
            vacuum = prefects_own(copy)
            print(f"Prefect's own leaves {left(copy)} runs and orphans.")
        with copied(site, "by_us") as copy:
            result = ours(copy)
            print(f"Ours leaves {left(copy)} runs and orphans, in {result.batches} transactions,")
            print(f"the longest of {result.longest_transaction_seconds} s; rows: {result.rows}")
        with prefect_server(site) as url:
            one = rest(site, url, options.sample)
            idle, busy = latencies_during(url, lambda: ours(site))
    runs = result.rows["flow_run"]
    by_rest = f"REST DELETE one by one ({options.sample} sampled)"
    show(
        f"Deleting {runs:,} of {options.runs:,} runs with everything that belongs to them",
        [
            ("pgprefect cleanup", result.seconds, "", None),
            ("Prefect's db_vacuum, batch 200", vacuum, "pgprefect cleanup", vacuum / result.seconds),
            (by_rest, one * runs, "pgprefect cleanup", one * runs / result.seconds),
        ],
    )
    show(
        "The API's answers while a cleanup runs",
        [
            (f"p99 idle ({len(idle)} requests)", p99(idle), "", None),
            (f"p99 during a cleanup ({len(busy)} requests)", p99(busy), "idle", p99(idle) / p99(busy)),
        ],
    )


if __name__ == "__main__":
    main()
