"""Measure one call of the metrics against fetching the runs over the REST API, as prometheus-prefect-exporter does."""

from __future__ import annotations

import argparse
from dataclasses import replace

from pgprefect.metrics.collect import collect
from pgprefect.metrics.exposition import render
from pgprefect.site.configuration import Site as Configured

from bench.statistics import PAGES, over_rest
from bench.support import database_of_runs, prefect_server, show, timed
from tests.support.site import Site


def ours(site: Site) -> tuple[float, int]:
    """Return the seconds of one call with its connections, the best of three, and the number of its lines."""
    role = site.declaration.monitor
    login = replace(site.server.login, user=role, password=site.declaration.passwords[role])
    configured = Configured(login, {"database": site.database, "monitor": role}, site.declaration.tenants)
    best = []
    for _ in range(3):
        with timed() as seconds:
            collected = collect(configured, 60)
            text = render(collected.samples)
        if collected.errors:
            raise RuntimeError("\n".join(collected.errors))
        best += seconds
    return min(best), text.count("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[200_000], help="sizes, e.g. 200000 2000000")
    options = parser.parse_args()
    rows: list[tuple[str, float, str, float | None]] = []
    for runs in options.runs:
        with database_of_runs(runs) as site:
            seconds, lines = ours(site)
            with prefect_server(site) as url:
                rest = over_rest(url)
        rows += [
            (f"{runs:,} runs: one call, {lines} lines", seconds, "", None),
            (
                f"{runs:,} runs: fetching them over REST, extrapolated from {PAGES * 200:,} runs",
                rest * runs,
                "the row above",
                rest * runs / seconds,
            ),
        ]
    show("Metrics", rows)


if __name__ == "__main__":
    main()
