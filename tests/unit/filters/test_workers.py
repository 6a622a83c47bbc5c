"""How many runs a worker may have."""

from __future__ import annotations

from typing import Any

import pytest

from filter_plugins.workers import pool_limits, run_limit, simultaneous_workers, worker_limits, worker_weights


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


@pytest.mark.parametrize(
    ("fixed", "scaled", "memory_max", "expected"),
    [(3, 0, "4G", 3), (0, 0, "4G", 1), (1, 3, "1G", 4), (1, 30, "1G", 8), (1, 3, "infinity", 1), (0, 3, "50%", 2)],
)
def test_scaled_workers_count_as_far_as_the_memory_has_room(
    fixed: int, scaled: int, memory_max: str, expected: int
) -> None:
    workers = [{"scaled": False}] * fixed + [{"scaled": True}] * scaled
    assert simultaneous_workers(workers, memory_max, 8192) == expected


def test_each_worker_has_the_runs_of_its_own_memory() -> None:
    workers: list[dict[str, Any]] = [
        {"instance": "a-cpu-1"},
        {"instance": "a-cpu-2"},
        {"instance": "a-gpu-1", "memory_max": "8G"},
        {"instance": "a-one-1", "limit": 1},
    ]
    together = simultaneous_workers(workers, "4G", 64000)
    assert worker_limits(workers, 0, "4G", 64000, together) == {
        "a-cpu-1": 15,
        "a-cpu-2": 15,
        "a-gpu-1": 31,
        "a-one-1": 1,
    }
    # Of a smaller host each has the share that fits to its size.
    assert worker_limits(workers, 0, "4G", 10240, 4) == {"a-cpu-1": 7, "a-cpu-2": 7, "a-gpu-1": 15, "a-one-1": 1}
    assert worker_limits(workers, 3, "4G", 64000, together)["a-gpu-1"] == 3
    assert worker_limits([], 0, "4G", 64000, 1) == {}
    scaled = {"tenant": "a", "pool": "gpu", "min": 0, "max": 2}
    assert pool_limits([scaled], {"a-gpu-1": 31}) == [{**scaled, "run_limit": 31}]


def test_each_host_has_a_weight() -> None:
    assert worker_weights(["a", "b"], {"a": {"prefect_worker_weight": "3"}, "b": {}, "c": {}}) == {"a": 3, "b": 1}
