"""Where a restore of a cluster of several hosts is refused, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.connection import Login
from pgprefect.pitr import service as service_module
from pgprefect.pitr.programs import RecoveryError
from pgprefect.pitr.repository import Cluster
from pgprefect.pitr.service import PatroniService, service_of
from pgprefect.site import patroni as site_patroni
from pgprefect.site.configuration import Patroni

from tests.support.patroni_answers import LEADER, STANDBY, THIRD, answering

HERE = Cluster("main", Path("/var/lib/postgresql/15/main"))


def refusal(patroni: Patroni) -> str:
    """What the member db1 says to a restore in place; nothing where it takes it."""
    service = service_of(Login(""), HERE, patroni)
    assert isinstance(service, PatroniService)
    try:
        service.require_primary()
        service.require_whole()
    except RecoveryError as error:
        return f"{error.problem.message} {error.problem.remedy}"
    return ""


@pytest.mark.parametrize(
    ("members", "others", "words"),
    [
        ([LEADER, STANDBY, THIRD], {}, ""),
        # Nobody leads: what is left of the data here may be replaced.
        ([{**LEADER, "role": "replica", "state": "stopped"}, STANDBY, THIRD], {}, ""),
        ([{**LEADER, "role": "replica"}, {**STANDBY, "role": "leader"}, THIRD], {}, "Run this on db2, as root."),
        ([LEADER, STANDBY], {}, "The member db3 is away, and would come back with what was there before."),
        ([LEADER, STANDBY, THIRD], {"pause": True}, "patronictl -c /etc/patroni/config.yml resume 15-main"),
    ],
)
def test_where_a_restore_is_refused(members: list[dict[str, Any]], others: dict[str, Any], words: str) -> None:
    with answering(members, **others) as patroni:
        said = refusal(patroni)
    assert bool(said) == bool(words) and words in said, said


def test_a_patroni_that_does_not_answer() -> None:
    said = refusal(Patroni("http://127.0.0.1:1", "", "http://127.0.0.1:1", "db1", ("db1",)))
    assert said.startswith("Patroni of this host does not answer at http://127.0.0.1:1")


def test_a_standby_that_cannot_be_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The restore stands, and what is still to be typed is said; nobody waits, and Patroni is told nothing."""

    def wait(ask: Callable[[], object], _seconds: float, otherwise: str) -> object:
        if answer := ask():
            return answer
        raise service_module._stuck(otherwise)

    monkeypatch.setattr(service_module, "_wait", wait)
    monkeypatch.setattr(service_module, "_SETTLED_SECONDS", 0)
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(PatroniService, "_ask", lambda _self, *words: asked.append(words))
    with answering([LEADER, STANDBY, {**THIRD, "state": "stopped"}], pause=True) as patroni:
        service = service_of(Login(""), HERE, patroni)
        with pytest.raises(RecoveryError) as failed:
            service.let_others_follow(rebuild=False)
    problem = failed.value.problem
    assert problem.code == "pitr_failed" and "PostgreSQL runs on db1, but not everywhere" in problem.message
    assert asked == [("reinit", "--force", "15-main", "db3")]
    assert "reinit 15-main db3; patronictl -c /etc/patroni/config.yml resume 15-main" in problem.remedy


def test_a_patroni_that_is_silent_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves each other question without an answer, and that ends no restore."""
    asked: list[tuple[str, ...]] = []
    answers = iter(range(1000))

    def describe(patroni: Patroni, timeout: float) -> Mapping[str, Any]:
        if next(answers) % 2 == 0:
            raise TimeoutError("timed out")
        return site_patroni.describe(patroni, timeout)

    monkeypatch.setattr(service_module, "describe", describe)
    monkeypatch.setattr(service_module, "_SETTLED_SECONDS", 0)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr(PatroniService, "is_running", lambda _self: False)
    monkeypatch.setattr(PatroniService, "_ask", lambda _self, *words: asked.append(words))
    with answering([LEADER, STANDBY, THIRD], pause=True) as patroni:
        service = service_of(Login(""), HERE, patroni)
        service.stop()
        service.let_others_follow(rebuild=False)
    assert asked == [("resume", "--wait", "15-main")]
    silent = service_of(Login(""), HERE, Patroni("http://127.0.0.1:1", "", "http://127.0.0.1:1", "db1", ("db1",)))
    monkeypatch.setattr(service_module, "_TOLD_SECONDS", 0)
    with pytest.raises(RecoveryError, match="Patroni of this host does not answer"):
        silent.stop()
