"""job_wait on files as Ansible's async_wrapper writes them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible import Result

Wait = Callable[..., Result]
BEGUN = {"started": True, "finished": False, "ansible_job_id": "j1.2"}


@pytest.fixture
def wait(run_module: Callable[..., Result], tmp_path: Path) -> Wait:
    def run(timeout: int = 20) -> Result:
        return run_module("job_wait", job="j1.2", folder=str(tmp_path), timeout=timeout)

    return run


def write(folder: Path, content: dict[str, Any]) -> None:
    new = folder / "new"
    new.write_text(json.dumps(content))
    new.rename(folder / "j1.2")


def test_it_returns_what_the_job_returned(wait: Wait, tmp_path: Path) -> None:
    write(tmp_path, BEGUN)
    done = {**BEGUN, "finished": True, "changed": True, "installed": ["uv==1"]}
    timer = threading.Timer(1, write, (tmp_path, done))
    timer.start()
    result = wait()
    timer.join()
    assert result["changed"] and result["installed"] == ["uv==1"]


def test_it_fails_as_the_job_failed(wait: Wait, tmp_path: Path) -> None:
    write(tmp_path, {"failed": True, "msg": "No space left on device."})
    result = wait()
    assert result["failed"] and result["msg"] == "No space left on device."


def test_a_job_that_takes_too_long(wait: Wait, tmp_path: Path) -> None:
    write(tmp_path, BEGUN)
    assert "has not ended within 0 s" in wait(timeout=0)["msg"]


def test_a_job_that_is_gone(wait: Wait) -> None:
    assert "There is no job" in wait()["msg"]
