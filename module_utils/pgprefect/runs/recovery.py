"""Recovery: resolving the runs that are lost, whose process or worker is gone for good, and no others."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable

from ..core.http import PrefectApi
from ..core.sql import Statement
from ..site.configuration import Tenant
from ..site.open_runs import OpenRun, find_dead_runs, find_open_runs
from .resolve import Resolved, resolve

# So long a run must have been silent, where nothing else proves anything. Runs send a heartbeat every 30 s.
SILENCE_SECONDS = 90
# A silence is confirmed by a second look after more than one heartbeat: after an outage, living runs are heard again.
CONFIRM_SECONDS = 40
_BOUNDED = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s'; "
_LOOKED = "pgprefect.recovery.looked"


@dataclass(frozen=True)
class Lost:
    """A run that is lost, and why; ``silence`` where only the silence about it says so."""

    run: OpenRun
    reason: str
    silence: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"id": self.run.id, "name": self.run.title, "state": self.run.state, "evidence": self.reason}


def find_lost(connection: Any, tenant: Tenant, limit: float = SILENCE_SECONDS) -> list[Lost]:
    """Return the runs of a tenant that are lost, the oldest first. This host's clock must be that of the API."""

    def ask(statement: Statement) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            # Whoever holds the tables, as a restore does, is not to be waited for.
            Statement(_BOUNDED + statement.template, statement.arguments).execute(cursor)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        connection.rollback()  # so that the next look sees what is new
        return rows

    ((now,),) = ask(Statement("SELECT extract(epoch FROM clock_timestamp())::float8"))
    runs = find_open_runs(ask, tenant, skew=time.time() - now)
    dead = find_dead_runs(runs, tenant, limit)
    return [Lost(run, dead[run.id].reason, dead[run.id].silence) for run in runs if run.id in dead]


def confirm(
    connection: Any, api: PrefectApi, tenant: Tenant, lost: Sequence[Lost], pause: Callable[[float], None] = time.sleep
) -> list[Lost]:
    """Return those of the lost runs that a second look finds lost too; it waits where only silence says so.

    Meanwhile the server must record an event: what it does not record, it may have heard. Raises ApiError.
    """
    if not any(one.silence for one in lost):
        return list(lost)
    now = datetime.now(timezone.utc).isoformat()
    resource = {"prefect.resource.id": _LOOKED, "prefect.resource.name": tenant.name}
    api.call("POST", "/events", [{"id": str(uuid.uuid4()), "occurred": now, "event": _LOOKED, "resource": resource}])
    pause(CONFIRM_SECONDS)
    first = {one.run.id: one.run.state_id for one in lost}
    again = [one for one in find_lost(connection, tenant) if first.get(one.run.id) == one.run.state_id]
    return [
        one
        for one in again
        if not one.silence or (one.run.heard_age is not None and one.run.heard_age <= CONFIRM_SECONDS + 5)
    ]


def recover(api: PrefectApi, lost: Sequence[Lost]) -> list[Resolved]:
    """Resolve lost runs, those that have not changed meanwhile, and return what they are now. Raises ApiError."""
    resolved: dict[str, Resolved] = {}
    for one in lost:
        resolved.update({run.id: run for run in resolve(api, one.run.id, one.reason, one.run.state_id)})
    return list(resolved.values())
