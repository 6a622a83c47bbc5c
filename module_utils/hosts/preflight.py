"""Check that a host meets the requirements before anything is changed on it."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import os
import pwd
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.hosts.certificates import certificate_problems
from ansible.module_utils.hosts.files import existing_files
from ansible.module_utils.hosts.settings import setting_problems
from ansible.module_utils.pgprefect.core.listeners import IPAddress, Listener, listeners, receivers
from ansible.module_utils.pgprefect.core.problems import Problem
from ansible.module_utils.pgprefect.core.users import user_name, user_number

# So many files of a folder, or more than half of them, are not removed without a confirmation.
_MANY_FILES = 10
# States of a unit's file that `systemctl is-enabled` calls enabled.
_ENABLED = ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated")
# What tells how a unit is used, and whether its process has been started with the files that are there.
_PROPERTIES = (
    *("Id", "ActiveState", "UnitFileState"),
    *("ExecMainStartTimestampMonotonic", "EnvironmentFiles", "FragmentPath", "DropInPaths"),
)
# The firewall lets in what a host gets as a client of DHCP.
_DHCP_CLIENTS = (68, 546)
# So long a socket may be one that asked something, as of DNS, and waits for the answer.
_QUESTION_SECONDS = 1
# Debian is tested; Ubuntu follows from the same variables and is not.
SUPPORTED = {"debian": ("12", "13"), "ubuntu": ("24.04",)}


def check_host(requirements: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Return what this host lacks of what is required, as the module host_preflight takes it. Changes nothing."""
    problems = list(_system_problem())
    made = {path for requirement in requirements for path in requirement["makes"]}
    for requirement in requirements:
        for port in requirement["ports"]:
            problems += _port_problem(**port)
        problems += _memory_problem(requirement["memory_mb"])
        for memory in requirement["memory"]:
            problems += _planned_memory_problem(**memory)
        for path in requirement["disk"]:
            problems += _disk_problem(path["path"], path["mb"])
        for directory in requirement["directories"]:
            problems += _directory_problem(**directory)
        for certificate in requirement["certificates"]:
            if certificate["path"] not in made:
                problems += certificate_problems(**certificate)
        for tree in requirement["trees"]:
            problems += _tree_problem(**tree)
        for settings in requirement["settings"]:
            problems += setting_problems(**settings)
        if requirement["only_ports"]:
            problems += _closed_port_problems({(one["protocol"], one["port"]) for one in requirement["only_ports"]})
    if any(requirement["systemd"] for requirement in requirements):
        problems += _systemd_problem()
    # Two roles may require the same.
    return list(dict.fromkeys(problems))


def missing_state(requirements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the roles would have to install, create or start, and which files some folders have."""

    def every(name: str) -> list[Any]:
        return [value for requirement in requirements for value in requirement[name]]

    users = {user["name"]: (user["home"], user["shell"]) for user in every("users")}
    units, unused = every("units"), every("unused_units")
    shown = _show_units([*units, *unused])
    uses = [_use(unit) for unit in shown]
    return {
        "missing_packages": _missing_packages(every("packages")),
        "missing_packages_without_services": _missing_packages(every("packages_without_services")),
        "missing_users": sorted(name for name, (home, shell) in users.items() if not _has_user(name, home, shell)),
        "missing_files": sorted({path for path in every("files") if not os.path.exists(path)}),
        "stopped_units": sorted({unit for unit, use in zip(units, uses) if not all(use)}),
        "outdated_units": outdated_units(shown[: len(units)]),
        "used_units": sorted({unit for unit, use in zip(unused, uses[len(units) :]) if any(use)}),
        "folders": {path: sorted(os.listdir(path)) if os.path.isdir(path) else [] for path in every("folders")},
    }


def _missing_packages(names: Sequence[str]) -> list[str]:
    """Return which of the packages dpkg does not call installed."""
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *set(names)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines() if names else []
    return sorted({name for name in names if f"{name} installed" not in found})


def _has_user(name: str, home: str, shell: str) -> bool:
    """Return whether there is such a user, with this home and this shell."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return False
    return (user.pw_dir, user.pw_shell) == (home, shell)


def _use(unit: Mapping[str, str]) -> tuple[bool, bool]:
    """Return whether a unit is active, and whether it is started with the system."""
    return unit.get("ActiveState") in ("active", "reloading"), unit.get("UnitFileState") in _ENABLED


def _show_units(units: Sequence[str]) -> list[dict[str, str]]:
    """Return what systemd says of units, in their order; a property may stand there several times."""
    if not units:
        return []
    command = ["systemctl", "show", *(f"--property={name}" for name in _PROPERTIES), "--", *units]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip("\n").split("\n\n")
    blocks = [[line.split("=", 1) for line in block.splitlines()] for block in found]
    shown = [
        {name: "\n".join(value for known, value in lines if known == name) for name in dict(lines)} for lines in blocks
    ]
    # Without systemd it says nothing of any.
    return [*shown, *({} for _ in units[len(shown) :])]


def outdated_units(shown: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the units whose process began before one of their files was written: a run was interrupted between."""
    offset = time.time() - time.monotonic()
    outdated = set()
    for unit in shown:
        begin = int(unit.get("ExecMainStartTimestampMonotonic", 0))  # a timer has no process
        if unit.get("ActiveState") != "active" or not begin:
            continue
        environments = [line.rpartition(" (")[0] for line in unit.get("EnvironmentFiles", "").splitlines()]
        for path in (*environments, unit.get("FragmentPath", ""), *unit.get("DropInPaths", "").split()):
            with contextlib.suppress(OSError):
                written = os.stat(path).st_mtime
                # A time in the future says nothing: the clock was put back.
                if begin / 1e6 + offset < written < time.time():
                    outdated.add(unit["Id"])
    return sorted(outdated)


def read(path: str) -> str:
    """Return a file's text, or nothing if there is no such file or no permission."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _clash(wanted: str, actual: IPAddress) -> bool:
    """Return whether two addresses cannot listen on one port at the same time."""
    if actual.is_unspecified or wanted in ("*", "0.0.0.0", "::"):
        return True
    return {"localhost": "127.0.0.1"}.get(wanted, wanted) == str(actual)


def _holder(number: str, user: int) -> str:
    """Return the number of the user's process that has a socket open, or nothing if that cannot be seen."""
    for process in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            status = os.stat(process)
            if status.st_uid == user and number in _open_sockets(process, user, status.st_gid):
                return os.path.basename(process)
    return ""


def _open_sockets(process: str, user: int, group: int) -> set[str]:
    """Return the numbers of a process's sockets. A container's root can see them only as the process's own user."""
    root = os.geteuid() == 0
    identity = os.getegid()
    if root:
        os.setegid(group)
        os.seteuid(user)
    try:
        links = [_link_target(descriptor) for descriptor in glob.glob(f"{process}/fd/*")]
    finally:
        if root:
            os.seteuid(0)
            os.setegid(identity)
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _link_target(path: str) -> str:
    """Return the target of a link, or nothing if the link is gone."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _unit_runs(unit: str) -> bool:
    """Return whether a unit that matches the pattern is active."""
    command = ["systemctl", "list-units", "--state=active", "--plain", "--no-legend", unit]
    return bool(subprocess.run(command, capture_output=True, check=False).stdout)


def _listeners() -> Iterator[Listener]:
    """Yield what listens on this host."""
    return listeners(read("/proc/net/tcp") + read("/proc/net/tcp6"))


def _port_problem(address: str, port: int, unit: str) -> Iterator[Problem]:
    if not _is_local(address):
        yield Problem(
            "address_missing",
            object=f"address {address}",
            message=f"This host has no address {address}, at which {unit} is to listen.",
            remedy=(
                "Set prefect_bind_address, or prefect_proxy_bind_address for the proxy, to an address of the host "
                "(ip -brief address), or to 0.0.0.0 for all."
            ),
        )
        return
    for listener in _listeners():
        if listener.port != port or not _clash(address, listener.address):
            continue
        process = _holder(listener.inode, listener.user)
        groups = read(f"/proc/{process}/cgroup").replace("\n", "/").split("/")
        # In a container root may not look into other users' processes: then it is enough that the unit runs.
        if fnmatch.filter(groups, unit) if process else _unit_runs(unit):
            continue
        command = read(f"/proc/{process}/comm").strip()
        who = f"{command} (process {process})" if process else "another process"
        yield Problem(
            "port_in_use",
            object=f"port {port}",
            message=f"The port {port} on {listener.address} is in use by {who} and not by {unit}.",
            remedy="Stop that process, or choose another port.",
        )
        return


def _reachable_ports() -> set[tuple[str, int]]:
    """Return protocol and port of each socket at which something answers to other hosts."""
    found = {("tcp", one) for one in _listeners()}
    found |= {("udp", one) for one in receivers(read("/proc/net/udp") + read("/proc/net/udp6"))}
    return {(protocol, one.port) for protocol, one in found if not one.address.is_loopback}


def _closed_port_problems(left: set[tuple[str, int]]) -> Iterator[Problem]:
    """Yield a problem for each port that others can reach now, and that is not one of those that are left open."""
    left = left | {("udp", port) for port in _DHCP_CLIENTS}
    closed = {found for found in _reachable_ports() - left if ("any", found[1]) not in left}
    if closed:
        time.sleep(_QUESTION_SECONDS)
        closed &= _reachable_ports()
    for protocol, port in sorted(closed):
        option = "t" if protocol == "tcp" else "u"
        yield Problem(
            "port_closed",
            object=f"port {port}/{protocol}",
            message=f"The firewall would close port {port}/{protocol}, at which this host answers others.",
            remedy=f"See what it is (as root: ss -{option}lnp 'sport = {port}'), and add the port to "
            "prefect_firewall_open, or to prefect_firewall_closed if nobody needs it.",
        )


def _is_local(address: str) -> bool:
    """Return whether this host can listen at an address."""
    if address in ("*", "localhost"):
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _total_memory() -> list[int]:
    """Return the machine's memory in MB, or nothing if it cannot be read."""
    return [int(line.split()[1]) // 1024 for line in read("/proc/meminfo").splitlines() if line.startswith("MemTotal")]


def _planned_memory_problem(mb: int, variable: str) -> Iterator[Problem]:
    sizes = _total_memory()
    if sizes and mb > min(sizes):
        yield Problem(
            "memory_low",
            object="memory",
            message=f"{variable} is {mb}, but the host has {min(sizes)} MB of memory.",
            remedy=f"Set {variable} to what the host can spare, or remove it to have all of its memory.",
        )


def _memory_problem(needed: int) -> Iterator[Problem]:
    sizes = _total_memory()
    limit = read("/sys/fs/cgroup/memory.max").strip()  # a container's own, where the host's is larger
    if limit.isdecimal():
        sizes.append(int(limit) // 1024**2)
    if sizes and min(sizes) < needed:
        yield Problem(
            "memory_low",
            object="memory",
            message=f"The host has {min(sizes)} MB of memory; {needed} MB are needed.",
            remedy="Give the host more memory, or run fewer parts on it.",
        )


def _disk_problem(path: str, needed: int) -> Iterator[Problem]:
    existing = path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize // 1024**2
    if free < needed:
        yield Problem(
            "disk_low",
            object=f"path {path}",
            message=f"The file system of {path} has {free} MB free; {needed} MB are needed.",
            remedy="Free some space there, or mount a larger file system.",
        )


def _tree_problem(
    path: str, files: Sequence[str], variable: str, confirmation: str, confirmed: bool
) -> Iterator[Problem]:
    """Yield a problem if most files of a folder are to be removed, and nobody has said that this is meant."""
    there = [os.path.relpath(file, path) for file in existing_files(path)]
    gone = sorted(set(there) - set(files))
    if confirmed or len(gone) < 2 or (len(gone) < _MANY_FILES and len(gone) * 2 <= len(there)):
        return
    shown = ", ".join(gone[:_MANY_FILES]) + (f" and {len(gone) - _MANY_FILES} more" if gone[_MANY_FILES:] else "")
    yield Problem(
        "files_removed",
        object=f"path {path}",
        message=f"{len(gone)} of the {len(there)} files in {path} would be removed: {variable} no longer has {shown}.",
        remedy=f"Correct {variable}; or, if this is meant, run the playbook again with -e {confirmation}=true",
    )


def _directory_problem(path: str, owner: str, holds: str, variable: str) -> Iterator[Problem]:
    try:
        user = os.stat(path).st_uid
        names = [name for name in os.listdir(path) if name != "lost+found"]
        foreign = sorted(name for name in names if not re.fullmatch(holds, name))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        reason = "is not a directory"
    else:
        # A file system that was made for it belongs to root, and is empty.
        if user != user_number(owner) and (names or user != 0):
            reason = f"belongs to {user_name(user) or f'the user {user}'}"
        elif foreign:
            reason = f"holds {', '.join(foreign[:3])}{' and more' if foreign[3:] else ''}"
        else:
            return
    yield Problem(
        "directory_taken",
        object=f"path {path}",
        message=f"{variable} is {path}: that {reason}, and it would be made {owner}'s alone.",
        remedy=f"Set {variable} to a directory that does not exist yet, or is empty.",
    )


def _system_problem() -> Iterator[Problem]:
    release = dict(shlex.split(line)[0].split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    name, version = release.get("ID", "an unknown system"), release.get("VERSION_ID", "")
    if version not in SUPPORTED.get(name, ()):
        supported = ", ".join(f"{name} {version}" for name, versions in SUPPORTED.items() for version in versions)
        yield Problem(
            "system_unsupported",
            object="system",
            message=f"The host runs {name} {version}, which is not supported.",
            remedy=f"Use one of {supported}.",
        )


def _systemd_problem() -> Iterator[Problem]:
    state = "not PID 1"
    if read("/proc/1/comm").strip() == "systemd" and os.path.isdir("/run/systemd/system"):
        command = ["systemctl", "is-system-running"]
        state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if state not in ("running", "degraded", "starting", "initializing"):
        yield Problem(
            "no_systemd",
            object="systemd",
            message=f"systemd does not run this host (it is {state}); the services are its units.",
            remedy="Use a host or a container that boots with systemd.",
        )
