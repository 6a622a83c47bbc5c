"""A host with sshd, rsync and git."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.postgresql import database_image, docker
from tests.support.waiting import wait_for


@contextlib.contextmanager
def serving_ssh(folder: Path, base: Path) -> Iterator[int]:
    """Run the host, which sees `base` by its own path, and give its port.

    The folder gets `ssh_key`, with which root logs in, and `known_hosts`.
    """
    for key in ("host_key", "ssh_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "authorized_keys").write_text((folder / "ssh_key.pub").read_text())
    settings = {
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "StrictModes": "no",  # pytest's folders are anybody's
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    # The repositories are the tests' own user's.
    trust = "git config --system safe.directory '*'"
    start = f"{trust}; mkdir -p /run/sshd; exec /usr/sbin/sshd -D -e -f {folder}/sshd_config"
    options = ["--detach", "--rm", "--user=root", "--publish=127.0.0.1::22", f"--volume={base}:{base}"]
    container = docker("run", *options, database_image(), "sh", "-c", start)
    try:
        port = int(docker("port", container, "22").rpartition(":")[2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} " + (folder / "host_key.pub").read_text())
        wait_for(lambda: _is_ssh(port), lambda: docker("logs", container))
        yield port
    finally:
        docker("rm", "--force", container)


def _is_ssh(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.settimeout(1)
        return connection.recv(4) == b"SSH-"
    return False
