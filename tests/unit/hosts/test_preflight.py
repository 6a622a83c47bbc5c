"""host_preflight on this very machine, and on what another one's files would say."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
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


def test_ports_that_a_firewall_would_close(run_module: Callable[..., Result]) -> None:
    def closed(*left: tuple[str, int]) -> set[str]:
        only = [{"protocol": protocol, "port": port} for protocol, port in left]
        problems = run_module("host_preflight", check=True, requirements=[{"only_ports": only}])["problems"]
        return {problem["object"] for problem in problems if problem["code"] == "port_closed"}

    with (
        socket.create_server(("0.0.0.0", 0)) as everybody,
        socket.create_server(("127.0.0.1", 0)) as local,
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
        socket.socket(type=socket.SOCK_DGRAM) as asking,
    ):
        receiver.bind(("0.0.0.0", 0))
        asking.bind(("0.0.0.0", 0))
        asking.connect(("127.0.0.1", receiver.getsockname()[1]))
        tcp, udp, question = (one.getsockname()[1] for one in (everybody, receiver, asking))
        found = closed(("tcp", 22))
        assert {f"port {tcp}/tcp", f"port {udp}/udp"} <= found
        assert not {f"port {local.getsockname()[1]}/tcp", f"port {question}/udp"} & found
        assert not {f"port {tcp}/tcp", f"port {udp}/udp"} & closed(("tcp", tcp), ("any", udp))
        assert f"port {udp}/udp" in closed(("tcp", udp))
    assert closed() == set()  # no firewall


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
    assert preflight(memory=[{"mb": 2000, "variable": "plan"}]) == {}
    found = preflight(memory=[{"mb": 2001, "variable": "plan"}])
    assert "plan is 2001, but the host has 2000 MB" in found["memory_low"]
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


def test_an_empty_directory_of_roots_may_be_taken(preflight: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root's may be taken")
    wanted = {"path": str(tmp_path), "owner": "nobody_yet", "holds": "set", "variable": "sets"}
    assert preflight(directories=[wanted]) == {}
    (tmp_path / "lost+found").mkdir()
    assert preflight(directories=[wanted]) == {}
    (tmp_path / "set").mkdir()
    assert set(preflight(directories=[wanted])) == {"directory_taken"}


def test_an_address_that_the_host_does_not_have(preflight: Callable[..., dict[str, str]]) -> None:
    port = {"port": 1, "unit": "x.service"}
    found = preflight(ports=[{**port, "address": "198.51.100.77"}, {**port, "address": "2001:db8::77"}])
    assert "has no address 198.51.100.77" in found["address_missing"] or "2001:db8::77" in found["address_missing"]
    assert "address_missing" not in preflight(ports=[{**port, "address": "0.0.0.0"}, {**port, "address": "localhost"}])


def test_many_files_that_would_be_removed(preflight: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "sub/c.py", "__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def look(*files: str, folder: Path = tmp_path, confirmed: bool = False) -> dict[str, str]:
        tree = {
            "path": str(folder),
            "files": files,
            "variable": "flows",
            "confirmation": "sure",
            "confirmed": confirmed,
        }
        return preflight(trees=[tree])

    assert look("a.py", "b.py", "sub/c.py", "new.py") == look("a.py", "b.py") == {}
    found = look("a.py", "new.py")
    assert set(found) == {"files_removed"}
    assert (
        f"2 of the 3 files in {tmp_path} would be removed: flows no longer has b.py, sub/c.py."
        in found["files_removed"]
    )
    assert look(confirmed=True) == look(folder=tmp_path / "new") == {}
    for number in range(40):
        (tmp_path / f"{number}.py").touch()
    assert " and 1 more" in look("a.py", "b.py", *(f"{number}.py" for number in range(30)))["files_removed"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its private key."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    subject = ["-subj=/CN=test", f"-keyout={key}", f"-out={certificate}"]
    command = ["openssl", "req", "-x509", "-newkey=ec", "-pkeyopt=ec_paramgen_curve:prime256v1", "-noenc", *subject]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_certificates(preflight: Callable[..., dict[str, str]], pair: tuple[Path, Path]) -> None:
    certificate, key = pair

    def look(path: Path | str, key: Path | str = "", private: bool = False) -> dict[str, str]:
        wanted = {"path": str(path), "variable": "ca", "key": str(key), "key_variable": "its_key", "private": private}
        return preflight(certificates=[wanted])

    assert "ca is /nowhere/ca.pem: there is no such file" in look("/nowhere/ca.pem")["file_missing"]
    later = {"path": "/nowhere/ca.pem", "variable": "ca"}
    assert set(preflight(certificates=[later])) == {"file_missing"}
    assert preflight(certificates=[later], makes=["/nowhere/ca.pem"]) == {}
    missing = look(Path("/etc/prefect/tls/none.pem"), "")["file_missing"]
    assert missing == "site_tls is /etc/prefect/tls/none.pem: there is no such file on this host."
    assert "its_key is /nowhere/key" in look(certificate, "/nowhere/key")["file_missing"]
    assert look("/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key") == {}
    assert "read as a certificate" in look(key)["certificate_unreadable"]
    certificate.chmod(0o600)
    assert "users of the services cannot read it" in look(certificate)["certificate_unreadable"]
    assert "is no unencrypted key of the certificate" in look(certificate, certificate)["key_unfit"]
    key.chmod(0o644)
    assert "with the mode 0644" in look(certificate, key)["key_unfit"]
    # Both in one file.
    assert "it has no key of its certificate" in look(certificate, private=True)["key_unfit"]
    certificate.write_text(certificate.read_text() + key.read_text())
    assert look(certificate, private=True) == {}
    certificate.chmod(0o644)
    assert "everybody can read the key in it" in look(certificate, private=True)["key_unfit"]


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
        "packages_without_services": ["no-such-service", "base-files"],
        "users": [
            {"name": me.pw_name, "home": me.pw_dir, "shell": me.pw_shell},
            {"name": "daemon", "home": "/elsewhere"},
            {"name": "nobody-yet", "home": "/"},
        ],
        "files": [str(tmp_path / "a"), str(tmp_path / "c")],
        "folders": [str(tmp_path), str(tmp_path / "new")],
        "units": ["no-such-unit.service"],
        "unused_units": ["no-such-unit.service"],
    }
    found = run_module("host_preflight", requirements=[wanted, {"packages": ["no-such-package"]}, {}])
    assert found["checked"] == 3
    assert found["missing_packages"] == ["no-such-package"]
    assert found["missing_packages_without_services"] == ["no-such-service"]
    assert found["missing_users"] == ["daemon", "nobody-yet"]
    assert found["missing_files"] == [str(tmp_path / "c")]
    assert found["stopped_units"] == ["no-such-unit.service"] and found["used_units"] == []
    assert found["folders"] == {str(tmp_path): ["a", "b"], str(tmp_path / "new"): []}


OTHER_FILES = ("FragmentPath", "DropInPaths")


def test_units_that_began_before_one_of_their_files_was_written(tmp_path: Path) -> None:
    now = time.monotonic()

    def unit(name: str, begin: float, written: float, state: str = "active") -> dict[str, str]:
        file = tmp_path / f"{name}.env"
        file.touch()
        moment = time.time() + written
        os.utime(file, (moment, moment))
        return {
            "Id": name,
            "ActiveState": state,
            "ExecMainStartTimestampMonotonic": str(int((now + begin) * 1e6)),
            "EnvironmentFiles": f"/nowhere (ignore_errors=yes)\n{file} (ignore_errors=no)",
        }

    shown = [
        unit("killed", -60, -30),
        unit("restarted", -30, -60),
        unit("stopped", -60, -30, "inactive"),
        unit("clock", -60, 3600),
        {**unit("bare", -60, -30), "EnvironmentFiles": ""},
        {},
        {"Id": "timer", "ActiveState": "active", "FragmentPath": f"{tmp_path}/killed.env"},
        *({**unit(name, -60, -30), "EnvironmentFiles": "", name: f"{tmp_path}/{name}.env"} for name in OTHER_FILES),
    ]
    assert host_preflight.outdated_units(shown) == ["DropInPaths", "FragmentPath", "killed"]
