"""host_preflight on this very machine, and on what another one's files would say."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.hosts import preflight as host_preflight

from tests.support.ansible import Result


@pytest.fixture
def preflight(run_module: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Run the module on a supported system; return the problems' messages by code."""
    pretend(monkeypatch, host_preflight, {"/etc/os-release": 'ID=debian\nVERSION_ID="12"\n'})

    def run(**arguments: Any) -> dict[str, str]:
        result = run_module("host_preflight", check=True, requirements=[arguments])
        assert not result["changed"]
        assert all(problem["remedy"] and problem["severity"] == "error" for problem in result["problems"])
        return {problem["code"]: problem["message"] for problem in result["problems"]}

    return run


def pretend(monkeypatch: pytest.MonkeyPatch, module: ModuleType, files: dict[str, str]) -> None:
    """Let the module read these texts instead of the machine's own files."""
    real = module.read
    monkeypatch.setattr(module, "read", lambda path: files.get(path) or real(path))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost", "::"])
def test_a_port_in_use(preflight: Callable[..., dict[str, str]], listener: socket.socket, address: str) -> None:
    port = listener.getsockname()[1]
    found = preflight(ports=[{"address": address, "port": port, "unit": "prefect-server@prefect.service"}])
    assert set(found) == {"port_in_use"}
    assert f"process {os.getpid()}" in found["port_in_use"] and "prefect-server@prefect.service" in found["port_in_use"]


def test_a_port_that_is_free(preflight: Callable[..., dict[str, str]], listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert preflight(ports=[{"address": "127.0.0.2", "port": port, "unit": "x.service"}]) == {}
    listener.close()
    assert preflight(ports=[{"address": "127.0.0.1", "port": port, "unit": "x.service"}]) == {}


def test_ipv6_and_every_address(preflight: Callable[..., dict[str, str]]) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        found = preflight(ports=[{"address": "127.0.0.1", "port": port, "unit": "x.service"}])
    assert set(found) == {"port_in_use"}


@pytest.mark.parametrize(("group", "codes"), [("prefect-server@a.service", set()), ("nginx.service", {"port_in_use"})])
def test_a_port_of_the_unit_itself(
    preflight: Callable[..., dict[str, str]],
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    codes: set[str],
) -> None:
    pretend(monkeypatch, host_preflight, {f"/proc/{os.getpid()}/cgroup": f"0::/system.slice/x.slice/{group}\n"})
    port = listener.getsockname()[1]
    assert set(preflight(ports=[{"port": port, "unit": "prefect-server@*.service"}])) == codes


def test_memory(preflight: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight(memory_mb=10) == {}
    pretend(monkeypatch, host_preflight, {"/proc/meminfo": "MemTotal: 2048000 kB\nMemFree: 9999999 kB\n"})
    assert preflight(memory_mb=1999) == {}
    assert "2000 MB" in preflight(memory_mb=2001)["memory_low"]
    pretend(monkeypatch, host_preflight, {"/sys/fs/cgroup/memory.max": "1073741824\n"})
    assert "1024 MB" in preflight(memory_mb=1999)["memory_low"]


def test_disk(preflight: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    path = str(tmp_path / "not" / "there" / "yet")
    assert preflight(disk=[{"path": path, "mb": 1}]) == {}
    assert path in preflight(disk=[{"path": path, "mb": 10**9}])["disk_low"]


def test_a_directory_of_ones_own(preflight: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name

    def look(path: Path, owner: str = me) -> str:
        found = preflight(
            directories=[{"path": str(path), "owner": owner, "holds": r"set-\d|\.lock", "variable": "sets"}]
        )
        assert found.keys() <= {"directory_taken"}
        return found.get("directory_taken", "")

    assert look(tmp_path / "new") == ""
    (tmp_path / "set-1").mkdir()
    (tmp_path / ".lock").touch()
    assert look(tmp_path) == ""
    assert f"sets is {tmp_path}: that belongs to {me}" in look(tmp_path, "daemon")
    assert f"sets is {tmp_path}: that belongs to {me}" in look(tmp_path, "nobody_yet")
    assert f"{tmp_path / '.lock'}: that is not a directory" in look(tmp_path / ".lock")
    (tmp_path / "photos").mkdir()
    assert f"{tmp_path}: that holds photos, and it would be made {me}'s alone" in look(tmp_path)


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs this machine")
def test_no_systemd(preflight: Callable[..., dict[str, str]]) -> None:
    assert set(preflight(systemd=True)) == {"no_systemd"}


@pytest.mark.parametrize(
    "release", ['ID=debian\nVERSION_ID="11"\n', "ID=fedora\nVERSION_ID=42\n", 'NAME="Debian GNU/Linux"\n']
)
def test_another_system(
    preflight: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    pretend(monkeypatch, host_preflight, {"/etc/os-release": release})
    assert set(preflight()) == {"system_unsupported"}


def test_what_is_missing(run_module: Callable[..., Result], tmp_path: Path) -> None:
    me = pwd.getpwuid(os.getuid())
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    wanted = {
        "packages": ["base-files", "no-such-package"],
        "users": [
            {"name": me.pw_name, "home": me.pw_dir, "shell": me.pw_shell},
            {"name": "daemon", "home": "/elsewhere"},
            {"name": "nobody-yet", "home": "/"},
        ],
        "files": [str(tmp_path / "a"), str(tmp_path / "c")],
        "folders": [str(tmp_path), str(tmp_path / "new")],
        "units": ["no-such-unit.service"],
    }
    found = run_module("host_preflight", requirements=[wanted, {"packages": ["no-such-package"]}, {}])
    assert found["checked"] == 3
    assert found["missing_packages"] == ["no-such-package"]
    assert found["missing_users"] == ["daemon", "nobody-yet"]
    assert found["missing_files"] == [str(tmp_path / "c")]
    assert found["stopped_units"] == ["no-such-unit.service"]
    assert found["folders"] == {str(tmp_path): ["a", "b"], str(tmp_path / "new"): []}
