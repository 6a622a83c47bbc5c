"""What a command says to people, plain or by rich where that is installed and a terminal is there; how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..core.problems import ERROR, WARNING, Problem
from ..runs.retention import Batch

# What Nagios and its kin expect: all is well, something wants attention, is broken or was refused, could not be seen.
FINE, ATTENTION, BROKEN, UNKNOWN = range(4)

_STYLES = {"healthy": "green", "degraded": "yellow", "unhealthy": "red", ERROR: "red", WARNING: "yellow"}


def as_json(content: Any) -> None:
    """Print one JSON document; what JSON has no type for is printed as text."""
    json.dump(content, sys.stdout, indent=2, default=str, ensure_ascii=False)
    print()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table with a title; nothing where it has no rows."""
    texts = [[_text(cell) for cell in row] for row in rows]
    if not texts or (sys.stdout.isatty() and _rich_table(title, columns, texts)):
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts)]
    print(title)
    for row in (columns, ["-" * width for width in widths], *texts):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()


def _rich_table(title: str, columns: Sequence[str], rows: list[list[str]]) -> bool:
    """Draw the table, if rich is there: the system's Python has none, and the plain table says the same."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    drawn = Table(*columns, title=title, title_justify="left")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)
    return True


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 10 else f"{cell:,.1f}"
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


def problems(found: Sequence[Problem]) -> None:
    """Print each problem in three lines: what, where, what to do."""
    for problem in found:
        print(f"{problem.severity.upper()} {problem.code}: {problem.object}")
        print(f"  {problem.message}")
        print(f"  What to do: {problem.remedy}")


def refuse(message: str, status: int = BROKEN) -> int:
    """Say why nothing was done, and return the status to end with."""
    print(message, file=sys.stderr)
    return status
