"""95% confidence intervals: Wilson's for a share, and the bootstrap for everything else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np

# Two-sided 95% quantile of the normal distribution.
Z = 1.959963984540054
RESAMPLES = 1000

T = TypeVar("T")


class Interval(NamedTuple):
    """A 95% confidence interval."""

    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """The score interval of a proportion (Wilson: Probable inference, the law of succession, and
    statistical inference, 1927). It lies within 0 and 1, and is not empty if all samples succeed.
    """
    if not n:
        return Interval(0.0, 1.0)
    p = successes / n
    scale = 1 + Z**2 / n
    middle = (p + Z**2 / (2 * n)) / scale
    half = Z / scale * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def bootstrap(samples: Sequence[T], figure: Callable[[Sequence[T]], float]) -> Interval:
    """The bootstrap percentile interval of a statistic (Efron: Bootstrap methods, 1979).

    The resampling has a fixed seed, so every run gives the same interval.
    """
    rng = random.Random(0)
    count = len(samples)
    return percentile_interval(
        sorted(figure(rng.choices(samples, k=count)) for _ in range(RESAMPLES))
    )


def bootstrap_counts(
    strata: Mapping[str, Mapping[T, int]],
    figure: Callable[[Mapping[str, Mapping[T, np.ndarray]]], np.ndarray],
) -> Interval:
    """The bootstrap percentile interval of a statistic of counts, for sets of any size.

    Samples with the same outcome are interchangeable, so their resampled number is drawn from a
    multinomial distribution: that is the bootstrap, at a cost that does not grow with the samples.

    Args:
        strata: Number of samples of each outcome; each stratum (a task, a split) keeps its size.
        figure: The statistic, of arrays [R] of resampled counts in place of the counts.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    drawn = {}
    for name, counts in strata.items():
        total = sum(counts.values())
        shares = np.array([*counts.values()], dtype=np.float64) / max(total, 1)
        columns = rng.multinomial(total, shares, size=RESAMPLES).T
        drawn[name] = dict(zip(counts, columns, strict=True))
    return percentile_interval(np.sort(figure(drawn)).tolist())


def percentile_interval(ordered: Sequence[float]) -> Interval:
    """The middle 95% of ordered values."""
    cut = round(0.025 * len(ordered))
    return Interval(ordered[cut], ordered[-1 - cut])
