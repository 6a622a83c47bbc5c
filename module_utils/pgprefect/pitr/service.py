"""How PostgreSQL stops and starts around a restore: by systemd, or with Patroni, which leaves it alone meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import logging
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from ..core.connection import ConnectionFailed, Login, connect
from ..core.problems import Problem
from ..site.configuration import Patroni
from ..site.patroni import LEADERS, PATRONICTL, RUNNING, describe, members_of, typed
from .programs import POSTGRES_USER, RecoveryError, failed, is_active, run_program, run_systemctl
from .repository import Cluster, blocked

_Answer = TypeVar("_Answer")
_FOLLOWS, _COPIES = "follows", "copies"
# Patroni looks every 5 seconds, and tells the others in the next one.
_SETTLED_SECONDS = 12
_START_SECONDS = 300
_TOLD_SECONDS = 60
_FOLLOW_SECONDS = 30
_STOP_SECONDS = 3600
_POLL_SECONDS = 0.3
_log = logging.getLogger(__name__)


class Service(Protocol):
    """What runs PostgreSQL. Methods raise RecoveryError.

    ``recovery_unit`` is the unit of systemd in which it recovers.
    """

    recovery_unit: str

    def require_primary(self) -> None:
        """Refuse where another host of the database is the primary."""

    def require_whole(self) -> None:
        """Refuse a restore in place where the database's hosts are not as they should be."""

    def is_running(self) -> bool:
        """Return whether PostgreSQL runs."""

    def stop(self) -> None:
        """Stop PostgreSQL, so that nobody starts it again."""

    def begin_recovery(self) -> None:
        """Let PostgreSQL start and recover, without waiting for it."""

    def end_recovery(self) -> None:
        """Run the recovered PostgreSQL as it always runs."""

    def start_previous(self) -> None:
        """Start PostgreSQL on the data directory that a restore had replaced."""

    def let_others_follow(self, rebuild: bool) -> None:
        """Let the other hosts of the database follow; ``rebuild`` where what they have is known to be another one."""

    def log(self) -> str:
        """Return what PostgreSQL has logged since the recovery began."""


def service_of(login: Login, cluster: Cluster, patroni: Patroni | None) -> Service:
    """Return what runs the cluster on this host."""
    return PatroniService(login, cluster, patroni) if patroni else SystemdService(cluster)


class SystemdService:
    """A cluster of one host."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.recovery_unit = cluster.unit
        self._log_size = 0

    def require_primary(self) -> None:
        """There is no other host."""

    def require_whole(self) -> None:
        """It may even be stopped."""

    def is_running(self) -> bool:
        """Return whether systemd runs it."""
        return is_active(self._cluster.unit)

    def stop(self) -> None:
        """Stop it."""
        run_systemctl("stop", self._cluster.unit)

    def begin_recovery(self) -> None:
        """Start it. Nobody knows how long it takes, so systemd does not wait for it."""
        self._log_size = self._cluster.log.stat().st_size if self._cluster.log.exists() else 0
        run_systemctl("start", self._cluster.unit, "--no-block")

    def end_recovery(self) -> None:
        """It goes on."""

    def start_previous(self) -> None:
        """Start it."""
        run_systemctl("start", self._cluster.unit)

    def let_others_follow(self, rebuild: bool) -> None:
        """There are none."""

    def log(self) -> str:
        """Read the end of its file."""
        with contextlib.suppress(OSError), open(self._cluster.log, encoding="utf-8", errors="replace") as file:
            file.seek(self._log_size)
            return file.read()
        return ""


class PatroniService:
    """A member of a cluster of several hosts.

    While the cluster is paused Patroni starts, stops and promotes nothing by itself, whatever happens to the hosts
    meanwhile. It takes over a primary that runs, and starts one where it is asked to.
    """

    recovery_unit = "pgprefect-recovery.service"

    def __init__(self, login: Login, cluster: Cluster, patroni: Patroni) -> None:
        self._login = login
        self._cluster = cluster
        self._patroni = patroni
        self._scope = f"{cluster.version}-{cluster.name}"
        self._bin = f"/usr/lib/postgresql/{cluster.version}/bin"
        self._begun = 0.0
        self._settings: tuple[str, ...] = ()  # of a recovery alone

    def require_primary(self) -> None:
        """Refuse where another member leads; where none does, what is here may be taken."""
        name = self._patroni.name
        leaders = [member for member, row in self._members().items() if row.get("role") in LEADERS]
        if leaders not in ([], [name]):
            raise blocked(f"{name} is a standby; {leaders[0]} is the primary", f"Run this on {leaders[0]}, as root.")

    def require_whole(self) -> None:
        """Refuse where one is away that would come back with what was there before, or somebody has paused Patroni."""
        described = self._described()
        away = [name for name in self._patroni.members if name not in members_of(described)]
        if away:
            remedy = "Start its Patroni, or remove it from the cluster: playbooks/members.yml (docs/disaster.md)."
            raise blocked(f"The member {away[0]} is away, and would come back with what was there before", remedy)
        if described.get("pause"):
            raise blocked("Patroni is paused", f"If nobody needs that: {typed('resume', self._scope)}")

    def is_running(self) -> bool:
        """Return whether a postmaster has the data directory."""
        asked = subprocess.run(self._pg_ctl("status"), cwd="/", capture_output=True, check=False)
        return asked.returncode == 0

    def stop(self) -> None:
        """Pause the cluster and stop PostgreSQL; the standbys go on to answer questions."""
        if not _wait(self._described, _TOLD_SECONDS, "Patroni describes nothing").get("pause"):
            self._ask("pause", "--wait", self._scope)
        _wait(self._is_paused, _TOLD_SECONDS, "Patroni is not paused")
        if self.is_running():
            run_program(self._pg_ctl("stop", "--mode=fast", "--wait", f"--timeout={_STOP_SECONDS}"))

    def begin_recovery(self) -> None:
        """Start PostgreSQL for the recovery alone, because Patroni would remove the settings of it."""
        self._begun = time.time()
        run_program([
            "systemd-run", "--quiet", "--collect", "--no-block", f"--unit={self.recovery_unit}",
            f"--uid={POSTGRES_USER}", "--property=Type=notify", "--property=TimeoutStartSec=infinity",
            "--property=KillMode=mixed", "--property=KillSignal=SIGINT", f"{self._bin}/postgres",
            "-D", str(self._cluster.data), "-c", f"config_file={self._cluster.settings}/postgresql.conf",
            *(word for setting in self._settings for word in ("-c", setting)),
        ])  # fmt: skip

    def end_recovery(self) -> None:
        """Wait until Patroni has taken it over, and let it start PostgreSQL anew, in its own unit.

        Patroni knows a postmaster by when it started, and counts that from the clock of its own start: where the clock
        was set since then, it would see a stranger. While it is paused its restart touches nothing.
        """
        run_systemctl("restart", "patroni.service")
        _wait(self._leads, _START_SECONDS, "Patroni did not take over what was recovered")
        self._ask("restart", "--force", self._scope, self._patroni.name)
        _wait(lambda: self.is_running() and self._leads(), _START_SECONDS, "Patroni did not start what was recovered")
        if is_active(self.recovery_unit):
            raise _stuck("Patroni did not restart what was recovered")

    def start_previous(self) -> None:
        """Recover it to its end, which begins a timeline.

        Standbys follow the last one that the repository has, which is that of the restore.
        """
        signal = self._cluster.data / "recovery.signal"
        signal.touch()
        shutil.chown(signal, POSTGRES_USER, POSTGRES_USER)
        try:
            self._settings = ("recovery_target_timeline=current",)
            recover(self._login, self)
            self.end_recovery()
        finally:
            signal.unlink(missing_ok=True)  # PostgreSQL removes it where that succeeds

    def let_others_follow(self, rebuild: bool) -> None:
        """Rebuild the others that have another timeline, and end the pause once none has what it had any more."""
        time.sleep(_SETTLED_SECONDS)
        due = [name for name in self._patroni.members if name != self._patroni.name]
        paused = True
        try:
            if not rebuild:
                with contextlib.suppress(RecoveryError):
                    self._wait_for(due, (_FOLLOWS,), _FOLLOW_SECONDS)
                following = self._those(due, _FOLLOWS)
                due = [name for name in due if name not in following]
            if due:
                self._ask("reinit", "--force", self._scope, *due)
            self._wait_for(due, (_FOLLOWS, _COPIES))
            self._ask("resume", "--wait", self._scope)
            paused = False
            while copying := self._those(due, _COPIES):
                _log.info("%s: the data is being copied.", ", ".join(copying))
                time.sleep(_SETTLED_SECONDS)
            self._wait_for(due, (_FOLLOWS,))
        except RecoveryError as error:
            message = f"PostgreSQL runs on {self._patroni.name}, but not everywhere: {error.problem.message}"
            again = [typed("reinit", self._scope, *due)] if due else []
            again += [typed("resume", self._scope)] if paused else []
            remedy = f"On each member: journalctl -u patroni; then: {'; '.join(again)}"
            raise RecoveryError(Problem("pitr_failed", "standbys", message, remedy)) from error

    def log(self) -> str:
        """Read the journal of its unit."""
        since = f"--since=@{self._begun:.0f}"
        return run_program(["journalctl", f"--unit={self.recovery_unit}", since, "--output=cat", "--no-pager"])

    def _wait_for(self, names: Collection[str], states: Collection[str], seconds: float = _TOLD_SECONDS) -> None:
        def reached() -> bool:
            seen = self._states()
            return all(seen.get(name) in states for name in names)

        _wait(reached, seconds, f"of {', '.join(names)} not all have copied the data, or begun to")

    def _those(self, names: Collection[str], state: str) -> list[str]:
        states = _wait(self._states, _TOLD_SECONDS, "no member runs")
        return [name for name in names if states.get(name) == state]

    def _states(self) -> dict[str, str]:
        """Return the members that follow or copy the data, each with which of both."""
        seen = self._members()
        timeline = seen.get(self._patroni.name, {}).get("timeline")
        copying = {name: _COPIES for name, row in seen.items() if row.get("state") == "creating replica"}
        following = {
            name: _FOLLOWS
            for name, row in seen.items()
            if row.get("state") in RUNNING and row.get("timeline") == timeline
        }
        return {**copying, **following}

    def _leads(self) -> bool:
        row = self._members().get(self._patroni.name, {})
        return row.get("role") in LEADERS and row.get("state") in RUNNING

    def _members(self) -> dict[str, Mapping[str, Any]]:
        return members_of(self._described())

    def _is_paused(self) -> bool:
        return bool(self._described().get("pause"))

    def _described(self) -> Mapping[str, Any]:
        try:
            return describe(self._patroni, 10)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _stuck(f"Patroni of this host does not answer at {self._patroni.url}: {error}") from error

    def _pg_ctl(self, *words: str) -> list[str]:
        program = f"{self._bin}/pg_ctl"
        return ["runuser", f"--user={POSTGRES_USER}", "--", program, "-D", str(self._cluster.data), *words]

    def _ask(self, *words: str) -> None:
        run_program([*PATRONICTL, *words])


def recover(login: Login, service: Service) -> None:
    """Start PostgreSQL and wait until it has replayed the WAL and accepts writes. Raises RecoveryError."""
    began = time.monotonic()
    unit = service.recovery_unit
    _log.info("Replay the WAL: start %s.", unit)
    service.begin_recovery()
    found: dict[str, str] = {}
    state = ""
    while state != "f" or found["ActiveState"] != "active":
        time.sleep(_POLL_SECONDS)
        found = _unit_properties(unit, "ActiveState", "Job")
        if found["ActiveState"] not in ("active", "activating") and not found.get("Job"):
            raise failed(f"PostgreSQL ended the recovery: {_last_messages(service)}")
        state = _recovery_state(login)
        if state == "paused":  # it would wait for a person
            raise failed(f"PostgreSQL paused the recovery: {_last_messages(service)}")
    _log.info("%s replayed the WAL and accepts writes after %.1f s.", unit, time.monotonic() - began)


def _unit_properties(unit: str, *names: str) -> dict[str, str]:
    properties = [f"--property={name}" for name in names]
    shown = run_program(["systemctl", "show", *properties, unit], logged=False)  # asked several times a second
    return dict(line.split("=", 1) for line in shown.splitlines())


def _recovery_state(login: Login) -> str:
    """Return 't' during recovery, 'paused' where it is paused, 'f' when it is done, and '' while nobody answers."""
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


def _last_messages(service: Service) -> str:
    """Return the last messages that PostgreSQL logged in this recovery."""
    lines = [line.strip() for line in service.log().splitlines()]
    lines = [line for line in lines if re.search(r"(FATAL|PANIC|ERROR|WARNING|HINT|DETAIL):", line)]
    lines = [line for line in lines if "the database system is" not in line]
    return " ".join(lines[-3:]) or f"see journalctl -u {service.recovery_unit}"


def _wait(ask: Callable[[], _Answer], seconds: float, otherwise: str) -> _Answer:
    """Return the first answer that is not empty, which a silent Patroni may still give.

    Raises RecoveryError after this time.
    """
    deadline = time.monotonic() + seconds
    while True:
        missed = _stuck(f"{otherwise}, for {seconds:.0f} s")
        try:
            if answer := ask():
                return answer
        except RecoveryError as silent:
            missed = silent
        if time.monotonic() > deadline:
            raise missed
        time.sleep(1)


def _stuck(message: str) -> RecoveryError:
    remedy = "On each member: systemctl status patroni postgresql-etcd; journalctl -u patroni"
    return RecoveryError(Problem("pitr_failed", "Patroni", f"{message}.", remedy))
