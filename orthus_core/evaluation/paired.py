"""Differences of two results: in pairs where both are of the same samples, which needs far fewer of
them, or from the two intervals alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from orthus_core.evaluation.intervals import Interval, bootstrap_counts, wilson

# What a figure is computed from: for each stratum, the number of units with each outcome.
Strata = Mapping[str, Mapping[Any, Any]]


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> Interval:
    """The interval of the difference of two paired shares, B minus A.

    Method 10 of Newcombe: Improved confidence intervals for the difference between binomial
    proportions based on paired data, 1998. It combines the two Wilson intervals by the correlation
    of the pairs, and is not empty where all pairs agree.

    Args:
        both, only_a, only_b, neither: Number of samples that these have right.
    """
    n = both + only_a + only_b + neither
    if not n:
        return Interval(-1.0, 1.0)
    a, b = both + only_a, both + only_b
    share_a, share_b = a / n, b / n
    (low_a, high_a), (low_b, high_b) = wilson(a, n), wilson(b, n)
    product = both * neither - only_a * only_b
    if product > 0:
        product = max(product - n / 2, 0)
    root = math.sqrt(a * (n - a) * b * (n - b))
    phi = product / root if root else 0.0

    def reach(from_b: float, from_a: float) -> float:
        return math.sqrt(max(0.0, from_b**2 - 2 * phi * from_b * from_a + from_a**2))

    difference = share_b - share_a
    return Interval(
        max(-1.0, difference - reach(share_b - low_b, high_a - share_a)),
        min(1.0, difference + reach(high_b - share_b, share_a - low_a)),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value that two models are equally often right (McNemar 1947): of pairs
    with one right, either has it in half of the cases.
    """
    n = only_a + only_b
    terms = (
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        for k in range(min(only_a, only_b) + 1)
    )
    return min(1.0, 2 * math.fsum(terms))


def paired_bootstrap(
    pairs: Mapping[str, Mapping[Hashable, tuple[Any, Any]]], figure: Callable[[Strata], Any]
) -> Interval:
    """The bootstrap percentile interval of the difference of a figure, B minus A; units are drawn
    within their stratum, each with its two outcomes.

    Args:
        pairs: The outcomes of A and of B for each unit, by stratum and unit.
        figure: The figure, of counts of outcomes in each stratum.
    """
    counts = {stratum: Counter(units.values()) for stratum, units in pairs.items()}

    def difference(drawn: Strata) -> Any:
        return figure(one_side(drawn, 1)) - figure(one_side(drawn, 0))

    return bootstrap_counts(counts, difference)


def one_side(drawn: Strata, side: int) -> dict[str, dict[Any, Any]]:
    """Counts of the outcomes of A (0) or of B (1), from those of pairs."""
    sides: dict[str, dict[Any, Any]] = {}
    for stratum, counts in drawn.items():
        found = sides.setdefault(stratum, {})
        for pair, number in counts.items():
            found[pair[side]] = found.get(pair[side], 0) + number
    return sides


def from_two_intervals(a: float, of_a: Interval, b: float, of_b: Interval) -> Interval:
    """The interval of the difference of two independent figures, B minus A, from their own (Zou and
    Donner 2008). For results of the same samples it is wider than it has to be.
    """
    low = math.hypot(b - of_b.low, of_a.high - a)
    high = math.hypot(of_b.high - b, a - of_a.low)
    return Interval(b - a - low, b - a + high)
