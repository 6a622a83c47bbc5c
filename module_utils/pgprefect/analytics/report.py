"""A report of the last days, as Markdown and as HTML."""

from __future__ import annotations

import base64
import datetime
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.formats import counted, duration
from ..runs.statistics import Statistics, workflow_statistics
from .comparison import BETTER, WORSE, Comparison, compare_windows
from .costs import TagCost, tag_costs
from .flaky import Flaky, flaky_deployments

MOST_ROWS = 20  # of a table
Plots = Mapping[str, bytes]  # PNG images by their titles


@dataclass(frozen=True)
class Report:
    """What the report is made of; ``until`` is the end of the window."""

    title: str
    until: datetime.datetime
    statistics: Statistics
    changes: list[Comparison]
    flaky: list[Flaky]
    costs: list[TagCost]


@dataclass(frozen=True)
class Section:
    """A part of a report: a table, or a sentence where there is nothing for one."""

    title: str
    text: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


def make_report(
    connection: Any, schema: str, days: float = 7, title: str = "", now: datetime.datetime | None = None
) -> Report:
    """Read everything that a report has. Raises InputError and StatisticsUnavailable."""
    until = now or datetime.datetime.now(datetime.timezone.utc)
    return Report(
        title or f"Flow runs of the last {counted(days, 'day')}",
        until,
        workflow_statistics(connection, schema, days, now=until),
        compare_windows(connection, schema, days, until),
        flaky_deployments(connection, schema, days, until),
        tag_costs(connection, schema, days, until),
    )


def sections(report: Report) -> list[Section]:
    """Return the parts of the report in their order."""
    found = report.statistics
    changed = [one for one in report.changes if one.verdict in (WORSE, BETTER)]
    days = counted(found.days, "day")
    return [
        _section(
            "Changes",
            f"Compared with the {days} before, more than noise.",
            CHANGE_COLUMNS,
            map(change_row, changed),
            f"Nothing differs from the {days} before by more than noise.",
        ),
        _section(
            "Flows and deployments",
            "",
            ("flow", "deployment", "runs", "failed", "success", "p50", "p95", "late by"),
            (
                (
                    one.flow,
                    one.deployment,
                    one.begun,
                    one.failed,
                    percent(one.success_rate),
                    duration(one.p50_duration),
                    duration(one.p95_duration),
                    duration(one.average_lateness),
                )
                for one in found.deployments
                if one.begun
            ),
            "No flow ran.",
        ),
        _section(
            "Flaky deployments",
            "They succeeded at the second try, with the same code and the same parameters.",
            FLAKY_COLUMNS,
            map(flaky_row, report.flaky),
            "No deployment succeeded at the second try more than once.",
        ),
        _section("Hours by tag", "", COST_COLUMNS, map(cost_row, report.costs), "No run started."),
        _section(
            "Slowest tasks",
            "",
            ("task", "runs", "failed", "p95"),
            ((one.task_key, one.runs, one.failed_runs, duration(one.p95_duration)) for one in found.slowest_tasks),
            "No task ran.",
        ),
    ]


CHANGE_COLUMNS = ("flow", "deployment", "what", "before", "now", "p", "is")
FLAKY_COLUMNS = ("flow", "deployment", "runs", "after retries", "after failures", "share")
COST_COLUMNS = ("tag", "runs", "hours", "hours lost")


def change_row(change: Comparison) -> tuple[Any, ...]:
    """Return a change as cells below CHANGE_COLUMNS."""
    show = percent if change.measure == "success" else duration
    p_value = None if change.p_value is None else f"{change.p_value:.2g}"
    values = (show(change.before), show(change.after))
    return change.flow, change.deployment, change.measure, *values, p_value, change.verdict


def flaky_row(flaky: Flaky) -> tuple[Any, ...]:
    """Return a flaky deployment as cells below FLAKY_COLUMNS."""
    counts = (flaky.runs, flaky.after_retries, flaky.after_failures)
    return flaky.flow, flaky.deployment, *counts, percent(flaky.share)


def cost_row(cost: TagCost) -> tuple[Any, ...]:
    """Return the cost of a tag as cells below COST_COLUMNS."""
    return "(no tag)" if cost.tag is None else cost.tag, cost.runs, f"{cost.hours:.2f}", f"{cost.lost_hours:.2f}"


def percent(share: float | None) -> str | None:
    """Return a share as people read it: 96.2%, 100%."""
    return None if share is None else f"{share:.1%}".replace(".0%", "%")


def _section(title: str, text: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], nothing: str) -> Section:
    cells = [tuple("-" if cell is None else str(cell) for cell in row) for row in rows]
    if not cells:
        return Section(title, nothing)
    if len(cells) > MOST_ROWS:
        text = f"{text} The first {MOST_ROWS} of {len(cells)}.".strip()
    return Section(title, text, columns, cells[:MOST_ROWS])


def headline(report: Report) -> str:
    """Return the sentence that says how it is."""
    deployments = report.statistics.deployments
    runs = sum(one.begun for one in deployments)
    completed, failed = sum(one.completed for one in deployments), sum(one.failed for one in deployments)
    worse = sum(one.verdict == WORSE for one in report.changes)
    changes = f"{counted(worse, 'measure')} got worse" if worse else "nothing got worse"
    return f"{counted(runs, 'run')}, {completed:,} completed, {failed:,} failed; {changes}."


def to_markdown(report: Report, plots: Plots | None = None) -> str:
    """Return the report as Markdown, with the plots as images within it."""
    lines = [f"# {_escape_markdown(report.title)}", "", f"{headline(report)} Until {_moment(report)}.", ""]
    for title, image in (plots or {}).items():
        lines += [f"![{_escape_markdown(title)}]({_data_url(image)})", ""]
    for section in sections(report):
        lines += [f"## {section.title}", ""]
        if section.text:
            lines += [section.text, ""]
        if section.rows:
            rows = [section.columns, ["---"] * len(section.columns)]
            rows += [[_escape_markdown(cell) for cell in row] for row in section.rows]
            lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def to_html(report: Report, plots: Plots | None = None) -> str:
    """Return the report as one HTML document that needs nothing else."""
    title = html.escape(report.title)
    body = [f"<h1>{title}</h1>", f"<p>{headline(report)} Until {_moment(report)}.</p>"]
    body += [f'<img alt="{html.escape(name)}" src="{_data_url(image)}">' for name, image in (plots or {}).items()]
    for section in sections(report):
        body.append(f"<h2>{section.title}</h2>")
        if section.text:
            body.append(f"<p>{section.text}</p>")
        if section.rows:
            body.append(f"<table><tr>{''.join(f'<th>{name}</th>' for name in section.columns)}</tr>")
            body += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in section.rows]
            body.append("</table>")
    return _PAGE.format(title=title, body="\n".join(body))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ border-bottom: 1px solid #8888; padding: .25rem .75rem .25rem 0; text-align: left; }}
img {{ max-width: 100%; }}
</style>
{body}
</html>
"""


def _moment(report: Report) -> str:
    return f"{report.until.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def _data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _escape_markdown(text: str) -> str:
    """Return text as it is written in Markdown, where a name could else be a table, a link or HTML."""
    one_line = " ".join(text.split())
    return re.sub(r"[\\`*_\[\]<>|~&:$]", lambda found: f"&#{ord(found[0])};", one_line)
