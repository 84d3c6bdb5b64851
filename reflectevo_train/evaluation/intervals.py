"""How sure a number is: Wilson's interval, the paired bootstrap, McNemar's exact test, Holm's adjustment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


N_RESAMPLES = 10_000


class Interval(NamedTuple):
    """Both ends, as shares."""

    low: float
    high: float


def wilson(n_correct: int | None, n: int, *, z: float = 1.959964) -> Interval | None:
    """Wilson's score interval of a share, by default at 95%; None without a count.

    >>> low, high = wilson(0, 10)
    >>> f"{low:.3f} {high:.3f}"
    '0.000 0.278'
    """
    if n_correct is None or not n:
        return None
    share = n_correct / n
    center = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval(max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale))


def mcnemar(n_only_a: int, n_only_b: int) -> float:
    """Two-sided p-value of McNemar's exact test: a fair coin on the problems that only one of the two solved.

    >>> round(mcnemar(2, 10), 4), mcnemar(3, 3), mcnemar(0, 0)
    (0.0386, 1.0, 1.0)
    """
    n = n_only_a + n_only_b
    tail = sum(math.comb(n, k) for k in range(min(n_only_a, n_only_b) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several (Holm).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def bootstrap(differences: Sequence[int], groups: Sequence[str], seed: int) -> Interval:
    """Percentiles of the mean difference over resampled groups."""
    import numpy as np

    sums: dict[str, tuple[int, int]] = {}
    for difference, group in zip(differences, groups, strict=True):
        total, size = sums.get(group, (0, 0))
        sums[group] = total + difference, size + 1
    kinds, n_of_kind = np.unique(np.array(list(sums.values())), axis=0, return_counts=True)
    # groups with equal sum and size are interchangeable: drawing how often each kind comes is drawing the groups
    drawn = np.random.default_rng(seed).multinomial(len(sums), n_of_kind / len(sums), size=N_RESAMPLES)
    means = drawn @ kinds[:, 0] / (drawn @ kinds[:, 1])
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))
