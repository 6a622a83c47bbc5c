"""What a restore says where it failed, and what it leaves: the truth, and commands that work."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.connection import Login
from pgprefect.pitr import restore
from pgprefect.pitr.programs import RecoveryError, failed
from pgprefect.pitr.repository import BaseBackup, Cluster, RecoveryPlan, Repository
from pgprefect.pitr.restore import check_obstacles, restore_in_place

PLAN = RecoveryPlan(BaseBackup("A", "full", datetime(2026, 1, 31, tzinfo=UTC), 1, 1, 1, 1), (), "the end")
UNDO = "pgprefect pitr undo --yes"


class Service:
    """A service of which one method fails, when it has been called so many times."""

    recovery_unit = "nothing.service"

    def __init__(self, breaks: str = "", after: int = 0, error: Exception | None = None) -> None:
        self._breaks, self._left, self._error = breaks, after, error or failed("out of luck")

    def __getattr__(self, name: str) -> Any:
        def call(**_arguments: object) -> None:
            if name == self._breaks:
                self._left -= 1
                if self._left < 0:
                    raise self._error

        return call


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster whose copies of data fail halfway."""

    def copy(_cluster: Cluster, to: Cluster, *_arguments: object) -> None:
        to.data.mkdir()
        raise failed("the repository is away")

    monkeypatch.setattr(restore, "_copy_data", copy)
    found = Cluster("main", tmp_path / "15/main")
    found.data.mkdir(parents=True)
    (found.data / "mine").touch()
    return found


def problem_of(cluster: Cluster, service: Service) -> str:
    with pytest.raises(RecoveryError) as refused:
        restore_in_place(Login(""), cluster, service, PLAN)
    problem = refused.value.problem
    assert problem.code == "pitr_restore_failed"
    assert problem.message.startswith("The restore to the end failed: ")
    return f"{problem.message} {problem.remedy}"


def test_a_restore_that_fails_is_put_back(cluster: Cluster) -> None:
    said = problem_of(cluster, Service())
    assert "failed: the repository is away. The database is as it was, and was started again." in said
    assert (cluster.data / "mine").exists() and not cluster.previous.exists()


@pytest.mark.parametrize("error", [None, PermissionError(13, "Permission denied")])
def test_one_that_cannot_be_put_back_says_where_the_data_is(cluster: Cluster, error: Exception | None) -> None:
    """PostgreSQL stops before the restore, and not once more."""
    said = problem_of(cluster, Service("stop", after=1, error=error))
    assert (cluster.previous / "mine").exists()
    assert f"The previous data directory is still at {cluster.previous}, and was not put back: " in said
    assert said.endswith(UNDO) and "is back" not in said and "as it was" not in said


def test_a_data_directory_that_cannot_be_removed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    said = problem_of(cluster, Service())
    assert (cluster.previous / "mine").exists()
    assert f"still at {cluster.previous}" in said and "Device or resource busy" in said and said.endswith(UNDO)


@pytest.mark.parametrize("breaks", ["stop", "start_previous", "let_others_follow"])
def test_one_whose_data_is_in_its_place_although_not_all_is_well(cluster: Cluster, breaks: str) -> None:
    said = problem_of(cluster, Service(breaks))
    assert (cluster.data / "mine").exists() and not cluster.previous.exists()
    assert f"is in its place, {cluster.data}, but not all is well: out of luck." in said
    assert UNDO not in said and "as it was" not in said


def test_what_a_copy_that_was_killed_leaves_is_removed_as_the_message_says(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it copies its unit is stopped; then what Debian's tools do not know is removed."""
    monkeypatch.setattr(restore, "is_active", lambda unit: unit == "pgprefect-restore.service")
    with pytest.raises(RecoveryError, match="still copies") as refused:
        check_obstacles(cluster, Repository(), side_by_side=True)
    assert refused.value.problem.remedy == "End it: systemctl stop pgprefect-restore.service"
    monkeypatch.setattr(restore, "is_active", lambda _unit: False)
    copy = cluster.data.with_name("beside")
    (copy / "base").mkdir(parents=True)
    with pytest.raises(RecoveryError, match="beside is there, of a restore before this one") as refused:
        check_obstacles(cluster, Repository(), side_by_side=True)
    command = refused.value.problem.remedy.partition(": ")[2]
    subprocess.run(shlex.split(command), check=True)
    check_obstacles(cluster, Repository(), side_by_side=True)
    assert (cluster.data / "mine").exists()


def test_a_copy_that_debians_tools_know_is_removed_by_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "settings", property(lambda found: tmp_path / "etc" / found.name))
    (tmp_path / "etc/beside").mkdir(parents=True)
    (tmp_path / "etc/beside/postgresql.conf").touch()
    with pytest.raises(RecoveryError) as refused:
        check_obstacles(cluster, Repository(), side_by_side=True)
    assert refused.value.problem.remedy.endswith(": pg_dropcluster --stop 15 beside")
