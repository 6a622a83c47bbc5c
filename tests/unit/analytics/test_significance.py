"""Statistical tests, compared with what SciPy 1.17 says of the same values."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from pgprefect.analytics.significance import adjust, proportion_test, rank_test


def rank_test_of(before: list[int], after: list[int]) -> float | None:
    greater = sum((y > x) + (y == x) / 2 for x in before for y in after)
    ties = sum(count**3 - count for count in Counter(before + after).values())
    return rank_test(len(before), len(after), greater, ties)


@pytest.mark.parametrize(
    ("before", "after", "p_value"),
    [
        ([19, 22, 16, 29, 24, 30, 18, 21], [20, 11, 17, 12, 15, 13, 14, 10, 31], 0.02374139453072586),
        ([1, 1, 2, 2, 3, 3, 4, 4], [3, 3, 4, 4, 5, 5, 6, 6, 6], 0.007122007495154847),
        ([5] * 10, [5] * 10, 1),
    ],
)
def test_ranks(before: list[int], after: list[int], p_value: float) -> None:
    assert rank_test_of(before, after) == pytest.approx(p_value)
    assert rank_test_of(after, before) == pytest.approx(p_value)


def test_too_few_values_are_not_tested() -> None:
    assert rank_test_of([1] * 7, [2] * 100) is None
    assert rank_test_of([1] * 8, [2] * 8) is not None


@pytest.mark.parametrize(
    ("counts", "p_value"),
    [((8, 2, 1, 5), 0.034965034965034975), ((10, 0, 10, 0), 1), ((0, 0, 10, 3), None), ((3, 4, 0, 0), None)],
)
def test_shares(counts: tuple[int, int, int, int], p_value: float | None) -> None:
    found = proportion_test(*counts)
    assert found is None if p_value is None else found == pytest.approx(p_value)


def test_millions_of_runs_are_tested_too() -> None:
    assert proportion_test(990_000, 10_000, 985_000, 15_000) == pytest.approx(1.32e-223, rel=0.01, abs=0)
    assert proportion_test(990_000, 10_000, 989_990, 10_010) == pytest.approx(0.95, abs=0.02)


def test_many_questions_make_a_small_p_value_likely() -> None:
    assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([]) == [] and adjust([0.9, 0.8]) == [1, 1]
    draw = random.Random(3)
    samples = [[[draw.randint(0, 1000) for _ in range(30)] for _ in range(2)] for _ in range(100)]
    found = [p_value for one in samples if (p_value := rank_test_of(*one)) is not None]
    assert min(found) < 0.05 < min(adjust(found))
