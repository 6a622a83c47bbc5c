"""What root takes from the sandbox of a drill, whose code may be anybody's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pgprefect.backup import sandbox
from pgprefect.backup.drill import Drill
from pgprefect.backup.sets import BackupError
from pgprefect.core.problems import Problem

PASSED = Drill("2026-11-28T04:00:00+00:00", 12.5, 340, {"prefect": 3})


def test_a_result_is_read(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps(asdict(PASSED)))
    assert sandbox._result(result, "") == asdict(PASSED)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "null", '{"verified": 1}', json.dumps({**asdict(PASSED), "rows": "many"}), '{"problem": 3}'],
)
def test_a_result_that_is_none_fails_the_drill(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(BackupError, match="journalctl -u prefect-drill") as failed:
        sandbox._result(tmp_path / "result.json", "")
    assert failed.value.problem.code == "drill_failed"


def test_root_follows_no_link_of_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(json.dumps(asdict(PASSED)))
    (tmp_path / "result.json").symlink_to(tmp_path / "secret")
    with pytest.raises(BackupError, match="ended without a result"):
        sandbox._result(tmp_path / "result.json", "")


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_unit_writes_is_what_root_reads(tmp_path: Path, fails: bool) -> None:
    (tmp_path / sandbox.COPY / "20261128T020000Z").mkdir(parents=True)
    (tmp_path / sandbox.CLUSTER).mkdir()

    def prove(path: Path, work: Path) -> Any:
        assert (path.name, work) == ("20261128T020000Z", tmp_path / sandbox.CLUSTER)
        if fails:
            raise BackupError(Problem("drill_failed", "restore drill", "It is broken.", "Mend it."))
        return PASSED

    assert sandbox.prove_and_write(tmp_path, prove) == int(fails)
    if fails:
        with pytest.raises(BackupError, match="It is broken"):
            sandbox._result(tmp_path / sandbox.CLUSTER / sandbox.RESULT, "")
    else:
        assert sandbox._result(tmp_path / sandbox.CLUSTER / sandbox.RESULT, "") == asdict(PASSED)


def test_one_drill_at_a_time(tmp_path: Path) -> None:
    with sandbox._alone(tmp_path):
        (tmp_path / sandbox.COPY).mkdir()
        with pytest.raises(BackupError) as refused, sandbox._alone(tmp_path):
            pass
        assert refused.value.problem.code == "drill_running"
        sandbox.clear(tmp_path)
        assert (tmp_path / sandbox.COPY).is_dir()
    sandbox.clear(tmp_path)
    assert not (tmp_path / sandbox.COPY).exists()
