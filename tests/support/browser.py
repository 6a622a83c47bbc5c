"""A real browser, and what a person does in Prefect's user interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import visibility_of_element_located
from selenium.webdriver.support.ui import WebDriverWait

_ARGUMENTS = (
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


@contextlib.contextmanager
def running_browser(any_certificate: bool = False) -> Iterator[webdriver.Chrome]:
    """Start a browser; it takes ``any_certificate`` of an authority that this machine does not know."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.accept_insecure_certs = any_certificate
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def log_in(browser: webdriver.Chrome, url: str, login: str) -> WebDriverWait[webdriver.Chrome]:
    """Open a page, log in there, and return what waits for the page's parts."""
    browser.get(url)
    wait = WebDriverWait(browser, 120)
    wait.until(visibility_of_element_located((By.CSS_SELECTOR, "input[type=password]"))).send_keys(login, Keys.ENTER)
    return wait
