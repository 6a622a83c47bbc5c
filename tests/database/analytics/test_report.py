"""The report as Markdown and as HTML, also of names that are written to break them."""

from __future__ import annotations

from html.parser import HTMLParser

from pgprefect.analytics.report import Report, make_report, to_html, to_markdown

from tests.support.history import NOW, ago, insert, insert_run, reader
from tests.support.site import Site

EVIL = "<script>alert(1)</script> | [x](javascript:y) **b** `c`\n# d"


class Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(dict(attrs).get("alt") or tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def report_of(site: Site) -> Report:
    with reader(site) as connection:
        return make_report(connection, "prefect", 7, now=NOW)


def test_what_is_in_it(prefect: Site) -> None:
    flow = insert(prefect, "flow", name=EVIL)
    for place in range(12):
        insert_run(prefect, flow, ago(10 + place / 10), "COMPLETED", seconds=1, tags='["a|b"]')
        state = "COMPLETED" if place % 2 else "FAILED"
        insert_run(prefect, flow, ago(1 + place / 10), state, seconds=9, flow_version="1")
    markdown = to_markdown(report_of(prefect), {"Plot": b"image"})
    assert "12 runs, 6 completed, 6 failed; 1 measure got worse. Until 2026-03-31 12:00 UTC." in markdown
    assert "![Plot](data:image/png;base64,aW1hZ2U=)" in markdown
    rows = [line for line in markdown.splitlines() if "alert" in line]
    assert len(rows) == 3 and not [row for row in rows if "<" in row or "](" in row or "**" in row or "`" in row]
    changes, flows, flaky = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    assert changes[2:5] == ["success", "100%", "50%"] and changes[6] == "worse"
    assert flows[2:5] == ["12", "6", "50%"] and flaky[2:] == ["12", "0", "5", "41.7%"]

    page = Text()
    page.feed(to_html(report_of(prefect), {"Plot": b"image"}))
    assert EVIL in page.cells and "script" not in page.tags and page.tags.count("Plot") == 1
    assert page.tags.count("h2") == 5 and "a|b" not in page.cells  # whose runs are of the window before


def test_nothing_ran(prefect: Site) -> None:
    markdown = to_markdown(report_of(prefect))
    assert "0 runs, 0 completed, 0 failed; nothing got worse." in markdown and "| ---" not in markdown
    assert "No flow ran." in markdown and "by more than noise" in markdown


def test_a_long_table_says_that_it_is_cut(prefect: Site) -> None:
    for number in range(25):
        insert_run(prefect, insert(prefect, "flow", name=f"flow {number}"), ago(1), "COMPLETED", seconds=1)
    assert "The first 20 of 25." in to_markdown(report_of(prefect))
