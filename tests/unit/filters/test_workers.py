"""How many runs a worker may have."""

from __future__ import annotations

import pytest

from filter_plugins.workers import run_limit


@pytest.mark.parametrize(
    ("memory_max", "memory_mb", "workers", "expected"),
    [
        ("4G", 64000, 1, 15),
        ("4G", 2048, 1, 7),
        ("4G", 2048, 4, 1),
        ("512M", 64000, 2, 1),
        ("50%", 8192, 1, 15),
        ("infinity", 8192, 2, 15),
        ("1.5G", 8192, 1, 5),
        ("1073741824", 8192, 1, 3),
        ("4G", 100, 8, 1),
    ],
)
def test_one_run_for_each_256_mb(memory_max: str, memory_mb: int, workers: int, expected: int) -> None:
    assert run_limit(memory_max, memory_mb, workers) == expected
