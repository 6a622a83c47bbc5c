"""The user interface in a real browser, at the published address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import (
    element_to_be_clickable,
    text_to_be_present_in_element,
    url_contains,
)

from tests.support.browser import log_in, running_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with running_browser() as driver:
        yield driver


def test_the_completed_run_is_there_by_name(
    browser: webdriver.Chrome, address: str, secrets: dict[str, str], completed_run: str
) -> None:
    wait = log_in(browser, f"{address}/runs", f"admin:{secrets['prefect_api']}")
    wait.until(element_to_be_clickable((By.LINK_TEXT, completed_run))).click()
    wait.until(url_contains("/runs/flow-run/"))
    # A heading that only the page of a run has.
    wait.until(text_to_be_present_in_element((By.TAG_NAME, "body"), "Subflow Runs"))
    page = browser.find_element(By.TAG_NAME, "body").text
    assert completed_run in page and "Completed" in page
    # What the page itself asked for: only the published address, as the browser reaches it.
    calls = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert any(call.startswith(f"{address}/api/") for call in calls), calls
