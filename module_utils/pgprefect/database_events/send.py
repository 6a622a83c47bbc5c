"""Sending rows of an outbox to a Prefect server: as runs of deployments, and as events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from ..core.errors import ProblemError
from ..core.http import ApiError, ApiRefused, ApiUnreachable, PrefectApi, is_ready
from ..schema.database_events import DatabaseEvent
from .outbox import Refusal, Row

_THREADS = 4
_STARTED_AT_ONCE = 25
_TOO_FEW = 3  # to be started together
_CONFIRMED_AT_ONCE = 50  # the most events that the API returns at once
# Prefect drops an event of more than 1,500,000 bytes, and says nothing.
_MOST_BYTES = 1_400_000
_MOST_POSTED_BYTES = 4_000_000
# What Prefect's server would take for a template, or for the name of a variable, and replace.
_TEMPLATE = "__prefect_kind"
_TRY_LATER = (401, 403, 408, 429)


class Outage(ProblemError):
    """The API does not take anything at the moment, whatever it is."""


class Sender:
    """Sends the rows of one database to one API. A row that is refused for its own sake is no Outage."""

    def __init__(self, api: PrefectApi, database: str, events: Sequence[DatabaseEvent]) -> None:
        self._api, self._database = api, database
        self._events = {event.name: event for event in events}
        self._deployments: dict[str, str] = {}

    def unsendable(self, row: Row) -> str | None:
        """Return why a row cannot be sent at all, or None."""
        if row.name not in self._events:
            return f"the event {row.name} is not declared any more"
        if _has_template(row.payload):
            return f"a value has the key {_TEMPLATE}, by which Prefect's server would replace it"
        if len(json.dumps(row.payload)) > _MOST_BYTES:
            return f"its values have more than {_MOST_BYTES} bytes, which Prefect does not take"
        return None

    def starts_run(self, row: Row) -> bool:
        """Return whether a row starts a run, else it becomes an event of Prefect's."""
        return bool(self._events[row.name].deployment)

    def start_runs(self, rows: Sequence[Row]) -> tuple[dict[int, str], list[Refusal], Outage | None]:
        """Start the run of each row; whoever asks again for the same row gets the same run.

        Returns the runs by the rows' numbers, what was refused, and what kept it from the others.
        """
        runs: dict[int, str] = {}
        refusals: list[Refusal] = []
        outage: Outage | None = None
        by_deployment: dict[str, list[Row]] = {}
        for row in rows:
            by_deployment.setdefault(self._events[row.name].deployment, []).append(row)
        with ThreadPoolExecutor(_THREADS) as threads:
            parts = [part for found in by_deployment.values() for part in _parts(found, _STARTED_AT_ONCE)]
            started = list(threads.map(self._start_together, parts))
            for found in started:
                runs.update(found)
            rest = [row for row in rows if row.seq not in runs]
            for row, result in zip(rest, threads.map(self._try_to_start, rest)):
                if isinstance(result, str):
                    runs[row.seq] = result
                elif isinstance(result, Refusal):
                    refusals.append(result)
                else:
                    outage = result
        return runs, refusals, outage

    def _start_together(self, rows: Sequence[Row]) -> dict[int, str]:
        """Start the runs of several rows of one deployment with one request; nothing where that is not sure to work.

        The server starts them in one transaction, in which one that fails may take the others with it, although it says
        that they were created. Then each is asked for by itself, and those that are there come again.
        """
        if len(rows) < _TOO_FEW:
            return {}
        try:
            deployment = self._deployment(self._events[rows[0].name].deployment)
            path = f"/deployments/{deployment}/create_flow_run/bulk"
            found = self._api.call("POST", path, list(map(_run, rows)), pauses=())["results"]
        except ApiError:
            return {}
        if len(found) != len(rows) or any(one["status"] != "CREATED" for one in found):
            return {}
        return {row.seq: str(one["flow_run_id"]) for row, one in zip(rows, found)}

    def _try_to_start(self, row: Row) -> str | Refusal | Outage:
        try:
            return self._start(row)
        except ApiError as error:
            try:
                return Refusal(row, self._reason(error))
            except Outage as outage:
                return outage

    def _start(self, row: Row) -> str:
        name = self._events[row.name].deployment
        path = f"/deployments/{self._deployment(name)}/create_flow_run"
        try:
            return str(self._api.call("POST", path, _run(row), pauses=())["id"])
        except ApiRefused as error:
            if error.status == 404:  # it may have been created anew, which the next attempt finds
                self._deployments.pop(name, None)
            raise

    def _deployment(self, name: str) -> str:
        if name not in self._deployments:
            path = "/".join(quote(part, safe="") for part in name.split("/"))
            self._deployments[name] = str(self._api.call("GET", f"/deployments/name/{path}", pauses=())["id"])
        return self._deployments[name]

    def post(self, rows: Sequence[Row]) -> list[Row]:
        """Give rows to Prefect as events, and return those that were given. Raises Outage."""
        events: list[Mapping[str, Any]] = []
        size = 0
        for row in rows:
            event = self._event(row)
            size += len(json.dumps(event))
            if events and size > _MOST_POSTED_BYTES:
                break
            events.append(event)
        try:
            self._api.call("POST", "/events", events, pauses=())
        except ApiError as error:
            raise Outage(error.problem) from error
        return list(rows[: len(events)])

    def _event(self, row: Row) -> dict[str, Any]:
        event = self._events[row.name]
        table = f"{self._database}.{'.'.join(event.table)}"
        resource = {"prefect.resource.id": f"postgresql.{table}", "prefect.resource.name": table}
        many = {} if event.by_row else {"rows": row.rows}
        return {
            "id": row.id,
            "occurred": row.occurred.isoformat(),
            "event": event.event,
            "resource": resource,
            "payload": {**many, **row.payload},
        }

    def stored(self, rows: Sequence[Row]) -> set[str]:
        """Return the identifiers of the rows that Prefect has as events in its database. Raises Outage."""
        found: set[str] = set()
        for part in _parts(rows, _CONFIRMED_AT_ONCE):
            day = timedelta(days=1)
            window = {
                "since": (min(row.occurred for row in part) - day).isoformat(),
                "until": (datetime.now(timezone.utc) + day).isoformat(),
            }
            chosen = {"id": {"id": [row.id for row in part]}, "occurred": window}
            try:
                page = self._api.call("POST", "/events/filter", {"filter": chosen}, pauses=())
            except ApiError as error:
                raise Outage(error.problem) from error
            found.update(str(event["id"]) for event in page["events"])
        return found

    def _reason(self, error: ApiError) -> str:
        """Return why the API refused one row. Raises Outage where it would refuse any."""
        broken = isinstance(error, ApiRefused) and error.status >= 500
        if (
            isinstance(error, ApiUnreachable)
            or not isinstance(error, ApiRefused)
            or error.status in _TRY_LATER
            or (broken and not is_ready(f"{self._api.url}/ready"))
        ):
            raise Outage(error.problem)
        return error.problem.message


def _run(row: Row) -> dict[str, Any]:
    return {"parameters": row.payload, "idempotency_key": row.id, "state": {"type": "SCHEDULED"}}


def _parts(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _has_template(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _TEMPLATE in value or any(map(_has_template, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_template, value))
