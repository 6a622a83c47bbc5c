"""The output of commands, for people and for programs, and their exit statuses.

Tables are plain text, as wide as their content; a terminal gets colours, unless NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..core.problems import ERROR, WARNING, Problem
from ..runs.retention import Batch

# What Nagios and its kin expect: all is well, something wants attention, is broken or was refused, could not be seen.
FINE, ATTENTION, BROKEN, UNKNOWN = range(4)

_GREEN, _YELLOW, _RED = "32", "33", "31"
_COLOURS = {
    **dict.fromkeys(("healthy", "Completed"), _GREEN),
    **dict.fromkeys(("degraded", "unknown", "not yet drilled", WARNING.upper()), _YELLOW),
    **dict.fromkeys(("unhealthy", "Failed", "Crashed", ERROR.upper()), _RED),
}
_VERDICTS = {FINE: _GREEN, ATTENTION: _YELLOW, BROKEN: _RED, UNKNOWN: _YELLOW}


def as_json(content: Any) -> None:
    """Print one JSON document; what JSON has no type for is printed as text."""
    json.dump(content, sys.stdout, indent=2, default=str, ensure_ascii=False)
    print()


def verdict(text: str, status: int = FINE) -> None:
    """Print the sentence that says how it is, which stands before everything else."""
    print(_coloured(text, f"1;{_VERDICTS[status]}"))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table below an empty line; nothing where it has no rows. No cell is ever cut."""
    texts = [[_text(cell) for cell in row] for row in rows]
    if not texts:
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts)]
    print(f"\n{title}" if title else "")
    for row in ([column.upper() for column in columns], *texts):
        cells = [_coloured(cell.ljust(width), _COLOURS.get(cell, "")) for cell, width in zip(row, widths)]
        print("  ".join(cells).rstrip())


def problems(found: Sequence[Problem]) -> None:
    """Print each problem in three lines: what, where, what to do."""
    for problem in found:
        severity = problem.severity.upper()
        print(f"\n{_coloured(severity, _COLOURS.get(severity, ''))} {problem.code}: {problem.object}")
        print("  " + problem.message.replace("\n", "\n  "))
        print(f"  What to do: {problem.remedy}")


def in_two_lines(problem: Problem) -> str:
    """Return a problem as one message: what is wrong, and what to do."""
    return f"{problem.code}: {problem.message}\nWhat to do: {problem.remedy}"


def refuse(message: str, status: int = BROKEN) -> int:
    """Say why nothing was done, and return the status to end with."""
    print(message, file=sys.stderr)
    return status


def _coloured(text: str, colour: str) -> str:
    plain = not colour or not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{colour}m{text}\033[0m"


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


class Progress:
    """Shows how far a cleanup is: a bar on a terminal, else one JSON line for each batch, on the standard error."""

    def __init__(self, expected: int) -> None:
        self.expected = max(expected, 1)

    def __call__(self, batch: Batch) -> None:
        if not sys.stderr.isatty():
            print(json.dumps(batch.as_dict()), file=sys.stderr)
            return
        share = min(batch.total_rows / self.expected, 1.0)
        bar = "#" * round(share * 40)
        end = "\n" if share == 1 else ""
        print(f"\r[{bar:<40}] {share:4.0%}  {batch.total_rows:,} rows", end=end, file=sys.stderr, flush=True)
