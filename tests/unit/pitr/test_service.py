"""Where a restore of a cluster of several hosts is refused, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.connection import Login
from pgprefect.pitr import service as service_module
from pgprefect.pitr.programs import RecoveryError
from pgprefect.pitr.repository import Cluster
from pgprefect.pitr.service import PatroniService, service_of
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

    def wait(is_so: Callable[[], bool], _seconds: float, otherwise: str) -> None:
        if not is_so():
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
