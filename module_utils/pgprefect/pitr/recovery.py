"""Taking the whole cluster back to a point in time, by pgBackRest's backups and the archived WAL.

``read`` says what the repository has, ``choose`` how a target is reached, and refuses one that is not. A restore in
place keeps the old data directory beside until somebody removes it; where it fails, that one is put back.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..core.connection import ConnectionFailed, Login, connect
from ..core.errors import ProblemError
from ..core.lock import exclusive_lock
from ..core.problems import Problem

CONFIGURATION = "/etc/pgbackrest/pgbackrest.conf"
USER = "postgres"
BESIDE = "beside"  # the name of a cluster that is restored beside the running one
# Copying is a unit of its own, because it outlives a restore that was killed, and must not write any more when the old
# data directory is put back.
_COPYING = "pgprefect-restore.service"
# An annotation of the newest backup records a restore point: it is as durable as the repository, and goes when no
# backup is left from which the point could be reached.
_POINT = "point-"
_POINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NO_STANZA = (1, 3)  # pgBackRest's codes of a stanza that was not created
_SPARE = 1.1  # the WAL since the backup needs room too


class RecoveryError(ProblemError):
    """The cluster cannot be backed up, or not be taken back in time."""


@dataclass(frozen=True)
class Cluster:
    """The cluster as Debian's tools know it."""

    stanza: str
    data: Path

    @property
    def version(self) -> str:
        return self.data.parent.name

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-{self.name}.service"

    @property
    def settings(self) -> Path:
        return Path("/etc/postgresql", self.version, self.name)

    @property
    def log(self) -> Path:
        return Path(f"/var/log/postgresql/postgresql-{self.version}-{self.name}.log")

    @property
    def aside(self) -> Path:
        """Where the data directory waits that a restore in place replaces."""
        return self.data.with_name(f"{self.name}.before-restore")


@dataclass(frozen=True)
class BaseBackup:
    """A backup of pgBackRest: recovery begins with one that had ended before the target."""

    label: str
    kind: str
    ended: datetime
    timeline: int
    position: int  # in the WAL, where it ended
    bytes: int  # of the cluster
    stored: int  # of the repository


@dataclass(frozen=True)
class RestorePoint:
    """A named restore point, and the timeline that it is on."""

    name: str
    time: datetime
    timeline: int


@dataclass(frozen=True)
class Timeline:
    """A timeline: each restore in place begins a new one.

    ``ancestors`` are the timelines that it went on from, each with the position in the WAL where it left it.
    """

    number: int
    since: datetime | None = None
    ancestors: Mapping[int, int] = field(default_factory=dict)

    def follows(self, base: BaseBackup) -> bool:
        return base.timeline == self.number or base.position <= self.ancestors.get(base.timeline, -1)


@dataclass(frozen=True)
class Repository:
    """What the repository has, the oldest first."""

    bases: tuple[BaseBackup, ...] = ()
    points: tuple[RestorePoint, ...] = ()
    lines: tuple[Timeline, ...] = ()
    busy: bool = False

    def line_at(self, moment: datetime) -> Timeline:
        """Return the timeline on which the cluster was: that of the last sign of life before.

        The highest number would be wrong after a restore that was undone.
        """
        signs = [(line.since, line.number) for line in self.lines if line.since]
        signs += [(base.ended, base.timeline) for base in self.bases]
        signs += [(point.time, point.timeline) for point in self.points]
        _, number = max((sign for sign in signs if sign[0] <= moment), default=(moment, 1))
        return next((line for line in self.lines if line.number == number), Timeline(number))

    def as_dict(self) -> dict[str, Any]:
        return {
            "backups": [{**vars(base), "ended": base.ended.isoformat()} for base in self.bases],
            "points": [{**vars(point), "time": point.time.isoformat()} for point in self.points],
            "earliest": self.bases[0].ended.isoformat() if self.bases else None,
        }


@dataclass(frozen=True)
class RecoveryTarget:
    """Where to: exactly one of a time, the name of a restore point, and the end of the WAL."""

    time: str | None = None
    point: str | None = None
    end: bool = False


@dataclass(frozen=True)
class RecoveryPlan:
    """How a target is reached: the backup to begin with, pgBackRest's arguments, and the same for people."""

    base: BaseBackup
    arguments: tuple[str, ...]
    words: str


def find_cluster(path: str = CONFIGURATION) -> Cluster:
    """Read which cluster is backed up. Raises RecoveryError."""
    configuration = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            configuration.read_file(file)
        (stanza,) = [name for name in configuration.sections() if not name.startswith("global")]
        return Cluster(stanza, Path(configuration[stanza]["pg1-path"]))
    except (OSError, configparser.Error, ValueError, KeyError) as error:
        message = f"{path} says of no cluster that it can be taken back in time ({type(error).__name__}: {error})."
        remedy = "As root or postgres on the database's host; pgbackrest_enabled and site.yml make it."
        raise RecoveryError(Problem("pitr_missing", path, message, remedy)) from error


def read(cluster: Cluster) -> Repository:
    """Ask the repository what it has. Raises RecoveryError."""
    (found,) = json.loads(_pgbackrest(cluster, "info", "--output=json")) or [{"status": {"code": 1}}]
    status = found["status"]
    if status["code"] in _NO_STANZA:
        message = f"The repository has nothing of the stanza {cluster.stanza}: {status.get('message', 'it is empty')}."
        remedy = "Run playbooks/pgbackrest.yml, which creates it."
        raise RecoveryError(Problem("pitr_missing", "repository", message, remedy))
    archive = found["archive"][-1]["id"] if found["archive"] else ""
    return parse(found, _histories(cluster, archive) if archive else {})


def parse(found: Mapping[str, Any], histories: Mapping[int, tuple[datetime, str]]) -> Repository:
    """Understand pgBackRest's account of a stanza, and PostgreSQL's histories of timelines by their numbers."""
    bases, points = [], []
    for backup in found["backup"]:
        if backup["error"]:
            continue  # a page of it had a wrong checksum
        bases.append(
            BaseBackup(
                label=backup["label"],
                kind=backup["type"],
                ended=_moment(backup["timestamp"]["stop"]),
                timeline=int(backup["archive"]["stop"][:8], 16),
                position=_position(backup["lsn"]["stop"]),
                bytes=backup["info"]["size"],
                stored=backup["info"]["repository"]["delta"],
            )
        )
        for key, value in (backup.get("annotation") or {}).items():
            if key.startswith(_POINT):
                moment, _, timeline = value.partition(" ")
                points.append(RestorePoint(key[len(_POINT) :], datetime.fromisoformat(moment), int(timeline)))
    lines = []
    for number, (since, text) in histories.items():
        rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
        lines.append(Timeline(number, since, {int(row[0]): _position(row[1]) for row in rows}))
    return Repository(
        bases=tuple(sorted(bases, key=lambda base: base.ended)),
        points=tuple(sorted(points, key=lambda point: point.time)),
        lines=tuple(lines),
        busy=any(lock.get("held") for lock in found["status"].get("lock", {}).values()),
    )


def _histories(cluster: Cluster, archive: str) -> dict[int, tuple[datetime, str]]:
    folder = f"archive/{cluster.stanza}/{archive}"
    listed = json.loads(_pgbackrest(cluster, "repo-ls", folder, "--output=json", "--filter=[.]history$"))
    return {
        int(name[:8], 16): (_moment(entry["time"]), _pgbackrest(cluster, "repo-get", f"{folder}/{name}"))
        for name, entry in listed.items()
        if name.endswith(".history")
    }


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _position(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def choose(repository: Repository, target: RecoveryTarget, now: datetime) -> RecoveryPlan:
    """Say how a target is reached. Raises RecoveryError where it can not be, before anything is touched."""
    if sum(map(bool, (target.time, target.point, target.end))) != 1:
        given = f"the time {target.time!r}, the point {target.point!r} and the end {target.end!r}"
        raise _unreachable(
            f"The target must be one of a time, a restore point and the end of the WAL, but it has {given}"
        )
    if not repository.bases:
        raise _unreachable("The repository has no backup")
    earliest = repository.bases[0].ended
    words, arguments = "the end of the archived WAL", ["--type=default"]
    moment = now
    if target.time:
        moment = _time(target.time)
        if not earliest <= moment <= now:
            where = "before the first backup ended" if moment < earliest else "in the future"
            raise _unreachable(
                f"The time {_shown(moment)} is {where}; allowed is from {_shown(earliest)} to {_shown(now)}"
            )
        words = _shown(moment)
        arguments = ["--type=time", f"--target={moment:%Y-%m-%d %H:%M:%S.%f}+00", "--target-action=promote"]
    elif target.point:
        points = [point for point in repository.points if point.name == target.point]
        if not points:
            known = ", ".join(point.name for point in repository.points) or "none"
            raise _unreachable(f"There is no restore point {target.point!r}; known are: {known}")
        moment = points[0].time
        words = f"the restore point {target.point} of {_shown(moment)}"
        arguments = ["--type=name", f"--target={target.point}", "--target-action=promote"]
    line = repository.line_at(moment)
    bases = [base for base in repository.bases if base.ended <= moment and line.follows(base)]
    if not bases:
        raise _unreachable(f"No backup leads to {words} on the timeline {line.number}")
    base = bases[-1]
    # By its number PostgreSQL would ask for the timeline's history, which a repository that began later does not have.
    timeline = "current" if base.timeline == line.number else line.number
    return RecoveryPlan(base, (f"--set={base.label}", *arguments, f"--target-timeline={timeline}"), words)


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(re.sub("Z$", "+00:00", re.sub(r"([+-]\d\d)$", r"\1:00", text.strip())))
        if moment.tzinfo is None:
            raise ValueError("it has no time zone")
    except ValueError as error:
        message = (
            f"The time {text!r} is not clear ({error}); write it like 2026-01-31 15:04:05+00:00, with its time zone"
        )
        raise _unreachable(message) from error
    return moment.astimezone(timezone.utc)


def _shown(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds" if not moment.microsecond else "microseconds")


def _unreachable(message: str) -> RecoveryError:
    remedy = "Nothing was touched. pgprefect pitr list shows the backups, the restore points and the times in between."
    return RecoveryError(Problem("pitr_unreachable", "target", f"{message}.", remedy))


def back_up(cluster: Cluster, full: bool) -> BaseBackup:
    """Make a backup, then prune old ones. The first one is always full. Raises RecoveryError."""
    _pgbackrest(cluster, "backup", f"--type={'full' if full else 'incr'}")
    return read(cluster).bases[-1]


def check(cluster: Cluster) -> None:
    """Let PostgreSQL archive a piece of WAL and look for it in the repository. Raises RecoveryError."""
    _pgbackrest(cluster, "check")


def set_point(login: Login, cluster: Cluster, name: str, now: datetime) -> RestorePoint:
    """Set a restore point, whose name gets the time appended, and record it. Raises RecoveryError, ConnectionFailed."""
    name = f"{name}-{now:%Y%m%dT%H%M%SZ}"
    if not _POINT_NAME.fullmatch(name):
        message = (
            f"The restore point's name {name!r} is not allowed: up to 46 letters, digits, '.', '_' and '-' of your own."
        )
        raise RecoveryError(Problem("pitr_name", "restore point", message, "Choose another name."))
    repository = read(cluster)
    _refuse_during_backup(repository)
    if not repository.bases:
        message = "No restore point was set, because there is no backup from which it could be reached."
        raise RecoveryError(Problem("pitr_missing", "restore point", message, "Make one: pgprefect pitr backup"))
    if name in [point.name for point in repository.points]:
        message = f"There is a restore point {name} already."
        raise RecoveryError(Problem("pitr_name", "restore point", message, "Choose another name, or wait a second."))
    question = """
        SELECT ('x' || left(pg_walfile_name(pg_create_restore_point(%s)), 8))::bit(32)::int, clock_timestamp()"""
    with contextlib.closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        cursor.execute(question, (name,))
        timeline, moment = cursor.fetchone()
    point = RestorePoint(name, moment.astimezone(timezone.utc), timeline)
    record = f"--annotation={_POINT}{name}={point.time.isoformat()} {timeline}"
    _pgbackrest(cluster, "annotate", f"--set={repository.bases[-1].label}", record)
    return point


def archive_all_wal(login: Login, cluster: Cluster, point: str | None, now: datetime) -> bool:
    """Archive all that was committed up to now, with a restore point at its end. Say False where PostgreSQL is stopped.

    Recovery to a time ends at the first commit after it, so there must be one. Raises RecoveryError.
    """
    if not _is_active(cluster.unit):
        return False
    with contextlib.closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        connection.commit()
    if point:
        set_point(login, cluster, point, now)
    check(cluster)
    return True


@contextlib.contextmanager
def restore_lock(cluster: Cluster) -> Iterator[None]:
    """Keep another restore of the cluster out, for as long as this process lives. Raises RecoveryError."""
    folder = cluster.data.parent
    remedy = f"Wait until it has ended; as root `lslocks | grep {folder}` names its process."
    with exclusive_lock(os.open(folder, os.O_RDONLY), _in_the_way("Another restore is at work", remedy)):
        yield


def check_free_space(cluster: Cluster, repository: Repository, way: RecoveryPlan, beside: bool) -> None:
    """Raise RecoveryError where something is in the way of a restore."""
    _refuse_during_backup(repository)
    if _is_active(_COPYING):
        remedy = f"pgprefect pitr undo --yes ends it, or wait: systemctl status {_COPYING}"
        raise _in_the_way("A restore that was killed still copies", remedy)
    target = cluster.data.with_name(BESIDE) if beside else cluster.aside
    if target.exists() or (beside and cluster.settings.with_name(BESIDE).exists()):
        remedy = "pgprefect pitr undo --yes puts it back as the database's; where it is not wanted any more, remove it."
        if beside:
            remedy = f"Remove it, if nobody needs it: pg_dropcluster --stop {cluster.version} {BESIDE}"
        raise _in_the_way(f"{target} is there, of a restore before this one", remedy)
    tablespaces = cluster.data / "pg_tblspc"
    if tablespaces.is_dir() and any(tablespaces.iterdir()):
        raise _in_the_way(
            f"{tablespaces} has tablespaces, which this does not restore", "Use pgbackrest restore by hand."
        )
    free = shutil.disk_usage(cluster.data.parent).free
    if free < way.base.bytes * _SPARE:
        message = f"{cluster.data.parent} has {free:,} bytes free, and the copy needs {way.base.bytes * _SPARE:,.0f}"
        raise _in_the_way(message, "Make room: the present data directory stays until the restore has succeeded.")


def _refuse_during_backup(repository: Repository) -> None:
    """Raise RecoveryError where a backup is being made: nobody else may write what the repository says of itself."""
    if repository.busy:
        raise _in_the_way(
            "A backup of the cluster is being made", "Wait until it has ended: journalctl -f -t postgresql-pitr"
        )


def _in_the_way(message: str, remedy: str) -> RecoveryError:
    return RecoveryError(Problem("pitr_in_the_way", "cluster", f"{message}. Nothing was touched.", remedy))


def restore_in_place(login: Login, cluster: Cluster, way: RecoveryPlan) -> None:
    """Replace the cluster. Where that fails the old data directory is put back and started. Raises RecoveryError."""
    _systemctl("stop", cluster)
    try:
        cluster.data.rename(cluster.aside)
        _fetch(cluster, cluster, way)
        _recover(login, cluster)
    except BaseException as error:
        state = "the database is as it was, and was started again"
        try:
            _put_back(cluster)
        except RecoveryError as worse:  # it may have been broken before
            state = f"the old data directory is back, but does not start ({worse.problem.message})"
        if isinstance(error, (RecoveryError, OSError, LookupError)):
            raise _restore_failed(way, error, state) from error
        raise


def undo(login: Login, cluster: Cluster, now: datetime) -> None:
    """Take back a restore in place that had succeeded. Raises RecoveryError.

    The restore point says that the cluster is on its old timeline again.
    """
    _put_back(cluster)
    set_point(login, cluster, "undone", now)


def _put_back(cluster: Cluster) -> None:
    """Put the data directory back that a restore in place has kept, and start on it. Raises RecoveryError."""
    _stop_copying()
    _systemctl("stop", cluster)
    if cluster.aside.exists():
        if cluster.data.exists():
            shutil.rmtree(cluster.data)
        cluster.aside.rename(cluster.data)
    _systemctl("start", cluster)


def restore_beside(login: Login, cluster: Cluster, way: RecoveryPlan) -> tuple[Cluster, Login]:
    """Restore into a cluster of its own, which listens on the unix socket only and archives nothing.

    Raises RecoveryError; then nothing of it is there.
    """
    copy = replace(cluster, data=cluster.data.with_name(BESIDE))
    try:
        port = _unused_port(login.port)
        _fetch(cluster, copy, way, "--archive-mode=off")
        _integrate(cluster, copy, port)
        reached = replace(login, port=port)
        _recover(reached, copy)
    except BaseException as error:
        _stop_copying()
        if copy.settings.exists():
            _run(["pg_dropcluster", "--stop", copy.version, copy.name])
        shutil.rmtree(copy.data, ignore_errors=True)
        if isinstance(error, (RecoveryError, OSError, LookupError)):
            raise _restore_failed(way, error, "nothing of it was left behind") from error
        raise
    return copy, reached


def _unused_port(port: int) -> int:
    taken = {int(line.split()[2]) for line in _run(["pg_lsclusters", "--no-header"]).splitlines()}
    return next(number for number in range(port + 1, port + 1000) if number not in taken)


def _integrate(cluster: Cluster, copy: Cluster, port: int) -> None:
    """Make the copy known to Debian's tools, with the settings of the original where recovery asks for them."""
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        shutil.copy2(cluster.settings / name, copy.data / name)
        shutil.chown(copy.data / name, USER, USER)
    _run(["pg_createcluster", "--start-conf=manual", f"--port={port}", copy.version, copy.name])
    own = {"port": port, "listen_addresses": "", "archive_mode": "off", "shared_buffers": "128MB"}
    # In the one file that pg_dropcluster removes again; the last setting wins.
    with open(copy.settings / "postgresql.conf", "a", encoding="utf-8") as file:
        for path in sorted((cluster.settings / "conf.d").glob("*.conf")):
            file.write(path.read_text(encoding="utf-8"))
        file.writelines(f"{name} = '{value}'\n" for name, value in own.items())


def _fetch(cluster: Cluster, copy: Cluster, way: RecoveryPlan, *further: str) -> None:
    copy.data.mkdir(mode=0o700)
    shutil.chown(copy.data, USER, USER)
    _run([
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={_COPYING}", f"--uid={USER}",
        "pgbackrest", f"--stanza={cluster.stanza}", "restore", f"--pg1-path={copy.data}", *way.arguments, *further,
    ])  # fmt: skip


def _stop_copying() -> None:
    if _is_active(_COPYING):
        _run(["systemctl", "stop", _COPYING])


def _recover(login: Login, cluster: Cluster) -> None:
    """Start the cluster and wait until it has replayed the WAL and takes writes. Raises RecoveryError."""
    begin = cluster.log.stat().st_size if cluster.log.exists() else 0
    # Nobody knows how long it takes, so systemd does not wait for it.
    _systemctl("start", cluster, "--no-block")
    unit: dict[str, str] = {}
    state = ""
    while state != "f" or unit["ActiveState"] != "active":
        time.sleep(0.3)
        asked = _run(["systemctl", "show", "--property=ActiveState", "--property=Job", cluster.unit])
        unit = dict(line.split("=", 1) for line in asked.splitlines())
        if unit["ActiveState"] not in ("active", "activating") and not unit.get("Job"):
            raise _failed(f"PostgreSQL ended the recovery: {_last_words(cluster, begin)}")
        state = _recovery_state(login)
        if state == "paused":  # it would wait for a person
            raise _failed(f"PostgreSQL paused the recovery: {_last_words(cluster, begin)}")


def _recovery_state(login: Login) -> str:
    """Return 't' while the recovery goes on, 'paused', 'f' when it is done, and nothing where nobody answers."""
    question = """
        SELECT CASE WHEN pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused' THEN 'paused'
               ELSE left(pg_is_in_recovery()::text, 1) END"""
    import psycopg2

    try:
        with contextlib.closing(connect(login, "postgres")) as connection, connection.cursor() as cursor:
            cursor.execute(question)
            return str(cursor.fetchone()[0])
    except (ConnectionFailed, psycopg2.Error):
        return ""


def _last_words(cluster: Cluster, begin: int) -> str:
    with contextlib.suppress(OSError), open(cluster.log, encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        lines = [line.strip() for line in file if re.search(r"(FATAL|PANIC|ERROR|WARNING|HINT|DETAIL):", line)]
        lines = [line for line in lines if "the database system is" not in line]
        return " ".join(lines[-3:]) or f"see {cluster.log}"
    return f"see {cluster.log}"


def _is_active(unit: str) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0
    return False


def _systemctl(verb: str, cluster: Cluster, *further: str) -> None:
    _run(["systemctl", *further, verb, cluster.unit])


def _pgbackrest(cluster: Cluster, command: str, *arguments: str) -> str:
    """Run pgBackRest as the cluster's owner and return what it said."""
    become = ["runuser", f"--user={USER}", "--"] if os.geteuid() == 0 else []
    return _run([*become, "pgbackrest", f"--stanza={cluster.stanza}", command, *arguments])


def _run(command: Sequence[str]) -> str:
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise _failed(f"{command[0]} can not be run: {error.strerror}") from error
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split()) or f"it ended with {done.returncode}"
        name = next(word for word in command if not word.startswith("-") and word not in ("runuser", "systemd-run"))
        raise _failed(f"{name}: {said}")
    return done.stdout


def _failed(reason: str) -> RecoveryError:
    remedy = "End the cause: look at the repository (/etc/pgbackrest), the network to it and its room."
    return RecoveryError(Problem("pitr_failed", "pgBackRest", reason if reason.endswith(".") else f"{reason}.", remedy))


def _restore_failed(way: RecoveryPlan, error: Exception, state: str) -> RecoveryError:
    reason = error.problem.message if isinstance(error, RecoveryError) else f"{error}."
    message = f"The restore to {way.words} failed, and {state}: {reason}"
    remedy = "Choose another target (pgprefect pitr list), or end the cause and try again."
    return RecoveryError(Problem("pitr_restore_failed", "restore", message, remedy))
