"""Copies of backup sets at a target, and sets as they leave the host: as they are, or encrypted to a public key.

At the target a set has a directory of its name, as it does here. Its manifest is sent last, after all other files were
compared with what was sent, so a directory without a manifest is not a set there either.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..core.problems import Problem
from ..core.process import Process, ProcessFailed
from ..site.configuration import CopyTarget
from . import sets
from .create import directory_lock
from .sets import MANIFEST, BackupError, Manifest

_LOCK = ".lock-copy"
_OUTGOING = ".outgoing"  # encrypted files on their way to the target
_HEADROOM = 1.01  # encrypted files are a little larger
_CONNECT_SECONDS, _SILENCE_SECONDS = 20, 300
_log = logging.getLogger(__name__)


def send(target: CopyTarget, folder: Path, names: Sequence[str], name: str) -> None:
    """Send files to the directory of this name at the target, replacing those of the same names.

    Raises ProcessFailed.
    """
    if target.tool == "rsync":
        _run(_rsync(target, folder, names, name, "--ignore-times", "--times", "--partial"))
    else:
        _run(_rclone(target, "copy", folder, name, "--ignore-times"), names)


def differing(target: CopyTarget, folder: Path, names: Sequence[str], name: str) -> list[str]:
    """Return the files that differ at the target, after both sides were read. Raises ProcessFailed.

    Only what the tool calls equal counts as equal, because it may leave out a file and still succeed.
    """
    if target.tool == "rsync":
        options = ["--checksum", "--dry-run", "-ii", "--out-format=%i/%n"]
        output = _run(_rsync(target, folder, names, name, *options))
        equal = [line.partition("/")[2] for line in output.splitlines() if line.startswith(".f")]
    else:
        equal = _rclone_check(target, folder, names, name)
    return sorted(set(names) - set(equal))


def _rclone_check(target: CopyTarget, folder: Path, names: Sequence[str], name: str) -> list[str]:
    """Return the files that are equal. They are read back, because a store may only repeat the sender's hash."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as found:
        options = ["--download", "--one-way", f"--combined={found.name}"]
        try:
            _run(_rclone(target, "check", folder, name, *options), names)
        except ProcessFailed:
            lines = found.read().splitlines()
            if not any(line.startswith(("* ", "+ ")) for line in lines):
                raise  # it failed before it compared anything
        else:
            lines = found.read().splitlines()
    return [line[2:] for line in lines if line.startswith("= ")]


def _rsync(target: CopyTarget, folder: Path, names: Sequence[str], name: str, *options: str) -> list[str]:
    ssh = ["ssh", "-F", "none", "-i", f"{target.folder}/ssh_key", "-p", str(target.port)]
    for option in (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={target.folder}/known_hosts",
        f"ConnectTimeout={_CONNECT_SECONDS}",
        "ServerAliveInterval=30",
    ):
        ssh += ["-o", option]
    files = [str(folder / file) for file in names]
    limits = [f"--timeout={_SILENCE_SECONDS}", f"--rsh={shlex.join(ssh)}"]
    return ["rsync", *options, *limits, *files, f"{target.target}/{name}/"]


def _rclone(target: CopyTarget, command: str, folder: Path, name: str, *options: str) -> list[str]:
    limits = [f"--contimeout={_CONNECT_SECONDS}s", f"--timeout={_SILENCE_SECONDS}s"]
    limits += ["--retries=2", "--low-level-retries=3", "--log-level=ERROR", "--files-from-raw=-"]
    settings = f"--config={target.folder}/rclone.conf"
    return ["rclone", settings, command, *limits, *options, str(folder), f"{target.target}/{name}"]


def _run(command: Sequence[str], names: Sequence[str] = ()) -> str:
    """Run a program that reads the names, and return its output. Raises ProcessFailed."""
    with tempfile.TemporaryFile() as listed, tempfile.TemporaryFile() as output:
        listed.write("".join(f"{name}\n" for name in names).encode())
        listed.seek(0)
        Process([command], stdin=listed, stdout=output).wait()
        output.seek(0)
        return output.read().decode(errors="replace")


def waiting(home: Path, target: CopyTarget | None) -> list[Path]:
    """Return the sets that are not at the target yet, the newest first. Safety sets are never copied."""
    return [
        path
        for path in reversed(sets.list_sets(home))
        if target and not sets.is_safety(path.name) and sets.copied_to(path) != target.name
    ]


def copy(home: Path, target: CopyTarget, recipient: str = "") -> list[str]:
    """Copy the sets that are not at the target yet, and return their names.

    Raises BackupError; a later run copies the rest.
    """
    copied = []
    damage: BackupError | None = None
    with directory_lock(home, _LOCK):
        for path in waiting(home, target):
            try:
                sets.check_hashes(path, sets.read_manifest(path))
            except BackupError as error:  # the others are copied all the same
                _log.info("The set %s is not copied: %s", path.name, error)
                damage = error
                continue
            _copy(path, target, recipient)
            copied.append(path.name)
    if damage:
        raise damage
    return copied


def _copy(path: Path, target: CopyTarget, recipient: str) -> None:
    began, outgoing = time.monotonic(), path.parent / _OUTGOING
    shutil.rmtree(outgoing, ignore_errors=True)  # of a run that was killed
    try:
        folder, names = path, _files(sets.read_manifest(path))
        if recipient:
            outgoing.mkdir(mode=0o700)
            folder, names = outgoing, export(path, outgoing, recipient)
        for files in (names[:-1], names[-1:]):
            _log.info("Send %s of the set %s to %s.", ", ".join(files), path.name, target.target)
            send(target, folder, files, path.name)
            if different := differing(target, folder, files, path.name):
                raise _not_copied(path, target, f"there {', '.join(different)} is not what was sent")
        sets.mark_copied(path, target.name)
        _log.info("Copied the set %s to %s in %.1f s.", path.name, target.target, time.monotonic() - began)
    except (ProcessFailed, OSError) as error:
        raise _not_copied(path, target, str(error)) from error
    finally:
        shutil.rmtree(outgoing, ignore_errors=True)


def export(path: Path, folder: Path, recipient: str = "") -> list[str]:
    """Write the files of a set, which the caller has checked, into a folder as they leave the host.

    Returns their names, the manifest's last. Raises BackupError, ProcessFailed and OSError.
    """
    manifest = sets.read_manifest(path)
    free, needed = shutil.disk_usage(folder).free, manifest.bytes * _HEADROOM
    if free < needed:
        message = f"{folder} has {free:,} bytes free, and the set {manifest.name} needs {needed:,.0f}."
        remedy = "Free space, keep fewer sets (prefect_backup_keep), or name a directory on another file system."
        raise BackupError(Problem("backup_no_space", str(folder), message, remedy))
    if not recipient:
        for file in _files(manifest):
            shutil.copyfile(path / file, folder / file)
        return _files(manifest)
    _log.info("Encrypt the set %s: %s bytes.", manifest.name, f"{manifest.bytes:,}")
    for file in _files(manifest):
        output = f"--output={folder / file}.age"
        Process([["age", "--encrypt", f"--recipient={recipient}", output, str(path / file)]]).wait()
    return [f"{file}.age" for file in _files(manifest)]


def _files(manifest: Manifest) -> list[str]:
    return [*(part.file for part in manifest.files), MANIFEST]


def _not_copied(path: Path, target: CopyTarget, reason: str) -> BackupError:
    message = f"The set {path.name} is complete on this host, but is not copied to {target.target}: {reason}."
    remedy = "Fix the cause; the next backup copies it too. To copy it now: pgprefect copy"
    return BackupError(Problem("backup_not_copied", target.target, message, remedy))
