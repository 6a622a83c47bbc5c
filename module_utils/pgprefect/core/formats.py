"""Figures as people read them: counts, sizes, spans of time."""

from __future__ import annotations

from datetime import datetime, timezone

_SPANS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def counted(count: float, thing: str) -> str:
    """Return a number with its noun: 1 run, 2 runs, 0.5 days."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {thing}{'' if count == 1 else 's'}"


def size(number: float) -> str:
    """Return a number of bytes in the unit that fits: 12.3 MiB."""
    units = iter(("bytes", "KiB", "MiB", "GiB"))
    unit = next(units)
    while number >= 1024:
        number, unit = number / 1024, next(units, "TiB")
        if unit == "TiB":
            break
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"


def duration(seconds: float | None) -> str | None:
    """Return a span in the unit that fits: 0.35 s, 4.2 min, 3.1 h."""
    if seconds is None:
        return None
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.3g} s"
    unit, length = next((unit, length) for unit, length in _SPANS if seconds >= length)
    return f"{seconds / length:.1f} {unit}"


def age(seconds: float) -> str:
    """Return a span as people say it: 12 min, 3 h, 5 d."""
    unit, length = next(((unit, length) for unit, length in _SPANS if seconds >= 2 * length), ("s", 1))
    return f"{max(seconds, 0) / length:.0f} {unit}"


def ago(moment: datetime | str) -> str:
    """Return how long ago a moment was, which has its time zone: 3 h ago."""
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{age((datetime.now(timezone.utc) - then).total_seconds())} ago"
