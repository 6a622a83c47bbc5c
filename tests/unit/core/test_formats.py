"""Figures as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgprefect.core import formats


def test_words_for_people() -> None:
    assert [formats.counted(count, "run") for count in (0, 1, 2, 1234, 0.5)] == [
        "0 runs", "1 run", "2 runs", "1,234 runs", "0.5 runs",
    ]  # fmt: skip
    assert [formats.size(count) for count in (0, 1023, 1024, 5 << 20, 3 << 30, 7 << 40, 2048 << 40)] == [
        "0 bytes", "1,023 bytes", "1.0 KiB", "5.0 MiB", "3.0 GiB", "7.0 TiB", "2,048.0 TiB",
    ]  # fmt: skip
    assert [formats.duration(seconds) for seconds in (None, 0, 0.3521, 99.94, 150, 7200, 200000)] == [
        None, "0 s", "0.35 s", "99.9 s", "2.5 min", "2.0 h", "2.3 d",
    ]  # fmt: skip
    assert [formats.age(seconds) for seconds in (-3, 0, 100, 130, 7300, 180000)] == [
        "0 s", "0 s", "100 s", "2 min", "2 h", "2 d",
    ]  # fmt: skip
    assert formats.ago(datetime.now(UTC) - timedelta(hours=5)) == "5 h ago"
