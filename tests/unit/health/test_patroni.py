"""What health makes of Patroni's answers, which are those of real clusters."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pgprefect.cli.health import _figures
from pgprefect.core.problems import ERROR, NOTICE, WARNING
from pgprefect.health.check import HEALTHY, Check
from pgprefect.health.patroni import patroni
from pgprefect.health.thresholds import Thresholds
from pgprefect.metrics.shared import cluster_questions
from pgprefect.site.configuration import Patroni

from tests.support.patroni_answers import LEADER, STANDBY, THIRD, answering, receiving

CASES: list[tuple[list[dict[str, Any]], list[tuple[str, str]]]] = [
    ([LEADER, STANDBY, THIRD], []),
    ([LEADER, STANDBY, {**THIRD, "pending_restart": True}], [("patroni_restart_due", NOTICE)]),
    ([LEADER, STANDBY], [("patroni_member_away", WARNING)]),
    ([LEADER, STANDBY, {**THIRD, "state": "stopped"}], [("patroni_member_away", WARNING)]),
    ([LEADER, STANDBY, {**THIRD, "state": "start failed"}], [("patroni_member_away", WARNING)]),
    ([LEADER, STANDBY, {**THIRD, "timeline": 1}], [("patroni_member_away", WARNING)]),
    ([{**LEADER, "role": "replica"}, STANDBY, THIRD], [("patroni_no_leader", ERROR)]),
    ([LEADER, {**STANDBY, "role": "leader"}, THIRD], [("patroni_no_leader", ERROR)]),
]


@pytest.mark.parametrize(("members", "expected"), CASES)
def test_what_keeps_a_cluster_from_being_whole(members: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    with answering(members) as cluster:
        problems, details = patroni(cluster, Thresholds(), 2)
    assert [(problem.code, problem.severity) for problem in problems] == expected
    assert set(details["members"]) == {member["name"] for member in members}


AWAY, ALONE, BEHIND = "patroni_member_away", "patroni_not_synchronous", "patroni_member_behind"
ASYNCHRONOUS = {**STANDBY, "role": "replica"}
BOTH = (("db2", "streaming"), ("db3", "streaming"))


@pytest.mark.parametrize(
    ("members", "standbys", "synchronous", "expected"),
    [
        ([LEADER, STANDBY, THIRD], BOTH[:1], True, [AWAY]),
        ([LEADER, STANDBY, THIRD], (BOTH[0], ("db3", "catchup")), True, []),
        # The copy of its data is none that receives WAL.
        ([LEADER, STANDBY, THIRD], (BOTH[0], ("db3", "backup")), True, [AWAY]),
        ([LEADER, ASYNCHRONOUS, THIRD], BOTH, True, [ALONE]),
        ([LEADER, ASYNCHRONOUS, THIRD], BOTH, False, []),
        ([LEADER, {**STANDBY, "role": "quorum_standby"}, THIRD], BOTH, True, []),
        ([LEADER, ASYNCHRONOUS, THIRD], (), True, [AWAY, AWAY, ALONE]),
        ([LEADER, STANDBY, {**THIRD, "lag": 249_999_999}], BOTH, True, []),
        ([LEADER, STANDBY, {**THIRD, "lag": 250_000_000}], BOTH, True, [BEHIND]),
        ([LEADER, STANDBY, {**THIRD, "lag": "unknown"}], BOTH, True, [BEHIND]),
        # It is away, and how far it is behind is no news.
        ([LEADER, STANDBY, {**THIRD, "lag": "unknown"}], BOTH[:1], True, [AWAY]),
    ],
)
def test_what_keeps_a_standby_that_runs_from_taking_over(
    members: list[dict[str, Any]], standbys: tuple[tuple[str, str], ...], synchronous: bool, expected: list[str]
) -> None:
    with answering(members, synchronous=synchronous, standbys=receiving(*standbys)) as cluster:
        problems, details = patroni(cluster, Thresholds(), 2)
    assert [problem.code for problem in problems] == expected
    assert {problem.severity for problem in problems} <= {WARNING}
    assert len(details["absent"]) == expected.count("patroni_member_away")


def test_what_is_said_of_them() -> None:
    """One that receives nothing may not say on which timeline it is."""
    third = {key: value for key, value in THIRD.items() if key != "timeline"}
    members = [LEADER, {**ASYNCHRONOUS, "lag": 300 * 1024**2}, third]
    with answering(members, standbys=receiving(*BOTH[:1])) as cluster:
        problems, _details = patroni(cluster, Thresholds(), 2)
    assert [problem.message for problem in problems] == [
        "The member db3 receives no WAL from the primary, so that it cannot take over.",
        "No standby is synchronous, so that none takes over where the primary is lost.",
        "The member db2 is 300.0 MiB behind the primary.",
    ]


def test_the_first_minute_after_a_start() -> None:
    """The standbys come back one after the other, and the synchronous one is chosen last."""
    for seconds, expected in ((30, []), (90, [AWAY, AWAY, ALONE])):
        started = datetime.now(UTC) - timedelta(seconds=seconds)
        with answering([LEADER, ASYNCHRONOUS, THIRD], standbys=[], started=started) as cluster:
            problems, _details = patroni(cluster, Thresholds(), 2)
        assert [problem.code for problem in problems] == expected


def test_a_primary_whose_patroni_this_host_does_not_reach() -> None:
    leader = {**LEADER, "api_url": "http://127.0.0.1:1/patroni"}
    with answering([leader, STANDBY, THIRD], standbys=[]) as cluster:
        problems, details = patroni(cluster, Thresholds(), 2)
    assert [(problem.code, problem.severity) for problem in problems] == [("patroni_silent", WARNING)]
    assert details["absent"] == {}


def test_one_that_is_paused() -> None:
    with answering([LEADER, STANDBY, THIRD], pause=True) as cluster:
        problems, _details = patroni(cluster, Thresholds(), 2)
    assert [(problem.code, problem.severity) for problem in problems] == [("patroni_paused", WARNING)]
    assert problems[0].message.startswith("Patroni is paused")


def test_an_etcd_without_a_majority_or_without_an_answer() -> None:
    """Patroni still shows what etcd said before."""
    with answering([LEADER, STANDBY, THIRD], majority=False) as cluster:
        for asked in (cluster, replace(cluster, etcd_url="http://127.0.0.1:1")):
            problems, details = patroni(asked, Thresholds(), 2)
            assert [(problem.code, problem.severity) for problem in problems] == [("etcd_silent", ERROR)]
            assert not details["reaches_etcd"]


@pytest.mark.parametrize(
    ("members", "said", "primaries", "ready"),
    [
        ([LEADER, STANDBY, THIRD], "3 members, led by db1", 1, {"db1": 1, "db2": 1, "db3": 1}),
        ([STANDBY, {**THIRD, "state": "stopped"}], "2 members, led by nobody", 0, {"db1": 0, "db2": 1, "db3": 0}),
    ],
)
def test_what_the_command_and_the_metrics_say(
    members: list[dict[str, Any]], said: str, primaries: int, ready: dict[str, int]
) -> None:
    with answering(members) as cluster:
        problems, details = patroni(cluster, Thresholds(), 2)
        (question,) = cluster_questions(cluster, Thresholds(), 2).values()
        samples = {sample.metric.name: sample.value for sample in question() if not sample.labels}
        seen = {sample.labels["member"]: sample.value for sample in question() if sample.labels}
    assert _figures("patroni", Check(HEALTHY, problems, details)) == said
    assert samples["pgprefect_cluster_primaries"] == primaries and seen == ready
    assert samples["pgprefect_cluster_etcd_reached"] == 1


def test_one_that_does_not_answer() -> None:
    dead = Patroni("http://127.0.0.1:1", "", "http://127.0.0.1:1", "db1", ("db1",))
    problems, _details = patroni(dead, Thresholds(), 2)
    assert [(problem.code, problem.severity) for problem in problems] == [("patroni_silent", ERROR)]
    (question,) = cluster_questions(dead, Thresholds(), 2).values()
    assert [(sample.metric.name, sample.value) for sample in question()] == [("pgprefect_cluster_primaries", 0)]
