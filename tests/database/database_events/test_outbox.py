"""An outbox as the command, health, metrics and a restore see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pgprefect.cli.main import main
from pgprefect.health.check import Health, check_health
from pgprefect.metrics.collect import collect
from pgprefect.metrics.exposition import render
from pgprefect.schema import event_plan
from pgprefect.site import configuration
from prometheus_client.parser import text_string_to_metric_families

from tests.support.backups import make, put_back
from tests.support.database_events import ORDERS, order, waiting, with_events
from tests.support.site import Site
from tests.support.verification import codes

DEAD = "INSERT INTO prefect_outbox.event (name, payload, error, dead) VALUES ('new_order', '{}', 'HTTP 404', now())"


@pytest.fixture
def site(prefect: Site, request: pytest.FixtureRequest) -> tuple[Site, Path]:
    """With an event, a row that waits, and the file that the roles write."""
    with with_events(prefect, ORDERS) as site:
        order(site, "first")
        return site, request.getfixturevalue("site_file")


def run(file: Path, *arguments: str) -> int:
    return main(["--config", str(file), "database-events", *arguments])


def test_the_command(site: tuple[Site, Path], capsys: pytest.CaptureFixture[str]) -> None:
    database, file = site
    assert run(file) == 0
    printed = capsys.readouterr().out
    assert "1 row waiting to be sent, 0 dead letters." in printed and "check-risk-limits/on-order" in printed
    database.sql(DEAD)
    assert run(file, "--json") == 1
    assert json.loads(capsys.readouterr().out)["tenant0"]["dead"] == 1
    assert run(file, "dead", "--json") == 0
    [letter] = json.loads(capsys.readouterr().out)["tenant0"]
    assert letter["error"] == "HTTP 404"
    assert run(file, "dead") == 0 and "HTTP 404" in capsys.readouterr().out
    assert run(file, "retry", "--dry-run") == 0
    assert capsys.readouterr().out == "1 dead letter would be sent again.\n"
    assert run(file, "retry", "nonsense") == 3
    assert run(file, "retry", letter["id"]) == 0
    assert "is sent again" in capsys.readouterr().out and waiting(database) == 2
    assert run(file, "dead") == 0 and "no dead letter" in capsys.readouterr().out


def test_a_site_without_events(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site_file) == 3
    assert "has no database events" in capsys.readouterr().err


def health(file: Path) -> Health:
    site = configuration.load(str(file))
    return check_health(site.observer, site.database, site.tenants, 10)


def test_health(site: tuple[Site, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    database, file = site
    found = health(file).checks["database_events"]
    assert found.status == "healthy" and found.details["waiting"] == 1
    database.sql("UPDATE prefect_outbox.event SET occurred = now() - interval '10 min', due = occurred")
    assert [problem.code for problem in health(file).checks["database_events"].problems] == ["database_events_late"]
    database.sql(DEAD)
    monkeypatch.setattr("pgprefect.health.outbox.MOST_WAITING", 2)
    found = health(file).checks["database_events"]
    assert found.status == "unhealthy"
    expected = ["database_events_late", "database_events_full", "database_events_dead"]
    assert [problem.code for problem in found.problems] == expected


def test_metrics(site: tuple[Site, Path]) -> None:
    database, file = site
    database.sql(DEAD)
    collected = collect(configuration.load(str(file)), 10)
    families = text_string_to_metric_families(render(collected.samples))
    found = {sample.name: sample.value for family in families for sample in family.samples if "outbox" in sample.name}
    assert found.pop("pgprefect_outbox_lag_seconds") > 0
    assert found == {
        "pgprefect_outbox_waiting": 1,
        "pgprefect_outbox_dead_letters": 1,
        "pgprefect_outbox_refused_total": 0,
        "pgprefect_outbox_failed_total": 0,
    }


def test_a_restore_brings_the_triggers_back_and_sends_nothing(site: tuple[Site, Path], tmp_path: Path) -> None:
    """A set has neither the outbox nor the triggers; rows that come back are no changes."""
    database, _ = site
    manifest = make(database, tmp_path, "full")
    assert {part.schema for part in manifest.parts} >= {"public", "prefect"}
    assert "prefect_outbox" not in {part.schema for part in manifest.parts}
    put_back(database, tmp_path / manifest.name, "app")
    assert waiting(database) == 1 and codes(database) == set()
    order(database, "second")
    assert waiting(database) == 2
    database.sql("UPDATE prefect_outbox.event SET sent = now(); DROP FUNCTION prefect_outbox.new_order CASCADE")
    put_back(database, tmp_path / manifest.name, "app")  # also where the function of the set's triggers is gone
    assert event_plan.apply(database.server.login, database.declaration) == []
