"""What the history says of a site that ran flows: the critical path of a run, and the report as an artifact."""

from __future__ import annotations

import json

from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from testinfra.host import Host

from tests.support.browser import log_in, running_browser
from tests.support.scenario import PSQL, Typed

ARTIFACT = "SELECT data #>> '{}' FROM prefect.artifact WHERE key = 'workflow-report' ORDER BY created DESC LIMIT 1"
# An image that the browser could not decode has no width.
WIDTHS = "return Array.from(document.images, image => image.naturalWidth)"


def test_the_critical_path_of_a_run(host: Host, completed_run: str) -> None:
    run = host.check_output(PSQL, f"SELECT id FROM prefect.flow_run WHERE name = '{completed_run}'")
    path = json.loads(host.check_output("pgprefect stats path %s --json", run))
    assert path["state"] == "Completed" and path["steps"] and path["steps"][0]["follows"] is None
    assert abs(sum(one["waited"] + one["seconds"] for one in path["steps"]) + path["rest"] - path["seconds"]) < 0.1


def test_the_report_is_an_artifact_with_plots(host: Host, secrets: dict[str, str], address: str) -> None:
    said = host.check_output("prefect deployment run workflow-report/weekly --watch 2>&1")
    assert "Completed" in said, said
    markdown = host.check_output(PSQL, ARTIFACT)
    assert "# Flow runs of the last 7 days" in markdown and "collect" in markdown
    with running_browser() as browser:
        wait = log_in(browser, f"{address}/artifacts", f"admin:{secrets['prefect_api']}")
        wait.until(element_to_be_clickable((By.PARTIAL_LINK_TEXT, "workflow-report"))).click()
        wait.until(element_to_be_clickable((By.CSS_SELECTOR, "a[href*='/artifacts/artifact/']"))).click()
        wait.until(lambda driver: len(driver.execute_script(WIDTHS)) >= 2 and min(driver.execute_script(WIDTHS)) > 600)
        assert "Hours by tag" in browser.find_element(By.TAG_NAME, "body").text


def test_the_page(typed: Typed) -> None:
    compared, flaky, costs, *_ = typed("pgprefect.md", "What `pgprefect stats` prints")
    assert "compared with those before" in compared and "second try" in flaky and "sample" in costs
