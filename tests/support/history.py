"""A history of flow runs, written by hand."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

from pgprefect.core.sql import quote

from tests.support.site import PASSWORD, Site

NOW = datetime.datetime(2026, 3, 31, 12, tzinfo=datetime.UTC)


@contextlib.contextmanager
def reader(site: Site, role: str = "mltrading_app") -> Iterator[Any]:
    with contextlib.closing(site.server.connect(site.database, role, PASSWORD)) as connection:
        yield connection


def ago(days: float) -> datetime.datetime:
    return NOW - datetime.timedelta(days=days)


def insert(site: Site, table: str, **values: Any) -> str:
    columns = ", ".join(map(quote, values))
    marks = ", ".join(["%s"] * len(values))
    statement = f"INSERT INTO prefect.{quote(table)} ({columns}) VALUES ({marks}) RETURNING id::text"
    [(identifier,)] = site.sql(statement, *values.values())
    return str(identifier)


def insert_run(site: Site, flow: str, due: datetime.datetime, state: str, late: float = 0, **values: Any) -> str:
    """``seconds`` is how long it ran; without it, it never began."""
    seconds = values.pop("seconds", None)
    if seconds is not None:
        values["start_time"] = due + datetime.timedelta(seconds=late)
        values["end_time"] = values["start_time"] + datetime.timedelta(seconds=seconds)
    values = {"name": "run", "state_type": state, "state_name": state.title(), **values}
    return insert(site, "flow_run", flow_id=flow, expected_start_time=due, **values)
