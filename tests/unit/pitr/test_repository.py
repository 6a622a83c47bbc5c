"""Which times and restore points can be reached, and by which backup and timeline."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.connection import Login
from pgprefect.pitr.programs import RecoveryError, run_program
from pgprefect.pitr.repository import (
    Cluster,
    RecoveryTarget,
    find_cluster,
    make_recovery_plan,
    parse_repository,
    read_repository,
    set_restore_point,
)
from pgprefect.pitr.restore import check_free_space, check_obstacles, restore_lock, restore_side_by_side


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 1, 31, hour, minute, tzinfo=UTC)


def backup(label: str, hour: int, timeline: int, position: str, **annotation: str) -> dict[str, Any]:
    return {
        "label": label,
        "type": "full",
        "error": False,
        "timestamp": {"stop": at(hour).timestamp()},
        "archive": {"stop": f"{timeline:08X}0000000000000003"},
        "lsn": {"stop": position},
        "info": {"size": 1, "repository": {"delta": 1}},
        "annotation": {name.replace("_", "-"): value for name, value in annotation.items()},
    }


# Backups at 1, 3 and 7; at 5 a restore to 2 began the timeline 2, and a backup of it was made at 7.
STANZA = {
    "status": {"code": 0, "lock": {"backup": {"held": False}}},
    "backup": [
        backup("A", 1, 1, "0/100", point_early=f"{at(2).isoformat()} 1"),
        backup("B", 3, 1, "0/300", point_abandoned=f"{at(4).isoformat()} 1"),
        backup("C", 7, 2, "0/700", point_late=f"{at(8).isoformat()} 2"),
    ],
}
HISTORIES = {2: (at(5), "1\t0/200\tbefore 2026-01-31 02:00:00+00\n")}
REPOSITORY = parse_repository(STANZA, HISTORIES)


@pytest.mark.parametrize(
    ("target", "label", "timeline"),
    [
        (RecoveryTarget(time="2026-01-31 02:30:00Z"), "A", "current"),
        (RecoveryTarget(time="2026-01-31 04:30:00+00:00"), "B", "current"),
        # Between the restore and the first backup afterwards: B is on a branch that was left before.
        (RecoveryTarget(time="2026-01-31T06:00:00+00"), "A", "2"),
        (RecoveryTarget(time="2026-01-31 09:30:00.25+02:00"), "C", "current"),
        (RecoveryTarget(point="early"), "A", "current"),
        (RecoveryTarget(point="abandoned"), "B", "current"),
        (RecoveryTarget(point="late"), "C", "current"),
        (RecoveryTarget(end=True), "C", "current"),
    ],
)
def test_a_target_is_reached_on_the_timeline_that_was_alive(target: RecoveryTarget, label: str, timeline: str) -> None:
    plan = make_recovery_plan(REPOSITORY, target, at(10))
    assert plan.base_backup.label == label
    assert f"--target-timeline={timeline}" in plan.arguments


def test_after_a_restore_that_was_undone_the_old_timeline_goes_on() -> None:
    undone = backup("D", 3, 1, "0/300", point_undone=f"{at(6).isoformat()} 1")
    repository = parse_repository({**STANZA, "backup": [STANZA["backup"][0], undone]}, HISTORIES)  # type: ignore[index]
    assert (
        "--target-timeline=2"
        in make_recovery_plan(repository, RecoveryTarget(time="2026-01-31 05:30:00Z"), at(10)).arguments
    )
    plan = make_recovery_plan(repository, RecoveryTarget(end=True), at(10))
    assert plan.base_backup.label == "D" and "--target-timeline=current" in plan.arguments


def test_the_time_is_given_to_the_microsecond_in_utc() -> None:
    plan = make_recovery_plan(REPOSITORY, RecoveryTarget(time="2026-01-31 09:30:00.25+02:00"), at(10))
    assert "--target=2026-01-31 07:30:00.250000+00" in plan.arguments


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (RecoveryTarget(), "must be one of a time, a restore point and the end"),
        (RecoveryTarget(time="2026-01-31 02:30:00Z", end=True), "must be one of"),
        (
            RecoveryTarget(time="2026-01-31 00:59:00Z"),
            "before the first backup ended; allowed is from 2026-01-31 01:00:00",
        ),
        (RecoveryTarget(time="2026-01-31 10:00:01Z"), "in the future; allowed is from 2026-01-31 01:00:00+00:00 to"),
        (RecoveryTarget(time="2026-01-31 02:30:00"), "no time zone"),
        (RecoveryTarget(time="yesterday"), "write it like 2026-01-31 15:04:05+00:00"),
        (RecoveryTarget(point="never"), "There is no restore point 'never'; known are: early, abandoned, late"),
    ],
)  # fmt: skip
def test_what_can_not_be_reached_is_refused(target: RecoveryTarget, words: str) -> None:
    with pytest.raises(RecoveryError) as refused:
        make_recovery_plan(REPOSITORY, target, at(10))
    assert refused.value.problem.code == "pitr_unreachable"
    assert words in refused.value.problem.message


def test_a_backup_with_wrong_checksums_is_none() -> None:
    damaged = {**STANZA, "backup": [{**backup("A", 1, 1, "0/100"), "error": True}]}
    with pytest.raises(RecoveryError, match="no backup"):
        make_recovery_plan(parse_repository(damaged, {}), RecoveryTarget(end=True), at(10))


def test_what_is_in_the_way_of_a_restore(tmp_path: Path) -> None:
    cluster = Cluster("main", tmp_path / "15/main")
    (cluster.data / "pg_tblspc").mkdir(parents=True)
    check_obstacles(cluster, REPOSITORY, side_by_side=False)
    busy = parse_repository({**STANZA, "status": {"code": 0, "lock": {"backup": {"held": True}}}}, HISTORIES)
    with pytest.raises(RecoveryError, match="is being made") as refused:
        check_obstacles(cluster, busy, side_by_side=False)
    assert refused.value.problem.code == "pitr_in_the_way"
    (cluster.data / "pg_tblspc/16384").mkdir()
    with pytest.raises(RecoveryError, match="has tablespaces"):
        check_obstacles(cluster, REPOSITORY, side_by_side=True)
    cluster.previous.mkdir()
    with pytest.raises(RecoveryError, match=r"main\.before-restore is there, of a restore before this one"):
        check_obstacles(cluster, REPOSITORY, side_by_side=False)


def test_a_restore_needs_room_for_a_second_data_directory(tmp_path: Path) -> None:
    cluster = Cluster("main", tmp_path / "main")
    check_free_space(cluster, make_recovery_plan(REPOSITORY, RecoveryTarget(end=True), at(10)))
    large = {**backup("L", 1, 1, "0/1"), "info": {"size": 10**15, "repository": {"delta": 1}}}
    repository = parse_repository({**STANZA, "backup": [large]}, {})
    with pytest.raises(RecoveryError, match="bytes free, and the copy needs 1,100,000,000,000,000") as refused:
        check_free_space(cluster, make_recovery_plan(repository, RecoveryTarget(end=True), at(10)))
    assert refused.value.problem.code == "pitr_in_the_way"


def test_two_restores_at_once(tmp_path: Path) -> None:
    cluster = Cluster("main", tmp_path / "main")
    with (
        restore_lock(cluster),
        pytest.raises(RecoveryError, match="Another restore is running") as refused,
        restore_lock(cluster),
    ):
        raise AssertionError
    assert refused.value.problem.code == "pitr_in_the_way"
    with restore_lock(cluster):
        pass


def test_a_host_without_pgbackrest_and_postgresql(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "pgbackrest.conf"
    with pytest.raises(RecoveryError) as refused:
        find_cluster(str(file))
    assert refused.value.problem.code == "pitr_missing"
    file.write_text("[global]\nrepo1-path=/x\n[global:backup]\nprocess-max=2\n[main]\npg1-path=/somewhere/15/main\n")
    cluster = find_cluster(str(file))
    assert (cluster.version, cluster.unit) == ("15", "postgresql@15-main.service")
    with pytest.raises(RecoveryError) as failed:
        read_repository(cluster)
    assert failed.value.problem.code == "pitr_failed"
    (tmp_path / "15").mkdir()
    caplog.set_level(logging.INFO, "pgprefect")
    here = Cluster("main", tmp_path / "15/main")
    with pytest.raises(RecoveryError) as failed:
        restore_side_by_side(Login(""), here, make_recovery_plan(REPOSITORY, RecoveryTarget(end=True), at(10)))
    assert failed.value.problem.code == "pitr_restore_failed"
    assert list((tmp_path / "15").iterdir()) == []
    assert f"Restore into {tmp_path}/15/beside to the end of the archived WAL, from the base backup C." in caplog.text


def test_a_restore_point_has_a_name_that_can_be_typed() -> None:
    with pytest.raises(RecoveryError) as refused:
        set_restore_point(Login(""), Cluster("main", Path("/nowhere")), "a name", at(1))
    assert refused.value.problem.code == "pitr_name"


def test_programs_are_logged_with_what_became_of_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgprefect")
    assert run_program(["echo", "a b"]) == "a b\n"
    with pytest.raises(RecoveryError, match=r"sh: out of luck\.") as failed:
        run_program(["sh", "-c", "echo out of luck >&2; exit 3"])
    assert failed.value.problem.code == "pitr_failed"
    patterns = ["echo 'a b' ended after 0\\.\\d s\\.", "sh -c '.*' failed with 3 after 0\\.\\d s\\."]
    assert all(map(re.fullmatch, patterns, caplog.messages)) and len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["systemctl", "stop", "pgprefect-none.service"], "journalctl -u pgprefect-none.service"),
        (["sh", "-c", "exit 3"], "Remove the cause that the program names"),
        (["sh", "-c", "exit 3", "pgbackrest"], "look at the repository (/etc/pgbackrest)"),
        (["systemctl-of-nobody", "stop"], "site.yml"),
    ],
)
def test_what_is_said_to_do_is_about_the_program_that_failed(command: list[str], expected: str) -> None:
    with pytest.raises(RecoveryError) as raised:
        run_program(command)
    assert expected in raised.value.problem.remedy
