"""The relay: sends what an outbox has to a Prefect server, again and again until it is stopped."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ..core.connection import ConnectionFailed, Login, connect
from ..core.http import PrefectApi
from ..core.sql import Statement
from ..schema.database_events import DatabaseEvent
from ..site.environment import setting
from .outbox import Outbox, Refusal, Row
from .send import Outage, Sender

_POLL_SECONDS = 1.0  # the truth; a notification only comes earlier
_BATCH = 100
# Prefect's broker holds 10,000 events in memory, and drops what comes on top.
_MOST_IN_FLIGHT = 1000
_PRUNE_SECONDS = 60
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Relay:
    """What a relay is told: where its outbox is, what its rows mean, and how many of them it sends in a second.

    ``keep_days`` is how long a row stays that was sent.
    """

    login: Login
    database: str
    outbox: str
    events: tuple[DatabaseEvent, ...]
    rate: float
    keep_days: float

    def run(self, api: PrefectApi, stop: threading.Event, say: Callable[[str], None]) -> None:
        """Send until it is told to stop. Whatever is not there, database or API, is asked for again."""
        sender = Sender(api, self.database, self.events)
        pauses = _Pauses(stop, say)
        while not stop.is_set():
            if reason := self._serve(sender, pauses, stop, say):
                pauses.wait(reason)

    def _serve(self, sender: Sender, pauses: _Pauses, stop: threading.Event, say: Callable[[str], None]) -> str | None:
        """Send over one pair of connections, and return why they ended, if they did."""
        import psycopg2

        try:
            with self._connections() as (listener, connection):
                _Session(self, listener, connection, sender, pauses, say).serve(stop)
        except ConnectionFailed as failed:
            return failed.problem.message
        except psycopg2.Error as error:
            return f"The session of the outbox ended: {str(error).strip()}"
        return None

    @contextlib.contextmanager
    def _connections(self) -> Iterator[tuple[Any, Any]]:
        with contextlib.ExitStack() as opened:
            listener = opened.enter_context(contextlib.closing(connect(self.login, self.database)))
            listener.autocommit = True
            Statement("LISTEN {}", (self.outbox,)).execute(listener.cursor())
            yield listener, opened.enter_context(contextlib.closing(connect(self.login, self.database)))


def relay_of(environment: Mapping[str, str]) -> Relay:
    """Make a relay of libpq's variables and of PGPREFECT_RELAY, a JSON object with the rest. Raises SettingMissing."""
    told = json.loads(setting(environment, "PGPREFECT_RELAY"))
    login = Login(
        host=setting(environment, "PGHOST"),
        port=int(environment.get("PGPORT", "5432")),
        user=setting(environment, "PGUSER"),
        password=setting(environment, "PGPASSWORD"),
        ssl_mode=environment.get("PGSSLMODE", "prefer"),
        ca_file=environment.get("PGSSLROOTCERT"),
    )
    return Relay(
        login=login,
        database=setting(environment, "PGDATABASE"),
        outbox=told["outbox"],
        events=tuple(map(DatabaseEvent.from_arguments, told["events"])),
        rate=float(told["rate"]),
        keep_days=float(told["keep_days"]),
    )


@dataclass
class _Pauses:
    """Longer and longer pauses while something is away; each reason is said once."""

    stop: threading.Event
    say: Callable[[str], None]
    seconds: float = 0.5
    reason: str = ""

    def wait(self, reason: str) -> None:
        if not self.reason:
            self.say(f"Waiting: {reason}")
        self.reason = reason
        self.stop.wait(self.seconds)
        self.seconds = min(self.seconds * 2, _LONGEST_PAUSE)

    def over(self) -> None:
        if self.reason:
            self.say("Sending again.")
        self.seconds, self.reason = 0.5, ""


class _Session:
    """The work over one pair of connections."""

    def __init__(
        self,
        relay: Relay,
        listener: Any,
        connection: Any,
        sender: Sender,
        pauses: _Pauses,
        say: Callable[[str], None],
    ) -> None:
        self._relay, self._listener, self._connection = relay, listener, connection
        self._outbox = Outbox(connection, relay.outbox)
        self._sender, self._pauses, self._say = sender, pauses, say
        # No more at once than in a second, so that a low rate is no burst with a long pause.
        self._batch = max(1, min(_BATCH, int(relay.rate)))
        self._pruned = 0.0

    def serve(self, stop: threading.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                confirmed = self._confirm()
                sent = self._send()
                self._pauses.over()
            except Outage as outage:
                self._connection.rollback()
                self._pauses.wait(outage.problem.message)
                continue
            self._prune()
            least = sent / self._relay.rate - (time.monotonic() - began)
            if least > 0:
                stop.wait(least)
            if sent < self._batch and not confirmed:
                self._wait()

    def _wait(self) -> None:
        """Wait for a notification, or for the next look."""
        select.select([self._listener], [], [], _POLL_SECONDS)
        self._listener.poll()
        self._listener.notifies.clear()

    def _send(self) -> int:
        """Send a batch, and return how many rows it had. Raises Outage, after what was sent is marked."""
        with self._connection:
            rows = self._outbox.claim(self._batch)
            refusals = [Refusal(row, reason, True) for row in rows if (reason := self._sender.unsendable(row))]
            hopeless = {refusal.row.seq for refusal in refusals}
            rest = [row for row in rows if row.seq not in hopeless]
            outages = [self._start_runs([row for row in rest if self._sender.starts_run(row)], refusals)]
            outages.append(self._post([row for row in rest if not self._sender.starts_run(row)]))
            for refusal in self._outbox.refuse(refusals):
                self._say(f"{refusal.row.name} {refusal.row.id} is dead: {refusal.reason}")
        for outage in filter(None, outages):
            raise outage
        return len(rows)

    def _start_runs(self, rows: Sequence[Row], refusals: list[Refusal]) -> Outage | None:
        runs, refused, outage = self._sender.start_runs(rows)
        self._outbox.mark_sent(dict(runs))
        refusals += refused
        return outage

    def _post(self, rows: Sequence[Row]) -> Outage | None:
        room = _MOST_IN_FLIGHT - self._outbox.in_flight() if rows else 0
        if room <= 0:
            return None
        try:
            self._outbox.mark_posted(self._sender.post(rows[:room]))
        except Outage as outage:
            return outage
        return None

    def _confirm(self) -> int:
        """Mark events as sent that Prefect has stored; return how many were looked for. Raises Outage."""
        with self._connection:
            rows = self._outbox.posted(_MOST_IN_FLIGHT)
            stored = self._sender.stored(rows)
            self._outbox.mark_sent({row.seq: None for row in rows if row.id in stored})
            self._outbox.mark_lost()
        return len(stored)

    def _prune(self) -> None:
        if time.monotonic() - self._pruned > _PRUNE_SECONDS or not self._pruned:
            with self._connection:
                pruned = self._outbox.prune(self._relay.keep_days)
            # A whole batch: there is more.
            self._pruned = time.monotonic() if pruned < 5000 else 0.0
