"""The repository of pgBackRest: base backups, restore points, timelines, and the recovery plan for a target."""

from __future__ import annotations

import configparser
import contextlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..core.connection import Login, connect
from ..core.problems import Problem
from .programs import RecoveryError, run_pgbackrest

CONFIGURATION = "/etc/pgbackrest/pgbackrest.conf"
# An annotation of the newest base backup records a restore point: it is as durable as the repository, and
# expires with the last base backup from which the restore point could be reached.
_ANNOTATION = "point-"
_POINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NO_STANZA = (1, 3)  # pgBackRest's status codes of a stanza that was not created
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL cluster as Debian's tools know it, and its stanza in the repository."""

    stanza: str
    data: Path

    @property
    def version(self) -> str:
        """The major version, as in Debian's paths."""
        return self.data.parent.name

    @property
    def name(self) -> str:
        """The name, as in Debian's paths."""
        return self.data.name

    @property
    def unit(self) -> str:
        """The unit of systemd that runs it."""
        return f"postgresql@{self.version}-{self.name}.service"

    @property
    def settings(self) -> Path:
        """The directory of its configuration files."""
        return Path("/etc/postgresql", self.version, self.name)

    @property
    def log(self) -> Path:
        """The file that PostgreSQL logs to."""
        return Path(f"/var/log/postgresql/postgresql-{self.version}-{self.name}.log")

    @property
    def previous(self) -> Path:
        """The path to which a restore in place moves the data directory that it replaces."""
        return self.data.with_name(f"{self.name}.before-restore")


@dataclass(frozen=True)
class BaseBackup:
    """A backup of the cluster by pgBackRest. Recovery begins with one that ended before the target."""

    label: str
    kind: str
    ended: datetime
    timeline: int
    position: int  # in the WAL, where it ended
    bytes: int  # of the cluster
    stored: int  # of the repository


@dataclass(frozen=True)
class RestorePoint:
    """A named restore point and its timeline."""

    name: str
    time: datetime
    timeline: int


@dataclass(frozen=True)
class Timeline:
    """A timeline of the cluster: each restore in place begins a new one.

    ``ancestors`` maps the numbers of the timelines before it to the position in the WAL at which it left them.
    """

    number: int
    since: datetime | None = None
    ancestors: Mapping[int, int] = field(default_factory=dict)

    def includes(self, backup: BaseBackup) -> bool:
        """Return whether recovery can get from the base backup to this timeline."""
        return backup.timeline == self.number or backup.position <= self.ancestors.get(backup.timeline, -1)


@dataclass(frozen=True)
class Repository:
    """The content of the repository, the oldest first. ``busy`` is True while a base backup is being made."""

    base_backups: tuple[BaseBackup, ...] = ()
    restore_points: tuple[RestorePoint, ...] = ()
    timelines: tuple[Timeline, ...] = ()
    busy: bool = False

    def timeline_at(self, moment: datetime) -> Timeline:
        """Return the timeline on which the cluster was at that moment: that of the last record before it.

        The highest number would be wrong after a restore that was undone.
        """
        records = [(timeline.since, timeline.number) for timeline in self.timelines if timeline.since]
        records += [(backup.ended, backup.timeline) for backup in self.base_backups]
        records += [(point.time, point.timeline) for point in self.restore_points]
        _, number = max((record for record in records if record[0] <= moment), default=(moment, 1))
        return next((timeline for timeline in self.timelines if timeline.number == number), Timeline(number))

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "backups": [{**vars(backup), "ended": backup.ended.isoformat()} for backup in self.base_backups],
            "points": [{**vars(point), "time": point.time.isoformat()} for point in self.restore_points],
            "earliest": self.base_backups[0].ended.isoformat() if self.base_backups else None,
        }


@dataclass(frozen=True)
class RecoveryTarget:
    """The end of a recovery: exactly one of a time, the name of a restore point, and the end of the WAL."""

    time: str | None = None
    point: str | None = None
    end: bool = False


@dataclass(frozen=True)
class RecoveryPlan:
    """The way to a target: the base backup to begin with, pgBackRest's arguments, and the target in words."""

    base_backup: BaseBackup
    arguments: tuple[str, ...]
    target: str


def find_cluster(path: str = CONFIGURATION) -> Cluster:
    """Return the cluster that pgBackRest's configuration names. Raises RecoveryError."""
    configuration = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            configuration.read_file(file)
        (stanza,) = [name for name in configuration.sections() if not name.startswith("global")]
        return Cluster(stanza, Path(configuration[stanza]["pg1-path"]))
    except (OSError, configparser.Error, ValueError, KeyError) as error:
        message = f"{path} names no cluster for point-in-time recovery ({type(error).__name__}: {error})."
        remedy = "Run this as root or postgres on the database's host; set pgbackrest_enabled and run site.yml."
        raise RecoveryError(Problem("pitr_missing", path, message, remedy)) from error


def read_repository(cluster: Cluster) -> Repository:
    """Read what the repository has of the cluster. Raises RecoveryError."""
    (stanza,) = json.loads(run_pgbackrest(cluster.stanza, "info", "--output=json")) or [{"status": {"code": 1}}]
    status = stanza["status"]
    if status["code"] in _NO_STANZA:
        message = f"The repository has nothing of the stanza {cluster.stanza}: {status.get('message', 'it is empty')}."
        remedy = "Run playbooks/pgbackrest.yml, which creates it."
        raise RecoveryError(Problem("pitr_missing", "repository", message, remedy))
    archive = stanza["archive"][-1]["id"] if stanza["archive"] else ""
    return parse_repository(stanza, _read_histories(cluster, archive) if archive else {})


def parse_repository(stanza: Mapping[str, Any], histories: Mapping[int, tuple[datetime, str]]) -> Repository:
    """Parse pgBackRest's account of a stanza, and PostgreSQL's history files by the numbers of their timelines."""
    # One with an error has a page with a wrong checksum.
    backups = [backup for backup in stanza["backup"] if not backup["error"]]
    return Repository(
        base_backups=tuple(sorted(map(_parse_backup, backups), key=lambda backup: backup.ended)),
        restore_points=tuple(
            sorted((point for backup in backups for point in _parse_points(backup)), key=lambda point: point.time)
        ),
        timelines=tuple(_parse_history(number, *history) for number, history in histories.items()),
        busy=any(lock.get("held") for lock in stanza["status"].get("lock", {}).values()),
    )


def _parse_backup(backup: Mapping[str, Any]) -> BaseBackup:
    return BaseBackup(
        label=backup["label"],
        kind=backup["type"],
        ended=_utc(backup["timestamp"]["stop"]),
        timeline=int(backup["archive"]["stop"][:8], 16),
        position=_parse_position(backup["lsn"]["stop"]),
        bytes=backup["info"]["size"],
        stored=backup["info"]["repository"]["delta"],
    )


def _parse_points(backup: Mapping[str, Any]) -> list[RestorePoint]:
    """Return the restore points that the annotations of a base backup record."""
    points = []
    for key, value in (backup.get("annotation") or {}).items():
        if key.startswith(_ANNOTATION):
            moment, _, timeline = value.partition(" ")
            points.append(RestorePoint(key[len(_ANNOTATION) :], datetime.fromisoformat(moment), int(timeline)))
    return points


def _parse_history(number: int, since: datetime, text: str) -> Timeline:
    rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
    return Timeline(number, since, {int(row[0]): _parse_position(row[1]) for row in rows})


def _read_histories(cluster: Cluster, archive: str) -> dict[int, tuple[datetime, str]]:
    folder = f"archive/{cluster.stanza}/{archive}"
    listed = json.loads(run_pgbackrest(cluster.stanza, "repo-ls", folder, "--output=json", "--filter=[.]history$"))
    return {
        int(name[:8], 16): (_utc(entry["time"]), run_pgbackrest(cluster.stanza, "repo-get", f"{folder}/{name}"))
        for name, entry in listed.items()
        if name.endswith(".history")
    }


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _parse_position(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def make_recovery_plan(repository: Repository, target: RecoveryTarget, now: datetime) -> RecoveryPlan:
    """Choose the base backup and the timeline that lead to a target.

    Raises RecoveryError where the target cannot be reached; nothing has been changed then.
    """
    if sum(map(bool, (target.time, target.point, target.end))) != 1:
        given = f"the time {target.time!r}, the point {target.point!r} and the end {target.end!r}"
        raise _unreachable(
            f"The target must be one of a time, a restore point and the end of the WAL, but it has {given}"
        )
    if not repository.base_backups:
        raise _unreachable("The repository has no backup")
    if target.time:
        moment = _check_time(repository, target.time, now)
        words = _format_time(moment)
        arguments = ["--type=time", f"--target={moment:%Y-%m-%d %H:%M:%S.%f}+00", "--target-action=promote"]
    elif target.point:
        moment = _find_point(repository, target.point).time
        words = f"the restore point {target.point} of {_format_time(moment)}"
        arguments = ["--type=name", f"--target={target.point}", "--target-action=promote"]
    else:
        moment, words, arguments = now, "the end of the archived WAL", ["--type=default"]
    timeline = repository.timeline_at(moment)
    usable = [backup for backup in repository.base_backups if backup.ended <= moment and timeline.includes(backup)]
    if not usable:
        raise _unreachable(f"No backup leads to {words} on the timeline {timeline.number}")
    backup = usable[-1]
    # By its number PostgreSQL would ask for the timeline's history, which a repository that began later does not have.
    number = "current" if backup.timeline == timeline.number else timeline.number
    return RecoveryPlan(backup, (f"--set={backup.label}", *arguments, f"--target-timeline={number}"), words)


def _check_time(repository: Repository, text: str, now: datetime) -> datetime:
    """Parse a target time. Raises RecoveryError for one that is outside of what the repository covers."""
    moment, earliest = _parse_time(text), repository.base_backups[0].ended
    if not earliest <= moment <= now:
        where = "before the first backup ended" if moment < earliest else "in the future"
        allowed = f"from {_format_time(earliest)} to {_format_time(now)}"
        raise _unreachable(f"The time {_format_time(moment)} is {where}; allowed is {allowed}")
    return moment


def _find_point(repository: Repository, name: str) -> RestorePoint:
    for point in repository.restore_points:
        if point.name == name:
            return point
    known = ", ".join(point.name for point in repository.restore_points) or "none"
    raise _unreachable(f"There is no restore point {name!r}; known are: {known}")


def _parse_time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(re.sub("Z$", "+00:00", re.sub(r"([+-]\d\d)$", r"\1:00", text.strip())))
        if moment.tzinfo is None:
            raise ValueError("it has no time zone")
    except ValueError as error:
        message = (
            f"The time {text!r} is ambiguous or malformed ({error}); write it like 2026-01-31 15:04:05+00:00, with its"
            " time zone"
        )
        raise _unreachable(message) from error
    return moment.astimezone(timezone.utc)


def _format_time(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds" if not moment.microsecond else "microseconds")


def _unreachable(message: str) -> RecoveryError:
    remedy = "Nothing was changed. To see backups, restore points and the times between: pgprefect pitr list"
    return RecoveryError(Problem("pitr_unreachable", "target", f"{message}.", remedy))


def make_base_backup(cluster: Cluster, full: bool) -> BaseBackup:
    """Make a base backup, then prune old ones, and return it. The first is always full. Raises RecoveryError."""
    kind = "full" if full else "incremental"
    _log.info("Make a base backup (%s) of %s.", kind, cluster.data)
    run_pgbackrest(cluster.stanza, "backup", f"--type={'full' if full else 'incr'}")
    made = read_repository(cluster).base_backups[-1]
    _log.info(
        "The base backup %s (%s) of %s bytes takes %s in the repository.",
        made.label, made.kind, f"{made.bytes:,}", f"{made.stored:,}",
    )  # fmt: skip
    return made


def check_archiving(cluster: Cluster) -> None:
    """Let PostgreSQL archive a piece of WAL and look for it in the repository. Raises RecoveryError."""
    run_pgbackrest(cluster.stanza, "check")


def set_restore_point(login: Login, cluster: Cluster, name: str, now: datetime) -> RestorePoint:
    """Set a restore point and record it in the repository. Its name is the given one with the time appended.

    Raises RecoveryError and ConnectionFailed.
    """
    name = f"{name}-{now:%Y%m%dT%H%M%SZ}"
    if not _POINT_NAME.fullmatch(name):
        message = (
            f"The restore point's name {name!r} is not allowed: up to 46 letters, digits, '.', '_' and '-' of your own."
        )
        raise RecoveryError(Problem("pitr_name", "restore point", message, "Choose another name."))
    repository = read_repository(cluster)
    refuse_during_backup(repository)
    if not repository.base_backups:
        message = "No restore point was set, because there is no backup from which it could be reached."
        raise RecoveryError(Problem("pitr_missing", "restore point", message, "Make one: pgprefect pitr backup"))
    if name in [point.name for point in repository.restore_points]:
        message = f"There is a restore point {name} already."
        raise RecoveryError(Problem("pitr_name", "restore point", message, "Choose another name, or wait a second."))
    question = """
        SELECT ('x' || left(pg_walfile_name(pg_create_restore_point(%s)), 8))::bit(32)::int, clock_timestamp()"""
    with contextlib.closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        cursor.execute(question, (name,))
        timeline, moment = cursor.fetchone()
    point = RestorePoint(name, moment.astimezone(timezone.utc), timeline)
    record = f"--annotation={_ANNOTATION}{name}={point.time.isoformat()} {timeline}"
    run_pgbackrest(cluster.stanza, "annotate", f"--set={repository.base_backups[-1].label}", record)
    _log.info("Set the restore point %s on the timeline %d.", name, timeline)
    return point


def archive_all_wal(login: Login, cluster: Cluster, point: str | None, now: datetime) -> None:
    """Archive everything that was committed until now, with a restore point at its end where a name is given.

    Recovery to a time ends at the first commit after it, so this makes one. Raises RecoveryError and ConnectionFailed.
    """
    with contextlib.closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        connection.commit()
    if point:
        set_restore_point(login, cluster, point, now)
    check_archiving(cluster)


def refuse_during_backup(repository: Repository) -> None:
    """Raise RecoveryError while a base backup is being made, because pgBackRest alone may write to the repository."""
    if repository.busy:
        remedy = "Wait until it has ended: journalctl -f -t postgresql-pitr"
        raise blocked("A backup of the cluster is being made", remedy)


def blocked(message: str, remedy: str) -> RecoveryError:
    """Return the error of an obstacle that was found before anything was changed."""
    return RecoveryError(Problem("pitr_in_the_way", "cluster", f"{message}. Nothing was changed.", remedy))
