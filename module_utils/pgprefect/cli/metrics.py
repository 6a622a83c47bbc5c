"""The command ``pgprefect metrics``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..health.thresholds import Thresholds
from ..metrics import textfile
from ..metrics.alerts import rules
from ..metrics.collect import collect
from ..metrics.exposition import render
from .common import absolute_path, add_command, load_site, number
from .output import FINE, UNKNOWN


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "print figures of the runs, the database and the jobs of this host for Prometheus"
    command = add_command(commands, "metrics", _metrics, summary)
    instead = command.add_mutually_exclusive_group()
    instead.add_argument(
        "--alerts", action="store_true", help="print alerting rules with the site's thresholds instead, as JSON"
    )
    instead.add_argument(
        "--textfile", type=_textfile, metavar="FILE", help="replace FILE, which the node exporter reads; print nothing"
    )
    command.add_argument(
        "--timeout", type=number(0.1, 3600), default=10.0, help="seconds that the whole may take (%(default)g)"
    )


def _textfile(text: str) -> Path:
    path = absolute_path(text)
    if path.suffix != ".prom":
        raise argparse.ArgumentTypeError(f"{text!r} does not end with .prom, so the node exporter does not read it")
    return path


def _metrics(options: argparse.Namespace) -> int:
    site = load_site(options)
    if options.alerts:
        print(json.dumps(rules(Thresholds.from_arguments(site.health)), indent=2))
        return FINE
    collected = collect(site, options.timeout)
    text = render(collected.samples)
    if options.textfile:
        textfile.write(options.textfile, text)
    else:
        sys.stdout.write(text)
    for error in collected.errors:
        print(f"Not collected: {error}", file=sys.stderr)
    return FINE if collected.anything else UNKNOWN
