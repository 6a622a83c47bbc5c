"""Report how the flows ran, with plots, as an artifact of the run: the UI shows it with its history."""

import io

from matplotlib.figure import Figure
from pgprefect import get_prefect_db_manager
from pgprefect.analytics.report import Report, headline, to_markdown
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from trading import step

MOST_BARS = 12
GOOD, BAD = "#2a9d8f", "#d1495b"


def plot_days(report: Report) -> Figure:
    """Plot the completed and the failed runs of each day."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    trend = report.statistics.trend
    places = range(len(trend))
    completed = [day.successful_runs for day in trend]
    axes.bar(places, completed, color=GOOD, label="completed")
    axes.bar(places, [day.failed_runs for day in trend], bottom=completed, color=BAD, label="failed")
    shown = places[:: max(len(trend) // 8, 1)]
    axes.set_xticks(shown, [f"{trend[place].day:%d %b}" for place in shown])
    axes.legend()
    return figure


def plot_costs(report: Report) -> Figure:
    """Plot the hours of the dearest tags, and how many of them went into failed runs."""
    costs = report.costs[:MOST_BARS][::-1]
    figure = Figure(figsize=(8, 1 + len(costs) / 3), layout="constrained")
    axes = figure.subplots()
    places = range(len(costs))
    axes.barh(places, [cost.hours for cost in costs], color=GOOD, label="all")
    axes.barh(places, [cost.lost_hours for cost in costs], color=BAD, label="of failed runs")
    axes.set_yticks(places, ["(no tag)" if cost.tag is None else cost.tag[:40] for cost in costs], parse_math=False)
    axes.legend()
    return figure


@task
def plot(report: Report) -> dict[str, bytes]:
    """Return PNG images by their titles."""
    images = {}
    for title, figure in (("Runs by day, in UTC", plot_days(report)), ("Hours by tag", plot_costs(report))):
        figure.suptitle(title)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110)
        images[title] = file.getvalue()
    return images


@flow
def workflow_report(days: float = 7) -> str:
    """Store a report of the last days as the artifact `workflow-report`, and return its headline.

    Args:
        days: The length of the window, which is compared with the one before it.
    """
    with step("workflow_report_made", days=days) as event:
        report = get_prefect_db_manager().get_workflow_report(days)
        said = event["headline"] = headline(report)
        create_markdown_artifact(to_markdown(report, plot(report)), key="workflow-report", description=said)
    get_run_logger().info("%s", said)
    return said
