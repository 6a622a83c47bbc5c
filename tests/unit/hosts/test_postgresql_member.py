"""The steps that make a host of two the primary or the standby, planned from what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.hosts.postgresql_member import (
    Member,
    Place,
    control,
    demoted,
    look,
    position,
    primary,
    promoted,
    rewound,
    standby,
)
from ansible.module_utils.pgprefect.core.errors import PgprefectError

PLACE = Place("15", "nowhere")
PRIMARY = Member(running=True, process=True, data=True)
STANDBY = Member(running=True, process=True, data=True, signal=True, standby=True)
STOPPED = Member(data=True, state="shut down", checkpoint=1)
SLOT = "prefect_standby_b"


def test_a_position() -> None:
    assert position("0/3000148") == 0x3000148
    assert position("16/B374D848") == 0x16B374D848


def test_what_the_control_file_says() -> None:
    text = """pg_control version number:            1300
Database cluster state:               shut down
Latest checkpoint location:           0/5000028
Latest checkpoint's TimeLineID:       3
Time of latest checkpoint:            Mon 30 Nov 2026 09:00:00 AM UTC
"""
    assert control(text) == {"state": "shut down", "checkpoint": 0x5000028, "timeline": 3}


def test_no_cluster() -> None:
    assert look(PLACE) == Member()


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (PRIMARY, ["create the replication slot prefect_standby_b"]),
        (Member(running=True, slots=[SLOT]), []),
        (Member(running=True, slots=["prefect_standby_c", SLOT]), ["drop the replication slot prefect_standby_c"]),
        (
            Member(running=True, lost=[SLOT]),
            ["drop the replication slot prefect_standby_b", "create the replication slot prefect_standby_b"],
        ),
    ],
)
def test_a_primary(seen: Member, words: list[str]) -> None:
    assert [step.words for step in primary(PLACE, seen, [SLOT])] == words
    assert [step.words for step in promoted(PLACE, seen, [SLOT])] == words


def test_a_standby_is_promoted_only_where_that_is_asked_for() -> None:
    words = ["promote the standby", "create the replication slot prefect_standby_b"]
    assert [step.words for step in promoted(PLACE, STANDBY, [SLOT])] == words
    with pytest.raises(PgprefectError, match=r"a standby, which only playbooks/failover\.yml promotes"):
        list(primary(PLACE, STANDBY, [SLOT]))
    for state in (primary, promoted):
        with pytest.raises(PgprefectError, match="does not answer on this host"):
            list(state(PLACE, STOPPED, [SLOT]))


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Member(), ["copy the primary's data to /var/lib/postgresql/15/nowhere"]),
        (STANDBY, []),
        (Member(data=True, signal=True), []),
        (Member(running=True, data=True, standby=True, slots=[SLOT]), ["drop the replication slot prefect_standby_b"]),
    ],
)
def test_a_standby(seen: Member, words: list[str]) -> None:
    assert [step.words for step in standby(PLACE, seen, "", SLOT)] == words


def test_data_of_its_own_stays() -> None:
    for seen in (PRIMARY, STOPPED):
        with pytest.raises(PgprefectError, match=r"is a primary|has data of its own, which stays"):
            list(standby(PLACE, seen, "", SLOT))


def test_only_a_primary_that_was_stopped_cleanly_is_demoted() -> None:
    assert [step.words for step in demoted(PLACE, STOPPED)] == ["mark the data as a standby's"]
    assert list(demoted(PLACE, STANDBY)) == []
    for seen in (PRIMARY, Member(data=True, state="in production")):
        with pytest.raises(PgprefectError, match="was not stopped cleanly"):
            list(demoted(PLACE, seen))


def test_only_a_stopped_host_is_taken_back() -> None:
    killed = Member(data=True, state="in production")
    words = ["take /var/lib/postgresql/15/nowhere back to where the primary's data left it"]
    assert [step.words for step in rewound(PLACE, killed, "")] == [*words, "mark the data as a standby's"]
    assert list(rewound(PLACE, Member(data=True, signal=True), "")) == []
    for seen in (PRIMARY, Member()):
        with pytest.raises(PgprefectError, match="there is nothing to take back"):
            list(rewound(PLACE, seen, ""))


def test_a_stopped_server_that_answers_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a killed server has left is no server."""
    monkeypatch.setattr(Place, "data", str(tmp_path))
    (tmp_path / "postmaster.pid").write_text("999999999\n/data\n")
    assert not look(PLACE).process
    (tmp_path / "standby.signal").touch()
    assert look(PLACE).signal
