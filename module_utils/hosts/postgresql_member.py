"""One of the two hosts of a database with a standby: what it is now, and the steps that make it something else.

The steps are planned from a look, so that check mode has the same ones. Replication itself is PostgreSQL's own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible.module_utils.pgprefect.core.errors import PgprefectError
from ansible.module_utils.pgprefect.core.prefect import STANDBY_SLOT
from ansible.module_utils.pgprefect.core.process import error_lines

from .postgresql_cluster import ask, configured, configured_port

# A checkpoint writes whatever the memory has.
_PATIENCE = 600
_LOOK = """
SELECT json_build_object(
    'standby', pg_is_in_recovery(),
    'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
    'receiving', EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
    'received', greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()),
    'replayed', pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::int8,
    'replayed_until', pg_last_xact_replay_timestamp(),
    'behind', CASE WHEN pg_is_in_recovery() THEN '{}' ELSE (
        SELECT coalesce(json_object_agg(application_name,
                                        pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::int8), '{}')
        FROM pg_stat_replication WHERE state = 'streaming') END,
    'slots', (SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]') FROM pg_replication_slots
              WHERE starts_with(slot_name, :'standby_slot') AND wal_status IS DISTINCT FROM 'lost'),
    'lost', (SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]') FROM pg_replication_slots
             WHERE starts_with(slot_name, :'standby_slot') AND wal_status = 'lost'))
"""


@dataclass(frozen=True)
class Place:
    """Where a cluster of a version of PostgreSQL is on a host."""

    version: str
    cluster: str

    @property
    def folder(self) -> str:
        """The folder of its configuration."""
        return f"/etc/postgresql/{self.version}/{self.cluster}"

    @property
    def data(self) -> str:
        """Its data directory."""
        return configured(self.folder, "data_directory", f"/var/lib/postgresql/{self.version}/{self.cluster}")

    def program(self, name: str) -> str:
        """The path of a program of its version."""
        return f"/usr/lib/postgresql/{self.version}/bin/{name}"


@dataclass(frozen=True)
class Member:
    """A host as it was found.

    ``exists`` says whether there is a cluster, ``running`` whether its server answers, and ``process`` whether there is
    one at all. ``signal`` says whether the data is marked as a standby's. ``timeline`` is that of the last checkpoint,
    and each failover begins a new one. A stopped one with data has its ``state`` and its last ``checkpoint`` of
    pg_control. WAL positions are numbers, ``received`` is as PostgreSQL writes them. ``behind`` has the bytes that each
    standby that streams from here has not replayed yet. ``slots`` are the site's, and ``lost`` those whose WAL is gone.
    """

    exists: bool = False
    running: bool = False
    process: bool = False
    data: bool = False
    signal: bool = False
    timeline: int | None = None
    state: str = ""
    checkpoint: int | None = None
    standby: bool = False
    receiving: bool = False
    received: str | None = None
    replayed: int | None = None
    replayed_until: str | None = None
    behind: dict[str, int] = field(default_factory=dict)
    slots: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a module does."""
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """Something to do, in words, and the function that does it."""

    words: str
    act: Callable[[], None]


def look(place: Place) -> Member:
    """Look at a host. Changes nothing."""
    data = place.data
    seen = Member(
        exists=os.path.exists(f"{place.folder}/postgresql.conf"),
        process=_lives(data),
        data=os.path.exists(f"{data}/global/pg_control"),
        signal=os.path.exists(f"{data}/standby.signal"),
    )
    found = ask(configured_port(place.folder), _LOOK, standby_slot=STANDBY_SLOT) if seen.process else None
    if found is not None:
        return replace(seen, running=True, **found)
    return replace(seen, **control(_run(place, "pg_controldata", data))) if seen.data else seen


def control(text: str) -> dict[str, Any]:
    """Return what pg_controldata says: the state, and the last checkpoint's position and timeline."""
    rows = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    return {
        "state": rows["Database cluster state"],
        "checkpoint": position(rows["Latest checkpoint location"]),
        "timeline": int(rows["Latest checkpoint's TimeLineID"]),
    }


def position(written: str) -> int:
    """Return a WAL position as a number."""
    high, low = written.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def primary(place: Place, seen: Member, slots: Sequence[str]) -> Iterator[Step]:
    """Yield what gives the primary these slots, and no others. Raises PgprefectError where its server is none."""
    if not seen.running:
        raise PgprefectError(f"PostgreSQL {place.version}/{place.cluster} does not answer on this host: start it.")
    if seen.standby:
        raise PgprefectError("PostgreSQL on this host is a standby, which only playbooks/failover.yml promotes.")
    yield from _drops(place, seen.lost)  # with such a one the data cannot be copied anew
    for name in sorted(set(slots) - set(seen.slots)):
        # It keeps WAL from now on, for the copy of the data.
        question = "SELECT to_json(true) FROM pg_create_physical_replication_slot(:'slot', true)"
        yield _sql(place, f"create the replication slot {name}", question, name)
    yield from _drops(place, sorted(set(seen.slots) - set(slots)))


def promoted(place: Place, seen: Member, slots: Sequence[str]) -> Iterator[Step]:
    """Yield what makes a standby the primary, with these slots. Raises PgprefectError where its server does not run."""
    if seen.standby:
        yield Step("promote the standby", lambda: _promote(place))
    yield from primary(place, replace(seen, standby=False), slots)


def standby(place: Place, seen: Member, source: str, slot: str) -> Iterator[Step]:
    """Yield what makes a host a standby: without data it gets that of the primary; slots of its own keep no WAL.

    ``source`` is a connection string of libpq. Raises PgprefectError where it has data of its own.
    """
    if seen.running and not seen.standby:
        raise PgprefectError("PostgreSQL on this host is a primary.")
    if not seen.data:
        yield Step(f"copy the primary's data to {place.data}", lambda: _copy(place, source, slot))
    elif not seen.signal and not seen.standby:
        raise PgprefectError(f"{place.data} has data of its own, which stays: playbooks/rejoin.yml takes it back.")
    yield from _drops(place, [*seen.slots, *seen.lost])


def demoted(place: Place, seen: Member) -> Iterator[Step]:
    """Yield what makes a primary that was stopped cleanly a standby from its next start on. Raises PgprefectError."""
    if seen.signal:
        return
    if seen.process or seen.state != "shut down":
        raise PgprefectError(f"PostgreSQL on this host was not stopped cleanly: {seen.state or 'it runs'}.")
    yield _signal(place)


def rewound(place: Place, seen: Member, source: str) -> Iterator[Step]:
    """Yield what takes a former primary's data back to where the present primary's left it. Raises PgprefectError."""
    if seen.signal:
        return
    if seen.process or not seen.data:
        raise PgprefectError("PostgreSQL on this host runs, or has no data: there is nothing to take back.")
    yield Step(f"take {place.data} back to where the primary's data left it", lambda: _rewind(place, source))
    # Only data that is complete may be started.
    yield _signal(place)


def _sql(place: Place, words: str, question: str, slot: str) -> Step:
    def act() -> None:
        if ask(configured_port(place.folder), question, slot=slot) is None:
            raise PgprefectError(f"PostgreSQL on this host did not {words}: its log says why.")

    return Step(words, act)


def _drops(place: Place, slots: Sequence[str]) -> Iterator[Step]:
    for name in slots:
        question = "SELECT to_json(true) FROM pg_drop_replication_slot(:'slot')"
        yield _sql(place, f"drop the replication slot {name}", question, name)


def _promote(place: Place) -> None:
    port = configured_port(place.folder)
    # The checkpoint writes the new timeline to where pg_rewind reads it.
    for question in (f"SELECT to_json(pg_promote(true, {_PATIENCE}))", "CHECKPOINT; SELECT to_json(true)"):
        if ask(port, question, timeout=_PATIENCE + 10) is not True:
            raise PgprefectError("PostgreSQL on this host was not promoted: its log says why.")


def _copy(place: Place, source: str, slot: str) -> None:
    data = place.data
    copy = f"{data}.copy"
    shutil.rmtree(copy, ignore_errors=True)  # of a copy that was interrupted
    options = [f"--pgdata={copy}", "--wal-method=stream", f"--slot={slot}", "--checkpoint=fast", "--no-password"]
    try:
        _run(place, "pg_basebackup", *options, f"--dbname={source}")
        _mark(copy)
        os.rename(copy, data)  # which no directory with files in it lets happen
    except OSError as error:
        shutil.rmtree(copy, ignore_errors=True)
        raise PgprefectError(f"{data} cannot get the copy of the primary's data: {error.strerror}. Empty it.") from None


def _rewind(place: Place, source: str) -> None:
    data = place.data
    options = [f"--target-pgdata={data}", f"--config-file={place.folder}/postgresql.conf", f"--source-server={source}"]
    try:
        _run(place, "pg_rewind", *options)
    except PgprefectError as error:
        remedy = f"Copy the primary's data anew: mv {data} {data}.old on this host, then run site.yml."
        raise PgprefectError(f"{data} cannot be taken back. {error} {remedy}") from None


def _signal(place: Place) -> Step:
    return Step("mark the data as a standby's", lambda: _mark(place.data))


def _mark(data: str) -> None:
    path = f"{data}/standby.signal"
    with open(path, "w", encoding="utf-8") as file:
        os.fsync(file.fileno())
    user = pwd.getpwnam("postgres")
    os.chown(path, user.pw_uid, user.pw_gid)
    os.chmod(path, 0o600)


def _run(place: Place, name: str, *arguments: str) -> str:
    """Run a program of PostgreSQL as its user, and return its output. Raises PgprefectError."""
    user = pwd.getpwnam("postgres")
    done = subprocess.run(
        [place.program(name), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "10"},
        user=user.pw_uid,
        group=user.pw_gid,
        # The key of the certificate is for one of them.
        extra_groups=os.getgrouplist("postgres", user.pw_gid),
    )
    if done.returncode:
        raise PgprefectError(f"{name} failed: {error_lines(done.stderr)}")
    return done.stdout


def _lives(data: str) -> bool:
    """Say whether a server has the data open, by the file that it leaves there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"{data}/postmaster.pid", encoding="utf-8") as file:
            number = int(file.readline())
        with open(f"/proc/{number}/comm", encoding="utf-8") as file:
            return file.read().strip() == "postgres"
    return False
