#!/usr/bin/python
"""Look before anything is changed whether a host can take what is meant for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Look whether a host has the system, the ports, the memory and the disk that are needed
description:
  - Changes nothing and does not fail; the caller decides what a problem means.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: There is nothing to change.
  idempotent:
    support: full
    description: The module only reads.
options:
  ports:
    description: Ports that must be free, or in use by the unit that they are meant for.
    type: list
    elements: dict
    default: []
    suboptions:
      address: {description: The address to listen on., type: str, default: 0.0.0.0}
      port: {description: The port., type: int, required: true}
      unit:
        description: The systemd unit that may already listen there, with its suffix; C(*) stands for any characters.
        type: str
        required: true
  memory_mb: {description: Memory that the host must have in all., type: int, default: 0}
  disk:
    description: Free space that a path must have. Where the path does not exist yet, that of its nearest parent.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The path., type: path, required: true}
      mb: {description: The free space., type: int, required: true}
  directories:
    description: Directories that are to belong to one user alone. Each must not exist yet, or be that user's already.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The path., type: path, required: true}
      owner: {description: The user's name., type: str, required: true}
      holds: {description: A regular expression of the whole names that may be in it., type: str, required: true}
  systemd: {description: Whether systemd must run the host., type: bool, default: false}
"""

EXAMPLES = r"""
- name: Look whether this host can take Prefect
  host_preflight:
    ports:
      - {address: 127.0.0.1, port: 4200, unit: prefect-server@prefect.service}
    memory_mb: 1500
    disk:
      - {path: /opt/prefect, mb: 1000}
    systemd: true
  register: preflight
"""

RETURN = r"""
problems:
  description: What is missing, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: always
  type: list
  elements: dict
  sample:
    - code: port_in_use
      severity: error
      object: port 4200
      message: The port 4200 is in use by nginx (process 812) and not by prefect-server@prefect.service.
      remedy: Stop that process, or choose another port.
"""

import contextlib
import fnmatch
import glob
import ipaddress
import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Union

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.core.problems import Problem

LISTENING = "0A"
# Debian is tested; Ubuntu follows from the same variables and is not.
SUPPORTED = {"debian": ("12", "13"), "ubuntu": ("24.04",)}

IPAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def read(path: str) -> str:
    """Return a file's text, or nothing where there is none or no permission."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def listeners(tables: str) -> Iterator[tuple[IPAddress, int, int, str]]:
    """Yield address, port, user and socket number of what listens, from the text of /proc/net/tcp and tcp6."""
    for line in tables.splitlines():
        columns = line.split()
        if len(columns) > 9 and columns[3] == LISTENING:
            address, port = columns[1].split(":")
            # Each group of eight digits is one 32-bit word in the machine's (little-endian) order.
            words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
            yield ipaddress.ip_address(b"".join(words)), int(port, 16), int(columns[7]), columns[9]


def clash(wanted: str, actual: IPAddress) -> bool:
    """Whether two addresses can not listen on one port at the same time."""
    if actual.is_unspecified or wanted in ("*", "0.0.0.0", "::"):
        return True
    return {"localhost": "127.0.0.1"}.get(wanted, wanted) == str(actual)


def holder(socket: str, user: int) -> str:
    """Return the number of the user's process that has a socket open, or nothing where that can not be seen."""
    for process in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            status = os.stat(process)
            if status.st_uid == user and socket in open_sockets(process, user, status.st_gid):
                return os.path.basename(process)
    return ""


def open_sockets(process: str, user: int, group: int) -> set[str]:
    """Return the numbers of a process's sockets. A container's root sees them only as the process's own user."""
    root = os.geteuid() == 0
    identity = os.getegid()
    if root:
        os.setegid(group)
        os.seteuid(user)
    try:
        links = [link_target(descriptor) for descriptor in glob.glob(f"{process}/fd/*")]
    finally:
        if root:
            os.seteuid(0)
            os.setegid(identity)
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def link_target(path: str) -> str:
    """Return where a link leads, or nothing where it is gone."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def unit_runs(unit: str) -> bool:
    """Whether a unit that matches the pattern is active."""
    command = ["systemctl", "list-units", "--state=active", "--plain", "--no-legend", unit]
    return bool(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout)


def port_problem(address: str, port: int, unit: str) -> Iterator[Problem]:
    for actual, number, user, socket in listeners(read("/proc/net/tcp") + read("/proc/net/tcp6")):
        if number != port or not clash(address, actual):
            continue
        process = holder(socket, user)
        groups = read(f"/proc/{process}/cgroup").replace("\n", "/").split("/")
        # In a container root may not look into other users' processes: then it counts whether the unit runs.
        if fnmatch.filter(groups, unit) if process else unit_runs(unit):
            continue
        command = read(f"/proc/{process}/comm").strip()
        who = f"{command} (process {process})" if process else "another process"
        yield Problem(
            "port_in_use",
            f"port {port}",
            f"The port {port} on {actual} is in use by {who} and not by {unit}.",
            "Stop that process, or choose another port.",
        )
        return


def memory_problem(needed: int) -> Iterator[Problem]:
    sizes = [int(line.split()[1]) // 1024 for line in read("/proc/meminfo").splitlines() if line.startswith("MemTotal")]
    limit = read("/sys/fs/cgroup/memory.max").strip()  # a container's own, where the host's is larger
    if limit.isdecimal():
        sizes.append(int(limit) // 1024**2)
    if sizes and min(sizes) < needed:
        yield Problem(
            "memory_low",
            "memory",
            f"The host has {min(sizes)} MB of memory; {needed} MB are needed.",
            "Give the host more memory, or run fewer parts on it.",
        )


def disk_problem(path: str, needed: int) -> Iterator[Problem]:
    existing = path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize // 1024**2
    if free < needed:
        yield Problem(
            "disk_low",
            f"path {path}",
            f"The file system of {path} has {free} MB free; {needed} MB are needed.",
            "Free some space there, or mount a larger file system.",
        )


def directory_problem(path: str, owner: str, holds: str) -> Iterator[Problem]:
    try:
        user = os.stat(path).st_uid
        foreign = sorted(name for name in os.listdir(path) if not re.fullmatch(holds, name))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        reason = "is not a directory"
    else:
        if user != user_number(owner):
            reason = f"belongs to {user_name(user)}"
        elif foreign:
            reason = f"holds {', '.join(foreign[:3])}{' and more' if foreign[3:] else ''}"
        else:
            return
    yield Problem(
        "directory_taken",
        f"path {path}",
        f"{path} {reason}, and it would be made {owner}'s alone.",
        "Name one that does not exist yet.",
    )


def user_number(name: str) -> int | None:
    """Return a user's number, or None where there is no such user yet."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def user_name(number: int) -> str:
    """Return a user's name, or the number where no user has it."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"the user {number}"


def system_problem() -> Iterator[Problem]:
    release = dict(shlex.split(line)[0].split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    name, version = release.get("ID", "an unknown system"), release.get("VERSION_ID", "")
    if version not in SUPPORTED.get(name, ()):
        supported = ", ".join(f"{name} {version}" for name, versions in SUPPORTED.items() for version in versions)
        yield Problem(
            "system_unsupported",
            "system",
            f"The host runs {name} {version}, which is not supported.",
            f"Use one of {supported}.",
        )


def systemd_problem(module: AnsibleModule) -> Iterator[Problem]:
    state = "not PID 1"
    if read("/proc/1/comm").strip() == "systemd" and os.path.isdir("/run/systemd/system"):
        state = module.run_command(["systemctl", "is-system-running"])[1].strip()
    if state not in ("running", "degraded", "starting", "initializing"):
        yield Problem(
            "no_systemd",
            "systemd",
            f"systemd does not run this host (it is {state}); the services are its units.",
            "Use a host or a container that boots with systemd.",
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "address": {"type": "str", "default": "0.0.0.0"},
                    "port": {"type": "int", "required": True},
                    "unit": {"type": "str", "required": True},
                },
            },
            "memory_mb": {"type": "int", "default": 0},
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "path", "required": True}, "mb": {"type": "int", "required": True}},
            },
            "directories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "owner": {"type": "str", "required": True},
                    "holds": {"type": "str", "required": True},
                },
            },
            "systemd": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    problems = list(system_problem())
    problems += [problem for port in module.params["ports"] for problem in port_problem(**port)]
    problems += memory_problem(module.params["memory_mb"])
    problems += [problem for disk in module.params["disk"] for problem in disk_problem(disk["path"], disk["mb"])]
    problems += [problem for directory in module.params["directories"] for problem in directory_problem(**directory)]
    problems += systemd_problem(module) if module.params["systemd"] else []
    module.exit_json(changed=False, problems=[problem.as_dict() for problem in problems])


if __name__ == "__main__":
    main()
