"""Measure one call of the statistics against fetching the runs over the REST API, at two sizes."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
from urllib.parse import urlsplit

from pgprefect.runs.statistics import workflow_statistics

from bench.support import database_of_runs, prefect_server, show, timed
from tests.support.site import Site

PAGES = 20  # of 200 runs, fetched over the REST API


def ours(site: Site, days: float) -> float:
    """Return the seconds of one call with its connection, the best of three."""
    best = []
    for _ in range(3):
        role = site.declaration.monitor
        with (
            timed() as seconds,
            contextlib.closing(
                site.server.connect(site.database, role, site.declaration.passwords[role])
            ) as connection,
        ):
            workflow_statistics(connection, site.tenant.schema, days=days)
        best += seconds
    return min(best)


def over_rest(url: str) -> float:
    """Fetch some pages of runs on one open connection, and return the seconds for one run."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    fetched = 0
    with timed() as seconds:
        for page in range(PAGES):
            body = json.dumps({"limit": 200, "offset": page * 200, "sort": "START_TIME_DESC"})
            connection.request("POST", "/api/flow_runs/filter", body, {"Content-Type": "application/json"})
            fetched += len(json.loads(connection.getresponse().read()))
    return seconds[0] / fetched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[20_000, 200_000], help="sizes, e.g. 200000 2000000")
    options = parser.parse_args()
    rows: list[tuple[str, float, str, float | None]] = []
    calls: list[float] = []
    for runs in options.runs:
        with database_of_runs(runs) as site:
            window, everything = ours(site, 30), ours(site, 120)
            with prefect_server(site) as url:
                rest = over_rest(url)
        rows += [
            (f"{runs:,} runs: statistics of 30 days, and the totals", window, "", None),
            (
                f"{runs:,} runs: the same over REST, extrapolated from {PAGES * 200:,} runs",
                rest * runs,
                "the row above",
                rest * runs / window,
            ),
            (f"{runs:,} runs: statistics of all 120 days", everything, "", None),
        ]
        calls.append(window)
    show("Statistics", rows)
    for (fewer, less), (more, longer) in itertools.pairwise(zip(options.runs, calls, strict=True)):
        print(f"{more / fewer:.1f} times as many runs take {longer / less:.1f} times as long (30 days).")


if __name__ == "__main__":
    main()
