"""Take the pictures of the box's pages: `monitoring` in the network of its container, `report` outside of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.browser import log_in, running_browser

IMAGES = Path(__file__).parent / "images"
PASSWORD = Path(__file__).parents[1] / "inventory/box/.secrets/prefect_api"
PROMETHEUS, PREFECT = "http://127.0.0.1:9090", f"http://127.0.0.1:{os.environ.get('BOX_PORT', 4200)}"
DESKTOP, PHONE = (1200, 900), (400, 800)
FILLED = "return document.querySelectorAll('#flows tbody tr').length >= 3"
DECODED = "return [...document.images].filter(image => image.naturalWidth > 600).length >= 2"


def show(browser: webdriver.Chrome, size: tuple[int, int], dark: bool = False) -> None:
    """Give the page a size, and the colours that a person has chosen."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def take(browser: webdriver.Chrome, name: str) -> None:
    """Write what the browser shows."""
    IMAGES.mkdir(exist_ok=True)
    assert browser.save_screenshot(str(IMAGES / f"{name}.png"))


def monitoring() -> None:
    """Take the page over Prometheus: on a desk, and on a phone in the dark."""
    with running_browser() as browser:
        for name, size, dark in (("monitoring", DESKTOP, False), ("monitoring-phone", PHONE, True)):
            show(browser, size, dark)
            browser.get(f"{PROMETHEUS}/user/")
            WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(FILLED))
            take(browser, name)


def report() -> None:
    """Take the newest report in Prefect's own user interface."""
    with running_browser() as browser:
        show(browser, DESKTOP)
        wait = log_in(browser, f"{PREFECT}/artifacts", f"admin:{PASSWORD.read_text().strip()}")
        wait.until(element_to_be_clickable((By.PARTIAL_LINK_TEXT, "workflow-report"))).click()
        wait.until(element_to_be_clickable((By.CSS_SELECTOR, "a[href*='/artifacts/artifact/']"))).click()
        wait.until(lambda driver: driver.execute_script(DECODED))
        browser.refresh()  # without what the page said before the login
        wait.until(lambda driver: driver.execute_script(DECODED))
        take(browser, "report")


if __name__ == "__main__":
    {"monitoring": monitoring, "report": report}[sys.argv[1]]()
