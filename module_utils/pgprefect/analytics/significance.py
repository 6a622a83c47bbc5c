"""Statistical tests that tell a change from noise, on figures that the database has counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

# Below it the normal distribution does not describe the ranks of a sample.
LEAST_VALUES = 8


def rank_test(before: int, after: int, u: float, ties: float) -> float | None:
    """Return the two-sided p-value of the Mann-Whitney U test, or None for too few values.

    ``u`` is the number of pairs in which the value of ``after`` is greater, with a half for each equal pair; ``ties``
    is the sum of ``t ** 3 - t`` over the numbers of equal values. With the corrections for ties and for continuity,
    as ``scipy.stats.mannwhitneyu(method="asymptotic")``.
    """
    if min(before, after) < LEAST_VALUES:
        return None
    total = before + after
    variance = before * after / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:  # all values are equal
        return 1.0
    distance = max(abs(u - before * after / 2) - 0.5, 0)
    return min(2 * NormalDist().cdf(-distance / math.sqrt(variance)), 1.0)


def proportion_test(good_before: int, bad_before: int, good_after: int, bad_after: int) -> float | None:
    """Return the two-sided p-value of Fisher's exact test of two shares, or None where a window has no value.

    As ``scipy.stats.fisher_exact``: the tables with these sums that are at most as likely as this one.
    """
    before, after, bad = good_before + bad_before, good_after + bad_after, bad_before + bad_after
    if not before or not after:
        return None

    def likelihood(count: int) -> float:
        return _log_choose(before, count) + _log_choose(after, bad - count)

    least, most = max(0, bad - after), min(before, bad)
    whole = _log_choose(before + after, bad)
    limit = likelihood(bad_before) + 1e-7
    return min(math.fsum(math.exp(x - whole) for x in map(likelihood, range(least, most + 1)) if x <= limit), 1.0)


def _log_choose(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)


def adjust(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm for asking so many questions in one go, in the same order."""
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min((len(p_values) - rank) * p_values[place], 1.0))
        adjusted[place] = least
    return adjusted
