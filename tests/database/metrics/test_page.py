"""The page over Prometheus, in a real browser: its numbers are the database's, and it asks nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgprefect.metrics.collect import collect
from pgprefect.metrics.exposition import render
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.support.browser import running_browser
from tests.support.run_rows import add_flow, add_runs, configured
from tests.support.site import Site
from tests.support.waiting import wait_for
from tests.support.watched import watched

UI = "https://flows.example.com"
FLOW = 'a <b>"name"</b> & é'


@pytest.fixture(name="browser", scope="module")
def one_browser() -> Iterator[webdriver.Chrome]:
    with running_browser() as driver:
        yield driver


@pytest.fixture(name="page")
def page_of_a_site(prefect: Site, tmp_path: Path) -> Iterator[str]:
    def text() -> str:
        return render(collect(configured(prefect), 10).samples)

    with watched(text, {prefect.tenant.name: UI}, tmp_path) as url:
        yield url


def tile(browser: webdriver.Chrome, name: str) -> str:
    script = "return document.querySelector(`[data-name='${arguments[0]}'] dd`)?.textContent ?? ''"
    return str(browser.execute_script(script, name))


def rows(browser: webdriver.Chrome, table: str) -> list[list[str]]:
    found = "[...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
    script = f"return {found}.map((row) => [...row.cells].map((cell) => cell.textContent))"
    return list(browser.execute_script(script, table))


def test_the_numbers_are_the_database_s(browser: webdriver.Chrome, page: str, prefect: Site) -> None:
    flow = add_flow(prefect, FLOW, "nightly")
    add_runs(prefect, flow, 17, seconds=3)
    add_runs(prefect, flow, 3, state="FAILED", seconds=50)
    add_runs(prefect, add_flow(prefect, "other flow"), 5, state="CRASHED", seconds=1, ago=4000)
    add_runs(prefect, flow, 4, state="RUNNING")
    browser.get(page)
    wait_for(lambda: tile(browser, "Running") == "4", browser.page_source.__str__, seconds=30)
    assert [tile(browser, name) for name in ("Completed, 1 h", "Failed, 1 h", "Pending")] == ["17", "3", "0"]
    ((name, deployment, tenant, under_way, ended, failed, success, p95, _trend),) = rows(browser, "flows")
    assert (name, deployment, tenant) == (FLOW, "nightly", prefect.tenant.name)
    assert (under_way, ended, failed, success) == ("4", "20", "3", "85.0 %")
    assert p95.endswith("s") and float(p95.removesuffix(" s")) > 30
    [(size,)] = prefect.sql("SELECT count(*) FROM prefect.flow_run")
    assert size == 29
    link = browser.find_element(By.CSS_SELECTOR, "#flows a").get_attribute("href")
    assert link == f"{UI}/runs?deployment={flow[1]}"
    assert {row[0] for row in rows(browser, "schemas")} == {"public", prefect.tenant.schema}


def test_a_run_that_starts_appears_by_itself(browser: webdriver.Chrome, page: str, prefect: Site) -> None:
    flow = add_flow(prefect, "late", "hourly")
    browser.get(page)
    wait_for(lambda: tile(browser, "Running") == "0", seconds=30)
    add_runs(prefect, flow, state="RUNNING", ago=0)
    started = time.monotonic()
    wait_for(lambda: tile(browser, "Running") == "1" and rows(browser, "flows")[0][3] == "1", seconds=30)
    assert time.monotonic() - started < 15


def test_it_asks_the_host_that_served_it_alone(browser: webdriver.Chrome, page: str) -> None:
    browser.get(page)
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "canvas")) == 2, seconds=30)
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    own = page.removesuffix("user/")
    assert len(asked) > 6 and all(url.startswith(own) for url in asked), asked
    # Such as a policy that was broken, or an error of the page's own.
    said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert [message for message in said if own in message] == []


def test_it_says_that_a_part_is_dead(browser: webdriver.Chrome, page: str, prefect: Site) -> None:
    browser.get(page)
    wait_for(lambda: tile(browser, "PostgreSQL") not in ("", "no answer"), seconds=30)
    prefect.sql(f"ALTER ROLE {prefect.declaration.monitor} NOLOGIN")
    try:
        wait_for(lambda: tile(browser, "PostgreSQL") == "no answer", seconds=60)
    finally:
        prefect.sql(f"ALTER ROLE {prefect.declaration.monitor} LOGIN")


def test_it_reads_well_on_a_phone(browser: webdriver.Chrome, page: str) -> None:
    size = browser.get_window_size()
    browser.set_window_size(390, 800)
    try:
        browser.get(page)
        wait_for(lambda: tile(browser, "Running") == "0", seconds=30)
        width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(width) <= 0
    finally:
        browser.set_window_size(size["width"], size["height"])
