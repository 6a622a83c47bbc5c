"""Whether a busy host is known, by what the kernel says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pgprefect.health.load import busy

PROCESSORS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("loadavg", "pressure", "expected"),
    [
        ("0.50 1 1 1/300 9", {}, None),
        (f"{15 * PROCESSORS} 1 1 2/300 9", {}, f"a load of {15 * PROCESSORS}"),
        (f"0.50 1 1 {9 * PROCESSORS}/300 9", {}, f"{9 * PROCESSORS} programs running now"),
        (f"{3 * PROCESSORS} 1 1 2/300 9", {}, None),
        ("0.50 1 1 1/300 9", {"io": 93.5}, "waited for io in 94 %"),
        ("0.50 1 1 1/300 9", {"memory": 60.0}, "waited for memory in 60 %"),
        ("0.50 1 1 1/300 9", {"memory": 20.0, "io": 10.0}, None),
        ("nonsense", {}, None),
    ],
)
def test_the_load_and_the_pressure(tmp_path: Path, loadavg: str, pressure: dict[str, float], expected: str) -> None:
    (tmp_path / "loadavg").write_text(loadavg)
    (tmp_path / "pressure").mkdir()
    for resource, share in pressure.items():
        text = (
            f"some avg10={share:.2f} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
        )
        (tmp_path / "pressure" / resource).write_text(text)
    found = busy(str(tmp_path))
    assert found is None if expected is None else expected in str(found)
