"""What health makes of PostgreSQL's answers about a standby."""

from __future__ import annotations

from typing import Any

import pytest
from pgprefect.core.connection import Login
from pgprefect.core.problems import WARNING
from pgprefect.health.standby import database_hosts, standby


@pytest.mark.parametrize(
    ("slots", "lonely", "codes", "message"),
    [
        ([], False, [], ""),
        ([["db2", True, False, None]], False, [], ""),
        ([["db2", True, False, 299.0]], False, [], ""),
        ([["db2", True, False, 301.0]], False, ["standby_behind"], "The standby db2 is 301 s behind the primary"),
        ([["db2", False, False, None]], False, ["standby_away"], "The standby db2 does not follow the primary"),
        ([["db2", False, True, None]], False, ["standby_lost"], "The standby db2 was away for so long"),
        ([], True, ["standby_receives_nothing"], "is a standby and receives nothing"),
    ],
)
def test_a_standby(slots: list[Any], lonely: bool, codes: list[str], message: str) -> None:
    found = standby(lambda _statement: [(slots, lonely)])
    assert [problem.code for problem in found] == codes
    assert message in " ".join(problem.message for problem in found)
    assert {problem.severity for problem in found} <= {WARNING}


def test_hosts_that_do_not_answer_are_no_primaries() -> None:
    problems, details = database_hosts(Login("127.0.0.1,127.0.0.2", port=1), "nowhere", 2)
    assert problems == [] and details == {"hosts": {"127.0.0.1": "no answer", "127.0.0.2": "no answer"}}
