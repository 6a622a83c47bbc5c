"""Records of the last run of each scheduled job: one small file a job, which the job writes and health reads.

A run is recorded when it begins and when it ends, so that one that was killed shows as never ended. The file is
replaced atomically, and the run holds a lock on it while it lives, so nobody has to guess from a process number.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, TextIO

from .errors import PgprefectError
from .problems import format_problems

FOLDER = "/var/lib/pgprefect/jobs"
RESTORES = "/var/lib/pgprefect/restores"  # what a restore that runs has prepared


class RecordBroken(PgprefectError):
    """A record cannot be read. The message says why."""


@dataclass(frozen=True)
class Job:
    """A job that cron runs on this host; ``schedule`` is the path of its crontab.

    A job without a tenant is the whole site's.
    """

    name: str
    schedule: str
    tenant: str = ""
    folder: str = FOLDER

    @property
    def path(self) -> str:
        """The path of its record."""
        return os.path.join(self.folder, "-".join(filter(None, (self.name, self.tenant))) + ".json")

    @property
    def title(self) -> str:
        """The job in words."""
        return f"{self.name} of tenant {self.tenant}" if self.tenant else self.name

    @property
    def command(self) -> str:
        """The command that runs it by hand."""
        return f"pgprefect --tenant {self.tenant} {self.name}" if self.tenant else f"pgprefect {self.name}"


@dataclass(frozen=True)
class Record:
    """The last run of a job: ``ended`` and ``ok`` are None until it has ended, and stay so where it was killed."""

    name: str
    tenant: str
    started: datetime
    ended: datetime | None = None
    ok: bool | None = None
    message: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    succeeded: datetime | None = None  # the end of the last run that succeeded: this one or one before
    running: bool = False  # True where the record was read while its run lives

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        content = asdict(self)
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in content.items()}


@contextlib.contextmanager
def record(job: Job | None) -> Iterator[dict[str, Any]]:
    """Record that a job begins and how the block ends; exceptions of the block pass through.

    The block fills the figures that this gives. Without a job nothing is recorded. A record that cannot be written is
    reported on the standard error and does not stop the job, because a cleanup may be the cure for a full disk.
    """
    figures: dict[str, Any] = {}
    if job is None:
        yield figures
        return
    begun = Record(job.name, job.tenant, _now(), succeeded=_last_success(job))
    with contextlib.ExitStack() as kept_open:
        _write(job, begun, kept_open)
        try:
            yield figures
        except BaseException as error:
            problem = getattr(error, "problem", None)
            message = format_problems([problem]) if problem else str(error)
            failed = replace(begun, ended=_now(), ok=False, message=message or type(error).__name__, figures=figures)
            _write(job, failed, kept_open)
            raise
        ended = _now()
        _write(job, replace(begun, ended=ended, ok=True, figures=figures, succeeded=ended), kept_open)


def last(job: Job) -> Record | None:
    """Return the record of a job's last run, or None where it has never run. Raises RecordBroken."""
    try:
        while True:
            with open(job.path, encoding="utf-8") as file:
                content = json.load(file)
                running = content["ended"] is None and _is_locked(file)
                moments = {name: content[name] and _moment(content[name]) for name in ("started", "ended", "succeeded")}
                found = Record(**{**content, **moments, "running": running})
                # A run that ended just now has released this file and written another.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(job.path)):
                    return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RecordBroken(f"{job.path} cannot be read ({type(error).__name__}: {error}).") from error


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment


def _last_success(job: Job) -> datetime | None:
    with contextlib.suppress(RecordBroken):
        before = last(job)
        return before.succeeded if before else None
    return None


def _is_locked(file: TextIO) -> bool:
    """Return whether the run that wrote this file still lives, and so holds its lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _write(job: Job, content: Record, kept_open: contextlib.ExitStack) -> None:
    """Replace the record atomically: a reader or a crash finds the old one or the new one."""
    new = None
    try:
        os.makedirs(job.folder, mode=0o755, exist_ok=True)
        number, new = tempfile.mkstemp(prefix=f".{job.name}.", dir=job.folder)
        file = kept_open.enter_context(os.fdopen(number, "w", encoding="utf-8"))
        fcntl.flock(file, fcntl.LOCK_EX)
        os.fchmod(number, 0o644)  # everybody who asks for the health reads it
        fields = content.as_dict()
        del fields["running"]  # the lock says it
        json.dump(fields, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(number)
        os.replace(new, job.path)
        folder = os.open(job.folder, os.O_RDONLY)
        kept_open.callback(os.close, folder)
        os.fsync(folder)
    except OSError as error:
        print(f"The result of {job.title} is not recorded: {error}.", file=sys.stderr)
        if new is not None:
            with contextlib.suppress(OSError):
                os.unlink(new)
