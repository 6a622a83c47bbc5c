"""The user interface in a real browser, at the published address."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import (
    element_to_be_clickable,
    text_to_be_present_in_element,
    url_contains,
    visibility_of_element_located,
)
from selenium.webdriver.support.ui import WebDriverWait

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # Nothing but the page: no look-ups of updates or accounts.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ARGUMENTS:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(container: str) -> str:
    """Where Docker publishes the first tenant."""
    published = subprocess.run(["docker", "port", container, "4200"], check=True, text=True, capture_output=True).stdout
    return f"http://{published.split()[0]}"


def test_the_completed_run_is_there_by_name(
    browser: webdriver.Chrome, address: str, secrets: dict[str, str], completed_run: str
) -> None:
    browser.get(f"{address}/runs")
    wait = WebDriverWait(browser, 60)
    password = wait.until(visibility_of_element_located((By.CSS_SELECTOR, "input[type=password]")))
    password.send_keys(f"admin:{secrets['prefect_api']}", Keys.ENTER)
    wait.until(element_to_be_clickable((By.LINK_TEXT, completed_run))).click()
    wait.until(url_contains("/runs/flow-run/"))
    # A heading that only the page of a run has.
    wait.until(text_to_be_present_in_element((By.TAG_NAME, "body"), "Subflow Runs"))
    page = browser.find_element(By.TAG_NAME, "body").text
    assert completed_run in page and "Completed" in page
    # What the page itself asked for: only the published address, as the browser reaches it.
    calls = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert any(call.startswith(f"{address}/api/") for call in calls), calls
