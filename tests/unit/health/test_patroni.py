"""What health makes of Patroni's answers, which are those of real clusters."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pgprefect.cli.health import _figures
from pgprefect.core.problems import ERROR, NOTICE, WARNING
from pgprefect.health.check import HEALTHY, Check
from pgprefect.health.patroni import patroni
from pgprefect.metrics.shared import cluster_questions
from pgprefect.site.configuration import Patroni

# Of Patroni 3.0 and of 4.0, which has another word for a standby that follows.
LEADER = {"name": "db1", "role": "leader", "state": "running", "timeline": 2}
STANDBY = {"name": "db2", "role": "sync_standby", "state": "running", "timeline": 2, "lag": 0}
THIRD = {"name": "db3", "role": "replica", "state": "streaming", "timeline": 2, "lag": 16}


@contextlib.contextmanager
def answering(members: list[dict[str, Any]], majority: bool = True, **others: Any) -> Iterator[Patroni]:
    answers = {
        "/cluster": (200, {"members": members, "scope": "15-main", **others}),
        "/health": (200, {"health": "true"}) if majority else (503, {"health": "false"}),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Patroni(url, "", url, "db1", ("db1", "db2", "db3"))
        server.shutdown()


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
        problems, details = patroni(cluster, 2)
    assert [(problem.code, problem.severity) for problem in problems] == expected
    assert set(details["members"]) == {member["name"] for member in members}


def test_one_that_is_paused() -> None:
    with answering([LEADER, STANDBY, THIRD], pause=True) as cluster:
        problems, _details = patroni(cluster, 2)
    assert [(problem.code, problem.severity) for problem in problems] == [("patroni_paused", WARNING)]


def test_an_etcd_without_a_majority_or_without_an_answer() -> None:
    """Patroni still shows what etcd said before."""
    with answering([LEADER, STANDBY, THIRD], majority=False) as cluster:
        for asked in (cluster, replace(cluster, etcd_url="http://127.0.0.1:1")):
            problems, details = patroni(asked, 2)
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
        problems, details = patroni(cluster, 2)
        (question,) = cluster_questions(cluster, 2).values()
        samples = {sample.metric.name: sample.value for sample in question() if not sample.labels}
        seen = {sample.labels["member"]: sample.value for sample in question() if sample.labels}
    assert _figures("patroni", Check(HEALTHY, problems, details)) == said
    assert samples["pgprefect_cluster_primaries"] == primaries and seen == ready
    assert samples["pgprefect_cluster_etcd_reached"] == 1


def test_one_that_does_not_answer() -> None:
    dead = Patroni("http://127.0.0.1:1", "", "http://127.0.0.1:1", "db1", ("db1",))
    problems, _details = patroni(dead, 2)
    assert [(problem.code, problem.severity) for problem in problems] == [("patroni_silent", ERROR)]
    (question,) = cluster_questions(dead, 2).values()
    assert [(sample.metric.name, sample.value) for sample in question()] == [("pgprefect_cluster_primaries", 0)]
