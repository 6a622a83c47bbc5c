"""What the site's retention would delete of an import soon after it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ..core.problems import NOTICE, Problem
from .source import Contents

_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


@dataclass(frozen=True)
class Retention:
    """How long the tenant's server keeps events, as ISO 8601 duration, and the nightly cleanup runs, in days.

    An empty or missing one is not known, or there is none.
    """

    events: str = ""
    run_days: float | None = None


def expiring(retention: Retention, contents: Contents, tenant: str) -> Iterator[Problem]:
    """Yield what of the contents is older than the retention keeps."""
    now = datetime.now(timezone.utc)
    kept = _duration(retention.events)
    if kept is None:
        if contents.events:
            message = "How long the tenant's server keeps events is not known here; it deletes older ones at its start."
            remedy = f"See event_retention of the tenant {tenant} (prefect_tenants) before the server is started."
            yield Problem(
                code="import_event_retention_unknown",
                object=f"tenant {tenant}",
                message=message,
                remedy=remedy,
                severity=NOTICE,
            )
    elif lost := _older(contents.events, now - kept):
        message = (
            f"{lost:,} events of the file are older than {retention.events}, and the server of the tenant {tenant} "
            "would delete them at its first start."
        )
        yield Problem(
            code="import_events_expire",
            object=f"tenant {tenant}",
            message=message,
            remedy=_remedy(contents.events, now, "event_retention"),
        )
    if retention.run_days is not None:
        lost = _older(contents.ended, now - timedelta(days=retention.run_days))
        if lost:
            message = (
                f"{lost:,} runs of the file ended more than {retention.run_days:g} days ago, and the nightly cleanup "
                "would delete them."
            )
            remedy = _remedy(contents.ended, now, "days_to_keep in prefect_retention_policy")
            yield Problem(code="import_runs_expire", object=f"tenant {tenant}", message=message, remedy=remedy)


def _remedy(days: Mapping[str, int], now: datetime, setting: str) -> str:
    age = (now - _day(min(days))).days + 2
    value = f"P{age}D or longer" if setting == "event_retention" else f"{age} or more"
    return f"Set {setting} to {value}, run site.yml and import again; --let-expire imports them all the same."


def _duration(text: str) -> timedelta | None:
    found = _DURATION.fullmatch(text)
    if not text or not found or not any(found.groups()):
        return None
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def _older(days: Mapping[str, int], limit: datetime) -> int:
    """Count what is of a day before the limit, or of the limit's own day."""
    return sum(count for day, count in days.items() if _day(day) < limit)


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        return datetime.now(timezone.utc)
