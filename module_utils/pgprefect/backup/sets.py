"""Backup sets: directories of dumps from one snapshot, each with a manifest that is written last.

A directory without a manifest, or with another name than a set's, is not a set. The files are compared with the
manifest before anything relies on them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import IO, Any

from ..core.errors import ProblemError
from ..core.problems import Problem
from ..core.process import Process, ProcessFailed, decompression
from ..site.configuration import Keep

APP, WORKFLOW, GLOBALS = "app", "workflow", "globals"
MANIFEST = "manifest.json"
VERIFIED = "verified.json"  # written by a restore drill that the set passed
COPIED = "copied.json"  # names the target that has a copy of the set
FORMAT = 1
_FILE = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]*")  # in the set's own folder
_CHUNK = 1 << 20
_SAFETY = "-safety"  # of the data that a restore is about to replace; no restore takes it unless it is named
_NAME = re.compile(rf"\d{{8}}T\d{{6}}Z({_SAFETY})?")
_PARTIAL, _REMOVED = ".partial-", ".removed-"
_TIME = "%Y%m%dT%H%M%SZ"
_log = logging.getLogger(__name__)


class BackupError(ProblemError):
    """A backup set cannot be made, found, read, copied or restored."""


@dataclass(frozen=True)
class Dump:
    """One dump of a set.

    ``rows`` maps each table to its number of rows in the snapshot, ``revision`` is that of Prefect's migration, and
    ``large_objects`` is their number in the application's dump; other dumps have none. Several schemas of the
    application are in one file, and have a part each.

    Older sets lack the rest: ``parents`` are the rows of partitioned tables, ``views`` those of materialized views
    (None: not populated), ``sequences`` have their value and whether it was used. ``owner`` is the schema's,
    ``owners`` are kind, names, arguments and owner of objects that belong to other roles, ``roles`` are all that own
    something or are granted something, ``privileged`` are objects that only a superuser can create, and ``needs`` are
    the other schemas that its objects depend on.
    """

    kind: str
    schema: str | None
    tenant: str | None
    file: str
    bytes: int
    sha256: str
    rows: dict[str, int]
    indexes: int = 0
    constraints: int = 0
    revision: str | None = None
    large_objects: int | None = None
    parents: dict[str, int] | None = None
    views: dict[str, int | None] = field(default_factory=dict)
    sequences: dict[str, list[Any]] = field(default_factory=dict)
    owner: str | None = None
    owners: list[list[Any]] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    privileged: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """The contents and the origin of a set. Times are in UTC; ``seconds`` is how long the backup took.

    ``settings`` are role (or None), name and value of ALTER DATABASE and ALTER ROLE ... IN DATABASE; ``comment`` is the
    database's; ``publications`` are theirs with their tables. ``not_included`` names what is in no dump of the set, by
    kind. Older sets have none of these.
    """

    name: str
    database: str
    started: str
    seconds: float
    snapshot: str
    wal_position: str
    server_version: int
    prefect_version: str | None
    extensions: dict[str, str]  # name: the schema it is in
    parts: tuple[Dump, ...]
    format: int = FORMAT
    settings: list[list[str | None]] = field(default_factory=list)
    comment: str | None = None
    publications: list[dict[str, Any]] = field(default_factory=list)
    not_included: dict[str, list[str]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Dump, ...]:
        """One part of each file."""
        return tuple({part.file: part for part in reversed(self.parts)}.values())[::-1]

    @property
    def bytes(self) -> int:
        """The size of all dumps."""
        return sum(part.bytes for part in self.files)

    @property
    def time(self) -> datetime:
        """The time that the name says."""
        return time_of(self.name)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def name_of(time: datetime, safety: bool = False) -> str:
    """Return the name of a set that is made at this time."""
    return time.astimezone(timezone.utc).strftime(_TIME) + (_SAFETY if safety else "")


def time_of(name: str) -> datetime:
    """Return the time that the name of a set says, in UTC."""
    return datetime.strptime(name[: -len(_SAFETY)] if is_safety(name) else name, _TIME).replace(tzinfo=timezone.utc)


def is_safety(name: str) -> bool:
    """Return whether the name is that of a safety set."""
    return name.endswith(_SAFETY)


def staging_schema(name: str, part: Dump) -> str:
    """Return the staging schema into which single tables of a dump are restored: a name that needs no quotes."""
    return f"restored_{name}_{part.tenant or part.kind}".lower().replace("-", "_")


def partial_path(directory: Path, name: str) -> Path:
    """Return the path of a set that is still being written."""
    return directory / (_PARTIAL + name)


def names(directory: Path) -> list[str]:
    """Return the names that are taken, the oldest first; a directory of such a name may lack its manifest."""
    return sorted(path.name for path in _entries(directory) if _NAME.fullmatch(path.name))


def list_sets(directory: Path) -> list[Path]:
    """Return the sets below a directory, the oldest first."""
    return [directory / name for name in names(directory) if (directory / name / MANIFEST).is_file()]


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(directory, error) from error


def find(directory: Path, name: str | None = None) -> Path:
    """Return the path of a set by its name, or of the newest that is not a safety set. Raises BackupError."""
    found = {path.name: path for path in list_sets(directory)}
    wanted = name or max((name for name in found if not is_safety(name)), default="of any name")
    if wanted not in found:
        message = f"There is no set {wanted} in {directory}."
        remedy = "Name one that pgprefect backup list shows, or make one: pgprefect backup"
        raise BackupError(Problem("backup_missing", str(directory), message, remedy))
    return found[wanted]


def left_over(directory: Path) -> list[Path]:
    """Return the directories that killed runs left behind while they wrote or removed a set."""
    return [path for path in _entries(directory) if path.name.startswith((_PARTIAL, _REMOVED))]


def is_verified(path: Path) -> bool:
    """Return whether the set has passed a restore drill."""
    return (path / VERIFIED).is_file()


def copied_to(path: Path) -> str | None:
    """Return the target that the set was copied to, or None where it was not or the record cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((path / COPIED).read_text(encoding="utf-8"))["target"])
    return None


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a set. Raises BackupError."""
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            message = f"The manifest of {path} has format {content['format']!r}, but this program knows {FORMAT}."
            raise BackupError(Problem("backup_manifest_unknown", str(path), message, "Read it with a newer pgprefect."))
        manifest = Manifest(**{**content, "parts": tuple(Dump(**part) for part in content["parts"])})
        for part in manifest.parts:
            if not _FILE.fullmatch(part.file):
                raise ValueError(f"{part.file!r} is no file of a set")
    except OSError as error:
        raise _unreadable(path / MANIFEST, error) from error
    except (ValueError, TypeError, KeyError) as error:
        message = f"The manifest of {path} is damaged ({type(error).__name__}: {error})."
        raise BackupError(Problem("backup_manifest_damaged", str(path), message, _TAKE_ANOTHER)) from error
    if manifest.name != path.name:
        message = f"The manifest in {path} is that of the set {manifest.name}."
        raise BackupError(Problem("backup_manifest_damaged", str(path), message, _TAKE_ANOTHER))
    return manifest


_TAKE_ANOTHER = "Use another set (pgprefect backup list), and make a new one: pgprefect backup"


def check(path: Path) -> Manifest:
    """Read every file of a set to its end, as a restore would, and compare it with the manifest. Raises BackupError."""
    manifest = read_manifest(path)
    for part in manifest.files:
        check_part(path, part, read_back)
    _log.info("Read the set %s to its end: %d files, %s bytes.", path, len(manifest.files), f"{manifest.bytes:,}")
    return manifest


def check_hashes(path: Path, manifest: Manifest) -> None:
    """Compare the size and SHA-256 of every file of a set with the manifest. Raises BackupError."""
    for part in manifest.files:
        check_part(path, part, _hash)


def _hash(file: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with open(file, "rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
        return source.tell(), digest.hexdigest()


def check_part(path: Path, part: Dump, read: Callable[[Path], tuple[int, str]]) -> None:
    """Compare the size and SHA-256 that ``read`` finds in a dump with the manifest. Raises BackupError."""
    file = path / part.file
    try:
        size, digest = read(file)
    except (ProcessFailed, OSError) as error:
        raise _damaged(file, str(error)) from error
    if (size, digest) != (part.bytes, part.sha256):
        raise _damaged(file, f"it has {size:,} bytes with the SHA-256 {digest}, not {part.bytes:,} with {part.sha256}")


def _damaged(file: Path, reason: str) -> BackupError:
    message = f"{file} is not what was written: {reason}."
    return BackupError(Problem("backup_damaged", str(file), message, _TAKE_ANOTHER))


def _unreadable(path: Path, error: OSError) -> BackupError:
    message = f"{path} cannot be read: {error.strerror}."
    remedy = "Run this as root or as the operating system's user of the backups, and name the right directory."
    return BackupError(Problem("backup_unreadable", str(path), message, remedy))


def read_back(file: Path) -> tuple[int, str]:
    """Read a dump to its end, as a restore would, and return its size and SHA-256. Raises ProcessFailed, OSError."""
    commands = decompression(file.name)
    if ".dump" in file.name:
        commands.append(["pg_restore", "--file", os.devnull])
    return _feed(file, commands, subprocess.DEVNULL)


def unpack(file: Path, target: Path) -> tuple[int, str]:
    """Decompress a dump into a file, and return its size and SHA-256. Raises ProcessFailed, OSError."""
    with open(target, "xb") as output:
        return _feed(file, decompression(file.name) or [["cat"]], output)


def _feed(file: Path, commands: Sequence[Sequence[str]], stdout: int | IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with open(file, "rb") as source:
        process = Process(commands, stdin=subprocess.PIPE, stdout=stdout)
        try:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                # A program may end before it has read the last bytes; its exit status says whether it failed.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(chunk)
        except BaseException:
            process.kill()
            raise
        process.end()
    return size, digest.hexdigest()


def prunable(paths: Iterable[Path], keep: Keep) -> list[Path]:
    """Return the sets that the rules do not keep, the oldest first.

    The newest set and the newest that a drill has verified always stay. Safety sets are counted apart: ``keep.last`` of
    them stay.
    """
    every = sorted(paths, key=lambda path: path.name, reverse=True)
    newest_first = [path for path in every if not is_safety(path.name)]
    staying = set(newest_first[: max(keep.last, 1)])
    staying.update([path for path in every if is_safety(path.name)][: max(keep.last, 1)])
    staying.update([path for path in newest_first if is_verified(path)][:1])
    periods: tuple[tuple[int, Callable[[date], Any]], ...] = (
        (keep.daily, lambda day: day),
        (keep.weekly, lambda day: day.isocalendar()[:2]),
        (keep.monthly, lambda day: (day.year, day.month)),
    )
    for count, period in periods:
        newest: dict[Any, Path] = {}
        for path in newest_first:
            newest.setdefault(period(time_of(path.name).date()), path)
        staying.update(list(newest.values())[:count])
    return [path for path in reversed(every) if path not in staying]


def remove(path: Path) -> None:
    """Remove a set. It loses its name first, so that what a crash leaves behind is not taken for a set."""
    going = path.rename(path.with_name(_REMOVED + path.name))
    sync(path.parent)
    shutil.rmtree(going)


def write(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a finished set, durably."""
    _write_json(path / MANIFEST, manifest.as_dict())
    sync(path)


def mark_verified(path: Path, result: Mapping[str, Any]) -> None:
    """Record the result of the drill that a set has passed."""
    _mark(path, VERIFIED, result)


def mark_copied(path: Path, target: str) -> None:
    """Record the target that a set was copied to."""
    _mark(path, COPIED, {"target": target, "copied": datetime.now(timezone.utc).isoformat(timespec="seconds")})


def _mark(path: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a file next to the manifest, atomically and durably."""
    new = path / f"{name}.new"
    _write_json(new, content)
    new.rename(path / name)
    sync(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file, or the entries of a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
