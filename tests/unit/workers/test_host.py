"""What a host is told about its workers, what systemd says of them, and what is remembered."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from pgprefect.core.errors import ProblemError
from pgprefect.site.configuration import ConfigurationError
from pgprefect.workers.host import (
    host_memory,
    parse_units,
    read_quiet,
    read_scaling,
    read_units,
    scaling_lock,
    write_quiet,
)
from pgprefect.workers.scale import DRAINING, RUNNING, STARTING, STOPPED, WAITING, ScaledPool, Scaling, Unit

SAID = """\
MemoryMax=4294967296
Id=prefect-worker@prefect-default-{number}.service
ActiveState={active}
SubState={sub}
"""


@pytest.mark.parametrize(
    ("active", "sub", "state"),
    [
        ("active", "running", RUNNING),
        ("activating", "start-post", STARTING),
        ("activating", "start-pre", WAITING),
        ("activating", "auto-restart", WAITING),
        ("deactivating", "stop-sigterm", DRAINING),
        ("inactive", "dead", STOPPED),
        ("failed", "failed", STOPPED),
    ],
)
def test_the_state_of_a_unit(active: str, sub: str, state: str, tmp_path: Path) -> None:
    said = "\n".join(SAID.format(number=number, active=active, sub=sub) for number in (1, 2))
    found = parse_units(said, str(tmp_path))
    assert found == {f"prefect-default-{number}": Unit(state, 4 * 2**30) for number in (1, 2)}


def test_a_worker_says_that_it_drains(tmp_path: Path) -> None:
    (tmp_path / "prefect-default-1").mkdir()
    (tmp_path / "prefect-default-1/draining").touch()
    said = "\n".join(SAID.format(number=number, active="active", sub="running") for number in (1, 2))
    states = [unit.state for unit in parse_units(said.replace("=4294967296", "=infinity"), str(tmp_path)).values()]
    assert states == [DRAINING, RUNNING]


def test_what_the_roles_write(tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    with pytest.raises(ConfigurationError, match=r"is not on this host, so it scales no workers: give a work pool"):
        read_scaling(str(file))
    for broken in ("", "[]", "{}", '{"pools": [{"pool": "a"}]}'):
        file.write_text(broken)
        with pytest.raises(ConfigurationError, match=r"is not as the roles write it \(.*\): run site.yml"):
            read_scaling(str(file))
    pool = {"tenant": "prefect", "pool": "default", "min": 0, "max": 4, "run_limit": 5, "hosts": ["a"]}
    rest = {"quiet_looks": 6, "host": "a", "weights": {"a": 1}}
    file.write_text(json.dumps({"pools": [pool], **rest}))
    assert read_scaling(str(file)) == Scaling(
        pools=(ScaledPool("prefect", "default", 0, 4, 5, ("a",)),), quiet_looks=6, host="a", weights={"a": 1}
    )


def test_quiet_looks_are_kept_and_what_is_damaged_counts_as_none(tmp_path: Path) -> None:
    assert read_quiet(str(tmp_path)) == {}
    write_quiet({"prefect-default": 3}, str(tmp_path))
    assert read_quiet(str(tmp_path)) == {"prefect-default": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["quiet.json"]
    for text in ("", "[]", '{"a": "x"}', '{"prefect-default":'):
        (tmp_path / "quiet.json").write_text(text)
        assert read_quiet(str(tmp_path)) == {}


def hold(folder: str, held: multiprocessing.synchronize.Event) -> None:
    with scaling_lock(folder):
        held.set()
        multiprocessing.Event().wait()


def test_two_looks_wait_for_each_other_and_a_killed_one_holds_nobody_up(tmp_path: Path) -> None:
    held = multiprocessing.Event()
    other = multiprocessing.Process(target=hold, args=(str(tmp_path), held))
    other.start()
    assert held.wait(30)
    with pytest.raises(ProblemError) as refused, scaling_lock(str(tmp_path), 0.2):
        pass
    assert refused.value.problem.code == "scaling_locked"
    other.kill()
    other.join()
    with scaling_lock(str(tmp_path), 5):
        pass


def test_a_host_without_systemd_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProblemError) as refused:
        read_units([])
    assert refused.value.problem.code == "systemctl_failed"


def test_the_memory_of_this_host() -> None:
    assert host_memory() > 2**29
