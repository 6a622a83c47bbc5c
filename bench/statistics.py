"""Measure one call of the statistics against fetching the runs over the REST API, at two sizes."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from pgprefect.analytics.comparison import compare_windows
from pgprefect.analytics.costs import tag_costs
from pgprefect.analytics.flaky import flaky_deployments
from pgprefect.runs.statistics import workflow_statistics

from bench.support import database_of_runs, prefect_server, show, timed
from tests.support.site import Site

PAGES = 20  # of 200 runs, fetched over the REST API


def ours(site: Site, days: float, *questions: Callable[..., object]) -> float:
    """Return the seconds of one call with its connection, or of one of each question; the best of three."""
    best = []
    for _ in range(3):
        role = site.declaration.monitor
        with (
            timed() as seconds,
            contextlib.closing(
                site.server.connect(site.database, role, site.declaration.passwords[role])
            ) as connection,
        ):
            for question in questions or (workflow_statistics,):
                question(connection, site.tenant.schema, days)
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
            compared, judged = ours(site, 30, compare_windows), ours(site, 30, flaky_deployments, tag_costs)
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
            (f"{runs:,} runs: 30 days compared with the 30 before", compared, "", None),
            (f"{runs:,} runs: flaky deployments and hours by tag, 30 days", judged, "", None),
        ]
        calls.append(window)
    show("Statistics", rows)
    for (fewer, less), (more, longer) in itertools.pairwise(zip(options.runs, calls, strict=True)):
        print(f"{more / fewer:.1f} times as many runs take {longer / less:.1f} times as long (30 days).")


if __name__ == "__main__":
    main()
