"""What leaves the host: a set's files as they are or encrypted to a public key, and their copies at a target.

At the target a set lies as it does here, below its name. Its manifest is sent last, after all other files were compared
with what was sent: what has no manifest is no set there either.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.problems import Problem
from ..core.process import Pipeline, PipelineFailed
from . import sets as backup_set
from .create import only_one
from .sets import MANIFEST, BackupError, Manifest

_LOCK = ".lock-copy"
_OUTGOING = ".outgoing"  # encrypted files on their way to the target
_ROOM = 1.01  # encrypted files are a little larger
_CONNECT_SECONDS, _SILENCE_SECONDS = 20, 300


@dataclass(frozen=True)
class Target:
    """Where copies go: ``target`` as the tool understands it, ``folder`` has the files with which the tool logs in."""

    tool: str
    target: str
    folder: str
    port: int = 22

    @property
    def name(self) -> str:
        return f"{self.tool} {self.target}"

    def send(self, folder: Path, names: Sequence[str], name: str) -> None:
        """Send files to the directory of this name, whatever is there of them. Raises PipelineFailed."""
        if self.tool == "rsync":
            options = ["--ignore-times", "--times", "--partial"]
            _run(self._rsync(folder, names, name, *options))
        else:
            _run(self._rclone("copy", folder, name, "--ignore-times"), names)

    def differing(self, folder: Path, names: Sequence[str], name: str) -> list[str]:
        """Return which files are not there as they are here, after both sides were read. Raises PipelineFailed.

        Only what the tool calls equal is so: it may have left out a file, and end well.
        """
        if self.tool == "rsync":
            options = ["--checksum", "--dry-run", "-ii", "--out-format=%i/%n"]
            said = _run(self._rsync(folder, names, name, *options))
            equal = [line.partition("/")[2] for line in said.splitlines() if line.startswith(".f")]
        else:
            equal = self._rclone_check(folder, names, name)
        return sorted(set(names) - set(equal))

    def _rclone_check(self, folder: Path, names: Sequence[str], name: str) -> list[str]:
        """Return which files are equal, reading them back: a store may only repeat which hash the sender said."""
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as found:
            options = ["--download", "--one-way", f"--combined={found.name}"]
            try:
                _run(self._rclone("check", folder, name, *options), names)
            except PipelineFailed:
                lines = found.read().splitlines()
                if not any(line.startswith(("* ", "+ ")) for line in lines):
                    raise  # it did not come to compare
            else:
                lines = found.read().splitlines()
        return [line[2:] for line in lines if line.startswith("= ")]

    def _rsync(self, folder: Path, names: Sequence[str], name: str, *options: str) -> list[str]:
        ssh = ["ssh", "-F", "none", "-i", f"{self.folder}/ssh_key", "-p", str(self.port)]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.folder}/known_hosts",
            f"ConnectTimeout={_CONNECT_SECONDS}",
            "ServerAliveInterval=30",
        ):
            ssh += ["-o", option]
        files = [str(folder / file) for file in names]
        limits = [f"--timeout={_SILENCE_SECONDS}", f"--rsh={shlex.join(ssh)}"]
        return ["rsync", *options, *limits, *files, f"{self.target}/{name}/"]

    def _rclone(self, command: str, folder: Path, name: str, *options: str) -> list[str]:
        limits = [f"--contimeout={_CONNECT_SECONDS}s", f"--timeout={_SILENCE_SECONDS}s"]
        limits += ["--retries=2", "--low-level-retries=3", "--log-level=ERROR", "--files-from-raw=-"]
        settings = f"--config={self.folder}/rclone.conf"
        return ["rclone", settings, command, *limits, *options, str(folder), f"{self.target}/{name}"]


def _run(command: Sequence[str], names: Sequence[str] = ()) -> str:
    """Run a program that reads the names, and return what it said. Raises PipelineFailed."""
    with tempfile.TemporaryFile() as listed, tempfile.TemporaryFile() as said:
        listed.write("".join(f"{name}\n" for name in names).encode())
        listed.seek(0)
        Pipeline([command], stdin=listed, stdout=said).wait()
        said.seek(0)
        return said.read().decode(errors="replace")


def waiting(home: Path, target: Target | None) -> list[Path]:
    """Return the sets that the target has not got yet, the newest first. A safety set stays where it was made."""
    return [
        path
        for path in reversed(backup_set.sets(home))
        if target and not backup_set.is_safety(path.name) and backup_set.copied_to(path) != target.name
    ]


def copy(home: Path, target: Target, recipient: str = "") -> list[str]:
    """Copy what the target has not got yet, and return the names. Raises BackupError; a later run copies the rest."""
    copied = []
    damaged: BackupError | None = None
    with only_one(home, _LOCK):
        for path in waiting(home, target):
            if damage := _damage(path):
                damaged = damage  # which is no reason to keep the others here
                continue
            _copy(path, target, recipient)
            copied.append(path.name)
    if damaged:
        raise damaged
    return copied


def _damage(path: Path) -> BackupError | None:
    try:
        backup_set.check_hashes(path, backup_set.read_manifest(path))
    except BackupError as error:
        return error
    return None


def _copy(path: Path, target: Target, recipient: str) -> None:
    outgoing = path.parent / _OUTGOING
    shutil.rmtree(outgoing, ignore_errors=True)  # of a run that was killed
    try:
        folder, names = path, _files(backup_set.read_manifest(path))
        if recipient:
            outgoing.mkdir(mode=0o700)
            folder, names = outgoing, export(path, outgoing, recipient)
        for files in (names[:-1], names[-1:]):
            target.send(folder, files, path.name)
            if differing := target.differing(folder, files, path.name):
                raise _not_copied(path, target, f"there {', '.join(differing)} is not what was sent")
        backup_set.mark_copied(path, target.name)
    except (PipelineFailed, OSError) as error:
        raise _not_copied(path, target, str(error)) from error
    finally:
        shutil.rmtree(outgoing, ignore_errors=True)


def export(path: Path, folder: Path, recipient: str = "") -> list[str]:
    """Write the files of a set that was checked into a folder as they leave the host; return their names.

    The manifest's is the last. Raises BackupError, PipelineFailed and OSError.
    """
    manifest = backup_set.read_manifest(path)
    free = shutil.disk_usage(folder).free
    if free < manifest.bytes * _ROOM:
        message = f"{folder} has {free:,} bytes free, and the set {manifest.name} needs {manifest.bytes * _ROOM:,.0f}."
        remedy = "Make room, keep fewer sets (prefect_backup_keep), or name a directory on another file system."
        raise BackupError(Problem("backup_no_space", str(folder), message, remedy))
    if not recipient:
        for file in _files(manifest):
            shutil.copyfile(path / file, folder / file)
        return _files(manifest)
    for file in _files(manifest):
        output = f"--output={folder / file}.age"
        Pipeline([["age", "--encrypt", f"--recipient={recipient}", output, str(path / file)]]).wait()
    return [f"{file}.age" for file in _files(manifest)]


def _files(manifest: Manifest) -> list[str]:
    return [*(part.file for part in manifest.parts), MANIFEST]


def _not_copied(path: Path, target: Target, reason: str) -> BackupError:
    message = f"The set {path.name} is whole on this host, but is not copied to {target.target}: {reason}."
    remedy = "End the cause; the next backup copies it too, or now: pgprefect copy."
    return BackupError(Problem("backup_not_copied", target.target, message, remedy))
