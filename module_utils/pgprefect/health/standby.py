"""The standby of a database of two hosts: that it follows, and that there is one primary only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from ..core.connection import ConnectionFailed, Login
from ..core.prefect import STANDBY_SLOT
from ..core.problems import ERROR, WARNING, Problem
from ..core.questions import ask_within, connect_to_ask, side_by_side
from ..core.sql import Statement, Value
from .probes import Ask, Finding

_BEHIND_SECONDS = 300
_PAGE = "docs/standby.md says how."
# The slots of the site's own standbys on the primary, and whether a standby of the site receives nothing. A login
# without pg_monitor sees that there is a receiver, and not its status.
_STANDBY = """
SELECT (SELECT coalesce(json_agg(json_build_array(substr(slot_name, length(prefix) + 1), active, wal_status = 'lost',
                                                  extract(epoch FROM replay_lag))), '[]')
        FROM pg_replication_slots LEFT JOIN pg_stat_replication ON pid = active_pid
        WHERE starts_with(slot_name, prefix) AND NOT pg_is_in_recovery()),
       pg_is_in_recovery() AND starts_with(current_setting('primary_slot_name'), prefix)
       AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE coalesce(status, 'streaming') = 'streaming')
FROM (SELECT {}::text AS prefix) AS site
"""


def standby(ask: Ask) -> list[Problem]:
    """Return what keeps the site's standby from taking over; nothing where the site has none."""
    slots, lonely = ask(Statement(_STANDBY, (Value(STANDBY_SLOT),)))[0]
    return [*_slots(slots), *_lonely(lonely)]


def _slots(slots: Sequence[tuple[str, bool, bool, float | None]]) -> Iterator[Problem]:
    for name, active, lost, behind in slots:
        if lost:
            message = (
                f"The standby {name} was away for so long that the primary has not kept its WAL: it never follows."
            )
            remedy = f"Copy the data to it anew. {_PAGE}"
            yield Problem("standby_lost", f"standby {name}", message, remedy, WARNING)
        elif not active:
            message = f"The standby {name} does not follow the primary, so that it cannot take over."
            remedy = f"On its host: systemctl status 'postgresql@*', and its log. A former primary rejoins: {_PAGE}"
            yield Problem("standby_away", f"standby {name}", message, remedy, WARNING)
        elif (behind or 0) > _BEHIND_SECONDS:
            message = f"The standby {name} is {behind:.0f} s behind the primary; a failover would lose that."
            remedy = "Look at the network between both, and at the disk of its host."
            yield Problem("standby_behind", f"standby {name}", message, remedy, WARNING)


def _lonely(lonely: bool) -> Iterator[Problem]:
    if lonely:
        message = "PostgreSQL on this host is a standby and receives nothing, so that it cannot take over."
        remedy = f"If the primary is lost, promote this one; else see this one's log. {_PAGE}"
        yield Problem("standby_receives_nothing", "standby", message, remedy, WARNING)


def database_hosts(login: Login, database: str, timeout: float) -> Finding:
    """Ask each of a database's hosts whether it takes writes, and check that not more than one does."""
    kinds: dict[str, str] = {}

    def ask(host: str) -> None:
        try:
            connection = connect_to_ask(replace(login, host=host), database, timeout)
        except ConnectionFailed:
            return
        (recovers,) = ask_within(connection, Statement("SELECT pg_is_in_recovery()"), timeout / 4)[0]
        connection.close()
        kinds[host] = "standby" if recovers else "primary"

    hosts = login.host.split(",")
    side_by_side([partial(ask, host) for host in hosts], time.monotonic() + timeout * 0.9)
    details = {host: kinds.get(host, "no answer") for host in hosts}
    primaries = [host for host, kind in details.items() if kind == "primary"]
    if len(primaries) < 2:
        return [], {"hosts": details}
    message = f"{' and '.join(primaries)} are both primaries: each takes writes that the other one never gets."
    remedy = f"At once stop PostgreSQL on the one whose data is to go, and let it rejoin. {_PAGE}"
    return [Problem("two_primaries", "database", message, remedy, ERROR)], {"hosts": details}
